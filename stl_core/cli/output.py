"""
`stl`: synthesize, depth-maps, train, study, evaluate, kitti-ap, predict and more.

Bad input ends with one line that names it and exit code 2.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stl_core import files
from stl_core.data.sources import kitti


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json FILE`."""
    parser.add_argument('--json', metavar='FILE', help='write the figures here as well')


def make_parent_folder(path: str | None) -> None:
    """Make the folder of a file that will be written, before the work; DataError if it cannot."""
    if path:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise kitti.DataError(f'--json {path}: no such folder can be made ({err})') from err


def write_json(path: str | None, metrics: Any) -> None:
    """Write figures as JSON, unless the path is None."""
    if path:
        files.write_atomically(Path(path), json.dumps(metrics, indent=1).encode())

"""
`stl`: synthesize, depth-maps, train, study, evaluate, kitti-ap, predict and more.

Bad input ends with one line that names it and exit code 2.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stl_core import files as checkpoint
from stl_core.data.sources import kitti


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', metavar='FILE', help='write the figures here as well')


def _make_room(path: str | None) -> None:
    """Make the folder of a file that will be written, before the work; DataError if it cannot."""
    if path:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise kitti.DataError(f'--json {path}: no such folder can be made ({err})') from err


def _write_json(path: str | None, figures: Any) -> None:
    if path:
        checkpoint.write_atomically(Path(path), json.dumps(figures, indent=1).encode())

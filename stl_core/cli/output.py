"""
The option `--json FILE` of `stl` commands: write metrics to a file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stl_core import files
from stl_core.data.frame_source import DataError


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--json FILE`."""
    parser.add_argument('--json', metavar='FILE', help='also write the metrics to this file')


def make_parent_folder(path: str | None) -> None:
    """Create the folder of an output file before the work starts; DataError if that fails."""
    if path:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise DataError(f'--json {path}: cannot create the folder ({err})') from err


def write_json(path: str | None, metrics: Any) -> None:
    """Write metrics as JSON, atomically; do nothing if the path is None."""
    if path:
        files.write_atomically(Path(path), json.dumps(metrics, indent=1).encode())

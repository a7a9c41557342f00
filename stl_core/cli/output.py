"""
Options of several commands: `--json FILE` writes metrics to a file, `--metric NAME` adds a metric.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stl_core import files
from stl_core.data.frame_source import DataError
from stl_core.evaluation.metrics import METRICS


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--json FILE`."""
    parser.add_argument('--json', metavar='FILE', help='also write the metrics to this file')


def add_metric_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--metric NAME`."""
    parser.add_argument(
        '--metric',
        action='append',
        default=[],
        choices=list(METRICS),
        help='also compute this metric; may be repeated',
    )


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

"""
Options of several commands, and the check of all outputs before the work of a command.

`--json FILE` writes metrics to a file, `--metric NAME` adds a metric. An argument that names an
output has the type OutputFile or OutputFolder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stl_core import files
from stl_core.evaluation.metrics import METRICS


class OutputFile(str):
    """An argument that names a file to write; its folder may be missing."""


class OutputFolder(str):
    """An argument that names a folder to write into; it may be missing."""


def check_outputs(args: argparse.Namespace) -> None:
    """Raise OutputError for an argument of type OutputFile or OutputFolder that is unwritable."""
    for value in vars(args).values():
        if isinstance(value, OutputFile):
            files.require_writable_file(value)
        elif isinstance(value, OutputFolder):
            files.require_writable_folder(value)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--json FILE`."""
    parser.add_argument(
        '--json', type=OutputFile, metavar='FILE', help='also write the metrics to this file'
    )


def add_metric_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--metric NAME`."""
    parser.add_argument(
        '--metric',
        action='append',
        default=[],
        choices=list(METRICS),
        help='also compute this metric; may be repeated',
    )


def write_json(path: str | None, metrics: Any) -> None:
    """Write metrics as JSON, atomically, also into a new folder; do nothing if path is None."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(Path(path), json.dumps(metrics, indent=1).encode())

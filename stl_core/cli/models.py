"""The commands `stl inspect`, `stl export` and `stl import-weights` for model files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stl_core.cli.output import OutputFile
from stl_core.inference.converters import LAYOUTS, import_weights
from stl_core.inference.runtimes import RUNTIMES, find_runtime
from stl_core.inference.runtimes.interface import ModelFileError


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument for a model file of any runtime."""
    suffixes = ', '.join(RUNTIMES)
    parser.add_argument('student', metavar='model', help=f'model file ({suffixes})')


def add_inspect_command(commands: Any) -> None:
    """Add `stl inspect`."""
    parser = commands.add_parser('inspect', help='print the header of a model file')
    add_model_argument(parser)
    parser.set_defaults(run=_run_inspect)


def _run_inspect(args: argparse.Namespace) -> None:
    spec = find_runtime(args.student).load_spec(Path(args.student))
    print(json.dumps(asdict(spec), indent=1, sort_keys=True))


def add_export_command(commands: Any) -> None:
    """Add `stl export`."""
    parser = commands.add_parser('export', help='copy a model file with weights in half precision')
    add_model_argument(parser)
    parser.add_argument(
        'out',
        type=OutputFile,
        help='model file to write, with the same suffix',
    )
    parser.set_defaults(run=_run_export)


def _run_export(args: argparse.Namespace) -> None:
    convert_to_half = find_runtime(args.student).convert_to_half
    if convert_to_half is None:
        able = ', '.join(suffix for suffix, each in RUNTIMES.items() if each.convert_to_half)
        raise ModelFileError(f'{args.student}: export needs a file ending in {able}')
    _require_suffix(args.out, Path(args.student).suffix)
    if kind := find_runtime(args.student).load_spec(Path(args.student)).input.given_depth:
        raise ModelFileError(
            f'{args.student}: a privileged teacher (given_depth: {kind}), which no vehicle can'
            ' run; expected a student'
        )
    convert_to_half(Path(args.student), Path(args.out))
    print(f'{args.out}: {Path(args.out).stat().st_size / 1e6:.2f} MB')


def _require_suffix(out: str, suffix: str) -> None:
    """Raise ModelFileError for an output that no command would read, because of its suffix."""
    if Path(out).suffix != suffix:
        raise ModelFileError(f'{out}: expected the path of a file ending in {suffix}')


def add_import_weights_command(commands: Any) -> None:
    """Add `stl import-weights`."""
    parser = commands.add_parser(
        'import-weights', help='convert a published checkpoint to a model file'
    )
    parser.add_argument('program', choices=list(LAYOUTS), help='program of the checkpoint')
    parser.add_argument('checkpoint', help='checkpoint file of the program (.pth)')
    parser.add_argument('out', type=OutputFile, help='model file to write (.safetensors)')
    parser.add_argument(
        '--classes',
        default='',
        metavar='NAME,...',
        help='classes of the checkpoint, in its order (default: those of the published ones)',
    )
    parser.set_defaults(run=_run_import_weights)


def _run_import_weights(args: argparse.Namespace) -> None:
    _require_suffix(args.out, '.safetensors')
    classes = tuple(each.strip() for each in args.classes.split(',')) if args.classes else ()
    spec = import_weights(args.program, args.checkpoint, args.out, classes)
    print(f'{args.out}: {spec.detector} for {", ".join(spec.classes)}, from {args.checkpoint}')

"""
Train, evaluate and inspect monocular 3D object detectors.

Entry point of the `stl` command. Invalid input prints a one-line message and exits with code 2.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

from stl_core.cli import depth_maps, experiments, kitti_splits, synthesize
from stl_core.cli.command import CommandParser, run_command
from stl_core.cli.evaluate import (
    add_evaluate_command,
    add_kitti_ap_command,
    add_nuscenes_eval_command,
)
from stl_core.cli.models import add_export_command, add_import_weights_command, add_inspect_command
from stl_core.cli.output import check_outputs
from stl_core.cli.predict import add_nuscenes_predict_command, add_predict_command
from stl_core.cli.train import add_train_command
from stl_core.data.frame_source import DataError
from stl_core.evaluation.nuscenes.devkit import DevkitError
from stl_core.evaluation.nuscenes.results import ResultsError
from stl_core.files import OutputError
from stl_core.inference.converters.key_mapping import WeightsError
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.training import checkpoint, train_step
from stl_core.training.config_builder import ConfigError

#: Errors that a user can fix: `stl` prints one line instead of a traceback.
BAD_INPUT_ERRORS = (
    DataError,
    ConfigError,
    ModelFileError,
    checkpoint.CheckpointError,
    train_step.TrainError,
    WeightsError,
    OutputError,
    DevkitError,
    ResultsError,
    BrokenProcessPool,
    OSError,
)


def main(argv: Sequence[str] | None = None) -> None:
    """
    Run one `stl` command.

    Exits with code 2 and a one-line message for invalid input, and with 130 on Ctrl-C.

    :param argv: command line without the program's name; None for sys.argv.
    """
    args = _parse_args(make_parser(), argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')

    def run() -> None:
        check_outputs(args)
        args.run(args)

    stopped = 'interrupted; run the same command again to resume'
    if code := run_command('stl', run, BAD_INPUT_ERRORS, stopped, _last_message):
        sys.exit(code)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = CommandParser('stl', description=__doc__.split('\n')[1])
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    for add in (
        synthesize.add_command,
        depth_maps.add_command,
        kitti_splits.add_command,
        add_train_command,
        experiments.add_commands,
        add_evaluate_command,
        add_kitti_ap_command,
        add_nuscenes_eval_command,
        add_predict_command,
        add_nuscenes_predict_command,
        add_inspect_command,
        add_export_command,
        add_import_weights_command,
    ):
        add(commands)
    return parser


def _last_message(err: Exception) -> str:
    """Return the message without the traceback that errors in a data-loading process carry."""
    if isinstance(err, BrokenProcessPool):
        return 'a worker process was killed (out of memory?); run again with fewer processes'
    return str(err).strip().splitlines()[-1].rpartition('Error: ')[-1]


def _parse_args(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse, and accept key=value overrides after options, too, unlike argparse alone."""
    args, rest = parser.parse_known_args(argv)
    if rest and ('overrides' not in args or any(each.startswith('-') for each in rest)):
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    if rest:
        args.overrides += rest
    return args

"""
`stl`: synthesize, depth-maps, train, study, evaluate, kitti-ap, predict and more.

Bad input ends with one line that names it and exit code 2.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from stl_core.cli import depth_maps as depth_command
from stl_core.cli import experiments as transfer_commands
from stl_core.cli import synthesize as command
from stl_core.cli.evaluate import _add_evaluate, _add_kitti_ap, _add_predict
from stl_core.cli.models import _add_export, _add_import_weights, _add_inspect
from stl_core.cli.output import _make_room
from stl_core.cli.train import _add_train
from stl_core.data.sources import kitti
from stl_core.inference import model_file as predict
from stl_core.inference.converters.key_mapping import WeightsError
from stl_core.training import checkpoint
from stl_core.training import train_step as train
from stl_core.training.config_builder import ConfigError

#: What a user can mend: told in one line, without a traceback.
BAD_INPUT = (
    kitti.DataError,
    ConfigError,
    predict.StudentError,
    checkpoint.CheckpointError,
    train.TrainError,
    WeightsError,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; exit code 2 with one line for bad input."""
    parser = argparse.ArgumentParser('stl', description=__doc__.split('\n')[1])
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    for add in (
        command.add_command,
        depth_command.add_command,
        _add_train,
        transfer_commands.add_commands,
        _add_evaluate,
        _add_kitti_ap,
        _add_predict,
        _add_inspect,
        _add_export,
        _add_import_weights,
    ):
        add(commands)
    args = _parse(parser, argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    try:
        _make_room(getattr(args, 'json', None))
        args.run(args)
    except BAD_INPUT as err:
        # from a loading process the message comes at the end of that process's traceback
        told = str(err).strip().splitlines()[-1].rpartition('Error: ')[-1]
        print(f'stl: {told}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('stl: stopped; the same command goes on where it was', file=sys.stderr)
        sys.exit(130)


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse, with settings after options too: argparse alone takes them in one place."""
    args, rest = parser.parse_known_args(argv)
    if rest and ('overrides' not in args or any(each.startswith('-') for each in rest)):
        parser.error(f'unrecognized arguments: {" ".join(rest)}')
    if rest:
        args.overrides += rest
    return args

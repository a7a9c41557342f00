"""The command synthesize_bag: render a drive through the synthetic world into a bag."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mono3d_ros.bags.bag_io import BagError, require_absent
from mono3d_ros.bags.kitti_to_bag import (
    ConversionOptions,
    add_format_arguments,
    convert_kitti,
    parse_format,
)
from stl_core.cli import synthesize
from stl_core.cli.command import CommandParser, run_command
from stl_core.data.frame_source import DataError
from stl_core.data.synthetic import sequence
from stl_core.files import parent_folders


def synthesize_to_bag(out: Path, args: argparse.Namespace) -> None:
    """
    Render a drive into a temporary folder and convert it to a bag.

    :param out: folder of the bag.
    :param args: parsed arguments of add_world_options and add_format_arguments.
    :raises DataError: for an invalid argument; the message names it.
    :raises BagError: if the bag exists or cannot be written.
    """
    require_absent(out)
    job = synthesize.parse_job(args, '', depth=False)
    with (
        parent_folders(out),
        tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as folder,
    ):
        sequence.synthesize_drive(
            replace(job, out=folder), args.frames, args.workers, args.surround
        )
        convert_kitti(Path(folder), out, ConversionOptions(), parse_format(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns exit code 2 after one line on stderr for bad input."""
    parser = CommandParser('synthesize_bag', description=__doc__)
    parser.add_argument('out', type=Path, help='folder of the new bag')
    synthesize.add_world_options(parser)
    add_format_arguments(parser)
    args = parser.parse_args(argv)

    run = partial(synthesize_to_bag, args.out, args)
    bad_input = (DataError, BagError, OSError)
    code = run_command('synthesize_bag', run, bad_input, 'stopped; nothing was written')
    if code == 0:  # here, because Ctrl-C above means that nothing was written
        print(f'{args.frames} frames: {args.out}')
    return code


if __name__ == '__main__':
    sys.exit(main())

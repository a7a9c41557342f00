"""The command `stl kitti-splits`: write the lists of frames that the training plans use."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from stl_core.data.sources import kitti_splits


def add_command(commands: Any) -> None:
    """Add `stl kitti-splits` to the subcommands."""
    parser = commands.add_parser(
        'kitti-splits',
        help="write ImageSets/{train,val,trainval,test}.txt, the usual split of KITTI's frames",
    )
    parser.add_argument('root', help="folder of KITTI's object benchmark, with training/image_2")
    parser.set_defaults(run=_run_kitti_splits)


def _run_kitti_splits(args: argparse.Namespace) -> None:
    root = Path(args.root)
    for name, (count, missing) in kitti_splits.write_splits(root).items():
        logging.info('%s: %d frames', root / f'ImageSets/{name}.txt', count)
        if missing:
            logging.warning(
                '%d of them have no image in %s: training on this split will refuse them',
                *(missing, root / ('testing' if name == 'test' else 'training') / 'image_2'),
            )

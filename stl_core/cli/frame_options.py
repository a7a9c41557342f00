"""The options of `stl` commands that read frames: a data set's folder, format and split."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from stl_core.data.checks.label_report import check_images
from stl_core.data.frame_source import FrameSource, SourceImage, read_images, read_split
from stl_core.data.sources import DEFAULT_FORMAT, SOURCES, open_source

log = logging.getLogger(__name__)


def add_frame_options(parser: argparse.ArgumentParser, folders: str) -> None:
    """
    Add the positional argument root and the options `--format NAME` and `--split FILE`.

    :param parser: parser of the command.
    :param folders: what the command needs of a data set in KITTI's layout, for its help.
    """
    parser.add_argument(
        'root',
        help=f'folder of the data set; KITTI: {folders}; nuScenes: the folder of a version, such'
        ' as nuscenes/v1.0-mini',
    )
    parser.add_argument(
        '--format',
        choices=list(SOURCES),
        default=DEFAULT_FORMAT,
        help='format of the data set',
    )
    parser.add_argument(
        '--split',
        help='file of frame ids, or the name of a split of nuScenes, such as mini_val (default:'
        ' all frames)',
    )


def add_clear_option(parser: argparse.ArgumentParser, option: str) -> None:
    """Add the option `--clear`, without which the files of another run are an error."""
    parser.add_argument(
        '--clear',
        action='store_true',
        help=f'remove result files and pictures of other runs from the folder {option} (default:'
        ' such files are an error)',
    )


def list_images(args: argparse.Namespace, labelled: bool) -> list[SourceImage]:
    """
    List the images that the options select; log warnings of labels and projections that are odd.

    :param args: parsed options of add_frame_options.
    :param labelled: whether the command needs labels.
    :raises DataError: for a missing or malformed file, and for labels, projections and pictures
        that contradict each other, naming the file.
    """
    images = read_images(open_frames(args, labelled))
    for warning in check_images(images):
        log.warning('warning: %s', warning)
    return images


def open_frames(args: argparse.Namespace, labelled: bool) -> FrameSource:
    """
    Open the data set that the options select.

    :param args: parsed options of add_frame_options.
    :param labelled: whether the command needs labels.
    :raises DataError: for a missing or malformed file.
    """
    config = SOURCES[args.format].from_folder(Path(args.root), labelled)
    if args.split and args.format != DEFAULT_FORMAT and not Path(args.split).is_file():
        return open_source(replace(config, split=args.split))
    return open_source(config, read_split(args.split) if args.split else ())

"""
The command `stl depth-maps`: complete LiDAR scans to dense depth maps and store them.

Completing a scan during training would take eight times as long as reading a stored map.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stl_core.cli.frame_options import add_frame_options, list_images
from stl_core.cli.output import OutputFolder
from stl_core.data.depth_maps import depth_from_scan, write_depth
from stl_core.data.frame_source import DataError, SourceImage
from stl_core.data.worker_pool import available_cpus, map_ordered, with_progress


def add_command(commands: Any) -> None:
    """Add `stl depth-maps` to the subcommands."""
    parser = commands.add_parser(
        'depth-maps', help='compute dense depth maps from LiDAR scans, as 16-bit PNGs'
    )
    add_frame_options(parser, 'image_2, calib and velodyne')
    parser.add_argument(
        'out',
        type=OutputFolder,
        help='output folder for ID.png, such as ROOT/depth_2; existing files are kept',
    )
    parser.add_argument(
        '--workers', type=int, default=available_cpus(), help='number of processes'
    )
    parser.set_defaults(run=_run_depth_maps)


@dataclass(frozen=True)
class WriteDepthMap:
    """Callable that computes the depth map of an image and writes it into a folder."""

    out: Path

    def __call__(self, image: SourceImage) -> str:
        """Write the depth map of one image; return the image's id."""
        height_px, width_px = image.pixels.read().shape[:2]
        write_depth(self.out / f'{image.id}.png', depth_from_scan(image, width_px, height_px))
        return image.id


def _run_depth_maps(args: argparse.Namespace) -> None:
    out, images = Path(args.out), list_images(args, labelled=False)
    for image in images:
        if not image.points.exists:
            location = image.points.location or image.pixels.location
            raise DataError(f'{location}: no such scan; --split FILE selects frames')
    out.mkdir(parents=True, exist_ok=True)
    missing = [image for image in images if not (out / f'{image.id}.png').exists()]
    for _ in with_progress(
        map_ordered(WriteDepthMap(out), missing, args.workers), len(missing), 'depth maps'
    ):
        pass
    logging.info('%s: %d depth maps', out, len(images))

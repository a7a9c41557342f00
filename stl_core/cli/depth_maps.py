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
from stl_core.data import depth_checks, depth_maps
from stl_core.data.frame_source import DataError, SourceImage
from stl_core.data.worker_pool import available_cpus, describe_workers, map_ordered, with_progress


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

    def __call__(self, image: SourceImage) -> depth_checks.FrameDepth:
        """Write the depth map of one image, or read it if it exists; return its statistics."""
        path = self.out / f'{image.id}.png'
        if path.exists():
            return depth_checks.measure_depth(image, depth_maps.read_depth(path))
        height_px, width_px = image.pixels.read().shape[:2]
        depth_m = depth_maps.depth_from_scan(image, width_px, height_px)
        depth_maps.write_depth(path, depth_m)
        return depth_checks.measure_depth(image, depth_m)


def _run_depth_maps(args: argparse.Namespace) -> None:
    out, images = Path(args.out), list_images(args, labelled=False)
    without = [image for image in images if not image.points.exists]
    if without:
        location = without[0].points.location or without[0].pixels.location
        raise DataError(
            f'{location}: no such scan, as for {len(without)} of {len(images)} frames;'
            ' --split FILE selects frames'
        )
    out.mkdir(parents=True, exist_ok=True)
    kept = sum((out / f'{image.id}.png').exists() for image in images)
    frames = list(
        with_progress(
            map_ordered(WriteDepthMap(out), images, args.workers),
            len(images),
            f'depth maps ({describe_workers(args.workers)})',
        )
    )
    statistics = depth_checks.summarize_depth(frames)
    logging.info('%s: %d depth maps, %d of them kept; %s', out, len(frames), kept, statistics)
    for warning in depth_checks.depth_warnings(statistics):
        logging.warning('%s: %s', out, warning)

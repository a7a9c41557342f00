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

from stl_core.data.depth_maps import depth_from_scan, write_depth
from stl_core.data.sources.kitti import (
    DataError,
    FrameFiles,
    KittiFolders,
    list_kitti_frames,
    read_image,
    read_split,
)
from stl_core.data.worker_pool import available_cpus, map_ordered, with_progress


def add_command(commands: Any) -> None:
    """Add `stl depth-maps` to the subcommands."""
    parser = commands.add_parser(
        'depth-maps', help='compute dense depth maps from LiDAR scans, as 16-bit PNGs'
    )
    parser.add_argument('root', help='folder with image_2, calib and velodyne')
    parser.add_argument(
        'out', help='output folder for ID.png, such as ROOT/depth_2; existing files are kept'
    )
    parser.add_argument('--split', help='file of frame ids (default: all frames)')
    parser.add_argument(
        '--workers', type=int, default=available_cpus(), help='number of processes'
    )
    parser.set_defaults(run=_run_depth_maps)


@dataclass(frozen=True)
class WriteDepthMap:
    """Callable that computes the depth map of a frame and writes it into a folder."""

    out: Path

    def __call__(self, files: FrameFiles) -> str:
        """Write the depth map of one frame; return the frame's id."""
        height_px, width_px = read_image(files.image_2).shape[:2]
        write_depth(self.out / f'{files.id}.png', depth_from_scan(files, width_px, height_px))
        return files.id


def _run_depth_maps(args: argparse.Namespace) -> None:
    root, out = Path(args.root), Path(args.out)
    source = KittiFolders(
        str(root / 'image_2'), str(root / 'calib'), velodyne=str(root / 'velodyne')
    )
    frames = list_kitti_frames(source, read_split(args.split) if args.split else ())
    for files in frames:
        if files.velodyne is None:
            raise DataError(
                f'{root / "velodyne" / files.id}.bin: no such scan; --split FILE selects frames'
            )
    out.mkdir(parents=True, exist_ok=True)
    missing = [files for files in frames if not (out / f'{files.id}.png').exists()]
    for _ in with_progress(
        map_ordered(WriteDepthMap(out), missing, args.workers), len(missing), 'depth maps'
    ):
        pass
    logging.info('%s: %d depth maps', out, len(frames))

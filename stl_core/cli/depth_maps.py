"""The command `stl depth-maps`: completing a scan takes eight times as long as reading a file."""

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
    """Add `depth-maps` to the parsers of a command line."""
    parser = commands.add_parser('depth-maps', help='dense depth of LiDAR scans, 16-bit PNGs')
    parser.add_argument('root', help='folder with image_2, calib and velodyne')
    parser.add_argument(
        'out', help='folder for ID.png, such as ROOT/depth_2; an interrupted run goes on in it'
    )
    parser.add_argument('--split', help='file of frame ids; all frames without it')
    parser.add_argument('--workers', type=int, default=available_cpus(), help='processes')
    parser.set_defaults(run=_run_depth_maps)


@dataclass(frozen=True)
class WriteDepthMap:
    """Writes the depth of a frame into a folder."""

    out: Path

    def __call__(self, files: FrameFiles) -> str:
        """Complete and write one frame; return its id."""
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
                f'{root / "velodyne" / files.id}.bin: no such scan; --split FILE leaves frames out'
            )
    out.mkdir(parents=True, exist_ok=True)
    todo = [files for files in frames if not (out / f'{files.id}.png').exists()]
    for _ in with_progress(
        map_ordered(WriteDepthMap(out), todo, args.workers), len(todo), 'depth maps'
    ):
        pass
    logging.info('%s: %d depth maps', out, len(frames))

"""
Time the synthetic world: frames a second at two sizes, files written.

With --stages instead the processor time that one frame takes in one process, stage by stage: of
some use on a machine that is busy with other things.
python bench/synthetic.py [--frames N] [--workers N] [--stages] [--json FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import torch

from stl_core.data import worker_pool
from stl_core.data.synthetic import frame, writer
from stl_core.data.synthetic.sensors import camera, lidar

#: Name, size, LiDAR and depth.
CASES = (
    ('1242x375, image, labels, LiDAR, depth', (1242, 375), True),
    ('640x192, image, labels', (640, 192), False),
)
#: What is timed in a frame, where it is called.
STAGES = (
    (frame, 'make_world'), (frame, 'cast'), (frame, 'render'), (frame, 'develop'),
    (frame, 'scan'), (writer, 'write_frame'),
)  # fmt: skip


def main() -> None:
    """Make frames as `stl synthesize` does; the processes' start is not counted."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('--frames', type=int, default=120)
    parser.add_argument('--workers', type=int, default=worker_pool.available_cpus())
    parser.add_argument('--stages', action='store_true', help='processor time, one process')
    parser.add_argument('--json', metavar='FILE')
    args = parser.parse_args()
    report: dict[str, Any] = {'workers': args.workers, 'frames': args.frames}
    for name, size, everything in CASES:
        with tempfile.TemporaryDirectory() as folder:
            job = writer.SynthesisJob(
                out=folder,
                seed=1,
                model=camera.KITTI.scaled(*size),
                lidar=lidar.Lidar() if everything else None,
                depth=everything,
            )
            for part in ('image_2', 'calib', 'label_2', 'velodyne', 'depth_2'):
                (Path(folder) / 'training' / part).mkdir(parents=True)
            if args.stages:
                report[name] = stages(job, args.frames)
                parts = ', '.join(f'{part} {ms:.1f}' for part, ms in report[name].items())
                print(f'{name:<42}{parts} ms a frame')
                continue
            report[name] = measure(job, args.frames, args.workers)
        print(f'{name:<42}{report[name]:8.2f} frames/s, {args.workers} processes')
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))


def measure(job: writer.SynthesisJob, frames: int, workers: int) -> float:
    """Return frames a second from the first finished one to the last, files written."""
    made = worker_pool.map_ordered(writer.FrameWriter(job), range(frames + 2 * workers), workers)
    for _ in range(2 * workers):  # until every process has started and drawn its textures
        next(made)
    start = time.perf_counter()
    count = sum(1 for _ in made)
    return count / (time.perf_counter() - start)


def stages(job: writer.SynthesisJob, frames: int) -> dict[str, float]:
    """Return milliseconds of processor time a frame takes, in all and by stage; the best of 3."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    make, found = writer.FrameWriter(job), []
    make(0)  # draws the textures
    for _ in range(3):
        spent: dict[str, float] = defaultdict(float)
        with ExitStack() as stack:
            for module, name in STAGES:
                timed = clocked(getattr(module, name), name, spent)
                stack.enter_context(mock.patch.object(module, name, timed))
            clocked(lambda: [make(number) for number in range(frames)], 'all', spent)()
        found.append({name: 1e3 * spent[name] / frames for name in sorted(spent)})
    return min(found, key=lambda each: each['all'])


def clocked(function: Any, name: str, spent: dict[str, float]) -> Any:
    """Return the function with a clock that adds to spent[name]."""

    @functools.wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        start = time.process_time()
        result = function(*args, **named)
        spent[name] += time.process_time() - start
        return result

    return run


if __name__ == '__main__':
    main()

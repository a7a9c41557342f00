"""
Measure the speed of synthetic data: frames per second at two image sizes, files written.

--stages measures the CPU time per frame and stage in one process instead, which is useful on a
busy machine.
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
#: Timed functions: the module that calls them, their names there, their names in the report.
STAGES = (
    (frame, 'make_world', 'make_world'), (frame, 'cast_rays', 'cast'),
    (frame, 'render_image', 'render'), (frame, 'simulate_sensor', 'develop'),
    (frame, 'simulate_lidar', 'scan'), (writer, 'write_frame', 'write_frame'),
)  # fmt: skip


def main() -> None:
    """Synthesize frames as `stl synthesize` does and print the speed, without process start."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('--frames', type=int, default=120)
    parser.add_argument('--workers', type=int, default=worker_pool.available_cpus())
    parser.add_argument('--stages', action='store_true', help='CPU time per stage, one process')
    parser.add_argument('--json', metavar='FILE')
    args = parser.parse_args()
    report: dict[str, Any] = {'workers': args.workers, 'frames': args.frames}
    for name, size, with_lidar_and_depth in CASES:
        with tempfile.TemporaryDirectory() as folder:
            job = writer.SynthesisJob(
                out=folder,
                seed=1,
                model=camera.KITTI.scaled(*size),
                lidar=lidar.Lidar() if with_lidar_and_depth else None,
                depth=with_lidar_and_depth,
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
    """Return frames per second, files written, measured after the first 2 * workers frames."""
    results = worker_pool.map_ordered(
        writer.FrameWriter(job), range(frames + 2 * workers), workers
    )
    for _ in range(2 * workers):  # until every process has started and computed its textures
        next(results)
    start = time.perf_counter()
    count = sum(1 for _ in results)
    return count / (time.perf_counter() - start)


def stages(job: writer.SynthesisJob, frames: int) -> dict[str, float]:
    """Return milliseconds of CPU time per frame, in total and by stage; the best of 3."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    write_one, runs = writer.FrameWriter(job), []
    write_one(0)  # computes the textures
    for _ in range(3):
        spent: dict[str, float] = defaultdict(float)
        with ExitStack() as stack:
            for module, name, stage in STAGES:
                timed = with_timer(getattr(module, name), stage, spent)
                stack.enter_context(mock.patch.object(module, name, timed))
            with_timer(lambda: [write_one(number) for number in range(frames)], 'all', spent)()
        runs.append({name: 1e3 * spent[name] / frames for name in sorted(spent)})
    return min(runs, key=lambda run: run['all'])


def with_timer(function: Any, name: str, spent: dict[str, float]) -> Any:
    """Return the function wrapped to add its CPU time to spent[name], seconds."""

    @functools.wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        start = time.process_time()
        result = function(*args, **named)
        spent[name] += time.process_time() - start
        return result

    return run


if __name__ == '__main__':
    main()

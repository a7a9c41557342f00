"""
Time the synthetic world: frames a second at two sizes, with and without files written.

python bench/synthetic.py [--frames N] [--workers N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from stl_core.data.synthetic import camera, lidar, writer

#: Name, size, LiDAR and depth.
CASES = (
    ('1242x375, image, labels, LiDAR, depth', (1242, 375), True),
    ('640x192, image, labels', (640, 192), False),
)


def main() -> None:
    """Make frames as `stl synthesize` does; the processes' start is not counted."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('--frames', type=int, default=120)
    parser.add_argument('--workers', type=int, default=writer.cores())
    parser.add_argument('--json', metavar='FILE')
    args = parser.parse_args()
    report: dict[str, Any] = {'workers': args.workers, 'frames': args.frames}
    for name, size, everything in CASES:
        with tempfile.TemporaryDirectory() as folder:
            job = writer.Job(
                out=folder,
                seed=1,
                model=camera.KITTI.scaled(*size),
                lidar=lidar.Lidar() if everything else None,
                depth=everything,
            )
            report[name] = measure(job, args.frames, args.workers)
        print(f'{name:<42}{report[name]:8.2f} frames/s, {args.workers} processes')
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))


def measure(job: writer.Job, frames: int, workers: int) -> float:
    """Return frames a second from the first finished one to the last, files written."""
    root = Path(job.out) / 'training'
    for name in ('image_2', 'calib', 'label_2', 'velodyne', 'depth_2'):
        (root / name).mkdir(parents=True)
    made = writer.spread(writer.Make(job), range(frames + 2 * workers), workers)
    for _ in range(2 * workers):  # until every process has started and drawn its textures
        next(made)
    start = time.perf_counter()
    count = sum(1 for _ in made)
    return count / (time.perf_counter() - start)


if __name__ == '__main__':
    main()

"""
Draw a contact sheet of synthetic frames with labelled boxes and LiDAR points on the right half.

python examples/draw_synthetic.py [--seed N] [--out docs/synthetic.png] [--frames 3 17 ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from stl_core.data import worker_pool
from stl_core.data.synthetic import frame
from stl_core.data.synthetic.scene.distributions import CLASSES
from stl_core.data.synthetic.sensors import camera, lidar
from stl_core.geometry import project_points
from stl_core.types import Array
from stl_core.visualization import draw, style

#: Frames on the sheet.
SHEET = 12
#: Number of candidate frames if none are given.
NUM_CANDIDATES = 60
NEAR_M, FAR_M = 4.0, 70.0


def main() -> None:
    """Make the frames, draw them, write the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument(
        '--frames',
        type=int,
        nargs='*',
        help='frame numbers; by default the frames with most classes and near objects',
    )
    parser.add_argument('--out', default='docs/synthetic.png')
    parser.add_argument('--workers', type=int, default=worker_pool.available_cpus())
    args = parser.parse_args()
    numbers = args.frames or range(NUM_CANDIDATES)
    items = [(args.seed, number) for number in numbers]
    pictures = list(
        worker_pool.with_progress(
            worker_pool.map_ordered(draw_frame, items, args.workers), len(items), 'frames'
        )
    )
    if not args.frames:
        order = sorted(range(len(pictures)), key=lambda i: -pictures[i][0])[:SHEET]
        pictures = [pictures[i] for i in sorted(order)]
    sheet = draw.contact_sheet([image for _, image in pictures], 2, 640)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    colours = cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)
    cv2.imwrite(args.out, colours, (cv2.IMWRITE_PNG_COMPRESSION, 9))


def draw_frame(item: tuple[int, int]) -> tuple[int, Array]:
    """Return a score of one frame by its objects, and its image with boxes and scan."""
    sensor = lidar.Lidar()
    made = frame.make_frame(*item, camera.KITTI, sensor)
    objects = made.annotations.labels.to_objects(CLASSES)
    assert made.scan is not None
    image = draw_scan(made.image, made.scan.points, made.camera.P, sensor)
    kinds, near = len(set(objects.class_id.tolist())), int((objects.center_m[:, 2] < 30).sum())
    colours = [style.class_colour(CLASSES[i]) for i in objects.class_id]
    drawn = draw.draw_edges(image, draw.box_edges(objects), made.camera.P, colours)
    return 3 * kinds + min(near, 8), drawn


def draw_scan(image: Array, points: Array, P: Array, sensor: lidar.Lidar) -> Array:
    """Draw the points of a scan on the right half of an image, red near to blue far."""
    points_m = np.stack([-points[:, 1], -points[:, 2], points[:, 0]], 1) + sensor.position_m
    pixels, depth = project_points(points_m, P)
    height, width = image.shape[:2]
    inside = (depth > 1) & (pixels >= 0).all(1) & (pixels < [width - 2, height - 2]).all(1)
    inside &= pixels[:, 0] > width / 2
    u, v = pixels[inside].round().astype(int).T
    level = np.log(depth[inside] / NEAR_M) / np.log(FAR_M / NEAR_M)
    shade = (255 * (1 - np.clip(level, 0, 1))).astype(np.uint8)
    colour = cv2.applyColorMap(shade[None], cv2.COLORMAP_TURBO)[0, :, ::-1]
    out = image.copy()
    for dv in (0, 1):
        for du in (0, 1):
            out[v + dv, u + du] = colour
    return out


if __name__ == '__main__':
    main()

"""
Draw what a detector published without the picture: boxes over a ground grid, and from above.

    python examples/boxes_only.py demo_out/played demo_out/answers --frame 7 --out docs/demo.png

For places where the recorded images may not be shown.
"""

import argparse
import sys

import cv2
import numpy as np

from mono3d_ros import report
from mono3d_ros.bag import BagError
from stl_core import draw, strokes
from stl_core.geometry import project

#: Ground is taken to lie so far below the camera, KITTI's height.
GROUND_M = 1.65
GRID_M, AHEAD_M, ASIDE_M = 4.0, 80.0, 40.0


def ground_grid(height_px, width_px, P):
    """Draw lines on the ground, (H, W, 3) uint8 RGB, fading with distance."""
    image = np.full((height_px, width_px, 3), strokes.BACKGROUND, np.uint8)
    for x in np.arange(-ASIDE_M, ASIDE_M + 1, GRID_M):
        ahead = np.linspace(2.0, AHEAD_M, 80)
        polyline(image, np.stack([np.full(80, x), np.full(80, GROUND_M), ahead], 1), P)
    for z in np.arange(GRID_M, AHEAD_M + 1, GRID_M):
        aside = np.linspace(-ASIDE_M, ASIDE_M, 80)
        polyline(image, np.stack([aside, np.full(80, GROUND_M), np.full(80, z)], 1), P)
    return image


def polyline(image, points_m, P):
    """Draw a line through points in the camera frame."""
    pixels, _ = project(points_m, P)
    for start, end, z in zip(pixels[:-1], pixels[1:], points_m[:, 2], strict=False):
        shade = int(30 + 90 * np.exp(-z / 25))
        ends = (tuple(each) for each in strokes.fixed_point(np.stack([start, end])).tolist())
        cv2.line(image, *ends, (shade, shade, shade + 14), 1, cv2.LINE_AA, strokes.SUBPIXEL_BITS)


def main():
    """Run the command; exit code 2 and one line where it cannot."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('played', help='the bag that was played')
    parser.add_argument('answers', help='the bag of answers')
    parser.add_argument('--frame', type=int, default=0, help='number of the image in the bag')
    parser.add_argument('--out', default='demo.png')
    args = parser.parse_args()
    try:
        scenes = list(report.read_scenes(args.played))
        answers = report.read_answers(args.answers)
    except BagError as err:
        print(f'boxes_only: {err}', file=sys.stderr)
        return 2
    if not 0 <= args.frame < len(scenes):
        print(f'boxes_only: --frame {args.frame}: the bag has {len(scenes)}', file=sys.stderr)
        return 2
    frame = scenes[args.frame].frame
    found = answers.boxes.get(frame.stamp_ns, report.NO_BOXES)
    grid = ground_grid(*frame.image.shape[:2], frame.P)
    picture = draw.scene(grid, frame.P, found.edges_m, found.colours, found.labels)
    report.write_picture(args.out, picture)
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""
Draw a sample of a nuScenes database: six views with LiDAR points and labels, and the ground.

python bench/nuscenes_picture.py FOLDER PICTURE.png [--sample 0] [--width 352]: FOLDER is that of a
version, such as nuscenes/v1.0-mini; --sample counts from the first one. Colours of points are by
depth, from green to red.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from stl_core.data.frame_source import SourceImage, SourceSample
from stl_core.data.sources import nuscenes
from stl_core.evaluation.nuscenes.names import CLASSES
from stl_core.rotations import move_points
from stl_core.types import Array
from stl_core.visualization import draw, style, surround

#: The cameras from the left: before the vehicle, behind it.
ORDER = (
    *('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT'),
    *('CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT'),
)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('folder')
    parser.add_argument('picture')
    parser.add_argument('--sample', type=int, default=0)
    parser.add_argument('--width', type=int, default=352, help='of a view, pixels')
    args = parser.parse_args()
    config = nuscenes.database_below(Path(args.folder), labelled=True)
    source = nuscenes.NuscenesSource(config)
    sample = source.read(source.ids[args.sample])
    draw.write_picture(Path(args.picture), draw_sample(sample, args.width))
    print(f'{args.picture}: sample {sample.id}, {len(sample.labels or ())} boxes')


def draw_sample(sample: SourceSample, width_px: int) -> Array:
    """Return the picture of a sample."""
    images = {image.camera: image for image in sample.images}
    views = [draw_input(images[name], width_px) for name in ORDER]
    labels = sample.labels
    assert labels is not None
    objects = labels.to_objects(CLASSES)
    half = objects.size_hwl_m[:, [2, 1]] / 2
    corners = half[:, None] * np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
    cos, sin = np.cos(objects.yaw), np.sin(objects.yaw)
    turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    outlines = corners @ turn + objects.center_m[:, None, :2]
    first = sample.images[0]
    points = move_points(first.vehicle_T_cam, first.points.read()[:, :3].astype(np.float64))
    colours = [style.class_colour(CLASSES[each]) for each in objects.class_id]
    return surround.draw_surround(views, outlines, colours, points)


def draw_input(image: SourceImage, width_px: int) -> surround.SurroundView:
    """Return a picture at a width, with its labels and points."""
    pixels = image.pixels.read()
    scale = width_px / pixels.shape[1]
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    P = np.diag([scale, scale, 1.0]) @ image.P
    objects = image.labels.to_objects(CLASSES)
    colours = [style.class_colour(CLASSES[each]) for each in objects.class_id]
    points = image.points.read()[:, :3]
    return surround.SurroundView(image.camera, small, P, draw.box_edges(objects), colours, points)


if __name__ == '__main__':
    main()

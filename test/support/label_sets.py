"""KITTI data sets with labels that a test chooses, on empty pictures."""

import cv2
import numpy as np
from kitti_scenes import HEIGHT, P2, WIDTH

from stl_core import geometry

#: A car 12 m ahead, wholly in the picture.
CAR = {'name': 'Car', 'center_m': (0.5, 0.5, 12.0), 'size': (1.5, 1.6, 3.9), 'yaw': 0.4}


def label_line(P=P2, limit=(WIDTH - 1, HEIGHT - 1), **fields):
    """Return the label line of CAR with other fields; its 2D box is that of the projection."""
    row = {'truncated': 0, 'occluded': 0, 'box': None, **CAR, **fields}
    center, size = np.array([row['center_m']]), np.array([row['size']])
    if row['box'] is None:
        corners = geometry.box_corners(center, size, np.array([row['yaw']]))[0]
        pixels, _ = geometry.project_points(corners, P)
        low, high = np.clip(pixels.min(0), 0, limit), np.clip(pixels.max(0), 0, limit)
        row['box'] = (*low, *high)
    x, y, z = row['center_m']
    numbers = (*row['box'], *row['size'], x, y + row['size'][0] / 2, z, row['yaw'])
    text = ' '.join(f'{number:.4f}' for number in numbers)
    return f'{row["name"]} {row["truncated"]} {row["occluded"]} -10 {text}'


def write_set(root, texts, P=P2, size=(WIDTH, HEIGHT)):
    """Write a data set with one frame for each label text; P is that of every frame."""
    for folder in ('image_2', 'calib', 'label_2'):
        (root / folder).mkdir(parents=True)
    numbers = ' '.join(map(str, np.ravel(P).tolist()))
    for index, text in enumerate(texts):
        picture = np.full((size[1], size[0], 3), 90, np.uint8)
        cv2.imwrite(str(root / f'image_2/{index:06d}.png'), picture)
        (root / f'calib/{index:06d}.txt').write_text(f'P2: {numbers}\n')
        (root / f'label_2/{index:06d}.txt').write_text(text)
    return root

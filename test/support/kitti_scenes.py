"""Small drawn KITTI data sets for tests: grey roads with bright boxes at the labels."""

import cv2
import numpy as np

from stl_core import geometry
from stl_core.data.sources import kitti
from stl_core.types import Labels

WIDTH, HEIGHT = 320, 96
P2 = np.array([[180.0, 0, 160, 9], [0, 180, 40, 0.1], [0, 0, 1, 0.003]])


def draw_frame(root, frame_id, seed):
    """Write image, calib and label file of one frame with 1 to 3 cars."""
    rng = np.random.default_rng(seed)
    count = 1 + seed % 3
    center = rng.uniform([-4, 0.4, 8], [4, 0.6, 20], (count, 3))
    size = np.tile([1.5, 1.6, 3.9], (count, 1))
    yaw = rng.uniform(-np.pi, np.pi, count)
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[45:] = 60
    boxes = []
    for corners in geometry.box_corners(center, size, yaw):
        pixels, _ = geometry.project_points(corners, P2)
        low = np.clip(pixels.min(0), 0, [WIDTH - 1, HEIGHT - 1])
        high = np.clip(pixels.max(0), 0, [WIDTH - 1, HEIGHT - 1])
        boxes.append([*low, *high])
        colour = rng.integers(120, 255, 3).tolist()
        cv2.fillConvexPoly(image, cv2.convexHull(pixels.astype(np.int32)), colour)
    labels = Labels(
        name=np.array(['Car'] * count),
        truncated=np.zeros(count),
        occluded=np.zeros(count),
        alpha=geometry.wrap_angle(yaw - np.arctan2(center[:, 0], center[:, 2])),
        score=np.ones(count),
        center_m=center,
        size_hwl_m=size,
        rotation_y=yaw,
        box_px=np.array(boxes),
    )
    cv2.imwrite(str(root / f'image_2/{frame_id}.png'), image)
    numbers = ' '.join(f'{x:.6f}' for x in P2.ravel())
    (root / f'calib/{frame_id}.txt').write_text(f'P2: {numbers}\n')
    lines = [line.rsplit(' ', 1)[0] for line in kitti.format_results(labels).splitlines()]
    (root / f'label_2/{frame_id}.txt').write_text('\n'.join(lines) + '\n')


def make_scenes(root, frames=5):
    """Write `frames` labelled frames under root; return it."""
    for folder in ('image_2', 'calib', 'label_2'):
        (root / folder).mkdir(parents=True)
    for i in range(frames):
        draw_frame(root, f'{i:06d}', i)
    return root

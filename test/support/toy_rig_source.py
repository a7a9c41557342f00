"""
A data set of several cameras that is drawn, not read: coloured dots at the centres of objects.

Three cameras look ahead, to the left and back, the rear one with a shorter focal length. Objects
are drawn from a seed.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from stl_core.data.frame_source import (
    LazyArray,
    SourceFormat,
    SourceImage,
    SourceSample,
)
from stl_core.data.rigs.sample import objects_to_camera
from stl_core.data.sources import SOURCES
from stl_core.geometry import box_corners, project_points
from stl_core.types import Labels
from stl_core.vehicle_types import VehicleLabels

SIZE_PX = (320, 180)
#: Name: heading (radians), focal length (pixels), position.
CAMERAS = {
    'front': (0.0, 260.0, (1.5, 0.0, 1.5)),
    'left': (np.pi / 2, 250.0, (0.8, 0.5, 1.6)),
    'back': (np.pi, 170.0, (-0.5, 0.0, 1.55)),
}
NAMES = ('Car', 'Pedestrian', 'Cyclist')
FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class ToyRigConfig:
    """
    A number of drawn samples.

    :param samples: how many.
    :param objects: objects of a sample, one after the other ahead, to the left and behind.
    :param seed: of their places.
    :param missing: cameras that every second sample lacks.
    :param scan: whether the images have LiDAR points, on the objects' centres.
    """

    samples: int = 4
    objects: int = 3
    seed: int = 0
    missing: tuple[str, ...] = ()
    scan: bool = True
    format: str = 'toy_rig'


def camera(name):
    """Return P (3, 4) and vehicle_T_cam (4, 4) of a camera."""
    heading, focal_px, position = CAMERAS[name]
    cos, sin = np.cos(heading), np.sin(heading)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ FORWARD
    pose[:3, 3] = position
    P = np.zeros((3, 4))
    width, height = SIZE_PX
    P[:, :3] = [[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1]]
    return P, pose


class ToyRigSource:
    def __init__(self, config, ids=()):
        self.config = config
        self.ids = tuple(ids) or tuple(f's{number}' for number in range(config.samples))

    def read(self, sample_id):
        number, config = int(sample_id[1:]), self.config
        labels = draw_labels(config, number)
        missing = config.missing if number % 2 else ()
        cameras = [name for name in CAMERAS if name not in missing]
        images = tuple(_image(sample_id, name, labels, config.scan) for name in cameras)
        return SourceSample(sample_id, images, labels)


def draw_labels(config, number):
    """Draw objects on the ground, each in the middle of a camera's view."""
    rng = np.random.default_rng([config.seed, number])
    headings = [heading for heading, *_ in CAMERAS.values()]
    count = config.objects
    angle = np.resize(headings, count) + rng.uniform(-0.3, 0.3, count)
    range_m = rng.uniform(6, 16, count)
    kind = np.arange(count) % len(NAMES)
    size = np.array([[1.5, 1.7, 4.0], [1.75, 0.7, 0.8], [1.7, 0.6, 1.8]])[kind]
    center = np.column_stack([range_m * np.cos(angle), range_m * np.sin(angle), size[:, 0] / 2])
    return VehicleLabels(
        name=np.array(NAMES, object)[kind].astype(str),
        center_m=center,
        size_hwl_m=size,
        yaw=rng.uniform(-np.pi, np.pi, count),
        velocity_mps=np.where(np.arange(count)[:, None] % 2, rng.normal(0, 3, (count, 2)), np.nan),
        attribute=np.where(np.arange(count) % 2, 'moving', ''),
        num_points=np.full(count, 5),
    )


def _image(sample_id, name, labels, scan):
    P, pose = camera(name)
    seen, points = image_labels(labels, P, pose)
    pixels = partial(draw_dots, points, P)
    there = LazyArray(f'{sample_id}/{name}/points', partial(np.asarray, points))
    return SourceImage(
        id=f'{sample_id}_{name}',
        camera=name,
        pixels=LazyArray(f'{sample_id}/{name}', pixels),
        P=P,
        labels=seen,
        vehicle_T_cam=pose,
        points=there if scan else LazyArray(f'{sample_id}/{name}/points'),
        size_px=LazyArray(f'{sample_id}/{name}', partial(np.array, SIZE_PX)),
    )


def image_labels(labels, P, pose):
    """Return the labels of the image, and (M, 3) the centres that it shows, camera frame."""
    whole = labels.to_objects(NAMES)
    objects = objects_to_camera(whole, pose, np.zeros((len(whole), 4)))
    corners = box_corners(objects.center_m, objects.size_hwl_m, objects.rotation_y)
    corners[..., 2] = np.maximum(corners[..., 2], 0.1)
    pixels, _ = project_points(corners, P)
    last = np.array(SIZE_PX) - 1.0
    box_px = np.concatenate([pixels.min(1).clip(0, last), pixels.max(1).clip(0, last)], 1)
    center_px, _ = project_points(objects.center_m, P)
    shown = (objects.center_m[:, 2] > 1) & ((center_px > 0) & (center_px < last)).all(1)
    count = int(shown.sum())
    seen = Labels(
        name=labels.name[shown],
        truncated=np.zeros(count),
        occluded=np.zeros(count),
        alpha=np.full(count, -10.0),
        score=np.ones(count),
        center_m=objects.center_m[shown],
        size_hwl_m=objects.size_hwl_m[shown],
        rotation_y=objects.rotation_y[shown],
        box_px=box_px[shown],
    )
    return seen, objects.center_m[shown]


def draw_dots(points_m, P):
    """Draw a round dot of deviation 2 pixels at the projection of each point."""
    width, height = SIZE_PX
    image = np.zeros((height, width, 3))
    centers, _ = project_points(points_m, P)
    x, y = np.arange(width), np.arange(height)[:, None]
    for number, (u, v) in enumerate(centers):
        dot = np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8)
        image = np.maximum(image, 255 * dot[..., None] * np.roll([1, 0.6, 0.3], number))
    return image.astype(np.uint8)


@contextmanager
def registered():
    """Make the format known."""
    SOURCES['toy_rig'] = SourceFormat(
        ToyRigConfig, ToyRigSource, lambda folder, labelled: ToyRigConfig()
    )
    try:
        yield
    finally:
        del SOURCES['toy_rig']

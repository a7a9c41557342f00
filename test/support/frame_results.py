"""Results of a detector as numbers only, and messages as plain namespaces."""

from types import SimpleNamespace

import numpy as np
from scipy.spatial.transform import Rotation

from mono3d_ros.camera_frame import FrameResult, TargetFrame
from stl_core.types import Objects3D

STAMP_NS = 1_700_000_000_123_456_789


def objects(n):
    rows = np.arange(n, dtype=float)
    return Objects3D(
        class_id=np.arange(n) % 2,
        score=0.9 - 0.1 * rows,
        center_m=np.stack([rows - 1, 1 + 0 * rows, 20 + 3.44 * rows], 1),
        size_hwl_m=np.tile([1.5, 1.6, 4.0], (n, 1)),
        rotation_y=0.3 + rows,
        box_px=np.zeros((n, 4)),
        depth_sigma_m=np.ones(n),
    )


def result(n, ids=None):
    return FrameResult(
        camera='front',
        stamp_ns=STAMP_NS,
        frame_id='front_optical',
        objects=objects(n),
        classes=('Car', 'Tram'),
        ids=tuple(range(n)) if ids is None else ids,
        timings_ms={},
    )


def plain_new(type_name, /, **fields):
    return SimpleNamespace(type_name=type_name, **fields)


def by_kind(array):
    return {(each.ns, each.id): each for each in array.markers}


def xyz(point):
    return (point.x, point.y, point.z)


def random_target(seed):
    """Return a target frame with a random pose."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = np.random.default_rng(seed).normal(scale=5, size=3)
    return TargetFrame('base_link', matrix)

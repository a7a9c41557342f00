"""A small lift-splat detector, and rigs of cameras with random pictures."""

import numpy as np
import torch
from rig_targets import random_objects

from stl_core.models.lift_splat.detector import LiftSplat, LiftSplatConfig
from stl_core.tensors.batch import NetworkInput
from stl_core.tensors.rig import Rig, pad_rig_targets

H, W = 64, 96
#: Axes of a camera that looks forward: columns are camera x, y, z in the vehicle frame.
FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
SMALL = {
    'backbone': 'mobilenetv4_conv_small',
    'neck_width': 8,
    'depth_width': 16,
    'depth_blocks': 1,
    'context': 8,
    'depth_range_m': (1.0, 17.0),
    'depth_step_m': 1.0,
    'x_range_m': (-12.8, 12.8),
    'y_range_m': (-9.6, 9.6),
    'z_range_m': (-3.0, 3.0),
    'bev_width': 8,
    'bev_blocks': 1,
    'bev_channels': 16,
    'head_width': 8,
    'max_objects': 40,
    'attributes': ('moving', 'parked'),
}


def small_config(**options):
    return LiftSplatConfig(**{**SMALL, **options})


def small_lift_splat(classes=3, given_depth=False, in_channels=3, **options):
    torch.manual_seed(0)
    return LiftSplat(small_config(**options), in_channels, classes, given_depth)


def camera_pose(heading, position=(0.0, 0.0, 1.5)):
    """Return (4, 4) vehicle_T_cam of a level camera that looks along a heading (radians)."""
    cos, sin = np.cos(heading), np.sin(heading)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ FORWARD
    pose[:3, 3] = position
    return pose


def projection(focal_px=60.0, size_px=(H, W)):
    P = np.zeros((3, 4))
    P[:, :3] = [
        [focal_px, 0, size_px[1] / 2 - 0.5],
        [0, focal_px, size_px[0] / 2 - 0.5],
        [0, 0, 1],
    ]
    return P


def rig_input(samples=2, views=3, focal_px=60.0, seed=0, present=None):
    """Return random pictures of cameras that look in all directions."""
    torch.manual_seed(seed)
    images = samples * views
    headings = 2 * np.pi * np.arange(views) / views
    poses = np.stack([camera_pose(each) for each in headings] * samples)
    P = np.stack([projection(focal_px)] * images)
    present = torch.ones(images, dtype=torch.bool) if present is None else torch.tensor(present)
    rig = Rig(views, torch.from_numpy(poses).float(), present)
    return NetworkInput(torch.randn(images, 3, H, W), torch.from_numpy(P).float(), rig=rig)


def rig_targets(samples=2, count=5, slots=8):
    return pad_rig_targets([random_objects(count, seed) for seed in range(samples)], slots)

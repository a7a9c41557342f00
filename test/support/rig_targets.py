"""Random objects around a vehicle, and detectors that have nothing but a map of the ground."""

from types import SimpleNamespace

import numpy as np
import torch
from fake_views import tensor

from stl_core.distill.view import DistillView, NetworkOutputs
from stl_core.tensors.feature_level import BevPlane, FeatureLevel, LevelSpec
from stl_core.tensors.rig import pad_rig_targets
from stl_core.vehicle_types import VehicleObjects

PLANE = BevPlane(0.8, (-12.8, -9.6))
HW = (24, 32)


def random_objects(count, seed=0, classes=3, extent_m=(12.0, 9.0)):
    """Return objects around the vehicle; every third one has no velocity and no attribute."""
    rng = np.random.default_rng(seed)
    center = rng.uniform(-1, 1, (count, 3)) * (*extent_m, 0.5)
    unknown = np.arange(count) % 3 == 2
    return VehicleObjects(
        class_id=rng.integers(0, classes, count),
        score=np.ones(count),
        center_m=center,
        size_hwl_m=rng.uniform([1.2, 0.6, 0.8], [2, 2.5, 5], (count, 3)),
        yaw=rng.uniform(-np.pi, np.pi, count),
        velocity_mps=np.where(unknown[:, None], np.nan, rng.normal(0, 4, (count, 2))),
        attribute_id=np.where(unknown, -1, rng.integers(0, 2, count)),
    )


def bev_targets(counts, slots=8):
    """Return the padded targets of samples with these numbers of objects."""
    return pad_rig_targets([random_objects(n, seed) for seed, n in enumerate(counts)], slots)


def bev_detector(channels=6):
    """Return a detector with a map of the ground, downstream of given depth."""
    return SimpleNamespace(levels=(LevelSpec('bev', channels, PLANE, after_given_depth=True),))


def bev_view(name, counts, channels=6, views=3, epoch=3.0):
    """Make the maps of the ground of two networks, and targets around the vehicle."""
    targets = bev_targets(counts)
    outputs = []
    for role in ('student', 'teacher'):
        values = tensor(f'{name} {role}', (len(counts), channels, *HW))
        level = FeatureLevel(values, bev_detector(channels).levels[0])
        sigma_m = 0.2 + torch.rand(targets.valid.shape)
        outputs.append(NetworkOutputs({'bev': level}, {}, {}, sigma_m))
    adapted = {'bev': tensor(f'{name} adapted', (len(counts), channels, *HW))}
    P = torch.eye(3, 4).repeat(len(counts) * views, 1, 1)
    return DistillView(*outputs, adapted, targets, P, (96, 128), epoch, heads_plane=PLANE)

"""Batches of several cameras: whole samples are cut, and objects cover cells of the ground."""

import dataclasses

import numpy as np
import pytest
import torch
from rig_targets import HW, PLANE, bev_targets, random_objects

from stl_core.preprocessing import InputSpec
from stl_core.tensors.batch import Batch, as_image_targets, map_tensors, pad_targets, slice_batch
from stl_core.tensors.feature_level import ImagePlane
from stl_core.tensors.normalization import network_input
from stl_core.tensors.rig import Rig, as_rig_targets, pad_rig_targets, require_rig
from stl_core.types import ImageObjects
from stl_core.vehicle_types import VehicleObjects

VIEWS = 3


def rig_batch(samples=4, views=VIEWS):
    images = samples * views
    numbers = torch.arange(images, dtype=torch.float32)
    poses = numbers[:, None, None] * torch.ones(1, 4, 4)
    return Batch(
        image=torch.zeros(images, 32, 32, 3, dtype=torch.uint8),
        P=numbers[:, None, None] * torch.ones(1, 3, 4),
        targets=bev_targets(range(samples)),
        ids=tuple(f'sample{i}' for i in range(samples)),
        given_depth_m=numbers[:, None, None] * torch.ones(1, 32, 32),
        rig=Rig(views, poses, numbers > 0),
    )


def test_a_slice_takes_whole_samples():
    part = slice_batch(rig_batch(), slice(1, 3))
    assert part.ids == ('sample1', 'sample2')
    expected = torch.arange(3, 9, dtype=torch.float32)
    for each in (part.P, part.rig.vehicle_T_cam, part.given_depth_m):
        assert torch.equal(each[:, 0, 0], expected)
    assert part.targets.valid.sum(1).tolist() == [1, 2]
    assert part.rig.samples == 2
    assert require_rig(part.rig, len(part.image)) is part.rig


def test_a_slice_of_single_images_takes_images():
    whole = rig_batch(samples=4, views=1)
    part = slice_batch(dataclasses.replace(whole, rig=None), slice(2, None))
    assert part.ids == ('sample2', 'sample3')
    assert part.P[:, 0, 0].tolist() == [2, 3]


def test_every_tensor_of_a_batch_is_mapped():
    seen = []
    map_tensors(rig_batch(), lambda each: seen.append(each.shape) or each)
    # image, P, given depth; 7 of the targets; poses and presence
    assert len(seen) == 3 + 7 + 2


def test_the_input_of_a_network_carries_the_rig():
    batch = rig_batch()
    assert network_input(batch, InputSpec(32, 32)).rig is batch.rig


@pytest.mark.parametrize(
    ('rig', 'message'),
    [
        (None, 'input without rig'),
        (Rig(4, torch.zeros(6, 4, 4), torch.ones(6, dtype=torch.bool)), 'does not fit 6 images'),
        (Rig(3, torch.zeros(3, 4, 4), torch.ones(6, dtype=torch.bool)), 'does not fit 6 images'),
    ],
)
def test_a_rig_that_does_not_fit_is_refused(rig, message):
    with pytest.raises(ValueError, match=message):
        require_rig(rig, 6)


def test_targets_of_the_other_kind_are_refused_by_name():
    with pytest.raises(ValueError, match=r'single images \(Targets\).*RigTargets'):
        as_image_targets(bev_targets([1]))
    with pytest.raises(ValueError, match=r'around a vehicle \(RigTargets\).* Targets'):
        as_rig_targets(pad_targets([ImageObjects.empty()], 2))
    with pytest.raises(ValueError, match='RigTargets'):
        ImagePlane(4).object_cells(bev_targets([1]), torch.zeros(1, 1, 4, 4))


def test_the_nearest_objects_get_the_slots():
    objects = random_objects(9)
    targets = pad_rig_targets([objects], 4)
    nearest = np.sort(np.hypot(*objects.center_m[:, :2].T))[:4]
    np.testing.assert_allclose(targets.range_m[0], nearest, rtol=1e-6)
    assert targets.velocity_mps.isnan().any()
    assert not pad_rig_targets([VehicleObjects.empty()], 4).valid.any()


def test_an_object_covers_the_cells_whose_centres_lie_in_its_footprint():
    """The footprint by complex numbers: a cell is inside where |Re| and |Im| fit half the size."""
    objects = random_objects(20, seed=3)
    targets = pad_rig_targets([objects], 20)
    cells = PLANE.box_cells(targets, torch.zeros(1, 1, *HW))[0].numpy()
    x = PLANE.origin_m[0] + (np.arange(HW[1]) + 0.5) * PLANE.cell_m
    y = PLANE.origin_m[1] + (np.arange(HW[0]) + 0.5) * PLANE.cell_m
    grid = x[None] + 1j * y[:, None]
    order = np.argsort(np.hypot(*objects.center_m[:, :2].T), kind='stable')
    for row, each in zip(cells, order, strict=True):
        x0, y0, _ = objects.center_m[each]
        turned = (grid - (x0 + 1j * y0)) * np.exp(-1j * objects.yaw[each])
        _, width, length = objects.size_hwl_m[each]
        expected = (abs(turned.real) <= length / 2) & (abs(turned.imag) <= width / 2)
        position = np.array([x0, y0]) - PLANE.origin_m
        column, line = (position // PLANE.cell_m).astype(int)
        expected[line, column] = True
        assert np.array_equal(row, expected)


def one_object(x, y, size=(1.0, 0.1, 0.1), yaw=0.0):
    return VehicleObjects(
        class_id=[0], score=[1], center_m=[[x, y, 0]], size_hwl_m=[size], yaw=[yaw]
    )


@pytest.mark.parametrize(('x', 'y', 'cell'), [(0.1, 0.1, (12, 16)), (-99, 99, (23, 0))])
def test_a_small_object_or_one_off_the_grid_has_one_cell(x, y, cell):
    targets = pad_rig_targets([one_object(x, y)], 2)
    cells = PLANE.object_cells(targets, torch.zeros(1, 1, *HW))
    assert cells[0, 0].nonzero().tolist() == [list(cell)]
    assert not cells[0, 1].any()


def test_where_footprints_overlap_the_object_nearest_to_the_vehicle_counts():
    size = (1.0, 4.0, 4.0)
    objects = VehicleObjects.concatenate([one_object(-4, 0, size), one_object(-6, 0, size)])
    targets = pad_rig_targets([objects], 3)
    owner, inside = PLANE.nearest_object_map(targets, torch.zeros(1, 1, *HW))
    column = int((-5 + 12.8) // 0.8)
    assert inside[0, 12, column]
    assert owner[0, 12, column] == 0
    cells = PLANE.object_cells(targets, torch.zeros(1, 1, *HW))
    assert not (cells[0, 0] & cells[0, 1]).any()
    more = PLANE.object_cells(targets, torch.zeros(1, 1, *HW), around=0.5)
    assert (more & cells).sum() == cells.sum()
    assert more.sum() > cells.sum()


def test_the_roi_of_an_object_is_the_hull_of_its_footprint_in_cells():
    targets = pad_rig_targets([one_object(0, 0, (1, 2, 4), np.pi / 6)], 1)
    rois = PLANE.object_rois(targets, (32, 32), torch.tensor([0]))
    corners = np.array([[2, 1], [2, -1], [-2, 1], [-2, -1]]) @ [1, 1j] * np.exp(1j * np.pi / 6)
    expected = [corners.real.min(), corners.imag.min(), corners.real.max(), corners.imag.max()]
    expected = (np.array(expected) + [12.8, 9.6, 12.8, 9.6]) / 0.8
    np.testing.assert_allclose(rois[0], [0, *expected], rtol=1e-5)

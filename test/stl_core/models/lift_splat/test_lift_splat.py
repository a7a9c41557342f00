"""The multi-view detector: its contract, its cameras, and that it learns."""

import dataclasses

import numpy as np
import pytest
import torch
from rig_targets import random_objects
from small_rigs import H, W, rig_input, rig_targets, small_config, small_lift_splat

from stl_core.models.lift_splat.depth_net import camera_code
from stl_core.models.lift_splat.detector import LOSS_WEIGHTS, LiftSplatConfig, RigGraph
from stl_core.models.lift_splat.range_sigma import strongest_cells
from stl_core.tensors.batch import pad_targets
from stl_core.tensors.detector import as_detector, check_head_shapes
from stl_core.tensors.precision import autocast_to, outputs_to_float32
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.tensors.rig import Rig, as_vehicle_objects, pad_rig_targets
from stl_core.types import ImageObjects
from stl_core.vehicle_types import VehicleObjects

MAPS = {
    'heatmap': 3, 'offset': 2, 'height': 1, 'size': 3, 'yaw': 2, 'velocity': 2, 'range': 1,
    'attribute': 2,
}  # fmt: skip


def run(model, inputs):
    with torch.no_grad():
        return model.eval()(inputs)


def test_it_fulfils_the_contract_with_the_documented_shapes():
    model, inputs = small_lift_splat(), rig_input()
    assert as_detector(model) is model
    out = model(inputs)
    shapes = {name: ('S', count, 24, 32) for name, count in MAPS.items()}
    check_head_shapes(out.heads, {**shapes, 'depth_bins': ('B', 16, H // 16, W // 16)})
    assert out.features[0].shape == (2, model.levels[0].channels, 24, 32)
    for level, grid in zip(model.levels[1:], out.features[1:], strict=True):
        stride = level.plane.stride
        assert grid.shape == (6, level.channels, H // stride, W // stride)
    assert [each.name for each in model.levels if each.after_given_depth] == ['bev']


@pytest.mark.parametrize('count', [0, 1, 200])
@pytest.mark.parametrize('supervision', ['none', 'objects'])
def test_any_number_of_objects_gives_finite_losses_and_gradients(count, supervision):
    model, inputs = small_lift_splat(depth_supervision=supervision), rig_input()
    targets = rig_targets(2, count, slots=200)
    depth_m = torch.zeros(2, 3, H, W)
    depth_m[:, 1, 20:40, 30:60] = 7.0
    targets = dataclasses.replace(targets, depth_m=depth_m)
    found = model.losses(model(inputs), targets, SINGLE_PART)
    assert found.keys() == LOSS_WEIGHTS.keys()
    assert all(value.dim() == 0 and value.isfinite() for value in found.values())
    assert (float(found['det/depth'].detach()) > 0) == (supervision == 'objects')
    sum(found.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_unknown_velocities_and_attributes_teach_nothing():
    model, inputs = small_lift_splat(), rig_input()
    objects = random_objects(6, seed=1)
    unknown = dataclasses.replace(
        objects, velocity_mps=np.full((6, 2), np.nan), attribute_id=np.full(6, -1)
    )
    targets = pad_rig_targets([unknown, unknown], 8)
    out = model(inputs)
    found = model.losses(out, targets, SINGLE_PART)
    assert float(found['det/velocity'].detach()) == 0
    assert float(found['det/attribute'].detach()) == 0
    (found['det/velocity'] + found['det/attribute']).backward()
    last = model.heads.heads['velocity'][-1].weight
    assert (last.grad == 0).all()


def test_one_unknown_velocity_leaves_the_mean_of_the_others():
    model, inputs = small_lift_splat(), rig_input(samples=1)
    out = run(model, inputs)
    objects = random_objects(2, seed=4)
    velocity = np.array([[1.0, -2.0], [np.nan, np.nan]])
    both = pad_rig_targets([dataclasses.replace(objects, velocity_mps=velocity)], 4)
    known = pad_rig_targets([dataclasses.replace(objects, velocity_mps=velocity)[[0]]], 4)
    losses = [model.losses(out, each, SINGLE_PART)['det/velocity'] for each in (both, known)]
    torch.testing.assert_close(*losses)


def test_objects_outside_of_the_grid_teach_background():
    model, inputs = small_lift_splat(), rig_input()
    far = rig_targets()
    far = dataclasses.replace(far, center_m=far.center_m + 500)
    none = dataclasses.replace(far, valid=torch.zeros_like(far.valid))
    out = run(model, inputs)
    pairs = [model.losses(out, each, SINGLE_PART) for each in (far, none)]
    torch.testing.assert_close(*pairs, rtol=0, atol=0)
    assert not model.predictions_at_targets(out, far).found.any()


def test_half_precision_keeps_depth_and_the_ground_in_float32():
    model, inputs = small_lift_splat().eval(), rig_input()
    with torch.no_grad(), autocast_to('bf16', torch.device('cpu')):
        out = model(inputs)
    heads = out.heads.as_dict()
    assert all(value.dtype == torch.float32 for value in heads.values())
    exact = run(model, inputs).heads
    near = (outputs_to_float32(out).heads.heatmap - exact.heatmap).abs().max()
    assert near < 0.2


def test_a_batch_gives_the_same_objects_as_single_samples():
    model, inputs = small_lift_splat(), rig_input(samples=3)
    together = model.decode(run(model, inputs))
    for sample in range(3):
        part = slice(3 * sample, 3 * sample + 3)
        rig = inputs.rig
        alone = dataclasses.replace(
            inputs,
            image=inputs.image[part],
            P=inputs.P[part],
            rig=Rig(3, rig.vehicle_T_cam[part], rig.present[part]),
        )
        for name, value in model.decode(run(model, alone)).items():
            torch.testing.assert_close(value[0], together[name][sample], atol=1e-4, rtol=1e-4)


def test_the_picture_of_an_absent_camera_changes_nothing():
    model = small_lift_splat()
    present = [True, False, True]
    inputs = rig_input(samples=1, present=present)
    other = dataclasses.replace(inputs, image=inputs.image.clone())
    other.image[1] = 3.0
    first, second = (run(model, each).heads.heatmap for each in (inputs, other))
    assert torch.equal(first, second)
    rig = dataclasses.replace(inputs.rig, present=torch.ones(3, dtype=torch.bool))
    shown = dataclasses.replace(inputs, rig=rig)
    assert not torch.equal(run(model, shown).heads.heatmap, first)


def test_it_runs_with_one_camera_and_kittis_projection():
    P2 = np.array(
        [
            [721.5377, 0, 609.5593, 44.85728],
            [0, 721.5377, 172.854, 0.2163791],
            [0, 0, 1, 0.002745884],
        ]
    )
    model, inputs = small_lift_splat(), rig_input(samples=2, views=1)
    scale = np.diag([W / 1242, H / 375, 1.0])
    P = torch.from_numpy(scale @ P2).float().repeat(2, 1, 1)
    out = run(model, dataclasses.replace(inputs, P=P))
    assert out.heads.heatmap.shape == (2, 3, 24, 32)
    index = model.voxel_index(P, inputs.rig.vehicle_T_cam, (H, W))
    rows, columns = np.divmod(index[index < model.grid.cells].numpy(), model.grid.columns)
    assert columns.min() >= model.grid.columns // 2  # all that the camera sees lies ahead
    assert rows.min() < model.grid.rows / 2 < rows.max()


def test_given_voxels_replace_those_that_the_detector_computes():
    model, inputs = small_lift_splat(), rig_input()
    rig = inputs.rig
    index = model.voxel_index(inputs.P, rig.vehicle_T_cam, inputs.size_px)
    given = dataclasses.replace(inputs, rig=dataclasses.replace(rig, voxel_index=index))
    assert torch.equal(run(model, given).heads.heatmap, run(model, inputs).heads.heatmap)
    nowhere = torch.full_like(index, model.grid.cells)
    given = dataclasses.replace(inputs, rig=dataclasses.replace(rig, voxel_index=nowhere))
    assert not torch.equal(run(model, given).heads.heatmap, run(model, inputs).heads.heatmap)


def test_the_exported_graph_takes_the_voxels_and_inverts_no_matrix():
    model, inputs = small_lift_splat(max_objects=8).eval(), rig_input(samples=1)
    rig = inputs.rig
    index = model.voxel_index(inputs.P, rig.vehicle_T_cam, inputs.size_px)
    arguments = (inputs.image, inputs.P, rig.vehicle_T_cam, rig.present, index)
    graph = torch.export.export(RigGraph(model, 3), arguments)
    parts = [each for each in graph.graph_module.modules() if hasattr(each, 'graph')]
    nodes = [node for part in parts for node in part.graph.nodes if node.op == 'call_function']
    names = {str(node.target) for node in nodes}
    assert any('index_add' in name for name in names)
    assert not any(word in name for name in names for word in ('inv', 'solve', 'det', 'custom'))
    nowhere = torch.full_like(index, model.grid.cells)
    for each in (index, nowhere):
        given = dataclasses.replace(inputs, rig=dataclasses.replace(rig, voxel_index=each))
        expected = run(model, given).heads.as_dict()
        found = graph.module()(*arguments[:4], each)
        for name, value in zip(MAPS, found, strict=True):
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)


def test_given_depth_moves_features_to_its_distance():
    model = small_lift_splat(given_depth=True)
    inputs = rig_input(samples=1, views=1)
    rig = inputs.rig
    splats = []
    for depth_m in (4.2, 9.7):
        given = torch.full((1, H, W), depth_m)
        with_depth = dataclasses.replace(inputs, given_depth_m=given)
        logits = torch.zeros(1, model.bins.count, H // 16, W // 16)
        context = torch.ones(1, 8, H // 16, W // 16)
        splats.append(model._splat(logits, context, with_depth, rig)[0, 0])
    for grid, depth_m in zip(splats, (4.5, 9.5), strict=True):  # the centres of the bins
        columns = grid.sum(0).nonzero()[:, 0]
        expected = int((depth_m + 12.8) / 0.8)
        assert columns.tolist() == [expected]
    absent = dataclasses.replace(inputs, given_depth_m=torch.zeros(1, H, W))
    base = small_lift_splat()
    assert torch.equal(run(model, absent).heads.heatmap, run(base, inputs).heads.heatmap)
    with pytest.raises(ValueError, match='given_depth_m'):
        model(inputs)


def test_the_code_of_a_camera_does_not_depend_on_augmentation_of_the_ground():
    inputs = rig_input(samples=1)
    before = camera_code(inputs.P, inputs.rig.vehicle_T_cam, (H, W))
    angle = 0.3
    ground = 0.95 * torch.tensor(
        [[np.cos(angle), -np.sin(angle), 0, 0], [np.sin(angle), np.cos(angle), 0, 0],
         [0, 0, 1, 0], [0, 0, 0, 1 / 0.95]], dtype=torch.float32,
    )  # fmt: skip
    flip = torch.diag(torch.tensor([1.0, -1, 1, 1]))
    after = camera_code(inputs.P, flip @ ground @ inputs.rig.vehicle_T_cam, (H, W))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    longer = camera_code(2 * inputs.P, inputs.rig.vehicle_T_cam, (H, W))
    assert (longer[:, :2] == 2 * before[:, :2]).all()


def test_targets_of_single_images_and_inputs_without_rig_are_refused():
    model, inputs = small_lift_splat(), rig_input()
    with pytest.raises(ValueError, match='input without rig'):
        model(dataclasses.replace(inputs, rig=None))
    with pytest.raises(ValueError, match='around a vehicle'):
        model.losses(run(model, inputs), pad_targets([ImageObjects.empty()], 2), SINGLE_PART)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'depth_supervision': 'lidar'}, 'none, scan, objects'),
        ({'attributes': ('a', 'a')}, 'each once'),
        ({'peak_ratio': 0.0}, 'peak_ratio'),
    ],
)
def test_invalid_options_raise_value_error(options, message):
    with pytest.raises(ValueError, match=message):
        small_config(**options)


@pytest.mark.parametrize('backbone', ['resnet18', 'tf_efficientnet_lite0'])
def test_other_backbones_fit(backbone):
    model = small_lift_splat(backbone=backbone)
    assert run(model, rig_input(samples=1, views=1)).heads.heatmap.shape == (1, 3, 24, 32)


def test_the_default_is_bevdepths_layout():
    config = LiftSplatConfig()
    assert (config.grid.rows, config.grid.columns, config.bins.count) == (128, 128, 112)


def perfect_heads(model, targets):
    """Draw targets as the heads of a perfect network: independent of the encoder's code."""
    grid = model.grid
    maps = {name: torch.zeros(2, count, grid.rows, grid.columns) for name, count in MAPS.items()}
    maps['heatmap'] -= 8
    for sample, slot in targets.valid.nonzero().tolist():
        x, y, z = targets.center_m[sample, slot].tolist()
        column, offset_x = divmod((x + 12.8) / 0.8, 1)
        row, offset_y = divmod((y + 9.6) / 0.8, 1)
        at = (sample, slice(None), int(row), int(column))
        maps['heatmap'][sample, targets.class_id[sample, slot], int(row), int(column)] = 5.0
        yaw = targets.yaw[sample, slot]
        maps['offset'][at] = torch.tensor([offset_x, offset_y])
        maps['height'][at] = z
        maps['size'][at] = targets.size_hwl_m[sample, slot].log()
        maps['yaw'][at] = 3 * torch.stack([yaw.sin(), yaw.cos()])
        maps['velocity'][at] = targets.velocity_mps[sample, slot]
        maps['range'][at] = np.log(0.25)
        maps['attribute'][at] = torch.eye(2)[targets.attribute_id[sample, slot]]
    return maps


def test_decoding_undoes_the_drawing_of_targets():
    model = small_lift_splat()
    targets = rig_targets(2, 5)
    targets = dataclasses.replace(
        targets,
        velocity_mps=targets.velocity_mps.nan_to_num(1.5),
        attribute_id=targets.attribute_id.clamp(min=0),
    )
    out = run(model, rig_input())
    heads = dataclasses.replace(out.heads, **perfect_heads(model, targets))
    out = dataclasses.replace(out, heads=heads)
    decoded = model.decode(out)
    assert decoded.keys() == VehicleObjects.FIELD_SHAPES.keys()
    for sample in range(2):
        objects = as_vehicle_objects(decoded, sample)
        found = objects[objects.score > 0.9]
        assert len(found) == 5
        for slot in range(5):
            center = targets.center_m[sample, slot].numpy()
            near = np.linalg.norm(found.center_m - center, axis=1)
            row = int(near.argmin())
            assert near[row] < 1e-4
            expected = {n: getattr(targets, n)[sample, slot].numpy() for n in (
                'class_id', 'size_hwl_m', 'yaw', 'velocity_mps', 'attribute_id')}  # fmt: skip
            for name, value in expected.items():
                np.testing.assert_allclose(getattr(found, name)[row], value, atol=1e-4)
    np.testing.assert_allclose(found.range_sigma_m, 0.25, rtol=1e-5)
    losses = model.losses(out, targets, SINGLE_PART)
    for name in ('offset', 'height', 'size', 'velocity'):
        assert float(losses[f'det/{name}']) < 1e-5
    # sqrt(2) e^-s |error| + s without error is s
    assert float(losses['det/range']) == pytest.approx(np.log(0.25), abs=1e-3)
    predictions = model.predictions_at_targets(out, targets)
    np.testing.assert_allclose(predictions.depth_sigma_m[targets.valid], 0.25, rtol=1e-5)


def test_objects_in_neighbouring_cells_are_both_found():
    """Two people 0.8 m apart: one of them is the maximum of the other's neighbourhood."""
    model = small_lift_splat()
    out = run(model, rig_input(samples=1))
    heatmap = torch.full((1, 3, 24, 32), -8.0)
    heatmap[0, 1, 5, 5:7] = torch.tensor([3.0, 2.8])
    heatmap[0, 2, 12, 20:22] = torch.tensor([3.0, 0.0])  # one object: its neighbour at a half
    out = dataclasses.replace(out, heads=dataclasses.replace(out.heads, heatmap=heatmap))
    decoded = model.decode(out)
    high = decoded['score'][0] > 0.4
    assert sorted(decoded['class_id'][0][high].tolist()) == [1, 1, 2]


def test_sigma_is_read_where_the_network_sees_the_object():
    model = small_lift_splat()
    logits = torch.full((1, 3, 24, 32), -5.0)
    label, seen, other_class, beyond = (10, 12), (12, 14), (10, 13), (10, 20)
    logits[0, 1, seen[0], seen[1]] = 1.0
    logits[0, 0, other_class[0], other_class[1]] = 9.0
    logits[0, 1, beyond[0], beyond[1]] = 9.0  # 6.4 m away: no match
    cell = torch.tensor([[label[0] * 32 + label[1]]])
    found = strongest_cells(logits, torch.tensor([[1]]), cell, model.grid)
    assert divmod(int(found), 32) == seen


def test_a_tiny_rig_is_overfitted_and_decoded():
    """Two samples of three cameras; the pictures carry no geometry, so this is a test of flow."""
    wide = {'context': 16, 'depth_width': 32, 'bev_width': 16, 'bev_channels': 32}
    model, inputs = small_lift_splat(**wide, head_width=16), rig_input()
    targets = rig_targets(2, 3)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=60)
    for _ in range(60):
        found = model.losses(model(inputs), targets, SINGLE_PART)
        total = sum(LOSS_WEIGHTS[name] * value for name, value in found.items())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():  # with the statistics of the two samples
        decoded = model.decode(model(inputs))
    for sample in range(2):
        objects = as_vehicle_objects(decoded, sample)
        for slot in range(3):
            center = targets.center_m[sample, slot, :2].numpy()
            same = objects.class_id == int(targets.class_id[sample, slot])
            near = np.linalg.norm(objects.center_m[:, :2] - center, axis=1)
            assert (near[same & (objects.score > 0.3)] < 0.5).any()

"""Parity of MonoDLE and MonoCon with published programs: heads, boxes and losses."""

import dataclasses
from types import SimpleNamespace

import golden
import numpy as np
import pytest
import torch

from stl_core.data.sources.kitti import parse_labels
from stl_core.geometry import lift, project_objects
from stl_core.inference import converters
from stl_core.inference.model_file import build_detector
from stl_core.models import DETECTORS
from stl_core.models.centernet import heatmap, keypoints
from stl_core.tensors.batch import NetworkInput, as_image_objects, pad_targets
from stl_core.tensors.reductions import SINGLE_PART


def monodle_heads(heads):
    """Return the heads unchanged: the program has the same."""
    return heads


def monocon_heads(heads):
    """Return our heads under the program's names and encodings."""
    # the program adds 1e-12 to the sigmoid of depth, we add 1e-6: 0.4 mm at 20 m
    depth_m = torch.exp(-heads['depth'][:, :1])
    bins, residuals = heads['heading'].chunk(2, 1)
    return {
        'center_heatmap_pred': heads['heatmap'].sigmoid().clamp(1e-4, 1 - 1e-4),
        'kpt_heatmap_pred': heads['keypoint_heatmap'].sigmoid().clamp(1e-4, 1 - 1e-4),
        'wh_pred': heads['size_2d'],
        'offset_pred': heads['offset_2d'],
        'kpt_heatmap_offset_pred': heads['keypoint_rest'],
        'center2kpt_offset_pred': torch.cat([heads['keypoint_offset'], heads['offset_3d']], 1),
        'dim_pred': heads['size_3d'][:, [2, 0, 1]],
        'depth_pred': torch.cat([depth_m, heads['depth'][:, 1:]], 1),
        'alpha_cls_pred': bins,
        'alpha_offset_pred': residuals,
    }


HEADS = {'monodle': monodle_heads, 'monocon': monocon_heads}
#: One or several losses of the program (their sum): the weighted sum of ours that equals it.
LOSSES = {
    'monodle': {
        ('seg',): {'det/heatmap': 1},
        ('offset2d',): {'det/offset_2d': 1},
        ('size2d',): {'det/size_2d': 1},
        ('depth',): {'det/depth': 1},
        ('offset3d',): {'det/offset_3d': 1},
        ('size3d',): {'det/size_3d': 1},
        ('heading',): {'det/heading': 1},
    },
    'monocon': {
        ('loss_center_heatmap',): {'det/heatmap': 1},
        ('loss_offset',): {'det/offset_2d': 1},
        ('loss_wh',): {'det/size_2d': 0.1},
        ('loss_depth',): {'det/depth': 1},
        ('loss_center2kpt_offset',): {'det/offset_3d': 1 / 9, 'det/keypoint_offset': 8 / 9},
        ('loss_dim',): {'det/size_3d': 1},
        ('loss_alpha_cls', 'loss_alpha_reg'): {'det/heading': 1},
        ('loss_kpt_heatmap',): {'det/keypoint_heatmap': 1},
        ('loss_kpt_heatmap_offset',): {'det/keypoint_rest': 1},
    },
}


@pytest.fixture(scope='module', params=list(HEADS))
def parity(request):
    """Run our detector with a program's weights on the image of its reference results."""
    reference = golden.read(request.param)
    weights = golden.weights(reference['shapes'], reference['tone'])
    tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
    state, spec = converters.convert_state_dict(request.param, tensors)
    model = build_detector(spec).eval()
    model.load_state_dict(state)
    P = golden.projection(reference['focal_px'])
    assert spec.options['virtual_focal_px'] == reference['focal_px']  # depth is not rescaled
    targets = targets_of(reference['labels'], spec, P)
    with torch.no_grad():
        inputs = NetworkInput(torch.from_numpy(golden.image()), torch.from_numpy(P)[None].float())
        out = model(inputs, targets)
    return SimpleNamespace(
        name=request.param,
        reference=reference,
        model=model,
        spec=spec,
        P=P,
        out=out,
        targets=targets,
    )


def targets_of(lines, spec, P):
    labels = parse_labels((f'line {i}', line) for i, line in enumerate(lines))
    return pad_targets([project_objects(labels.to_objects(spec.classes), P)], 10)


def test_heads_equal_those_of_the_program(parity):
    heads = HEADS[parity.name](parity.out.heads.as_dict())
    assert heads.keys() == parity.reference['heads'].keys()
    for name, expected in parity.reference['heads'].items():
        values = heads[name].double().numpy()
        assert list(values.shape) == expected['shape'], name
        for computed, expected_value in (
            (golden.sampled(values), expected['values']),
            (values.mean(), expected['mean']),
            (values.std(), expected['std']),
        ):
            np.testing.assert_allclose(
                computed, expected_value, atol=1e-4, rtol=1e-5, err_msg=name
            )


def test_boxes_equal_those_of_the_program_to_a_millimetre(parity):
    image_objects = as_image_objects(parity.model.decode(parity.out), 0)
    objects = lift(image_objects, parity.P)
    height = image_objects.score * (1 + np.exp(image_objects.depth_log_sigma))
    for box in map(with_center_and_size, parity.reference['boxes']):
        nearest = int(np.linalg.norm(objects.center_m - box['center_m'], axis=1).argmin())
        assert np.abs(objects.center_m[nearest] - box['center_m']).max() < 1e-3
        assert np.abs(objects.size_hwl_m[nearest] - box['size_hwl_m']).max() < 1e-3
        yaw_error = objects.rotation_y[nearest] - box['rotation_y']
        assert abs(np.exp(1j * yaw_error) - 1) < 1e-4
        assert np.abs(objects.box_px[nearest] - box['box_px']).max() < 1e-2
        assert objects.class_id[nearest] == box['class_id']
        assert height[nearest] == pytest.approx(box['height'], abs=1e-5)
        assert image_objects.depth_log_sigma[nearest] == pytest.approx(box['log_sigma'], abs=1e-4)


def written_by_monodle(height, score):
    """Return whether the tester of xinzhuma/monodle writes a box: `if score < threshold`."""
    return height >= 0.2


def written_by_monocon(height, score):
    """Return the same for 2gunsu/monocon-pytorch, whose threshold is on the product."""
    return score > 0.4


WRITTEN = {'monodle': written_by_monodle, 'monocon': written_by_monocon}


def test_the_published_protocol_scores_and_drops_as_the_program(parity):
    """The heights are scaled so that half of the program's boxes pass its threshold."""
    boxes, written = parity.reference['boxes'], WRITTEN[parity.name]
    height = np.array([box['height'] for box in boxes])
    score = height * np.exp([-box['log_sigma'] for box in boxes])
    if 'score' in boxes[0]:
        assert score == pytest.approx([box['score'] for box in boxes], rel=1e-5)
    scale = 0.2 / np.median(height) if parity.name == 'monodle' else 0.4 / np.median(score)
    objects = as_image_objects(parity.model.decode(parity.out), 0)
    published = DETECTORS[parity.name].published
    kept = published.select(dataclasses.replace(objects, score=objects.score * scale))
    for i, box in enumerate(boxes):
        rows = np.flatnonzero(np.abs(kept.box_px - box['box_px']).max(1, initial=0) < 1e-2)
        assert len(rows) == written(scale * height[i], scale * score[i])
        assert kept.score[rows] == pytest.approx(scale * score[i], rel=1e-4)
    assert 0 < len(kept) < len(objects)


def with_center_and_size(box):
    if 'floor_m' in box:
        lift_m = np.array([0, box['size_hwl_m'][0] / 2, 0])
        return {**box, 'center_m': np.array(box['floor_m']) - lift_m}
    length, height, width = box['size_lhw_m']
    return {**box, 'size_hwl_m': [height, width, length]}


def our_losses(parity, lines):
    targets = targets_of(lines, parity.spec, parity.P)
    return parity.model.losses(parity.out, targets, SINGLE_PART)


def assert_equal_losses(parity, expected, loss_values, skipped=()):
    assert {name for names in LOSSES[parity.name] for name in names} == expected.keys()
    for their_names, our_weights in LOSSES[parity.name].items():
        if their_names not in skipped:
            total = sum(weight * float(loss_values[name]) for name, weight in our_weights.items())
            expected_total = sum(expected[name] for name in their_names)
            assert total == pytest.approx(expected_total, rel=1e-5), their_names


def test_losses_equal_those_of_the_program(parity):
    lines = (
        parity.reference['labels'] if parity.name == 'monodle' else parity.reference['labels'][:-1]
    )
    assert_equal_losses(parity, parity.reference['losses'], our_losses(parity, lines))


@pytest.mark.parametrize('parity', ['monocon'], indirect=True)
def test_keypoints_off_the_image_train_no_cell(parity):
    """The program trains cell 0 to output 0 for each of them; otherwise the losses agree."""
    lines, expected = parity.reference['labels'], parity.reference['losses_with_cut']
    loss_values = our_losses(parity, lines)
    assert_equal_losses(parity, expected, loss_values, skipped={('loss_kpt_heatmap_offset',)})
    points_px, _ = keypoints.project_corners(
        parity.targets, torch.from_numpy(parity.P)[None].float()
    )
    points_px = torch.cat([points_px, parity.targets.center_px[:, :, None]], 2)[0, : len(lines)]
    _, inside = heatmap.flat_cells(points_px, 4, 96, 320)
    cell_0_loss = int((~inside).sum()) * float(
        parity.out.heads.keypoint_rest[0, :, 0, 0].abs().sum()
    )
    our_loss = float(loss_values['det/keypoint_rest'])
    assert 0 < int((~inside).sum()) < 9
    assert our_loss + cell_0_loss / (2 * int(inside.sum())) == pytest.approx(
        expected['loss_kpt_heatmap_offset'], rel=1e-5
    )

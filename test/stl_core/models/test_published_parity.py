"""With the weights of a published program our detector answers, reads and learns as it does."""

from types import SimpleNamespace

import golden
import numpy as np
import pytest
import torch

from stl_core.data.sources.kitti import parse_labels
from stl_core.geometry import lift, project_objects
from stl_core.inference import converters
from stl_core.inference.model_file import build_detector
from stl_core.models.centernet import heatmap, keypoints
from stl_core.tensors.batch import as_image_objects, pad_targets


def of_monodle(heads):
    """Nothing to translate."""
    return heads


def of_monocon(heads):
    """Our heads in the program's terms."""
    # its depth adds 1e-12 to a sigmoid where ours adds 1e-6: 0.4 mm at 20 m
    depth_m = torch.exp(-heads['depth'][:, :1])
    bins, rest = heads['heading'].chunk(2, 1)
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
        'alpha_offset_pred': rest,
    }


HEADS = {'monodle': of_monodle, 'monocon': of_monocon}
#: What each of the program's losses is, or several of them together, in ours.
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
def ran(request):
    """Ours, with a program's weights, on the picture that the program was given."""
    told = golden.read(request.param)
    weights = golden.weights(told['shapes'], told['tone'])
    tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
    state, spec = converters.convert_state_dict(request.param, tensors)
    model = build_detector(spec).eval()
    model.load_state_dict(state)
    P = golden.projection(told['focal_px'])
    assert spec.options['virtual_focal_px'] == told['focal_px']  # depth is not stretched
    targets = targets_of(told['labels'], spec, P)
    with torch.no_grad():
        out = model(torch.from_numpy(golden.picture()), torch.from_numpy(P)[None].float(), targets)
    return SimpleNamespace(
        name=request.param, told=told, model=model, spec=spec, P=P, out=out, targets=targets
    )


def targets_of(lines, spec, P):
    labels = parse_labels((f'line {i}', line) for i, line in enumerate(lines))
    return pad_targets([project_objects(labels.to_objects(spec.classes), P)], 10)


def test_every_head_answers_as_the_program_does(ran):
    heads = HEADS[ran.name](ran.out.heads)
    assert heads.keys() == ran.told['heads'].keys()
    for name, expected in ran.told['heads'].items():
        values = heads[name].double().numpy()
        assert list(values.shape) == expected['shape'], name
        for found, known in (
            (golden.sampled(values), expected['values']),
            (values.mean(), expected['mean']),
            (values.std(), expected['std']),
        ):
            np.testing.assert_allclose(found, known, atol=1e-4, rtol=1e-5, err_msg=name)


def test_boxes_are_where_the_program_puts_them_to_a_millimetre(ran):
    read = as_image_objects(ran.model.decode(ran.out), 0)
    found = lift(read, ran.P)
    height = read.score * (1 + np.exp(read.depth_log_sigma))
    for box in map(in_our_terms, ran.told['boxes']):
        near = int(np.linalg.norm(found.center_m - box['center_m'], axis=1).argmin())
        assert np.abs(found.center_m[near] - box['center_m']).max() < 1e-3
        assert np.abs(found.size_hwl_m[near] - box['size_hwl_m']).max() < 1e-3
        turned = found.rotation_y[near] - box['rotation_y']
        assert abs(np.exp(1j * turned) - 1) < 1e-4
        assert np.abs(found.box_px[near] - box['box_px']).max() < 1e-2
        assert found.class_id[near] == box['class_id']
        assert height[near] == pytest.approx(box['height'], abs=1e-5)
        assert read.depth_log_sigma[near] == pytest.approx(box['log_sigma'], abs=1e-4)


def in_our_terms(box):
    if 'floor_m' in box:
        lift_m = np.array([0, box['size_hwl_m'][0] / 2, 0])
        return {**box, 'center_m': np.array(box['floor_m']) - lift_m}
    length, height, width = box['size_lhw_m']
    return {**box, 'size_hwl_m': [height, width, length]}


def ours(ran, lines):
    targets = targets_of(lines, ran.spec, ran.P)
    return ran.model.losses(ran.out, targets)


def assert_equal_losses(ran, expected, named, but=()):
    assert {name for names in LOSSES[ran.name] for name in names} == expected.keys()
    for theirs, mine in LOSSES[ran.name].items():
        if theirs not in but:
            whole = sum(weight * float(named[name]) for name, weight in mine.items())
            known = sum(expected[name] for name in theirs)
            assert whole == pytest.approx(known, rel=1e-5), theirs


def test_losses_are_the_programs(ran):
    whole = ran.told['labels'] if ran.name == 'monodle' else ran.told['labels'][:-1]
    assert_equal_losses(ran, ran.told['losses'], ours(ran, whole))


@pytest.mark.parametrize('ran', ['monocon'], indirect=True)
def test_keypoints_off_the_picture_teach_no_cell(ran):
    """For each of them the program's cell 0 learns to say 0; but for that the losses agree."""
    lines, expected = ran.told['labels'], ran.told['losses_with_cut']
    named = ours(ran, lines)
    assert_equal_losses(ran, expected, named, but={('loss_kpt_heatmap_offset',)})
    points_px, _ = keypoints.project_corners(ran.targets, torch.from_numpy(ran.P)[None].float())
    points_px = torch.cat([points_px, ran.targets.center_px[:, :, None]], 2)[0, : len(lines)]
    _, inside = heatmap.flat_cells(points_px, 4, 96, 320)
    astray = int((~inside).sum()) * float(ran.out.heads['keypoint_rest'][0, :, 0, 0].abs().sum())
    mended = float(named['det/keypoint_rest'])
    assert 0 < int((~inside).sum()) < 9
    assert mended + astray / (2 * int(inside.sum())) == pytest.approx(
        expected['loss_kpt_heatmap_offset'], rel=1e-5
    )

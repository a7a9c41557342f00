"""The contract between a detector and the code that trains and runs it."""

import dataclasses

import pytest
import torch
from small_detectors import H, W, batch, build, every_detector
from torch import nn

from stl_core.models import DETECTORS
from stl_core.models.centernet.heads import CenterNetHeads, head_channels
from stl_core.tensors.batch import NetworkInput
from stl_core.tensors.detector import as_detector, check_head_names, check_head_shapes

BINS, CLASSES = 12, 3
CONTEXTS = {'keypoint_offset': 16, 'keypoint_heatmap': 9, 'keypoint_rest': 2}
#: Shapes of heads in training; letters stand for sizes that heads have in common.
MAPS = {name: ('B', n, 'h', 'w') for name, n in head_channels(CLASSES, BINS).items()}
SHAPES = {
    'monodle': MAPS,
    'monocon': {**MAPS, **{name: ('B', n, 'h', 'w') for name, n in CONTEXTS.items()}},
    'monodetr': {
        'class': ('B', 'L', 'Q', CLASSES),
        'box': ('B', 'L', 'Q', 6),
        'size_3d': ('B', 'L', 'Q', 3),
        'heading': ('B', 'L', 'Q', 2 * BINS),
        'depth': ('B', 'L', 'Q', 2),
        'depth_map': ('B', 81, H // 16, W // 16),
        'depth_edges_m': ('B', 81),
    },
}


@every_detector
def test_a_registered_detector_fulfils_the_contract(name):
    model = build(name)
    assert as_detector(model) is model
    assert len({each.name for each in model.levels}) == len(model.levels) > 0
    assert isinstance(model.config, DETECTORS[name].config)


@every_detector
def test_the_options_that_give_heads_their_meaning_exist(name):
    entry = DETECTORS[name]
    assert set(entry.head_semantics) <= {f.name for f in dataclasses.fields(entry.config)}


def test_a_module_that_lacks_a_part_of_the_contract_is_refused_by_name():
    class Unfinished(nn.Module):
        levels = ()
        config = None

        def losses(self, outputs, targets, normalizer):
            return {}

    message = 'Unfinished is no detector: it lacks decode, predictions_at_targets'
    with pytest.raises(TypeError, match=message):
        as_detector(Unfinished())


@every_detector
def test_outputs_have_the_documented_shapes(name):
    model, (image, P, targets) = build(name).train(), batch()
    out = model(NetworkInput(image, P), targets)
    check_head_shapes(out.heads, SHAPES[name])
    assert out.size_px == (H, W)
    assert all(type(size) is int for size in out.size_px)
    for level, grid in zip(model.levels, out.features, strict=True):
        h, w = (int(size / level.plane.stride) for size in (H, W))
        assert grid.shape == (len(image), level.channels, h, w)


def test_a_misspelt_or_missing_head_is_refused_by_name():
    names = {*head_channels(CLASSES, BINS), 'keypoint_rest'}
    check_head_names(CenterNetHeads, names)
    wrong = names - {'heatmap'} | {'heat_map'}
    with pytest.raises(TypeError, match='heads heat_map, heatmap: unknown or missing; CenterNetH'):
        check_head_names(CenterNetHeads, wrong)


def test_heads_of_other_shapes_are_all_named():
    maps = {name: torch.zeros(2, n, 4, 5) for name, n in head_channels(CLASSES, BINS).items()}
    check_head_shapes(CenterNetHeads(**maps), MAPS)
    changed = CenterNetHeads(
        **{**maps, 'depth': torch.zeros(2, 3, 4, 5), 'size_2d': torch.zeros(2, 2, 4, 6)},
        keypoint_rest=torch.zeros(2, 2, 4, 5),
    )
    with pytest.raises(ValueError, match='CenterNetHeads: ') as error:
        check_head_shapes(changed, MAPS)
    for part in (
        "depth is (2, 3, 4, 5), expected ('B', 2, 'h', 'w')",
        "size_2d is (2, 2, 4, 6), expected ('B', 2, 'h', 'w')",
        'keypoint_rest is (2, 2, 4, 5), expected no such head',
    ):
        assert part in str(error.value)

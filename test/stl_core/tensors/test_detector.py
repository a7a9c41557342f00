"""The contract between a detector and the code that trains and runs it."""

import dataclasses

import pytest
from small_detectors import build, every_detector
from torch import nn

from stl_core.models import DETECTORS
from stl_core.tensors.detector import as_detector


@every_detector
def test_a_registered_detector_fulfils_the_contract(name):
    model = build(name)
    assert as_detector(model) is model
    assert len(model.strides) == len(model.channels)
    assert isinstance(model.config, DETECTORS[name].config)


@every_detector
def test_the_options_that_give_heads_their_meaning_exist(name):
    entry = DETECTORS[name]
    assert set(entry.head_semantics) <= {f.name for f in dataclasses.fields(entry.config)}


def test_a_module_that_lacks_a_part_of_the_contract_is_refused_by_name():
    class Unfinished(nn.Module):
        strides = channels = (4,)
        config = None

        def losses(self, outputs, targets, normalizer):
            return {}

    message = 'Unfinished is no detector: it lacks decode, predictions_at_targets'
    with pytest.raises(TypeError, match=message):
        as_detector(Unfinished())

"""Model files of multi-view detectors say so: commands that take images one by one refuse them."""

import dataclasses

import pytest
from small_rigs import SMALL, H, W, small_lift_splat

from stl_core.inference.model_file import load_detector, read_model_spec, save_model
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.predictor import load_predictor
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.models.lift_splat.detector import LiftSplatConfig
from stl_core.preprocessing import InputSpec

CLASSES = ('car', 'truck', 'pedestrian')


@pytest.fixture(scope='module')
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp('model') / 'rig.safetensors'
    spec = ModelSpec(CLASSES, InputSpec(W, H), 'lift_splat', SMALL)
    save_model(path, small_lift_splat(), spec)
    return path


def test_a_model_file_knows_that_it_is_multi_view(model_path):
    spec = read_model_spec(model_path)
    assert spec.multi_view
    config = load_detector(model_path, spec).config
    assert config == dataclasses.replace(LiftSplatConfig(), **SMALL)
    assert config.attributes == ('moving', 'parked')


def test_a_predictor_of_single_images_refuses_it(model_path):
    with pytest.raises(ModelFileError, match=r'rig.safetensors: a multi-view model \(lift_splat'):
        load_predictor(model_path)

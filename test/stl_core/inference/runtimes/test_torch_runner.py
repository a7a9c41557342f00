"""Torch runtime: the network's graph includes the normalisation of its input."""

import numpy as np
import pytest
import torch
from kitti_scenes import P2

from stl_core.data.sources import kitti
from stl_core.inference import model_file
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.runtimes import RUNTIMES
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.inference.runtimes.torch_runner import TorchRunner
from stl_core.preprocessing import DepthSpec, InputSpec
from stl_core.tensors.normalization import normalise_input

OPTIONS = {'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 8}
INPUTS = {
    'colour': InputSpec(160, 64, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
    'depth': InputSpec(160, 64, depth=DepthSpec()),
}
RNG = np.random.default_rng(0)
CANVASES = {
    'colour': RNG.integers(0, 256, (2, 64, 160, 3), np.uint8),
    'depth': RNG.uniform(0, 60, (2, 64, 160)).astype(np.float32),
}


def make_detector(kind):
    torch.manual_seed(0)
    spec = ModelSpec(kitti.CLASSES, INPUTS[kind], 'monodle', OPTIONS)
    return model_file.build_detector(spec).eval(), spec


@pytest.mark.parametrize('kind', INPUTS)
def test_the_graph_gives_the_detector_the_bits_of_normalise_input(kind):
    detector, spec = make_detector(kind)
    inputs = []
    detector.register_forward_pre_hook(lambda module, args: inputs.append(args[0].image))
    runner = TorchRunner(detector, spec.input, torch.device('cpu'))
    P = np.stack([P2, P2 * [[2], [2], [1]]])
    runner(CANVASES[kind], P)
    expected = normalise_input(
        torch.from_numpy(CANVASES[kind]), torch.from_numpy(P).float(), spec.input
    )
    assert torch.equal(inputs[0], expected)
    assert inputs[0].stride() == expected.stride()


@pytest.mark.parametrize('kind', INPUTS)
def test_the_detector_keeps_its_state_dict(kind):
    detector, spec = make_detector(kind)
    before = list(detector.state_dict())
    runner = TorchRunner(detector, spec.input, torch.device('cpu'))
    assert list(runner.detector.state_dict()) == before
    assert [each.removeprefix('detector.') for each in runner.network.state_dict()] == before


def test_a_call_builds_no_constants(monkeypatch):
    detector, spec = make_detector('colour')
    runner = TorchRunner(detector, spec.input, torch.device('cpu'))
    buffers = {name for name, _ in runner.network.normalization.named_buffers()}
    assert buffers == {'mean', 'std'}
    monkeypatch.setattr('stl_core.tensors.normalization.torch.tensor', None)
    assert len(runner(CANVASES['colour'], np.stack([P2, P2]))) == 2


def test_the_runtime_halves_its_files_and_reports_incomplete_ones(tmp_path):
    detector, spec = make_detector('colour')
    runtime, path, half = RUNTIMES['.safetensors'], tmp_path / 'a', tmp_path / 'half.safetensors'
    model_file.save_model(path, detector, spec)
    runtime.convert_to_half(path, half)
    assert half.stat().st_size < 0.55 * path.stat().st_size
    assert runtime.load_spec(half).classes == kitti.CLASSES
    assert runtime.file_fault(half) == ''
    half.write_bytes(half.read_bytes()[:-5])
    assert runtime.file_fault(half) == 'truncated: 5 bytes are missing'
    with pytest.raises(ModelFileError, match='not a readable model file'):
        runtime.load_spec(half)


def test_the_device_is_named():
    detector, spec = make_detector('colour')
    assert TorchRunner(detector, spec.input, torch.device('cpu')).device == 'cpu'

"""Run a detector with torch: choose the device, normalise canvases on it, run, decode."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stl_core.inference.model_file import load_detector, read_model_spec
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.preprocessing import InputSpec
from stl_core.tensors.batch import NetworkInput, as_image_objects
from stl_core.tensors.detector import Detector, Outputs
from stl_core.tensors.normalization import InputNormalization
from stl_core.tensors.precision import PRECISIONS, autocast_to, outputs_to_float32
from stl_core.types import Array, ImageObjects


def choose_device(name: str) -> torch.device:
    """
    Return the torch device for 'auto', 'cpu', 'cuda' or 'cuda:N'; 'auto' prefers CUDA.

    :raises ModelFileError: for a CUDA device that this machine lacks, or an unknown name.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise ModelFileError(f'device {name!r}: expected auto, cpu or cuda:N') from err
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ModelFileError(
            f'device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices'
        )
    return device


class NormalizedDetector(nn.Module):
    """A detector after the normalisation of its input: the graph from canvases to outputs."""

    def __init__(self, detector: Detector, spec: InputSpec) -> None:
        """
        Combine a detector and the normalisation of its input.

        :param detector: the network.
        :param spec: input of the network; its constants become buffers of this module, not of
            the detector, whose state dict is that of its model file.
        """
        super().__init__()
        self.normalization = InputNormalization(spec)
        self.detector: Detector = detector

    def forward(self, canvases: Tensor, P: Tensor, given_m: Tensor | None = None) -> Outputs:
        """
        Normalise canvases and run the detector.

        :param canvases: (B, H, W, 3) uint8 or (B, H, W) float32, see Runner.
        :param P: (B, 3, 4) float32 projections of the canvases.
        :param given_m: (B, H, W) float32, see Runner.
        :return: outputs of the detector.
        """
        return self.detector(NetworkInput(self.normalization(canvases, P), P, given_m))


class TorchRunner:
    """Runner of a detector that torch runs on one device."""

    def __init__(
        self, detector: Detector, spec: InputSpec, device: torch.device, precision: str = 'fp32'
    ) -> None:
        """
        Move the detector to the device; the caller sets its train or eval mode.

        :param detector: the network.
        :param spec: input of the network.
        :param device: where the network runs.
        :param precision: type of the network's activations, a key of PRECISIONS.
        """
        network = NormalizedDetector(detector, spec).to(device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device, self._precision = device, precision

    @property
    def detector(self) -> Detector:
        """Return the detector, without the normalisation of its input."""
        return self.network.detector

    @property
    def device(self) -> str:
        """Return the name of the device."""
        return str(self._device)

    @torch.inference_mode()
    def __call__(
        self, canvases: Array, P: Array, given_m: Array | None = None
    ) -> list[ImageObjects]:
        """
        Run the network on canvases and decode its outputs.

        :param canvases: (B, H, W, 3) uint8 or (B, H, W) float32, see Runner.
        :param P: (B, 3, 4) projections of the canvases.
        :param given_m: (B, H, W) float32, see Runner.
        :return: B sets of image objects, in canvas pixels.
        """
        image = torch.from_numpy(canvases).to(self._device, non_blocking=True)
        projections = torch.from_numpy(P).to(self._device, torch.float32, non_blocking=True)
        given = None
        if given_m is not None:
            given = torch.from_numpy(given_m).to(self._device, torch.float32, non_blocking=True)
        with autocast_to(self._precision, self._device):
            out = self.network(image, projections, given)
        decoded = {
            name: value.cpu()
            for name, value in self.detector.decode(outputs_to_float32(out)).items()
        }
        return [as_image_objects(decoded, row) for row in range(len(canvases))]


def load_torch_runner(path: str | Path, device: str, precision: str) -> TorchRunner:
    """
    Load a .safetensors model file into a TorchRunner in eval mode.

    :param path: model file.
    :param device: 'auto', 'cpu' or 'cuda:N'.
    :param precision: type of the network's activations, a key of PRECISIONS.
    :raises ModelFileError: for a file, device or precision that cannot be used.
    """
    if precision not in PRECISIONS:
        raise ModelFileError(f'precision {precision!r}: expected {", ".join(PRECISIONS)}')
    spec, torch_device = read_model_spec(path), choose_device(device)
    return TorchRunner(load_detector(path, spec).eval(), spec.input, torch_device, precision)

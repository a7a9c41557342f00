"""
Run a multi-view detector with torch on the canvases of a set of cameras.

The cells of frustum points depend on the cameras alone. They are kept by a digest of all that they
follow from: every camera's projection of the canvas (its K and the resize from the picture's
size), its pose and the size of the canvas. Another calibration has another digest, so that a
vehicle with new extrinsics, or the next log, never meets the cells of the last one.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stl_core.inference.model_file import load_detector, read_model_spec
from stl_core.inference.runtimes.interface import ModelFileError, RigCanvases
from stl_core.inference.runtimes.torch_runner import choose_device
from stl_core.models.lift_splat.detector import LiftSplat
from stl_core.preprocessing import InputSpec
from stl_core.tensors.batch import NetworkInput
from stl_core.tensors.detector import Detector
from stl_core.tensors.normalization import InputNormalization
from stl_core.tensors.precision import PRECISIONS, autocast_to, outputs_to_float32
from stl_core.tensors.rig import Rig, as_vehicle_objects
from stl_core.vehicle_types import VehicleObjects

#: Calibrations whose cells are kept. A moving vehicle whose cameras fire one after another has
#: another pose of each camera in every set, so that there is no use in keeping many.
KEPT_CALIBRATIONS = 4


class TorchRigRunner:
    """Runner of a multi-view detector that torch runs on one device."""

    def __init__(
        self, detector: Detector, spec: InputSpec, device: torch.device, precision: str = 'fp32'
    ) -> None:
        """
        Move the detector to the device; the caller sets its train or eval mode.

        :param detector: a multi-view network.
        :param spec: input of the network.
        :param device: where the network runs.
        :param precision: type of the network's activations, a key of PRECISIONS.
        """
        network = cast(nn.Module, detector).to(device)
        self.detector = cast(
            LiftSplat,
            network.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        )
        self._normalization = InputNormalization(spec).to(device)
        self._device, self._precision = device, precision
        self._cells: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def device(self) -> str:
        """Return the name of the device."""
        return str(self._device)

    @torch.inference_mode()
    def __call__(self, canvases: RigCanvases) -> VehicleObjects:
        """Run the network on the canvases of one set of cameras and decode its outputs."""
        image, P, poses = (
            self._to_device(each) for each in (canvases.images, canvases.P, canvases.vehicle_T_cam)
        )
        P, poses = P.float(), poses.float()
        rig = Rig(
            *(len(image), poses, self._to_device(canvases.present)),
            self._voxel_index(canvases, P, poses),
        )
        given = None if canvases.given_m is None else self._to_device(canvases.given_m).float()
        with autocast_to(self._precision, self._device):
            inputs = NetworkInput(self._normalization(image, P), P, given, rig)
            out = self.detector(inputs)
        decoded = self.detector.decode(outputs_to_float32(out))
        return as_vehicle_objects(decoded, 0)

    def _to_device(self, array: Any) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def _voxel_index(self, canvases: RigCanvases, P: Tensor, poses: Tensor) -> Tensor:
        """Return the cells of the frustum points of a calibration, kept or computed."""
        size_px = (canvases.images.shape[1], canvases.images.shape[2])
        key = calibration_digest(canvases)
        if key not in self._cells:
            self._cells[key] = self.detector.voxel_index(P, poses, size_px)
            if len(self._cells) > KEPT_CALIBRATIONS:
                self._cells.popitem(last=False)
        self._cells.move_to_end(key)
        return self._cells[key]


def calibration_digest(canvases: RigCanvases) -> str:
    """Return the SHA-256 of every camera's projection and pose, and of the canvas's size."""
    digest = hashlib.sha256(repr(canvases.images.shape[:3]).encode())
    for array in (canvases.P, canvases.vehicle_T_cam):
        digest.update(array.astype('<f8').tobytes())
    return digest.hexdigest()


def load_torch_rig_runner(path: str | Path, device: str, precision: str) -> TorchRigRunner:
    """
    Load a .safetensors file of a multi-view model into a TorchRigRunner in eval mode.

    :param path: model file.
    :param device: 'auto', 'cpu' or 'cuda:N'.
    :param precision: type of the network's activations, a key of PRECISIONS.
    :raises ModelFileError: for a file, device or precision that cannot be used.
    """
    if precision not in PRECISIONS:
        raise ModelFileError(f'precision {precision!r}: expected {", ".join(PRECISIONS)}')
    spec, torch_device = read_model_spec(path), choose_device(device)
    return TorchRigRunner(load_detector(path, spec).eval(), spec.input, torch_device, precision)

"""
From images to 3D objects: the same Predictor on the desk, in a bag tool and on the vehicle.

A student file (.safetensors) carries in its header all that is needed to use it: detector,
options, classes, input and where it comes from. RUNNERS decides by suffix how a file is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stl_core.geometry import lift, warp_box
from stl_core.inference.model_file import ModelFileError, ModelSpec, load_detector, read_model_spec
from stl_core.inference.nms import bev_nms
from stl_core.preprocessing import InputSpec, letterbox_affine, preprocess_image
from stl_core.tensors import normalization
from stl_core.tensors.batch import as_image_objects
from stl_core.tensors.precision import PRECISIONS, autocast_to, outputs_to_float32
from stl_core.types import Array, ImageObjects, Objects3D

#: B canvases, see images.prepare, and (B, 3, 4) projections -> B sets of image objects.
ForwardFn = Callable[[Array, Array], list[ImageObjects]]


class Predictor:
    """Images in, objects in the camera frame out."""

    def __init__(
        self, forward_fn: ForwardFn, spec: ModelSpec, min_score: float = 0.01, max_iou: float = 0.2
    ) -> None:
        """
        Join a way to run the network with what it expects.

        :param forward_fn: the network on prepared canvases.
        :param spec: classes and input.
        :param min_score: objects below it are not worth passing on.
        :param max_iou: see distinct; of KITTI's 17,298 training labels 3 overlap more than
            this. 1 passes on every peak, as the papers do.
        """
        self.forward_fn, self.spec = forward_fn, spec
        self.min_score, self.max_iou = min_score, max_iou

    def __call__(self, images: Sequence[Array], Ps: Sequence[Array]) -> list[Objects3D]:
        """
        Detect in B images, which may differ in size and camera, in one batch.

        :param images: B arrays (H, W, 3) uint8 RGB, rectified; (H, W) float32 depth in metres for
            a teacher.
        :param Ps: B projections (3, 4) of those images.
        :return: B sets of objects, camera frame; box_px in pixels of the given image.
        :raises ValueError: for an image that is not what the network sees, or numbers that differ.
        """
        if len(images) != len(Ps):
            raise ValueError(f'{len(images)} images but {len(Ps)} projections')
        if not images:
            return []
        pairs = [
            preprocess_image(image, P, self.spec.input)
            for image, P in zip(images, Ps, strict=True)
        ]
        canvases, projections = (np.stack(part) for part in zip(*pairs, strict=True))
        detections = self.forward_fn(canvases, projections)
        return [
            self._postprocess(each, P, image.shape[1], image.shape[0])
            for each, P, image in zip(detections, projections, images, strict=True)
        ]

    def _postprocess(
        self, detections: ImageObjects, P: Array, width: int, height: int
    ) -> Objects3D:
        """Lift canvas objects with the canvas's P; bring boxes back to the image's pixels."""
        objects = bev_nms(lift(detections[detections.score >= self.min_score], P), self.max_iou)
        inverse = np.linalg.inv(letterbox_affine(width, height, self.spec.input))
        limit = np.array([width - 1.0, height - 1.0] * 2)
        box_px = np.clip(warp_box(objects.box_px, inverse), 0.0, limit)
        return replace(objects, box_px=box_px)


def choose_device(name: str) -> torch.device:
    """
    Resolve 'auto', 'cpu', 'cuda' or 'cuda:N'.

    :raises StudentError: for a CUDA device that is not there, or another word.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise ModelFileError(f'device {name!r}: expected auto, cpu or cuda:N') from err
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ModelFileError(f'device {name!r}: {torch.cuda.device_count()} CUDA devices here')
    return device


class TorchRunner:
    """Runs a detector in torch; `device` tells where."""

    def __init__(
        self, detector: nn.Module, spec: InputSpec, device: torch.device, precision: str = 'fp32'
    ) -> None:
        """Put the detector on the device; its train or eval state is the caller's."""
        self.detector = detector.to(device).to(memory_format=torch.channels_last)  # type: ignore
        self.spec, self.device, self.precision = spec, device, precision

    @torch.inference_mode()
    def __call__(self, canvases: Array, P: Array) -> list[ImageObjects]:
        """Canvases, see prepare, and (B, 3, 4) -> B sets of image objects, canvas pixels."""
        image = torch.from_numpy(canvases).to(self.device, non_blocking=True)
        projections = torch.from_numpy(P).to(self.device, torch.float32, non_blocking=True)
        detector: Any = self.detector
        with autocast_to(self.precision, self.device):
            out = detector(
                normalization.normalise_input(image, projections, self.spec), projections
            )
        decoded = {
            name: value.cpu() for name, value in detector.decode(outputs_to_float32(out)).items()
        }
        return [as_image_objects(decoded, row) for row in range(len(canvases))]


def load_torch_runner(path: str | Path, device: torch.device, precision: str) -> ForwardFn:
    """Load a .safetensors student to be run in torch, ready to predict."""
    spec = read_model_spec(path)
    return TorchRunner(load_detector(path, spec).eval(), spec.input, device, precision)


#: How a student file is run, by suffix: (path, device, key of PRECISIONS) -> Run.
RUNNERS: dict[str, Callable[[str | Path, torch.device, str], ForwardFn]] = {
    '.safetensors': load_torch_runner
}


def load_predictor(
    path: str | Path, device: str = 'auto', min_score: float = 0.01, precision: str = 'fp32'
) -> Predictor:
    """
    Load a student.

    :param path: a student file.
    :param device: 'auto', 'cpu' or 'cuda:N'.
    :param min_score: see Predictor.
    :param precision: what the network computes in, a key of PRECISIONS.
    :return: a Predictor ready to be called.
    :raises StudentError: for a file, device or precision that cannot be used.
    """
    suffix = Path(path).suffix
    if suffix not in RUNNERS:
        raise ModelFileError(f'{path}: expected a file ending in {", ".join(RUNNERS)}')
    if precision not in PRECISIONS:
        raise ModelFileError(f'precision {precision!r}: expected {", ".join(PRECISIONS)}')
    spec = read_model_spec(path)
    return Predictor(RUNNERS[suffix](path, choose_device(device), precision), spec, min_score)

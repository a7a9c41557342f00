"""
Inference: load a model file and detect 3D objects in images.

The Predictor covers preprocessing, network, decoding and NMS. Validation, the `stl` command, the
bag tools and the ROS node all use it. RUNNERS maps the suffix of a model file to the function
that loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stl_core.geometry import lift, warp_box
from stl_core.inference.model_file import ModelFileError, ModelSpec, load_detector, read_model_spec
from stl_core.inference.nms import bev_nms
from stl_core.preprocessing import InputSpec, letterbox_affine, preprocess_image
from stl_core.tensors import normalization
from stl_core.tensors.batch import as_image_objects
from stl_core.tensors.detector import Detector
from stl_core.tensors.precision import PRECISIONS, autocast_to, outputs_to_float32
from stl_core.types import Array, ImageObjects, Objects3D

#: (canvases, P) -> image objects of B images; see preprocessing.preprocess_image for the canvases.
#: P: (B, 3, 4) projections of the canvases.
ForwardFn = Callable[[Array, Array], list[ImageObjects]]


class Predictor:
    """A 3D object detector: images and projections in, objects in the camera frame out."""

    def __init__(
        self, forward_fn: ForwardFn, spec: ModelSpec, min_score: float = 0.01, max_iou: float = 0.2
    ) -> None:
        """
        Combine a network with its specification and postprocessing thresholds.

        :param forward_fn: runs the network on preprocessed canvases.
        :param spec: classes and input of the network.
        :param min_score: detections with a lower score are dropped.
        :param max_iou: greatest bird's-eye-view IoU of two detections of a class, see bev_nms; of
            KITTI's 17,298 training labels 3 overlap more than the default. 1 disables NMS and
            returns every peak, as the papers do.
        """
        self.forward_fn, self.spec = forward_fn, spec
        self.min_score, self.max_iou = min_score, max_iou

    def __call__(self, images: Sequence[Array], Ps: Sequence[Array]) -> list[Objects3D]:
        """
        Detect objects in B images in one batch; images may differ in size and camera.

        :param images: B arrays (H, W, 3) uint8 RGB, rectified; for a model with depth input (a
            teacher), B arrays (H, W) float32, metres, 0 where unknown.
        :param Ps: B projections (3, 4) of those images.
        :return: B sets of objects in the camera frame; box_px in pixels of the original image.
        :raises ValueError: for an image whose shape or dtype does not match the network's input,
            or when the number of images differs from the number of projections.
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
        """Lift canvas objects to 3D with the canvas's P, apply NMS, map boxes to image pixels."""
        objects = bev_nms(lift(detections[detections.score >= self.min_score], P), self.max_iou)
        inverse = np.linalg.inv(letterbox_affine(width, height, self.spec.input))
        limit = np.array([width - 1.0, height - 1.0] * 2)
        box_px = np.clip(warp_box(objects.box_px, inverse), 0.0, limit)
        return replace(objects, box_px=box_px)


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


class TorchRunner:
    """A detector that torch runs on one device."""

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
        self.detector: Detector = detector.to(device).to(memory_format=torch.channels_last)
        self.spec, self.device, self.precision = spec, device, precision

    @torch.inference_mode()
    def __call__(self, canvases: Array, P: Array) -> list[ImageObjects]:
        """
        Run the network on canvases and decode its outputs.

        :param canvases: (B, H, W, 3) uint8 or (B, H, W) float32, see preprocess_image.
        :param P: (B, 3, 4) projections of the canvases.
        :return: B sets of image objects, in canvas pixels.
        """
        image = torch.from_numpy(canvases).to(self.device, non_blocking=True)
        projections = torch.from_numpy(P).to(self.device, torch.float32, non_blocking=True)
        with autocast_to(self.precision, self.device):
            out = self.detector(
                normalization.normalise_input(image, projections, self.spec), projections
            )
        decoded = {
            name: value.cpu()
            for name, value in self.detector.decode(outputs_to_float32(out)).items()
        }
        return [as_image_objects(decoded, row) for row in range(len(canvases))]


def load_torch_runner(path: str | Path, device: torch.device, precision: str) -> ForwardFn:
    """Load a .safetensors model file into a TorchRunner in eval mode."""
    spec = read_model_spec(path)
    return TorchRunner(load_detector(path, spec).eval(), spec.input, device, precision)


#: Suffix of a model file -> loader: (path, device, key of PRECISIONS) -> ForwardFn.
RUNNERS: dict[str, Callable[[str | Path, torch.device, str], ForwardFn]] = {
    '.safetensors': load_torch_runner
}


def load_predictor(
    path: str | Path, device: str = 'auto', min_score: float = 0.01, precision: str = 'fp32'
) -> Predictor:
    """
    Load a model file into a Predictor.

    :param path: model file.
    :param device: 'auto', 'cpu' or 'cuda:N'.
    :param min_score: detections with a lower score are dropped.
    :param precision: type of the network's activations, a key of PRECISIONS.
    :return: the Predictor, ready to call.
    :raises ModelFileError: for a file, device or precision that cannot be used.
    """
    suffix = Path(path).suffix
    if suffix not in RUNNERS:
        raise ModelFileError(f'{path}: expected a file ending in {", ".join(RUNNERS)}')
    if precision not in PRECISIONS:
        raise ModelFileError(f'precision {precision!r}: expected {", ".join(PRECISIONS)}')
    spec = read_model_spec(path)
    return Predictor(RUNNERS[suffix](path, choose_device(device), precision), spec, min_score)

"""
Inference: load a model file and detect 3D objects in images.

The Predictor covers preprocessing, network, decoding and NMS. Validation, the `stl` command, the
bag tools and the ROS node all use it. A runtime (stl_core.inference.runtimes) runs the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stl_core.geometry import lift, warp_box
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.nms import bev_nms
from stl_core.inference.runtimes import find_runtime
from stl_core.inference.runtimes.interface import Runner
from stl_core.preprocessing import letterbox_affine, preprocess_image
from stl_core.types import Array, ImageObjects, Objects3D


class Predictor:
    """A 3D object detector: images and projections in, objects in the camera frame out."""

    def __init__(
        self, runner: Runner, spec: ModelSpec, min_score: float = 0.01, max_iou: float = 0.2
    ) -> None:
        """
        Combine a network with its specification and postprocessing thresholds.

        :param runner: runs the network on preprocessed canvases.
        :param spec: classes and input of the network.
        :param min_score: detections with a lower score are dropped.
        :param max_iou: greatest bird's-eye-view IoU of two detections of a class, see bev_nms; of
            KITTI's 17,298 training labels 3 overlap more than the default. 1 disables NMS and
            returns every peak, as the papers do.
        """
        self.runner, self.spec = runner, spec
        self.min_score, self.max_iou = min_score, max_iou

    @property
    def device(self) -> str:
        """Return the device that the network runs on, such as 'cpu' or 'cuda:0'."""
        return self.runner.device

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
        detections = self.runner(canvases, projections)
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


def load_predictor(
    path: str | Path, device: str = 'auto', min_score: float = 0.01, precision: str = 'fp32'
) -> Predictor:
    """
    Load a model file into a Predictor.

    :param path: model file.
    :param device: 'auto', 'cpu' or 'cuda:N'.
    :param min_score: detections with a lower score are dropped.
    :param precision: type of the network's activations: 'fp32', 'bf16' or 'fp16'.
    :return: the Predictor, ready to call.
    :raises ModelFileError: for a file, device or precision that cannot be used.
    """
    path = Path(path)
    runtime = find_runtime(path)
    spec = runtime.load_spec(path)
    return Predictor(runtime.load_runner(path, device, precision), spec, min_score)

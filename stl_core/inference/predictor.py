"""
Inference: load a model file and detect 3D objects in images.

The Predictor covers preprocessing, network, decoding and NMS. Validation, the `stl` command, the
bag tools and the ROS node all use it. A runtime (stl_core.inference.runtimes) runs the network.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stl_core.geometry import lift, warp_box
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.nms import bev_nms
from stl_core.inference.runtimes import find_runtime
from stl_core.inference.runtimes.interface import ModelFileError, Runner
from stl_core.preprocessing import (
    letterbox_affine,
    preprocess_given_depth,
    preprocess_image,
)
from stl_core.types import Array, ImageObjects, Objects3D

if TYPE_CHECKING:  # the registry of the detectors needs torch, a runtime may not
    from stl_core.models.published_protocol import PublishedProtocol

log = logging.getLogger(__name__)


class Detections(NamedTuple):
    """
    Detections of one image by both protocols.

    :param ours: objects in the camera frame, as Predictor.__call__ returns them.
    :param published: objects by the published protocol, without NMS; None if none was given.
    :param num_not_finite: objects that were dropped because a number of theirs is not finite.
    """

    ours: Objects3D
    published: Objects3D | None
    num_not_finite: int


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

    def __call__(
        self,
        images: Sequence[Array],
        Ps: Sequence[Array],
        given_depths: Sequence[Array] | None = None,
    ) -> list[Objects3D]:
        """
        Detect objects in B images in one batch; images may differ in size and camera.

        :param images: B arrays (H, W, 3) uint8 RGB, rectified; for a model with depth input (a
            teacher), B arrays (H, W) float32, metres, 0 where unknown.
        :param Ps: B projections (3, 4) of those images.
        :param given_depths: for a privileged teacher, which is given depth besides the image, and
            for no other model: B arrays (H, W) float32 in pixels of the images, z in metres, 0
            where nothing is given. All 0 is legal: given depth is absent.
        :return: B sets of objects in the camera frame; box_px in pixels of the original image.
        :raises ValueError: for an image whose shape or dtype does not match the network's input,
            given depth that is missing, or that the network does not take, or when the number of
            images differs from the number of projections or given depths.
        """
        found = self.detect(images, Ps, given_depths=given_depths)
        if lost := sum(each.num_not_finite for each in found):
            log.warning(
                '%d detections were dropped: the outputs of the network are not finite', lost
            )
        return [each.ours for each in found]

    def detect(
        self,
        images: Sequence[Array],
        Ps: Sequence[Array],
        published: PublishedProtocol | None = None,
        given_depths: Sequence[Array] | None = None,
    ) -> list[Detections]:
        """
        Detect objects by both protocols; the network runs once. See __call__.

        :param images: see __call__.
        :param Ps: see __call__.
        :param published: the published protocol of the detector; None skips it.
        :param given_depths: see __call__.
        :return: the detections of each image.
        :raises ValueError: see __call__.
        """
        if len(images) != len(Ps):
            raise ValueError(f'{len(images)} images but {len(Ps)} projections')
        self._check_given(images, given_depths)
        if not images:
            return []
        pairs = [
            preprocess_image(image, P, self.spec.input)
            for image, P in zip(images, Ps, strict=True)
        ]
        canvases, projections = (np.stack(part) for part in zip(*pairs, strict=True))
        detections = self.runner(
            canvases, projections, *self._given_canvases(images, given_depths)
        )
        return [
            self._postprocess(each, P, (image.shape[1], image.shape[0]), published)
            for each, P, image in zip(detections, projections, images, strict=True)
        ]

    def _check_given(self, images: Sequence[Array], given_depths: Sequence[Array] | None) -> None:
        """Raise ValueError unless there is given depth if and only if the network takes it."""
        kind = self.spec.input.given_depth
        if kind and given_depths is None:
            raise ValueError(
                f'this network is a privileged teacher (given_depth: {kind}): expected'
                ' given_depths, one (H, W) float32 map per image'
            )
        if given_depths is not None and not kind:
            raise ValueError('this network takes no given depth; expected images and projections')
        if given_depths is not None and len(given_depths) != len(images):
            raise ValueError(f'{len(images)} images but {len(given_depths)} given depths')

    def _given_canvases(
        self, images: Sequence[Array], given_depths: Sequence[Array] | None
    ) -> tuple[Array, ...]:
        """Return the runner's further argument: given depth on the canvases, or none."""
        if given_depths is None:
            return ()
        pairs = zip(given_depths, images, strict=True)
        return (np.stack([preprocess_given_depth(*each, self.spec.input) for each in pairs]),)

    def _postprocess(
        self,
        decoded: ImageObjects,
        P: Array,
        size_px: tuple[int, int],
        published: PublishedProtocol | None,
    ) -> Detections:
        """Lift canvas objects to 3D with the canvas's P, apply NMS, map boxes to image pixels."""
        finite = _is_finite(decoded)
        usable = decoded[finite]
        ours = bev_nms(lift(usable[usable.score >= self.min_score], P), self.max_iou)
        others = None
        if published is not None:
            others = self._in_image(lift(published.select(usable), P), size_px)
        return Detections(self._in_image(ours, size_px), others, int((~finite).sum()))

    def _in_image(self, objects: Objects3D, size_px: tuple[int, int]) -> Objects3D:
        """Map 2D boxes from the canvas to an image of a width and height, and clip them to it."""
        inverse = np.linalg.inv(letterbox_affine(*size_px, self.spec.input))
        limit = np.array([size_px[0] - 1.0, size_px[1] - 1.0] * 2)
        return replace(objects, box_px=np.clip(warp_box(objects.box_px, inverse), 0.0, limit))


def _is_finite(objects: ImageObjects) -> Array:
    """
    Return (N,) bool, whether all numbers of an object are finite; a sigma of 0 m is.

    Numbers that an object may lack, such as its velocity, do not count.
    """
    finite = np.ones(len(objects), bool)
    for name in ImageObjects.FIELD_SHAPES.keys() - ImageObjects.UNKNOWN.keys():
        values = np.asarray(getattr(objects, name), np.float64)
        if name == 'depth_log_sigma':
            values = np.maximum(values, -1e3)  # keeps NaN and inf
        finite &= np.isfinite(values).all(tuple(range(1, values.ndim)))
    return finite


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
    if spec.multi_view:
        raise ModelFileError(
            f'{path}: a multi-view model ({spec.detector}), which sees the cameras of a vehicle'
            ' together; expected one that takes images one by one'
        )
    if spec.input.given_depth and not runtime.takes_given_depth:
        raise ModelFileError(
            f'{path}: a privileged teacher (given_depth: {spec.input.given_depth}), which files'
            f' ending in {path.suffix} cannot be: it is for training and evaluation only;'
            ' expected a student'
        )
    return Predictor(runtime.load_runner(path, device, precision), spec, min_score)

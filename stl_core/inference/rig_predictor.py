"""
Inference with the cameras of a vehicle together: pictures, projections and poses in, objects out.

The RigPredictor covers preprocessing, network, decoding and NMS, as the Predictor does for single
images. Validation, bag tools and the ROS node use it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.nms import vehicle_nms
from stl_core.inference.runtimes import find_runtime
from stl_core.inference.runtimes.interface import ModelFileError, RigCanvases, RigRunner
from stl_core.preprocessing import preprocess_given_depth, preprocess_image
from stl_core.types import Array
from stl_core.vehicle_types import VehicleObjects

log = logging.getLogger(__name__)


class RigView(NamedTuple):
    """
    What one camera of a vehicle sees.

    :param image: (H, W, 3) uint8 RGB, rectified; (H, W) float32 metres for a depth teacher.
    :param P: (3, 4) projection of the image.
    :param vehicle_T_cam: (4, 4) pose of the camera when it took the image, in the vehicle frame of
        the sample's time.
    :param given_depth: (H, W) float32 metres, 0 where nothing is given, for a privileged teacher
        and no other model.
    """

    image: Array
    P: Array
    vehicle_T_cam: Array
    given_depth: Array | None = None


class RigDetections(NamedTuple):
    """
    Detections of one set of pictures.

    :param objects: vehicle frame.
    :param num_not_finite: objects that were dropped because a number of theirs is not finite.
    """

    objects: VehicleObjects
    num_not_finite: int


class RigPredictor:
    """A multi-view detector: one set of pictures in, objects around the vehicle out."""

    def __init__(
        self, runner: RigRunner, spec: ModelSpec, min_score: float = 0.01, max_iou: float = 0.2
    ) -> None:
        """
        Combine a network with its specification and postprocessing thresholds.

        :param runner: runs the network on preprocessed canvases.
        :param spec: classes and input of the network.
        :param min_score: detections with a lower score are dropped.
        :param max_iou: greatest bird's-eye-view IoU of two detections of a class, see vehicle_nms;
            1 disables NMS.
        """
        self.runner, self.spec = runner, spec
        self.min_score, self.max_iou = min_score, max_iou

    @property
    def device(self) -> str:
        """Return the device that the network runs on, such as 'cpu' or 'cuda:0'."""
        return self.runner.device

    def __call__(self, views: Sequence[RigView | None]) -> VehicleObjects:
        """
        Detect the objects around a vehicle; see detect.

        :param views: one per camera; None for a camera without picture, whose part of the ground
            shows nothing.
        :return: vehicle frame, in descending order of score.
        """
        found = self.detect(views)
        if found.num_not_finite:
            log.warning(
                '%d detections were dropped: the outputs of the network are not finite',
                found.num_not_finite,
            )
        return found.objects

    def detect(self, views: Sequence[RigView | None]) -> RigDetections:
        """
        Detect the objects around a vehicle, and count those that are not finite.

        :param views: see __call__.
        :raises ValueError: for a picture whose shape or dtype does not match the network's input,
            for a pose or projection of another shape or not finite, given depth that is missing or
            not taken, or no picture at all.
        """
        if not any(views):
            raise ValueError('no picture of any camera: expected one or more')
        objects = self.runner(self._canvases(views))
        finite = _is_finite(objects)
        usable = objects[finite]
        usable = usable[usable.score >= self.min_score]
        return RigDetections(vehicle_nms(usable, self.max_iou), int((~finite).sum()))

    def _canvases(self, views: Sequence[RigView | None]) -> RigCanvases:
        """Fit the pictures into the network's canvas; an absent one is black."""
        spec = self.spec.input
        size_px = (spec.height_px, spec.width_px)
        shape = size_px if spec.depth is not None else (*size_px, 3)
        dtype = np.float32 if spec.depth is not None else np.uint8
        images = np.zeros((len(views), *shape), dtype)
        P, poses = (
            np.tile(np.eye(3, 4), (len(views), 1, 1)),
            np.tile(np.eye(4), (len(views), 1, 1)),
        )
        given_m = np.zeros((len(views), *size_px), np.float32) if spec.given_depth else None
        for row, view in enumerate(views):
            if view is None:
                continue
            _check_view(view, spec.given_depth)
            images[row], P[row] = preprocess_image(view.image, view.P, spec)
            poses[row] = view.vehicle_T_cam
            if given_m is not None and view.given_depth is not None:
                given_m[row] = preprocess_given_depth(view.given_depth, view.image, spec)
        present = np.array([view is not None for view in views])
        return RigCanvases(images, P, poses, present, given_m)


def _check_view(view: RigView, given: str) -> None:
    """Raise ValueError for a view that the network cannot take, see RigPredictor.detect."""
    for name, value, shape in (
        ('P', view.P, (3, 4)),
        ('vehicle_T_cam', view.vehicle_T_cam, (4, 4)),
    ):
        if np.shape(value) != shape or not np.isfinite(value).all():
            raise ValueError(f'{name}: expected a finite {shape} matrix, got {np.shape(value)}')
    if given and view.given_depth is None:
        raise ValueError(
            f'this network is a privileged teacher (given_depth: {given}): expected given_depth,'
            ' one (H, W) float32 map per picture'
        )
    if view.given_depth is not None and not given:
        raise ValueError('this network takes no given depth')


def _is_finite(objects: VehicleObjects) -> Array:
    """Return (N,) bool, whether all numbers of an object are finite; velocity may be unknown."""
    numbers = np.column_stack(
        [objects.score, objects.center_m, objects.size_hwl_m, objects.yaw, objects.range_sigma_m]
    )
    return np.isfinite(numbers).all(1)


def load_rig_predictor(
    path: str | Path, device: str = 'auto', min_score: float = 0.01, precision: str = 'fp32'
) -> RigPredictor:
    """
    Load a file of a multi-view model into a RigPredictor.

    :param path: model file.
    :param device: 'auto', 'cpu' or 'cuda:N'.
    :param min_score: detections with a lower score are dropped.
    :param precision: type of the network's activations: 'fp32', 'bf16' or 'fp16'.
    :raises ModelFileError: for a file, device or precision that cannot be used, such as a model of
        single images.
    """
    path = Path(path)
    runtime = find_runtime(path)
    spec = runtime.load_spec(path)
    if not spec.multi_view:
        raise ModelFileError(
            f'{path}: a model of single images ({spec.detector}); expected a multi-view one'
        )
    if runtime.load_rig_runner is None:
        raise ModelFileError(
            f'{path}: a multi-view model, which files ending in {path.suffix} cannot be'
        )
    return RigPredictor(runtime.load_rig_runner(path, device, precision), spec, min_score)

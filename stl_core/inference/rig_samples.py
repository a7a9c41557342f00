"""Run a RigPredictor on samples of a data set; objects also as each of their images shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stl_core.data import depth_maps
from stl_core.data.checks.projection import require_projection
from stl_core.data.frame_source import DataError, LazyArray, SourceImage, SourceSample
from stl_core.data.given_depth import ABSENT, COMPLETE, OTHER, fit_size
from stl_core.data.rigs.sample import camera_poses, objects_to_camera
from stl_core.data.sources import kitti
from stl_core.geometry import box_corners, project_points
from stl_core.inference.given_depths import given_depths
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.rig_predictor import RigDetections, RigPredictor, RigView
from stl_core.types import Array, Labels, Objects3D
from stl_core.vehicle_types import VehicleObjects

#: Parts of a box nearer than this to the plane of the camera are cut off, metres.
NEAR_M = 0.1


class SamplePredictions(NamedTuple):
    """
    Detections of the samples of a data set.

    :param objects: of each sample, vehicle frame.
    :param labels: of each image of all samples, in order: the objects that it shows, camera frame.
    :param num_not_finite: detections that were dropped for numbers that are not finite.
    """

    objects: list[VehicleObjects]
    labels: list[Labels]
    num_not_finite: int


def predict_samples(
    predictor: RigPredictor, samples: Sequence[SourceSample], given: str = COMPLETE
) -> SamplePredictions:
    """
    Run a RigPredictor on samples, one by one.

    :param predictor: the detector.
    :param samples: samples of a data set.
    :param given: given depth of a privileged teacher, see given_depths; no matter for others.
    :raises DataError: for a missing or malformed file, or a camera without pose.
    """
    objects, labels, lost = [], [], 0
    for sample, donor in zip(samples, _donors(predictor.spec, samples, given), strict=True):
        depths = given_depths(predictor.spec, donor, ABSENT if given == ABSENT else COMPLETE)
        views = [
            load_view(predictor, *each)
            for each in zip(sample.images, camera_poses(sample), depths, strict=True)
        ]
        found: RigDetections = predictor.detect(views)
        objects.append(found.objects)
        lost += found.num_not_finite
        for view in views:
            size_px = (view.image.shape[1], view.image.shape[0])
            seen = project_to_image(found.objects, view.P, view.vehicle_T_cam, size_px)
            labels.append(kitti.to_labels(seen, predictor.spec.classes))
    return SamplePredictions(objects, labels, lost)


def _donors(
    spec: ModelSpec, samples: Sequence[SourceSample], given: str
) -> list[Sequence[SourceImage]]:
    """
    Return the images whose given depth each sample gets: its own, or with OTHER the next one's.

    :raises DataError: for OTHER with a single sample, or samples of different cameras.
    """
    if given != OTHER or not spec.input.given_depth:
        return [sample.images for sample in samples]
    cameras = {tuple(image.camera for image in sample.images) for sample in samples}
    if len(samples) < 2 or len(cameras) > 1:
        raise DataError(
            'given depth of another sample: expected two samples or more, all of the same cameras'
        )
    return [sample.images for sample in [*samples[1:], samples[0]]]


def load_view(
    predictor: RigPredictor, image: SourceImage, pose: Array, given: LazyArray | None = None
) -> RigView:
    """Load a picture, or the depth map of a teacher, and the depth that it is given."""
    pixels = image.pixels.read()
    require_projection(image, pixels.shape[1], pixels.shape[0])
    given_m = None if given is None else fit_size(given.read(), pixels.shape[:2])
    if predictor.spec.input.depth is not None:
        pixels = depth_maps.load_frame_depth(image, pixels.shape[1], pixels.shape[0])
    return RigView(pixels, image.P, pose, given_m)


def project_to_image(
    objects: VehicleObjects, P: Array, vehicle_T_cam: Array, size_px: tuple[int, int]
) -> Objects3D:
    """
    Return the objects that an image shows, with the hulls of their projected corners.

    :param objects: N objects, vehicle frame.
    :param P: (3, 4) projection of the image.
    :param vehicle_T_cam: (4, 4) pose of its camera.
    :param size_px: width and height of the image.
    :return: the objects whose centre lies before the camera and whose box, clipped to the image,
        is not empty; camera frame.
    """
    inside = objects_to_camera(objects, vehicle_T_cam, np.zeros((len(objects), 4)))
    corners = box_corners(inside.center_m, inside.size_hwl_m, inside.rotation_y)
    corners[..., 2] = np.maximum(corners[..., 2], NEAR_M)
    pixels, _ = project_points(corners, P)
    last = np.array(size_px) - 1.0
    low, high = pixels.min(1).clip(0, last), pixels.max(1).clip(0, last)
    shown = (inside.center_m[:, 2] > NEAR_M) & (high > low).all(1)
    box_px = np.concatenate([low, high], 1)
    return objects_to_camera(objects[shown], vehicle_T_cam, box_px[shown])

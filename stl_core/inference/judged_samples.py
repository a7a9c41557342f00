"""Detections of samples as a benchmark of whole samples judges them."""

from __future__ import annotations

from collections.abc import Sequence

from stl_core.data.frame_source import DataError, SourceSample
from stl_core.evaluation.metric import JudgedSamples
from stl_core.evaluation.nuscenes.results import SampleDetections
from stl_core.inference.camera_merge import merge_cameras
from stl_core.inference.model_spec import ModelSpec
from stl_core.types import Objects3D
from stl_core.vehicle_types import VehicleObjects


def merge_samples(
    samples: Sequence[SourceSample], detections: Sequence[Objects3D]
) -> list[VehicleObjects]:
    """
    Merge the detections of single images by sample.

    :param samples: the samples.
    :param detections: objects of the images of all samples, in order, camera frame.
    :raises DataError: for a camera without pose.
    """
    merged, rest = [], list(detections)
    for sample in samples:
        count = len(sample.images)
        part, rest = rest[:count], rest[count:]
        poses = [image.vehicle_T_cam for image in sample.images if image.vehicle_T_cam is not None]
        if len(poses) < count:
            raise DataError(f'{sample.id}: a camera without pose; expected vehicle_T_cam of each')
        merged.append(merge_cameras(part, poses))
    return merged


def judge_samples(
    samples: Sequence[SourceSample], objects: Sequence[VehicleObjects], spec: ModelSpec
) -> JudgedSamples | None:
    """
    Return detections with the benchmark that judges them.

    :param samples: the samples.
    :param objects: detections of each, vehicle frame.
    :param spec: header of the detector.
    :return: None unless all samples are those of one split with a benchmark, and have poses.
    """
    benchmarks = {sample.benchmark for sample in samples}
    if len(benchmarks) != 1 or len(objects) != len(samples):
        return None
    (benchmark,) = benchmarks
    if benchmark is None:
        return None
    detections = [
        SampleDetections(sample.id, found, sample.global_T_vehicle)
        for sample, found in zip(samples, objects, strict=True)
        if sample.global_T_vehicle is not None
    ]
    if len(detections) < len(samples):
        return None
    attributes = tuple(spec.options.get('attributes', ()))
    return JudgedSamples(detections, spec.classes, attributes, *benchmark)

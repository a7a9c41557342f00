"""
The results file of nuScenes' detection benchmark: boxes in the global frame by sample token.

{"meta": {"use_camera": true, ...}, "results": {TOKEN: [{"sample_token", "translation" x y z,
"size" width length height, "rotation" w x y z, "velocity" x y, "detection_name",
"detection_score", "attribute_name"}, ...]}}. The middle of the box is its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stl_core.evaluation.nuscenes.names import CLASS_ATTRIBUTES, CLASSES
from stl_core.rotations import matrix_to_quaternion, quaternion_to_matrix, yaw_to_quaternion
from stl_core.types import Array
from stl_core.vehicle_types import VehicleObjects

#: Most boxes of a sample that the benchmark takes.
MAX_BOXES = 500
#: Speed from which an object without predicted attribute counts as moving, m/s.
MOVING_MPS = 0.5
#: Class -> attribute of a moving and of any other object, for models without attributes.
DEFAULT_ATTRIBUTES = {
    **{
        name: ('vehicle.moving', 'vehicle.parked')
        for name in ('car', 'truck', 'bus', 'trailer', 'construction_vehicle')
    },
    'pedestrian': ('pedestrian.moving', 'pedestrian.standing'),
    'motorcycle': ('cycle.with_rider', 'cycle.without_rider'),
    'bicycle': ('cycle.with_rider', 'cycle.without_rider'),
    'traffic_cone': ('', ''),
    'barrier': ('', ''),
}
META = {
    'use_camera': True,
    'use_lidar': False,
    'use_radar': False,
    'use_map': False,
    'use_external': False,
}
_BOX_KEYS = (
    *('sample_token', 'translation', 'size', 'rotation', 'velocity'),
    *('detection_name', 'detection_score', 'attribute_name'),
)


class ResultsError(ValueError):
    """A results file that the benchmark would refuse, or misread; the message names the place."""


class SampleDetections(NamedTuple):
    """
    Detections of one sample.

    :param token: token of the sample.
    :param objects: vehicle frame.
    :param global_T_vehicle: (4, 4) pose of the vehicle at the time of the sample.
    """

    token: str
    objects: VehicleObjects
    global_T_vehicle: Array


@dataclass(frozen=True)
class ResultsCounts:
    """
    Detections of a results file, by what they lack.

    :param boxes: boxes that were written.
    :param other_classes: objects of classes that the benchmark does not have; left out.
    :param beyond_most: objects beyond the MAX_BOXES best of a sample; left out.
    :param unknown_velocity: boxes without velocity, which the file states as 0.
    :param default_attribute: boxes whose attribute comes from class and speed.
    """

    boxes: int = 0
    other_classes: int = 0
    beyond_most: int = 0
    unknown_velocity: int = 0
    default_attribute: int = 0

    def notes(self) -> list[str]:
        """Return a sentence for each kind of detection that was left out or filled in."""
        texts = {
            'other_classes': "of classes that nuScenes' benchmark lacks are left out",
            'beyond_most': f'beyond the {MAX_BOXES} best of their samples are left out',
            'unknown_velocity': 'have no velocity; the file states 0 m/s, mAVE counts it',
            'default_attribute': 'have no attribute; theirs follows from class and speed',
        }
        return [
            f'{count} of {self.boxes + self.other_classes + self.beyond_most} detections {text}'
            for name, text in texts.items()
            if (count := getattr(self, name))
        ]


def build_results(
    samples: Sequence[SampleDetections], classes: Sequence[str], attributes: Sequence[str] = ()
) -> tuple[dict[str, Any], ResultsCounts]:
    """
    Return the content of a results file, and what it lacks.

    :param samples: detections of every sample of the split; a sample without any is listed, too.
    :param classes: class names of the model, by class_id.
    :param attributes: attribute names of the model, by attribute_id.
    """
    counts: dict[str, int] = dict.fromkeys(vars(ResultsCounts()), 0)
    results = {}
    for sample in samples:
        objects = sample.objects
        known = np.array([classes[each] in CLASSES for each in objects.class_id], bool)
        best = np.argsort(-objects[known].score, kind='stable')[:MAX_BOXES]
        counts['other_classes'] += int((~known).sum())
        counts['beyond_most'] += int(known.sum()) - len(best)
        boxes = _sample_boxes(sample, objects[known][best], classes, attributes, counts)
        counts['boxes'] += len(boxes)
        results[sample.token] = boxes
    return {'meta': dict(META), 'results': results}, ResultsCounts(**counts)


def _sample_boxes(
    sample: SampleDetections,
    objects: VehicleObjects,
    classes: Sequence[str],
    attributes: Sequence[str],
    counts: dict[str, int],
) -> list[dict[str, Any]]:
    rotation = sample.global_T_vehicle[:3, :3]
    center_m = objects.center_m @ rotation.T + sample.global_T_vehicle[:3, 3]
    turned = rotation @ quaternion_to_matrix(yaw_to_quaternion(objects.yaw))
    level = np.column_stack([objects.velocity_mps, np.zeros(len(objects))])
    velocity = (level @ rotation.T)[:, :2]
    counts['unknown_velocity'] += int(np.isnan(velocity).any(1).sum())
    boxes = []
    for row, quaternion in enumerate(matrix_to_quaternion(turned)):
        name = classes[objects.class_id[row]]
        attribute = _attribute(name, objects.attribute_id[row], attributes)
        if attribute is None:
            attribute = _default_attribute(name, objects.velocity_mps[row])
            counts['default_attribute'] += bool(attribute)
        height, width, length = objects.size_hwl_m[row].tolist()
        boxes.append(
            {
                'sample_token': sample.token,
                'translation': center_m[row].tolist(),
                'size': [width, length, height],
                'rotation': quaternion.tolist(),
                'velocity': np.nan_to_num(velocity[row], nan=0.0).tolist(),
                'detection_name': name,
                'detection_score': float(objects.score[row]),
                'attribute_name': attribute,
            }
        )
    return boxes


def _attribute(name: str, attribute_id: int, attributes: Sequence[str]) -> str | None:
    """Return an object's attribute if it has one that its class may have."""
    if not CLASS_ATTRIBUTES[name]:
        return ''
    if not 0 <= attribute_id < len(attributes):
        return None
    attribute = attributes[attribute_id]
    return attribute if attribute in CLASS_ATTRIBUTES[name] else None


def _default_attribute(name: str, velocity_mps: Array) -> str:
    moving, other = DEFAULT_ATTRIBUTES[name]
    return moving if np.hypot(*velocity_mps) > MOVING_MPS else other  # nan is no motion


def read_results(path: str | Path) -> dict[str, Any]:
    """
    Read a results file and check it.

    :raises ResultsError: naming the file, the sample and the faulty key.
    """
    try:
        data = json.loads(Path(path).read_text('utf-8'))
    except (OSError, ValueError) as err:
        raise ResultsError(f'{path}: not a results file: {err}') from err
    try:
        check_results(data)
    except ResultsError as err:
        raise ResultsError(f'{path}: {err}') from err
    return dict(data)


def check_results(data: Any) -> None:
    """Raise ResultsError unless data has the structure and numbers of a results file."""
    if not isinstance(data, Mapping) or not isinstance(data.get('results'), Mapping):
        raise ResultsError('expected {"meta": {...}, "results": {sample token: [boxes]}}')
    if not isinstance(data.get('meta'), Mapping):
        raise ResultsError('no "meta"; expected use_camera, use_lidar and so on, true or false')
    for token, boxes in data['results'].items():
        if not isinstance(boxes, list) or len(boxes) > MAX_BOXES:
            raise ResultsError(f'sample {token}: expected a list of at most {MAX_BOXES} boxes')
        for number, box in enumerate(boxes):
            if fault := _box_fault(box, token):
                raise ResultsError(f'sample {token}, box {number}: {fault}')


def _box_fault(box: Any, token: str) -> str:
    """Return why a box is none of a results file; '' if it is one."""
    if not isinstance(box, Mapping) or (lacking := [key for key in _BOX_KEYS if key not in box]):
        return f'expected the keys {", ".join(_BOX_KEYS)}' if not box else f'no {lacking[0]}'
    if box['sample_token'] != token:
        return f'sample_token {box["sample_token"]!r} is that of another sample'
    for key, count in (('translation', 3), ('size', 3), ('rotation', 4), ('velocity', 2)):
        try:
            values = np.asarray(box[key], np.float64)
        except (TypeError, ValueError):
            return f'{key} {box[key]!r}: expected {count} numbers'
        finite = np.isfinite(values) | (key == 'velocity')
        if values.shape != (count,) or not finite.all():
            return f'{key} {box[key]!r}: expected {count} numbers'
    if not np.greater(box['size'], 0).all():
        return f'size {box["size"]}: expected width, length and height above 0'
    if box['detection_name'] not in CLASSES:
        return f'detection_name {box["detection_name"]!r}: expected one of {", ".join(CLASSES)}'
    allowed = CLASS_ATTRIBUTES[box['detection_name']]
    if box['attribute_name'] and box['attribute_name'] not in allowed:
        return (
            f'attribute_name {box["attribute_name"]!r} of a {box["detection_name"]}: expected'
            f' {", ".join(allowed) or "none"}'
        )
    return ''

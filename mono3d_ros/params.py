"""
Parameters of the node: default, range and description of each, defined only here.

node/parameters.py declares them by looping over the fields; a test compares config/detector.yaml
and docs/parameters.md with them. YAML files contain 1 for 1.0, so numbers are cast here; an
invalid value raises a ValueError that names the parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from mono3d_ros import param_validators
from mono3d_ros.param_validators import TRIGGER_ANY
from mono3d_ros.perception.detection_filter import DetectionFilter

#: Values of the parameter late_tf.
LATE_TF_CAMERA_FRAME, LATE_TF_DROP = 'camera_frame', 'drop'


def _param(
    default: Any,
    cast: Callable[[Any], Any],
    description: str,
    *,
    live: bool = False,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """
    Return the dataclass field of one parameter.

    :param cast: value from ROS -> value of the field; raises ValueError for an invalid value.
    :param live: whether it may change while the node runs.
    :param limits: lowest and highest number allowed.
    :param choices: values allowed.
    """
    metadata = {'cast': cast, 'description': description, 'live': live}
    return field(default=default, metadata={**metadata, 'limits': limits, 'choices': choices})


@dataclass(frozen=True)
class Params:
    """All parameters of the node; the metadata of a field holds its description."""

    model: str = _param(
        'synthetic_mobile.safetensors',
        param_validators.as_str,
        'Model file: a path (also with ~ or $VAR), package://PACKAGE/PATH, or the name of a '
        'model that comes with the package.',
    )
    device: str = _param(
        'auto', param_validators.as_device, 'Device of the network: auto, cpu, cuda or cuda:N.'
    )
    require_cuda: bool = _param(
        False,
        param_validators.as_bool,
        'Refuse to start without a GPU instead of running slowly on the CPU.',
    )
    precision: str = _param(
        'fp32',
        param_validators.as_str,
        'Precision of the network: fp32, or bf16 or fp16 in the layers where autocast permits it.',
        choices=('fp32', 'bf16', 'fp16'),
    )
    cameras: tuple[str, ...] = _param(
        (),
        param_validators.as_names,
        'Names of several cameras, each with its own parameters (NAME.image_topic); empty: one '
        'camera, set by camera_name and image_topic.',
    )
    camera_name: str = _param(
        'camera', param_validators.as_str, 'Name of the camera, first part of marker namespaces.'
    )
    image_topic: str = _param('image_raw', param_validators.as_str, 'Topic of the images.')
    camera_info_topic: str = _param(
        '',
        param_validators.as_str,
        'Topic of camera_info; empty: camera_info next to the image topic.',
    )
    transport: str = _param(
        'auto',
        param_validators.as_str,
        'Images to subscribe to: raw (IMAGE_TOPIC), compressed (IMAGE_TOPIC/compressed) or auto '
        '(both topics, whichever arrives; IMAGE_TOPIC as the type that it is published as).',
        choices=('raw', 'compressed', 'auto'),
    )
    rectified: str = _param(
        'auto',
        param_validators.as_rectified,
        'Whether the images are rectified. true: yes, P of camera_info applies; false: no, '
        'rectify with K and D; auto: by the name of the image topic (raw: no; rect: yes); '
        'without either word no, with a warning, if the lens is distorted.',
        choices=('auto', 'true', 'false'),
    )
    bit_depth: int = _param(
        0,
        param_validators.as_bit_depth,
        'Significant bits of 16-bit images (mono16, bayer_*16, rgb16, 16-bit PNG): 8 to 16; 0: '
        'the smallest of 8, 10, 12, 14 and 16 that holds all values so far.',
    )
    reliability: str = _param(
        'best_effort',
        param_validators.as_str,
        'QoS reliability of the image and camera_info subscriptions; best_effort receives from '
        'every publisher.',
        choices=('best_effort', 'reliable'),
    )
    trigger: str = _param(
        TRIGGER_ANY,
        param_validators.as_str,
        'With several cameras: any processes each camera as soon as its image arrives; the name '
        'of a camera processes all cameras in one batch when an image of that camera arrives.',
    )
    max_apart_s: float = _param(
        0.04,
        param_validators.as_float,
        'With the name of a camera as trigger: largest difference between the stamp of its image '
        'and those of the other images in the batch, seconds.',
        limits=(0.0, 3600.0),
    )
    max_rate_hz: float = _param(
        0.0,
        param_validators.as_float,
        'Maximum number of images processed per second and camera; 0: no limit.',
        live=True,
        limits=(0.0, 1000.0),
    )
    score_threshold: float = _param(
        0.1,
        param_validators.as_float,
        'Objects with a lower score are not published.',
        live=True,
        limits=(0.0, 1.0),
    )
    class_thresholds: tuple[float, ...] = _param(
        (),
        param_validators.as_float_list,
        'One score threshold per class, in the order of the model; empty: score_threshold.',
        live=True,
        limits=(0.0, 1.0),
    )
    distance_thresholds: tuple[float, ...] = _param(
        (),
        param_validators.as_distance_thresholds,
        'Distance, score, distance, score, ...: an object up to that distance (metres) must also '
        'reach that score; beyond the last distance only its class threshold applies.',
        live=True,
    )
    class_names_kept: tuple[str, ...] = _param(
        (),
        param_validators.as_str_list,
        'Names of the classes to publish; empty: all classes of the model.',
        live=True,
    )
    max_overlap_across: float = _param(
        0.2,
        param_validators.as_float,
        'Boxes of one class from two cameras in one batch (see trigger) whose ground-plane IoU '
        'exceeds this are one object: only the box with the higher score is published. 1 disables '
        'this. Needs vehicle_frame.',
        limits=(0.0, 1.0),
    )
    target_frame: str = _param(
        '',
        param_validators.as_str,
        "Frame in which boxes are published; empty: the camera's own. Without a transform in tf, "
        'see late_tf.',
    )
    vehicle_frame: str = _param(
        'base_link',
        param_validators.as_str,
        'Frame in which boxes of several cameras are compared; empty: they are not compared.',
    )
    fixed_frame: str = _param(
        'odom',
        param_validators.as_str,
        'Fixed (non-moving) frame for tracking; empty, or without a transform in tf: objects are '
        'tracked relative to each camera.',
    )
    tf_wait_s: float = _param(
        0.03,
        param_validators.as_float,
        'Longest wait for a transform that arrives after its image, seconds. The network waits, '
        'too; after a wait in vain, later images do not wait until the transform has caught up.',
        limits=(0.0, 10.0),
    )
    late_tf: str = _param(
        LATE_TF_CAMERA_FRAME,
        param_validators.as_str,
        'Boxes of an image for which tf has no transform to target_frame after tf_wait_s: '
        "camera_frame publishes them in the camera's own frame, so that frame_id may change from "
        'message to message; drop publishes nothing for that image.',
        choices=(LATE_TF_CAMERA_FRAME, LATE_TF_DROP),
    )
    tracking: bool = _param(
        False,
        param_validators.as_bool,
        'Track objects: stable ids, velocities, smoothed boxes.',
    )
    max_age_s: float = _param(
        0.0,
        param_validators.as_float,
        'Images older than this are dropped, seconds; 0 keeps all. The node must use the clock of '
        'the stamps: replay bags with --clock and use_sim_time.',
        live=True,
        limits=(0.0, 3600.0),
    )
    marker_lifetime_s: float = _param(
        0.3,
        param_validators.as_float,
        'Viewers remove boxes after this time, seconds; 0: never.',
        live=True,
        limits=(0.0, 3600.0),
    )
    run_without_subscribers: bool = _param(
        False,
        param_validators.as_bool,
        'Run the network even if nobody subscribes to any output of the node; false: it rests '
        'until somebody does, and tracks begin anew.',
        live=True,
    )
    expect_images: bool = _param(
        False,
        param_validators.as_bool,
        'End with exit code 3 if nothing of a camera was published until then; for replays.',
    )
    autostart: bool = _param(
        True,
        param_validators.as_bool,
        'Configure and activate at start; false: leave it to a lifecycle manager.',
    )

    def __post_init__(self) -> None:
        """Cast every value; raise a ValueError that names an invalid parameter."""
        _cast_fields(self)
        if self.trigger not in (TRIGGER_ANY, *self.cameras):
            known = ', '.join((TRIGGER_ANY, *self.cameras))
            raise ValueError(f'parameter trigger: expected one of {known}, got {self.trigger!r}')

    def camera_defaults(self, name: str) -> CameraParams:
        """Return the defaults of the parameters NAME.* of one of several cameras."""
        return CameraParams(
            f'{name}/image_raw', '', self.transport, self.rectified, self.bit_depth
        )

    def single_camera(self) -> CameraParams:
        """Return the parameters of the only camera, if cameras is empty."""
        return CameraParams(
            self.image_topic,
            self.camera_info_topic,
            self.transport,
            self.rectified,
            self.bit_depth,
        )

    def detection_filter(self, classes: tuple[str, ...]) -> DetectionFilter:
        """
        Return the filter of detections that these parameters describe.

        :param classes: class names of the model.
        :raises ValueError: if thresholds or names do not fit the classes.
        """
        unknown = [name for name in self.class_names_kept if name not in classes]
        if unknown:
            raise ValueError(
                f'parameter class_names_kept: expected names among {", ".join(classes)}, got '
                f'{", ".join(unknown)}'
            )
        numbers = self.distance_thresholds
        kept = tuple(name in self.class_names_kept for name in classes)
        return DetectionFilter(
            min_scores=self.min_scores(classes),
            distance_thresholds=tuple(zip(numbers[::2], numbers[1::2], strict=True)),
            kept_classes=kept if any(kept) else (),
            max_age_s=self.max_age_s,
        )

    def min_scores(self, classes: tuple[str, ...]) -> tuple[float, ...]:
        """
        Return the score threshold of each class.

        :raises ValueError: if class_thresholds and classes differ in length.
        """
        if not self.class_thresholds:
            return (self.score_threshold,) * len(classes)
        if len(self.class_thresholds) != len(classes):
            raise ValueError(
                f'parameter class_thresholds: expected {len(classes)} numbers, for '
                f'{", ".join(classes)}, or none, got {len(self.class_thresholds)}'
            )
        return self.class_thresholds


@dataclass(frozen=True)
class CameraParams:
    """Parameters of one camera; with several cameras, each has its own as NAME.*."""

    image_topic: str = _param('NAME/image_raw', param_validators.as_str, 'Topic of its images.')
    camera_info_topic: str = _param(
        '',
        param_validators.as_str,
        'Topic of its camera_info; empty: camera_info next to its image topic.',
    )
    transport: str = _param(
        'auto',
        param_validators.as_str,
        'Which of its images to subscribe to; default: transport.',
        choices=('raw', 'compressed', 'auto'),
    )
    rectified: str = _param(
        'auto',
        param_validators.as_rectified,
        'Whether its images are rectified; default: rectified.',
        choices=('auto', 'true', 'false'),
    )
    bit_depth: int = _param(
        0,
        param_validators.as_bit_depth,
        'Significant bits of its 16-bit images; default: bit_depth.',
    )

    def __post_init__(self) -> None:
        """Cast every value; raise a ValueError that names an invalid parameter."""
        _cast_fields(self)


@dataclass(frozen=True)
class Camera:
    """
    A camera of the node.

    :param name: name of the camera.
    :param prefix: prefix of its output topics: '' for a single camera, NAME/ for several.
    :param params: parameters of the camera.
    """

    name: str
    prefix: str
    params: CameraParams


def _cast_fields(params: Any) -> None:
    """Cast the fields of a parameter dataclass in place; a ValueError names an invalid one."""
    for each in fields(params):
        try:
            value = each.metadata['cast'](getattr(params, each.name))
            _check_value(value, each.metadata['limits'], each.metadata['choices'])
        except ValueError as err:
            raise ValueError(f'parameter {each.name}: {err}') from None
        object.__setattr__(params, each.name, value)


def _check_value(value: Any, limits: tuple[float, float] | None, choices: tuple[str, ...]) -> None:
    """Raise ValueError for a value outside its limits or choices."""
    if limits is not None:
        low, high = limits
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:
                raise ValueError(f'expected {low:g} to {high:g}, got {number:g}')
    if choices and value not in choices:
        raise ValueError(f'expected one of {", ".join(choices)}, got {value!r}')

"""
Every parameter of the node, once: default, range and meaning.

ros_parameters.py declares them by looping over the fields; config/detector.yaml is held against
them by a test. YAML writes 1 where it means 1.0, so numbers are cast here and refused with a
clear word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from mono3d_ros import param_validators
from mono3d_ros.param_validators import TRIGGER_ANY
from mono3d_ros.perception.detection_filter import DetectionFilter


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
    Describe one parameter.

    :param cast: value as ROS has it -> value as we have it; ValueError for a wrong one.
    :param live: may be changed while the node runs.
    :param limits: lowest and highest number.
    :param choices: the words it may be.
    """
    about = {'cast': cast, 'description': description, 'live': live}
    return field(default=default, metadata={**about, 'limits': limits, 'choices': choices})


@dataclass(frozen=True)
class Params:
    """Every parameter of the node; metadata of the fields says what they mean."""

    model: str = _param(
        'synthetic_mobile.safetensors',
        param_validators.as_str,
        'Student file: a path (also with ~ or $VAR), package://PACKAGE/PATH, or the name of a '
        'student that comes with the package.',
    )
    device: str = _param(
        'auto', param_validators.as_device, 'Where the network runs: auto, cpu, cuda or cuda:N.'
    )
    require_cuda: bool = _param(
        False,
        param_validators.as_bool,
        'Refuse to start without a GPU, instead of running slowly on the CPU.',
    )
    precision: str = _param(
        'fp32',
        param_validators.as_str,
        'What the network computes in: fp32, or a half type, bf16 or fp16, where that is safe.',
        choices=('fp32', 'bf16', 'fp16'),
    )
    cameras: tuple[str, ...] = _param(
        (),
        param_validators.as_names,
        'Names of several cameras, each with parameters of its own (NAME.image_topic); empty: '
        'one camera, that of camera_name and image_topic.',
    )
    camera_name: str = _param(
        'camera', param_validators.as_str, 'Name of the camera, first part of marker names.'
    )
    image_topic: str = _param('image_raw', param_validators.as_str, 'Topic of the images.')
    camera_info_topic: str = _param(
        '',
        param_validators.as_str,
        'Topic of camera_info; empty: camera_info beside the image topic.',
    )
    transport: str = _param(
        'auto',
        param_validators.as_str,
        'Which images to take: raw (IMAGE_TOPIC), compressed (IMAGE_TOPIC/compressed) or auto '
        '(both topics, whichever arrives).',
        choices=('raw', 'compressed', 'auto'),
    )
    rectified: bool = _param(
        True,
        param_validators.as_bool,
        'The images are rectified, so P of camera_info holds; false: rectify them with K and D.',
    )
    reliability: str = _param(
        'best_effort',
        param_validators.as_str,
        'QoS of the image and camera_info subscriptions; best_effort hears every publisher.',
        choices=('best_effort', 'reliable'),
    )
    trigger: str = _param(
        TRIGGER_ANY,
        param_validators.as_str,
        'Of several cameras: any answers each as soon as its image is there; the name of a camera '
        'answers all together when the image of that one is there.',
    )
    max_apart_s: float = _param(
        0.04,
        param_validators.as_float,
        'With the name of a camera as trigger: images of the others go with its own when their '
        'stamps are at most so far apart, seconds.',
        limits=(0.0, 3600.0),
    )
    max_rate_hz: float = _param(
        0.0,
        param_validators.as_float,
        'At most so many images a second of each camera are answered; 0: no limit.',
        live=True,
        limits=(0.0, 1000.0),
    )
    score_threshold: float = _param(
        0.1,
        param_validators.as_float,
        'Objects with a lower score are not sent.',
        live=True,
        limits=(0.0, 1.0),
    )
    class_thresholds: tuple[float, ...] = _param(
        (),
        param_validators.as_float_list,
        'One score threshold a class, in the order of the model; empty: score_threshold for all.',
        live=True,
        limits=(0.0, 1.0),
    )
    distance_thresholds: tuple[float, ...] = _param(
        (),
        param_validators.as_distance_thresholds,
        'Distance, score, distance, score, ...: up to that many metres an object must reach that '
        'score as well; beyond the last one its class threshold alone.',
        live=True,
    )
    class_names_kept: tuple[str, ...] = _param(
        (),
        param_validators.as_str_list,
        'Names of the classes that are sent; empty: all of the model.',
        live=True,
    )
    max_overlap_across: float = _param(
        0.2,
        param_validators.as_float,
        'Boxes of two cameras that are answered together, see trigger, and overlap more on the '
        'ground are one object, told by the surer camera; 1: every camera speaks for itself. '
        'Needs vehicle_frame.',
        limits=(0.0, 1.0),
    )
    target_frame: str = _param(
        '',
        param_validators.as_str,
        "Frame that boxes are sent in; empty: the camera's own. Where tf does not know the way, "
        "they stay in the camera's own, as their header says.",
    )
    vehicle_frame: str = _param(
        'base_link',
        param_validators.as_str,
        'Frame in which objects that several cameras see are compared; empty: they are not.',
    )
    fixed_frame: str = _param(
        'odom',
        param_validators.as_str,
        'Frame that does not move, for tracking; empty, or where tf does not know it: objects are '
        'followed as each camera sees them.',
    )
    tracking: bool = _param(
        False,
        param_validators.as_bool,
        'Follow objects: ids that stay, velocities, smoothed boxes.',
    )
    max_age_s: float = _param(
        0.0,
        param_validators.as_float,
        'Images older than this are dropped, seconds; 0 keeps all. The clock of the node must be '
        'that of the stamps: replay bags with --clock and use_sim_time.',
        live=True,
        limits=(0.0, 3600.0),
    )
    marker_lifetime_s: float = _param(
        0.3,
        param_validators.as_float,
        'A viewer takes boxes away by itself after this, seconds; 0: never.',
        live=True,
        limits=(0.0, 3600.0),
    )
    autostart: bool = _param(
        True,
        param_validators.as_bool,
        'Configure and activate at start; false: leave it to a lifecycle manager.',
    )

    def __post_init__(self) -> None:
        """Cast every value and refuse wrong ones by name."""
        _cast_fields(self)
        if self.trigger not in (TRIGGER_ANY, *self.cameras):
            known = ', '.join((TRIGGER_ANY, *self.cameras))
            raise ValueError(f'parameter trigger: expected one of {known}, got {self.trigger!r}')

    def camera_defaults(self, name: str) -> CameraParams:
        """Return what holds for a camera of several as long as nothing else is said."""
        return CameraParams(f'{name}/image_raw', '', self.transport, self.rectified)

    def single_camera(self) -> CameraParams:
        """Return the parameters of the only camera."""
        return CameraParams(
            self.image_topic, self.camera_info_topic, self.transport, self.rectified
        )

    def detection_filter(self, classes: tuple[str, ...]) -> DetectionFilter:
        """
        Return what of the answers is passed on.

        :param classes: of the network.
        :raises ValueError: for thresholds or names that are not those of the classes.
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

        :raises ValueError: where class_thresholds has another length than the classes.
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
    """Parameters of one camera; of several, each has them under NAME."""

    image_topic: str = _param('NAME/image_raw', param_validators.as_str, 'Topic of its images.')
    camera_info_topic: str = _param(
        '',
        param_validators.as_str,
        'Topic of its camera_info; empty: camera_info beside its image topic.',
    )
    transport: str = _param(
        'auto',
        param_validators.as_str,
        'Which of its images to take; by default as transport.',
        choices=('raw', 'compressed', 'auto'),
    )
    rectified: bool = _param(
        True,
        param_validators.as_bool,
        'Whether its images are rectified; by default as rectified.',
    )

    def __post_init__(self) -> None:
        """Cast every value and refuse wrong ones by name."""
        _cast_fields(self)


@dataclass(frozen=True)
class Camera:
    """
    A camera as the node knows it.

    :param name: ours.
    :param prefix: what its topics begin with, '' for the only camera and NAME/ for others.
    :param params: what was said of it.
    """

    name: str
    prefix: str
    params: CameraParams


def _cast_fields(params: Any) -> None:
    """Cast every value of a dataclass of parameters and refuse wrong ones by name."""
    for each in fields(params):
        try:
            value = each.metadata['cast'](getattr(params, each.name))
            _check_value(value, each.metadata['limits'], each.metadata['choices'])
        except ValueError as err:
            raise ValueError(f'parameter {each.name}: {err}') from None
        object.__setattr__(params, each.name, value)


def _check_value(value: Any, limits: tuple[float, float] | None, choices: tuple[str, ...]) -> None:
    """Refuse a value out of its range or list."""
    if limits is not None:
        low, high = limits
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:
                raise ValueError(f'expected {low:g} to {high:g}, got {number:g}')
    if choices and value not in choices:
        raise ValueError(f'expected one of {", ".join(choices)}, got {value!r}')

"""
Assess the health of a camera for /diagnostics: counters of the last seconds -> level and text.

Pure functions: node/diagnostics_publisher.py collects a HealthInput and converts the Status to a
message. Issues include a remedy, because many different faults cause a silent camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mono3d_ros.monitoring.counters import CounterSnapshot

# diagnostic_msgs/msg/DiagnosticStatus
OK, WARN, ERROR = 0, 1, 2

#: Time without an image that causes a warning.
MAX_SILENCE_S = 2.0
#: More camera_infos without an image than this indicate that images are lost in transport.
MAX_UNPAIRED_INFOS = 5

#: Fraction of superseded images that causes a warning: the network is slower than its camera.
SUPERSEDED_FRACTION = 0.5

#: Counters in the order in which /diagnostics lists them.
COUNTER_NAMES = (
    'received', 'infos', 'answered', 'superseded', 'rate_limited', 'too_old', 'bad',
    'uncalibrated', 'distorted', 'assumed', 'no_camera_info', 'early', 'no_transform',
    'not_placed', 'unfamiliar_lens', 'odd_header', 'unwanted', 'image_note', 'tf_note',
)  # fmt: skip


class Issue(NamedTuple):
    """A problem: level, kind, and a text with its cause or remedy."""

    level: int
    kind: str
    text: str


@dataclass(frozen=True)
class HealthInput:
    """
    State of one camera of the node at one time.

    :param active: whether the node is active.
    :param enabled: False after ~/enable switched the node off.
    :param silent_s: time since the last image, or since activation.
    :param image_topics: topics subscribed for images.
    :param publishers: number of publishers on these topics.
    :param device: device of the network.
    :param cpu_fallback: whether the CPU is used because there is no GPU.
    :param qos_mismatches: topic with an incompatible QoS -> its effect.
    :param transport_advice: what to try if images are lost, see transport_advice.
    :param missing_types: output that cannot be published -> message type that is not installed.
    :param now: current counters.
    :param before: counters a few seconds ago.
    :param unknown_parameters: parameters that were set but do not exist.
    :param wrong_types: topic that is published as another type -> description.
    :param info_hint: likely reason if no camera_info arrives.
    """

    active: bool
    enabled: bool
    silent_s: float
    image_topics: tuple[str, ...]
    publishers: int
    device: str
    cpu_fallback: bool
    qos_mismatches: Mapping[str, str]
    transport_advice: str
    missing_types: Mapping[str, str]
    now: CounterSnapshot
    before: CounterSnapshot
    unknown_parameters: tuple[str, ...] = ()
    wrong_types: Mapping[str, str] = field(default_factory=dict)
    info_hint: str = ''


@dataclass(frozen=True)
class Status:
    """A diagnostic status: level, one-line message, its issues, and key-value pairs."""

    level: int
    message: str
    issues: tuple[Issue, ...]
    values: Mapping[str, str]


def assess_health(health: HealthInput) -> Status:
    """Assess the state of a camera; the level is that of its worst issue."""
    issues = tuple(_list_issues(health))
    level = max((each.level for each in issues), default=OK)
    message = '; '.join(each.text for each in issues) or 'ok'
    return Status(level, message, issues, _diagnostic_values(health))


def missing_result(camera: str, counters: CounterSnapshot) -> str:
    """Return why nothing of a camera was published until the end of the node; '' if it was."""
    counts = counters.counts
    answered, not_placed = counts.get('answered', 0), counts.get('not_placed', 0)
    if answered > not_placed:
        return ''
    if answered:
        reason = counters.last_texts['not_placed']
        return f'camera {camera}: none of {answered} results was published: {reason}'
    return (
        f'camera {camera}: no image was processed of {counts.get("received", 0)} received, with '
        f'{counts.get("infos", 0)} camera_infos; see image_topic and camera_info_topic'
    )


def _list_issues(health: HealthInput) -> list[Issue]:
    """List all issues of the camera."""
    if not health.active:
        return [Issue(OK, 'inactive', 'not active')]
    if not health.enabled:
        return [Issue(OK, 'disabled', 'switched off by ~/enable')]
    issues = _topic_issues(health) + _image_issues(health)
    if health.cpu_fallback:
        issues.append(Issue(WARN, 'cpu_fallback', 'no CUDA device: running on the CPU'))
    if health.unknown_parameters:
        text = f'unknown parameters: {", ".join(health.unknown_parameters)}'
        issues.append(Issue(WARN, 'unknown_parameters', text))
    return issues


def _topic_issues(health: HealthInput) -> list[Issue]:
    """List issues of topics: silence, incompatible QoS, images lost in transport."""
    issues = []
    issues += [Issue(ERROR, 'wrong_type', text) for text in health.wrong_types.values()]
    if health.silent_s > MAX_SILENCE_S and not health.wrong_types:  # they explain it
        topics = ' and '.join(health.image_topics)
        # an incompatible QoS is the cause, and an issue of its own
        advice = '' if health.qos_mismatches else health.transport_advice
        hint = _publisher_hint(health.publishers, advice)
        text = f'no image on {topics} for {health.silent_s:.0f} s {hint}'
        issues.append(Issue(WARN, 'silent', text))
    issues += [Issue(ERROR, 'misfit', text) for text in health.qos_mismatches.values()]
    recent = _recent_counts(health)
    unpaired = recent['infos'] - recent['received']
    if recent['received'] > 0 and unpaired > max(MAX_UNPAIRED_INFOS, recent['received'] // 4):
        text = f'{unpaired} camera_infos arrived without their image; {health.transport_advice}'
        issues.append(Issue(WARN, 'unpaired', text))
    return issues


def _image_issues(health: HealthInput) -> list[Issue]:
    """List issues of received images: failed, dropped, without pose, superseded."""
    recent, last_texts = _recent_counts(health), health.now.last_texts
    hints = {'no_camera_info': f' ({health.info_hint})' if health.info_hint else ''}
    rules = (
        (ERROR, 'uncalibrated', 'images of an uncalibrated camera'),
        (ERROR, 'distorted', 'distorted images used as rectified ones'),
        (WARN, 'assumed', 'images with an assumption about the camera'),
        (ERROR, 'no_camera_info', 'images without camera_info'),
        (WARN, 'bad', 'images that failed'),
        (WARN, 'too_old', 'images dropped for their age'),
        (WARN, 'no_transform', 'images without a camera pose'),
        (WARN, 'not_placed', 'images whose boxes were not published'),
        (WARN, 'odd_header', 'images with a faulty header'),
        (WARN, 'tf_note', 'transforms of /tf and /tf_static with faults'),
        (WARN, 'unfamiliar_lens', 'images with an unfamiliar focal length'),
    )
    issues = [
        Issue(level, kind, f'{recent[kind]} {text}: {last_texts[kind]}{hints.get(kind, "")}')
        for level, kind, text in rules
        if recent[kind] > 0
    ]
    if recent['unwanted'] > 0 and not recent['answered']:
        text = 'idle: no output has a subscriber; see run_without_subscribers'
        issues.append(Issue(OK, 'idle', text))
    if recent['superseded'] > 0:
        level = WARN if recent['superseded'] > SUPERSEDED_FRACTION * recent['received'] else OK
        text = (
            f'{recent["superseded"]} of {recent["received"]} images were superseded by newer ones '
            'before they could be processed: the camera is faster than the network; see '
            'max_rate_hz'
        )
        issues.append(Issue(level, 'superseded', text))
    return issues


def _recent_counts(health: HealthInput) -> dict[str, int]:
    """Return the increase of each counter from health.before to health.now."""
    now, before = health.now.counts, health.before.counts
    return {name: now.get(name, 0) - before.get(name, 0) for name in COUNTER_NAMES}


def _publisher_hint(publishers: int, transport_advice: str) -> str:
    """Return a hint that depends on whether the topic has publishers."""
    if publishers == 0:
        return '(nobody publishes it: topic name, namespace or ROS_DOMAIN_ID?)'
    if not transport_advice:
        return f'(publishers: {publishers}, with incompatible QoS)'
    return f'(publishers: {publishers}; QoS? Or {transport_advice})'


def _diagnostic_values(health: HealthInput) -> dict[str, str]:
    """Return the key-value pairs of the status."""
    values = {'device': health.device, 'image topics': ', '.join(health.image_topics)}
    values |= {name: str(health.now.counts.get(name, 0)) for name in COUNTER_NAMES}
    for stage, (median, high) in health.now.latency_ms.items():
        values[f'{stage.replace("_", " ")} ms (p50, p95)'] = f'{median:.1f}, {high:.1f}'
    values['last failure'] = health.now.last_texts.get('bad', '')
    values['last image note'] = health.now.last_texts.get('image_note', '')
    values['not sent'] = ', '.join(
        f'{name} ({type_name})' for name, type_name in health.missing_types.items()
    )
    return values

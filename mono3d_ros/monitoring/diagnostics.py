"""
What /diagnostics says: numbers and events of the last seconds -> level, one line, values.

Pure: reporting.py gathers a Health and turns the Status into a message. Every finding says what
to do about it, because a silent camera has many causes and they all look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mono3d_ros.monitoring.counters import CounterSnapshot

# diagnostic_msgs/msg/DiagnosticStatus
OK, WARN, ERROR = 0, 1, 2

#: Longer without an image is worth a warning.
MAX_SILENCE_S = 2.0
#: So many camera_infos without their image mean that images get lost on the way.
MAX_UNPAIRED_INFOS = 5
TRANSPORT_HINT = 'try FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA on both sides'

#: A network that is slower than its camera is worth a warning from this share on.
SUPERSEDED_FRACTION = 0.5

#: What is counted, as /diagnostics lists it.
COUNTER_NAMES = (
    'received', 'infos', 'answered', 'superseded', 'rate_limited', 'too_old', 'bad',
    'uncalibrated', 'no_camera_info', 'no_transform', 'unfamiliar_lens',
)  # fmt: skip


class Issue(NamedTuple):
    """Something to be known: how bad, which kind of trouble, and what to do about it."""

    level: int
    kind: str
    text: str


@dataclass(frozen=True)
class HealthInput:
    """
    The state of the node, as far as one camera goes, at one moment.

    :param active: whether the node is active.
    :param enabled: whether it was not switched off by ~/enable.
    :param silent_s: how long ago the last image came, or the node became active.
    :param image_topics: the topics that images are awaited on.
    :param publishers: how many publish on them.
    :param device: where the network runs.
    :param cpu_fallback: the CPU was taken because there is no GPU.
    :param qos_mismatches: topics with somebody whose QoS does not fit, and what it means.
    :param missing_types: outputs that are not sent, and the message type that is not installed.
    :param now: counters.
    :param before: counters of a few seconds ago.
    """

    active: bool
    enabled: bool
    silent_s: float
    image_topics: tuple[str, ...]
    publishers: int
    device: str
    cpu_fallback: bool
    qos_mismatches: Mapping[str, str]
    missing_types: Mapping[str, str]
    now: CounterSnapshot
    before: CounterSnapshot


@dataclass(frozen=True)
class Status:
    """A diagnostic status: level, one line, what it is made of, and values to look at."""

    level: int
    message: str
    issues: tuple[Issue, ...]
    values: Mapping[str, str]


def assess_health(health: HealthInput) -> Status:
    """Judge the state of the node; the worst finding gives the level."""
    findings = tuple(_list_issues(health))
    level = max((each.level for each in findings), default=OK)
    message = '; '.join(each.text for each in findings) or 'ok'
    return Status(level, message, findings, _diagnostic_values(health))


def _list_issues(health: HealthInput) -> list[Issue]:
    """List what is wrong."""
    if not health.active:
        return [Issue(OK, 'inactive', 'not active')]
    if not health.enabled:
        return [Issue(OK, 'disabled', 'switched off by ~/enable')]
    found = _topic_issues(health) + _image_issues(health)
    if health.cpu_fallback:
        found.append(Issue(WARN, 'cpu_fallback', 'no CUDA device: running on the CPU'))
    return found


def _topic_issues(health: HealthInput) -> list[Issue]:
    """List what keeps messages from coming and going."""
    found = []
    if health.silent_s > MAX_SILENCE_S:
        topics = ' and '.join(health.image_topics)
        hint = _publisher_hint(health.publishers)
        text = f'no image on {topics} for {health.silent_s:.0f} s {hint}'
        found.append(Issue(WARN, 'silent', text))
    found += [Issue(ERROR, 'misfit', text) for text in health.qos_mismatches.values()]
    recent = _recent_counts(health)
    unpaired = recent['infos'] - recent['received']
    if recent['received'] > 0 and unpaired > max(MAX_UNPAIRED_INFOS, recent['received'] // 4):
        text = f'{unpaired} camera_infos came without their image; {TRANSPORT_HINT}'
        found.append(Issue(WARN, 'unpaired', text))
    return found


def _image_issues(health: HealthInput) -> list[Issue]:
    """List what became of the images that came."""
    recent, said = _recent_counts(health), health.now.last_texts
    rules = (
        (ERROR, 'uncalibrated', 'images of an uncalibrated camera'),
        (ERROR, 'no_camera_info', 'images without camera_info'),
        (WARN, 'bad', 'images that failed'),
        (WARN, 'too_old', 'images dropped for their age'),
        (WARN, 'no_transform', 'images whose place is not known'),
        (WARN, 'unfamiliar_lens', 'images through another lens'),
    )
    found = [
        Issue(level, what, f'{recent[what]} {text}: {said[what]}')
        for level, what, text in rules
        if recent[what] > 0
    ]
    if recent['superseded'] > 0:
        level = WARN if recent['superseded'] > SUPERSEDED_FRACTION * recent['received'] else OK
        text = (
            f'{recent["superseded"]} of {recent["received"]} images were superseded by newer ones '
            'before they could be answered: the camera is faster than the network; see '
            'max_rate_hz'
        )
        found.append(Issue(level, 'superseded', text))
    return found


def _recent_counts(health: HealthInput) -> dict[str, int]:
    """Return what was counted between before and now."""
    now, before = health.now.counts, health.before.counts
    return {name: now.get(name, 0) - before.get(name, 0) for name in COUNTER_NAMES}


def _publisher_hint(publishers: int) -> str:
    """Say whether somebody publishes at all."""
    if publishers == 0:
        return '(nobody publishes it: topic name, namespace or ROS_DOMAIN_ID?)'
    return f'(publishers: {publishers}; QoS, or {TRANSPORT_HINT}?)'


def _diagnostic_values(health: HealthInput) -> dict[str, str]:
    """List the numbers behind the judgement."""
    values = {'device': health.device, 'image topics': ', '.join(health.image_topics)}
    values |= {name: str(health.now.counts.get(name, 0)) for name in COUNTER_NAMES}
    for stage, (median, high) in health.now.latency_ms.items():
        values[f'{stage.replace("_", " ")} ms (p50, p95)'] = f'{median:.1f}, {high:.1f}'
    values['last failure'] = health.now.last_texts.get('bad', '')
    values['not sent'] = ', '.join(f'{name} ({t})' for name, t in health.missing_types.items())
    return values

"""
What /diagnostics says: numbers and events of the last seconds -> level, one line, values.

Pure: node.py gathers a Health and turns the Status into a message. Every finding says what to
do about it, because a silent camera has many causes and they all look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mono3d_ros.stream import Snapshot

# diagnostic_msgs/msg/DiagnosticStatus
OK, WARN, ERROR = 0, 1, 2

#: Longer without an image is worth a warning.
SILENT_S = 2.0
#: So many camera_infos without their image mean that images get lost on the way.
UNPAIRED_INFOS = 5
REMEDY = 'try FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA on both sides'

#: What is counted, as /diagnostics lists it.
COUNTED = (
    'received', 'infos', 'answered', 'superseded',
    'too_old', 'bad', 'uncalibrated', 'no_camera_info',
)  # fmt: skip


@dataclass(frozen=True)
class Health:
    """
    The state of the node at one moment.

    :param active: whether the node is active.
    :param silent_s: how long ago the last image came, or the node became active.
    :param image_topics: the topics that images are awaited on.
    :param publishers: how many publish on them.
    :param device: where the network runs.
    :param cpu_fallback: the CPU was taken because there is no GPU.
    :param bad_qos: topics with a publisher whose QoS does not fit, and the policy.
    :param now: counters.
    :param before: counters of a few seconds ago.
    """

    active: bool
    silent_s: float
    image_topics: tuple[str, ...]
    publishers: int
    device: str
    cpu_fallback: bool
    bad_qos: Mapping[str, str]
    now: Snapshot
    before: Snapshot


@dataclass(frozen=True)
class Status:
    """A diagnostic status: level, one line and values to look at."""

    level: int
    message: str
    values: Mapping[str, str]


def assess(health: Health) -> Status:
    """Judge the state of the node; the worst finding gives the level."""
    findings = _findings(health) if health.active else [(OK, 'not active')]
    level = max((each for each, _ in findings), default=OK)
    message = '; '.join(text for _, text in findings) or 'ok'
    return Status(level, message, _values(health))


def _findings(health: Health) -> list[tuple[int, str]]:
    """List what is wrong, by level."""
    recent, said = _recent(health), health.now.texts
    topics = ' and '.join(health.image_topics)
    found = []
    if health.silent_s > SILENT_S:
        found.append(
            (WARN, f'no image on {topics} for {health.silent_s:.0f} s {_who(health.publishers)}')
        )
    for topic, policy in health.bad_qos.items():
        found.append((ERROR, f'a publisher of {topic} offers another {policy}: nothing arrives'))
    rules = (
        (ERROR, 'uncalibrated', 'images of an uncalibrated camera'),
        (ERROR, 'no_camera_info', 'images without camera_info'),
        (WARN, 'bad', 'images that failed'),
        (WARN, 'too_old', 'images dropped for their age'),
    )
    for level, name, text in rules:
        if recent[name] > 0:
            found.append((level, f'{recent[name]} {text}: {said[name]}'))
    unpaired = recent['infos'] - recent['received']
    if recent['received'] > 0 and unpaired > max(UNPAIRED_INFOS, recent['received'] // 4):
        found.append((WARN, f'{unpaired} camera_infos came without their image; {REMEDY}'))
    if health.cpu_fallback:
        found.append((WARN, 'no CUDA device: running on the CPU'))
    return found


def _recent(health: Health) -> dict[str, int]:
    """Return what was counted between before and now."""
    now, before = health.now.counts, health.before.counts
    return {name: now.get(name, 0) - before.get(name, 0) for name in COUNTED}


def _who(publishers: int) -> str:
    """Say whether somebody publishes at all."""
    if publishers == 0:
        return '(nobody publishes it: topic name, namespace or ROS_DOMAIN_ID?)'
    return f'(publishers: {publishers}; QoS, or {REMEDY}?)'


def _values(health: Health) -> dict[str, str]:
    """List the numbers behind the judgement."""
    values = {'device': health.device, 'image topics': ', '.join(health.image_topics)}
    values |= {name: str(health.now.counts.get(name, 0)) for name in COUNTED}
    for stage, (median, high) in health.now.latency_ms.items():
        values[f'{stage} ms (p50, p95)'] = f'{median:.1f}, {high:.1f}'
    values['last failure'] = health.now.texts.get('bad', '')
    return values

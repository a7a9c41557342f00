"""Which topics of a bag can be read, and how much was read of them, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mono3d_ros.bags.storage.interface import CDR, Channel
from mono3d_ros.bags.storage.metadata import TopicCount


@dataclass(frozen=True)
class BagTopics:
    """
    The topics of a bag.

    :param types: topic -> message type, alphabetical; messages of other types are not read.
    :param promised: topic -> number of messages by metadata.yaml and the storage files, the
        greater one; None if neither gives one.
    :param skipped: topic, or 'topic (type)' for a part of it -> why it cannot be decoded; such a
        topic of CDR messages is in types, too, because they can be copied.
    """

    types: Mapping[str, str]
    promised: Mapping[str, int | None]
    skipped: Mapping[str, str]


def find_topics(
    channels: Iterable[Channel],
    listed: Mapping[str, TopicCount],
    problem_of: Callable[[Channel], str],
) -> BagTopics:
    """
    Find the topics of a bag; of a topic with several types that with the most messages is read.

    :param channels: channels of all storage files.
    :param listed: topic -> type and number of messages, by metadata.yaml.
    :param problem_of: returns why a channel cannot be decoded; empty if it can.
    """
    stored: dict[str, dict[str, int | None]] = {}
    problems: dict[tuple[str, str], str] = {}
    for channel in channels:
        topic, kind = channel.topic, channel.type
        if problem := problem_of(channel):
            problems[topic, kind] = problem
        if channel.encoding == CDR:
            kinds = stored.setdefault(topic, {})
            kinds[kind] = _add(kinds.get(kind, 0), channel.promised)
    foreign = {topic for topic, _ in problems} - stored.keys()
    for topic in listed.keys() - stored.keys() - foreign:
        if listed[topic].num_messages:  # reading it will find none of them: an error
            stored[topic] = {listed[topic].type: 0}
    types: dict[str, str] = {}
    promised: dict[str, int | None] = {}
    skipped: dict[str, str] = {
        topic: problems[topic, k] for topic, k in problems if topic in foreign
    }
    for topic, kinds in sorted(stored.items()):
        kind = types[topic] = max(
            kinds, key=lambda k: ((topic, k) not in problems, kinds[k] or 0, k)
        )
        if why := problems.get((topic, kind)):
            skipped[topic] = why
        for other in kinds.keys() - {kind}:
            why = f'{kind} is read of this topic'
            skipped[f'{topic} ({other})'] = problems.get((topic, other), why)
        promised[topic] = kinds[kind]
        if topic in listed and listed[topic].type == kind and len(kinds) == 1:
            promised[topic] = max(kinds[kind] or 0, listed[topic].num_messages)
    return BagTopics(types, promised, dict(sorted(skipped.items())))


def _add(total: int | None, count: int | None) -> int | None:
    return None if total is None or count is None else total + count


@dataclass(frozen=True)
class TopicRead:
    """
    Messages of a topic.

    :param num_read: number of messages that were read.
    :param num_promised: number by metadata.yaml and the statistics of the storage files; None if
        neither gives one.
    """

    num_read: int
    num_promised: int | None

    def __str__(self) -> str:
        """Return '12 of 12', or '12' if no number was promised."""
        return (
            f'{self.num_read}'
            if self.num_promised is None
            else f'{self.num_read} of {self.num_promised}'
        )


@dataclass(frozen=True)
class BagReport:
    """
    Numbers of messages that were read, and parts that were not.

    :param name: name of the bag.
    :param read: topic -> messages, for the topics that were read to the end of the bag.
    :param num_unused: number of other topics that can be read.
    :param skipped: topic -> why its messages cannot be decoded.
    :param remarks: parts that are unfinished, missing or damaged, one line each.
    :param cameras: chosen topics of each camera and the reasons, one line each.
    """

    name: str
    read: Mapping[str, TopicRead]
    num_unused: int
    skipped: Mapping[str, str]
    remarks: tuple[str, ...]
    cameras: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the report: cameras, messages by topic, skipped topics, remarks."""
        topics = ', '.join(f'{topic} {count}' for topic, count in self.read.items())
        lines = [f'{self.name}: {camera}' for camera in self.cameras]
        lines += [f'{self.name}: read {topics or "nothing"}; {self.num_unused} topics not used']
        lines += [f'{self.name}: skipped {topic}: {why}' for topic, why in self.skipped.items()]
        return lines + [f'{self.name}: {remark}' for remark in self.remarks]

"""Subscriptions and publishers: their quality can be overridden from YAML, misfits are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from typing import Any

from rclpy.qos import (
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    qos_check_compatible,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import (  # type: ignore[no-redef]
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
    )

#: What qos_overrides.TOPIC.subscription.POLICY, or .publisher.POLICY, may change.
OVERRIDES = QoSOverridingOptions(
    (
        QoSPolicyKind.HISTORY,
        QoSPolicyKind.DEPTH,
        QoSPolicyKind.RELIABILITY,
        QoSPolicyKind.DURABILITY,
    )
)


class Endpoints:
    """What the node hears and says; only the thread that spins makes and ends them."""

    def __init__(self, node: Any) -> None:
        """Begin with none."""
        self._node = node
        self._subscriptions: list[Any] = []
        self._publishers: list[Any] = []
        #: Topic -> whether somebody there does not fit; nobody tells when a misfit goes.
        self._checks: dict[str, Callable[[], bool]] = {}
        self._misfits: dict[str, str] = {}

    def subscribe(
        self, kind: type, topic: str, callback: Callable[[Any], None], quality: QoSProfile
    ) -> None:
        """
        Subscribe.

        :param kind: message class.
        :param topic: its full name.
        :param callback: takes a message.
        :param quality: where YAML does not say otherwise.
        """
        subscription = self._node.create_subscription(
            kind,
            topic,
            callback,
            quality,
            qos_overriding_options=OVERRIDES,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=partial(self._on_unheard, topic)
            ),
        )
        self._subscriptions.append(subscription)
        self._checks[topic] = partial(self._has_unheard, topic)

    def advertise(self, kind: type, name: str, quality: QoSProfile) -> Any:
        """
        Make a publisher that speaks while the node is active.

        :param kind: message class.
        :param name: of the topic, may begin with ~/.
        :param quality: where YAML does not say otherwise.
        :return: the publisher.
        """
        topic = self._node.resolve_topic_name(name)
        publisher = self._node.create_lifecycle_publisher(
            kind,
            name,
            quality,
            qos_overriding_options=OVERRIDES,
            event_callbacks=PublisherEventCallbacks(
                incompatible_qos=partial(self._on_unreached, topic)
            ),
        )
        self._publishers.append(publisher)
        self._checks[topic] = partial(self._has_unreached, topic)
        return publisher

    def unsubscribe_all(self) -> None:
        """Hear no more."""
        while self._subscriptions:
            self._forget(self._subscriptions[-1].topic_name)
            self._node.destroy_subscription(self._subscriptions.pop())

    def withdraw_all(self) -> None:
        """Say no more."""
        while self._publishers:
            self._forget(self._publishers[-1].topic_name)
            self._node.destroy_lifecycle_publisher(self._publishers.pop())

    def misfits(self, topics: Iterable[str]) -> dict[str, str]:
        """Return those of some topics where somebody is not heard, or does not hear, and why."""
        self._misfits = {t: text for t, text in self._misfits.items() if self._checks[t]()}
        return {topic: self._misfits[topic] for topic in topics if topic in self._misfits}

    def _forget(self, topic: str) -> None:
        self._checks.pop(topic, None)
        self._misfits.pop(topic, None)

    def _has_unheard(self, topic: str) -> bool:
        offers = self._node.get_publishers_info_by_topic(topic)
        return _clash(offers, self._own(self._node.get_subscriptions_info_by_topic(topic)))

    def _has_unreached(self, topic: str) -> bool:
        requests = self._node.get_subscriptions_info_by_topic(topic)
        return _clash(self._own(self._node.get_publishers_info_by_topic(topic)), requests)

    def _own(self, found: Iterable[Any]) -> list[Any]:
        """Ask the graph for our side as well: it fills in what a profile leaves open."""
        ours = self._node.get_name(), self._node.get_namespace()
        return [each for each in found if (each.node_name, each.node_namespace) == ours]

    def _on_unheard(self, topic: str, event: Any) -> None:
        """Tell of a publisher that will never be heard."""
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._tell(
            topic,
            f'a publisher of {topic} offers another {policy} than is asked for: nothing arrives '
            f'from it; see parameters reliability and qos_overrides.{topic}.subscription',
        )

    def _on_unreached(self, topic: str, event: Any) -> None:
        """Tell of a subscriber that will never hear."""
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._tell(
            topic,
            f'a subscriber of {topic} asks for another {policy} than is offered: nothing reaches '
            f'it; see parameter qos_overrides.{topic}.publisher',
        )

    def _tell(self, topic: str, text: str) -> None:
        if topic in self._checks and topic not in self._misfits:
            self._node.get_logger().error(text)
            self._misfits[topic] = text


def _clash(offers: Iterable[Any], requests: Iterable[Any]) -> bool:
    """Tell whether any two endpoints of a topic cannot talk."""
    pairs = ((a.qos_profile, b.qos_profile) for a, b in product(offers, requests))
    return any(qos_check_compatible(*pair)[0] == QoSCompatibility.ERROR for pair in pairs)

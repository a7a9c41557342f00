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
QOS_OVERRIDES = QoSOverridingOptions(
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
        self._mismatch_checks: dict[str, Callable[[], bool]] = {}
        self._mismatches: dict[str, str] = {}

    def create_subscription(
        self, msg_type: type, topic: str, callback: Callable[[Any], None], qos_profile: QoSProfile
    ) -> None:
        """
        Subscribe.

        :param msg_type: message class.
        :param topic: its full name.
        :param callback: takes a message.
        :param qos_profile: where YAML does not say otherwise.
        """
        subscription = self._node.create_subscription(
            msg_type,
            topic,
            callback,
            qos_profile,
            qos_overriding_options=QOS_OVERRIDES,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=partial(self._on_incompatible_publisher, topic)
            ),
        )
        self._subscriptions.append(subscription)
        self._mismatch_checks[topic] = partial(self._has_incompatible_publisher, topic)

    def create_publisher(self, msg_type: type, name: str, qos_profile: QoSProfile) -> Any:
        """
        Make a publisher that speaks while the node is active.

        :param msg_type: message class.
        :param name: of the topic, may begin with ~/.
        :param qos_profile: where YAML does not say otherwise.
        :return: the publisher.
        """
        topic = self._node.resolve_topic_name(name)
        publisher = self._node.create_lifecycle_publisher(
            msg_type,
            name,
            qos_profile,
            qos_overriding_options=QOS_OVERRIDES,
            event_callbacks=PublisherEventCallbacks(
                incompatible_qos=partial(self._on_incompatible_subscriber, topic)
            ),
        )
        self._publishers.append(publisher)
        self._mismatch_checks[topic] = partial(self._has_incompatible_subscriber, topic)
        return publisher

    def destroy_subscriptions(self) -> None:
        """Hear no more."""
        while self._subscriptions:
            self._forget(self._subscriptions[-1].topic_name)
            self._node.destroy_subscription(self._subscriptions.pop())

    def destroy_publishers(self) -> None:
        """Say no more."""
        while self._publishers:
            self._forget(self._publishers[-1].topic_name)
            self._node.destroy_lifecycle_publisher(self._publishers.pop())

    def qos_mismatches(self, topics: Iterable[str]) -> dict[str, str]:
        """Return those of some topics where somebody is not heard, or does not hear, and why."""
        self._mismatches = {
            t: text for t, text in self._mismatches.items() if self._mismatch_checks[t]()
        }
        return {topic: self._mismatches[topic] for topic in topics if topic in self._mismatches}

    def _forget(self, topic: str) -> None:
        self._mismatch_checks.pop(topic, None)
        self._mismatches.pop(topic, None)

    def _has_incompatible_publisher(self, topic: str) -> bool:
        offers = self._node.get_publishers_info_by_topic(topic)
        return _any_incompatible(
            offers, self._of_this_node(self._node.get_subscriptions_info_by_topic(topic))
        )

    def _has_incompatible_subscriber(self, topic: str) -> bool:
        requests = self._node.get_subscriptions_info_by_topic(topic)
        return _any_incompatible(
            self._of_this_node(self._node.get_publishers_info_by_topic(topic)), requests
        )

    def _of_this_node(self, found: Iterable[Any]) -> list[Any]:
        """Ask the graph for our side as well: it fills in what a profile leaves open."""
        ours = self._node.get_name(), self._node.get_namespace()
        return [each for each in found if (each.node_name, each.node_namespace) == ours]

    def _on_incompatible_publisher(self, topic: str, event: Any) -> None:
        """Tell of a publisher that will never be heard."""
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._report_mismatch(
            topic,
            f'a publisher of {topic} offers another {policy} than is asked for: nothing arrives '
            f'from it; see parameters reliability and qos_overrides.{topic}.subscription',
        )

    def _on_incompatible_subscriber(self, topic: str, event: Any) -> None:
        """Tell of a subscriber that will never hear."""
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._report_mismatch(
            topic,
            f'a subscriber of {topic} asks for another {policy} than is offered: nothing reaches '
            f'it; see parameter qos_overrides.{topic}.publisher',
        )

    def _report_mismatch(self, topic: str, text: str) -> None:
        if topic in self._mismatch_checks and topic not in self._mismatches:
            self._node.get_logger().error(text)
            self._mismatches[topic] = text


def _any_incompatible(offers: Iterable[Any], requests: Iterable[Any]) -> bool:
    """Tell whether any two endpoints of a topic cannot talk."""
    pairs = ((a.qos_profile, b.qos_profile) for a, b in product(offers, requests))
    return any(qos_check_compatible(*pair)[0] == QoSCompatibility.ERROR for pair in pairs)

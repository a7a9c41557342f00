"""Subscriptions and publishers with QoS overrides from YAML and reports of QoS mismatches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from typing import Any

from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from mono3d_ros.node.node_context import Endpoint, EndpointInfo, NodeContext, Publisher

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import (  # type: ignore[no-redef]
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
    )

#: QoS policies that qos_overrides.TOPIC.subscription.POLICY, or .publisher.POLICY, may change.
QOS_OVERRIDES = QoSOverridingOptions(
    (
        QoSPolicyKind.HISTORY,
        QoSPolicyKind.DEPTH,
        QoSPolicyKind.RELIABILITY,
        QoSPolicyKind.DURABILITY,
    )
)


class Endpoints:
    """Subscriptions and publishers of the node; only the spinning thread may change them."""

    def __init__(self, node: NodeContext) -> None:
        """Start without subscriptions and publishers."""
        self._node = node
        self._subscriptions: list[Endpoint] = []
        self._publishers: list[Publisher] = []
        #: Topic -> whether an endpoint there is incompatible; no event reports that one has gone.
        self._mismatch_checks: dict[str, Callable[[], bool]] = {}
        self._mismatches: dict[str, str] = {}

    def create_subscription(
        self, msg_type: type, topic: str, callback: Callable[[Any], None], qos_profile: QoSProfile
    ) -> None:
        """
        Subscribe to a topic and report publishers with incompatible QoS.

        :param msg_type: message class.
        :param topic: full name of the topic.
        :param callback: receives each message.
        :param qos_profile: QoS, unless YAML overrides it.
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

    def has_kept_messages(self, topic: str) -> bool:
        """Return whether a publisher keeps messages for late subscribers: transient local."""
        profiles = (e.qos_profile for e in self._node.get_publishers_info_by_topic(topic))
        return any(
            each.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
            and each.reliability == QoSReliabilityPolicy.RELIABLE
            for each in profiles
        )

    def missing_hint(self, topic: str) -> str:
        """Return the likely reason for which no message of a topic arrives."""
        profiles = [e.qos_profile for e in self._node.get_publishers_info_by_topic(topic)]
        if not profiles:
            return f'nobody publishes {topic}'
        kept = [p for p in profiles if p.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL]
        if kept and not self.has_kept_messages(topic):
            return (
                f'{topic} is published as transient local, but best effort: a message from before '
                'this node started is not sent again; publish it reliable'
            )
        return f'publishers of {topic}: {len(profiles)}; published once, before this node started?'

    def subscribe_to_kept_messages(
        self, msg_type: type, topic: str, callback: Callable[[Any], None], depth: int
    ) -> None:
        """
        Subscribe to a topic a second time, to the messages that its publishers keep.

        Only a subscription that is both reliable and transient local gets them; as it gets nothing
        from other publishers, it reports no incompatible QoS.

        :param msg_type: message class.
        :param topic: full name of the topic.
        :param callback: receives each message.
        :param depth: number of messages to keep.
        """
        kept = QoSProfile(
            depth=depth,
            reliability=QoSReliabilityPolicy.RELIABLE,
            durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
        )
        ignore = SubscriptionEventCallbacks(incompatible_qos=lambda event: None)
        subscription = self._node.create_subscription(
            msg_type, topic, callback, kept, event_callbacks=ignore
        )
        self._subscriptions.append(subscription)

    def create_publisher(self, msg_type: type, name: str, qos_profile: QoSProfile) -> Publisher:
        """
        Create a publisher that sends while the node is active; report incompatible subscribers.

        :param msg_type: message class.
        :param name: name of the topic, may begin with ~/.
        :param qos_profile: QoS, unless YAML overrides it.
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
        """Destroy all subscriptions."""
        while self._subscriptions:
            self._forget(self._subscriptions[-1].topic_name)
            self._node.destroy_subscription(self._subscriptions.pop())

    def destroy_subscription(self, topic: str) -> None:
        """Destroy the subscription to a topic, if there is one."""
        for each in [each for each in self._subscriptions if each.topic_name == topic]:
            self._forget(topic)
            self._subscriptions.remove(each)
            self._node.destroy_subscription(each)

    def published_types(self, topic: str) -> frozenset[str]:
        """Return the message types that nodes publish on a topic; empty without a publisher."""
        return frozenset(
            each.topic_type for each in self._node.get_publishers_info_by_topic(topic)
        )

    def destroy_publishers(self) -> None:
        """Destroy all publishers."""
        while self._publishers:
            self._forget(self._publishers[-1].topic_name)
            self._node.destroy_lifecycle_publisher(self._publishers.pop())

    def qos_mismatches(self, topics: Iterable[str]) -> dict[str, str]:
        """Return those of the given topics that have an incompatible endpoint -> description."""
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

    def _of_this_node(self, endpoints: Iterable[EndpointInfo]) -> list[EndpointInfo]:
        """Return this node's endpoints; the graph fills in policies that a profile leaves open."""
        this_node = self._node.get_name(), self._node.get_namespace()
        return [each for each in endpoints if (each.node_name, each.node_namespace) == this_node]

    def _on_incompatible_publisher(self, topic: str, event: Any) -> None:
        """Report a publisher whose messages never arrive."""
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._report_mismatch(
            topic,
            f'a publisher of {topic} offers an incompatible {policy}: none of its messages '
            f'arrives; see parameters reliability and qos_overrides.{topic}.subscription',
        )

    def _on_incompatible_subscriber(self, topic: str, event: Any) -> None:
        """Report a subscriber that never receives a message."""
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._report_mismatch(
            topic,
            f'a subscriber of {topic} requests an incompatible {policy}: no message reaches it; '
            f'see parameter qos_overrides.{topic}.publisher',
        )

    def _report_mismatch(self, topic: str, text: str) -> None:
        if topic in self._mismatch_checks and topic not in self._mismatches:
            self._node.get_logger().error(text)
            self._mismatches[topic] = text


def _any_incompatible(offers: Iterable[EndpointInfo], requests: Iterable[EndpointInfo]) -> bool:
    """Return whether any offered and any requested QoS profile are incompatible."""
    pairs = ((a.qos_profile, b.qos_profile) for a, b in product(offers, requests))
    return any(qos_check_compatible(*pair)[0] == QoSCompatibility.ERROR for pair in pairs)

"""
Interface of the ROS node, as the parts of the node use it.

mypy does not read rclpy, so these protocols list the members that the parts use. mypy compares the
parts with the protocols; test_node_context.py checks that the node has the members and accepts the
arguments. Nothing compares the types with those of rclpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mono3d_ros.monitoring.counters import Counters
from mono3d_ros.params import Camera, Params


class Logger(Protocol):
    """Logger of a node."""

    def info(self, message: str) -> Any:
        """Log progress."""
        ...

    def warning(self, message: str) -> Any:
        """Log a problem that the node works around."""
        ...

    def error(self, message: str) -> Any:
        """Log a problem that costs results."""
        ...


class Time(Protocol):
    """A point in time."""

    @property
    def nanoseconds(self) -> int:
        """Return the time in nanoseconds."""
        ...

    def to_msg(self) -> Any:
        """Return the time as builtin_interfaces/msg/Time."""
        ...


class Clock(Protocol):
    """Clock of a node: system time, or simulated time from /clock."""

    def now(self) -> Time:
        """Return the current time; 0 before the first message on /clock."""
        ...


class Context(Protocol):
    """Initialisation state of rclpy."""

    def ok(self) -> bool:
        """Return whether rclpy is initialised and not shut down."""
        ...


class Endpoint(Protocol):
    """A publisher or subscription."""

    @property
    def topic_name(self) -> str:
        """Return the full name of the topic."""
        ...


class Publisher(Endpoint, Protocol):
    """A publisher."""

    def publish(self, msg: Any) -> None:
        """Publish a message."""
        ...

    def get_subscription_count(self) -> int:
        """Return the number of matching subscriptions."""
        ...


class EndpointInfo(Protocol):
    """A publisher or subscription of any node, from the ROS graph."""

    @property
    def node_name(self) -> str:
        """Return the name of its node."""
        ...

    @property
    def node_namespace(self) -> str:
        """Return the namespace of its node."""
        ...

    @property
    def topic_type(self) -> str:
        """Return its message type, such as 'sensor_msgs/msg/Image'."""
        ...

    @property
    def qos_profile(self) -> Any:
        """Return its QoS."""
        ...


class NodeContext(Protocol):
    """
    The ROS node as its parts use it; DetectorNode has these members.

    Only the spinning thread may create and destroy endpoints and timers.
    """

    @property
    def params(self) -> Params:
        """Return the current parameters; some change at run time."""
        ...

    @property
    def cameras(self) -> Sequence[Camera]:
        """Return the cameras, at least one."""
        ...

    @property
    def counters(self) -> Mapping[str, Counters]:
        """Return camera name -> its counters."""
        ...

    @property
    def context(self) -> Context:
        """Return the rclpy context."""
        ...

    def get_logger(self) -> Logger:
        """Return the logger."""
        ...

    def get_clock(self) -> Clock:
        """Return the clock."""
        ...

    def get_name(self) -> str:
        """Return the name of the node."""
        ...

    def get_namespace(self) -> str:
        """Return the namespace of the node."""
        ...

    def get_fully_qualified_name(self) -> str:
        """Return the namespace and name of the node."""
        ...

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        """Return the full name of a topic, remapped unless only_expand."""
        ...

    def create_subscription(
        self,
        msg_type: type,
        topic: str,
        callback: Callable[[Any], None],
        qos: Any,
        *,
        event_callbacks: Any = None,
        qos_overriding_options: Any = None,
    ) -> Endpoint:
        """Subscribe to a topic."""
        ...

    def create_publisher(
        self, msg_type: type, topic: str, qos: Any, *, qos_overriding_options: Any = None
    ) -> Publisher:
        """Create a publisher that sends in every lifecycle state."""
        ...

    def create_lifecycle_publisher(
        self,
        msg_type: type,
        topic: str,
        qos: Any,
        *,
        event_callbacks: Any = None,
        qos_overriding_options: Any = None,
    ) -> Publisher:
        """Create a publisher that sends while the node is active."""
        ...

    def create_timer(self, period_s: float, callback: Callable[[], None], *, clock: Any) -> Any:
        """Call a function periodically."""
        ...

    def destroy_subscription(self, subscription: Endpoint) -> bool:
        """Destroy a subscription."""
        ...

    def destroy_lifecycle_publisher(self, publisher: Publisher) -> bool:
        """Destroy a publisher of create_lifecycle_publisher."""
        ...

    def get_publishers_info_by_topic(self, topic: str) -> Sequence[EndpointInfo]:
        """Return the publishers of a topic, of all nodes."""
        ...

    def get_subscriptions_info_by_topic(self, topic: str) -> Sequence[EndpointInfo]:
        """Return the subscriptions to a topic, of all nodes."""
        ...

"""
TF listener: tf2_ros if it is installed, otherwise equivalent subscriptions of this package.

Without tf2_msgs there is no message type to subscribe with; every lookup then raises
TransformUnavailableError with that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Protocol

from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from rclpy.time import Time

from mono3d_ros.node import message_factory
from mono3d_ros.node.endpoints import Endpoints
from mono3d_ros.node.node_context import NodeContext
from mono3d_ros.tf import transforms
from mono3d_ros.tf.buffer import TransformBuffer, TransformSource, TransformUnavailableError
from stl_core.types import Array

try:
    import tf2_ros  # type: ignore
except ImportError:
    tf2_ros = None

TF_TOPIC, TF_STATIC_TOPIC = '/tf', '/tf_static'
#: The same as in tf2_ros.
TF_QOS = QoSProfile(depth=100)
TF_STATIC_QOS = QoSProfile(depth=100, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class TfListener(TransformSource, Protocol):
    """Receives tf until close is called and the endpoints are destroyed."""

    def clear(self) -> None:
        """Forget the moving transforms after time was set back."""
        ...

    def close(self) -> None:
        """Stop receiving; only the spinning thread may call this."""
        ...


def make_listener(
    node: NodeContext, endpoints: Endpoints, on_note: Callable[[str], None]
) -> TfListener:
    """
    Start the best TF listener that is installed.

    :param node: ROS node that subscribes.
    :param endpoints: creates the subscriptions if tf2_ros is not installed.
    :param on_note: see TransformBuffer; tf2_ros logs such transforms itself.
    :return: the listener.
    """
    if tf2_ros is not None:
        return Tf2Listener(node)
    kind = message_factory.message_class('tf2_msgs/msg/TFMessage')
    return NullListener() if kind is None else BufferListener(endpoints, kind, on_note)


class Tf2Listener:
    """TF listener of tf2_ros; any thread may call lookup."""

    def __init__(self, node: NodeContext) -> None:
        """Subscribe to /tf and /tf_static."""
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str, at_ns: int) -> Array:
        """Return the (4, 4) from source to target; raise TransformUnavailableError without it."""
        try:
            transform = self._buffer.lookup_transform_core(target, source, Time(nanoseconds=at_ns))
        except tf2_ros.TransformException as err:
            text = f'no transform from {source} to {target}: {" ".join(str(err).split())}'
            late = isinstance(err, tf2_ros.ExtrapolationException)
            raise TransformUnavailableError(text, late) from err
        transform.child_frame_id = source
        tree = transforms.read_tf_message(SimpleNamespace(transforms=[transform]))
        if source not in tree:  # tf2 stores infinite translations
            raise TransformUnavailableError(transforms.refusal(transform))
        return tree[source][1]

    def clear(self) -> None:
        """Forget the moving transforms; tf2, too, keeps the static ones."""
        self._buffer.clear()

    def close(self) -> None:
        """Stop receiving."""
        self._listener.unregister()


class BufferListener:
    """TF listener without tf2_ros: subscriptions to /tf and /tf_static, and a buffer."""

    def __init__(
        self, endpoints: Endpoints, msg_type: type, on_note: Callable[[str], None]
    ) -> None:
        """Subscribe to /tf and /tf_static; on_note: see TransformBuffer."""
        self._buffer = TransformBuffer(on_note)
        endpoints.create_subscription(msg_type, TF_TOPIC, self._buffer.put_moving, TF_QOS)
        endpoints.create_subscription(
            msg_type, TF_STATIC_TOPIC, self._buffer.put_static, TF_STATIC_QOS
        )

    def lookup(self, target: str, source: str, at_ns: int) -> Array:
        """Return the (4, 4) from source to target; raise TransformUnavailableError without it."""
        return self._buffer.lookup(target, source, at_ns)

    def clear(self) -> None:
        """Forget the moving transforms."""
        self._buffer.clear()

    def close(self) -> None:
        """Do nothing: the endpoints destroy the subscriptions."""


class NullListener:
    """TF listener without tf2_msgs: receives nothing."""

    def lookup(self, target: str, source: str, at_ns: int) -> Array:
        """Raise TransformUnavailableError with the reason."""
        raise TransformUnavailableError(
            f'no transform from {source} to {target}: tf2_msgs is not installed here'
        )

    def clear(self) -> None:
        """Do nothing: there are no transforms."""

    def close(self) -> None:
        """Do nothing."""

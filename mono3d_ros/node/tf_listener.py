"""
What tf says, heard by tf2_ros where it is installed and else by ourselves, to the same effect.

Without tf2_msgs there is nothing to subscribe with: then every question is answered by why.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Protocol

from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from rclpy.time import Time

from mono3d_ros.node import message_factory
from mono3d_ros.node.endpoints import Endpoints
from mono3d_ros.tf import transforms
from mono3d_ros.tf.buffer import TransformBuffer, TransformSource, TransformUnavailableError
from stl_core.types import Array

try:
    import tf2_ros  # type: ignore
except ImportError:
    tf2_ros = None

TF_TOPIC, TF_STATIC_TOPIC = '/tf', '/tf_static'
#: As tf2_ros has them.
TF_QOS = QoSProfile(depth=100)
TF_STATIC_QOS = QoSProfile(depth=100, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class TfListener(TransformSource, Protocol):
    """Hears tf until it is closed, and the endpoints are."""

    def clear(self) -> None:
        """Forget what moves: time was set back."""
        ...

    def close(self) -> None:
        """Hear no more; only to be called by the thread that spins."""
        ...


def make_listener(node: Any, endpoints: Endpoints) -> TfListener:
    """
    Begin to hear tf, in the best way that is installed.

    :param node: whose.
    :param endpoints: makes the subscriptions where tf2_ros does not.
    :return: the listener.
    """
    if tf2_ros is not None:
        return Tf2Listener(node)
    kind = message_factory.message_class('tf2_msgs/msg/TFMessage')
    return NullListener() if kind is None else BufferListener(endpoints, kind)


class Tf2Listener:
    """tf2_ros, whose buffer may be asked by any thread."""

    def __init__(self, node: Any) -> None:
        """Subscribe."""
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str, at_ns: int) -> Array:
        """Return the (4, 4) that takes points of source to target; else MissingTransform."""
        try:
            found = self._buffer.lookup_transform_core(target, source, Time(nanoseconds=at_ns))
        except tf2_ros.TransformException as err:
            text = f'no transform from {source} to {target}: {" ".join(str(err).split())}'
            late = isinstance(err, tf2_ros.ExtrapolationException)
            raise TransformUnavailableError(text, late) from err
        found.child_frame_id = source
        return transforms.read_tf_message(SimpleNamespace(transforms=[found]))[source][1]

    def clear(self) -> None:
        """Forget what moves; what is static stays, in tf2 too."""
        self._buffer.clear()

    def close(self) -> None:
        """Hear no more."""
        self._listener.unregister()


class BufferListener:
    """Our own subscriptions to /tf and /tf_static."""

    def __init__(self, endpoints: Endpoints, msg_type: type) -> None:
        """Subscribe."""
        self._buffer = TransformBuffer()
        endpoints.create_subscription(msg_type, TF_TOPIC, self._buffer.put_moving, TF_QOS)
        endpoints.create_subscription(
            msg_type, TF_STATIC_TOPIC, self._buffer.put_static, TF_STATIC_QOS
        )

    def lookup(self, target: str, source: str, at_ns: int) -> Array:
        """Return the (4, 4) that takes points of source to target; else MissingTransform."""
        return self._buffer.lookup(target, source, at_ns)

    def clear(self) -> None:
        """Forget what moves."""
        self._buffer.clear()

    def close(self) -> None:
        """Leave it to the endpoints."""


class NullListener:
    """Hears nothing, and says why."""

    def lookup(self, target: str, source: str, at_ns: int) -> Array:
        """Raise MissingTransform."""
        raise TransformUnavailableError(
            f'no transform from {source} to {target}: tf2_msgs is not installed here'
        )

    def clear(self) -> None:
        """Forget nothing."""

    def close(self) -> None:
        """Do nothing."""

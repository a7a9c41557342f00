"""
The ROS 2 node `detector`: the only file that imports rclpy and message packages.

One thread spins and stores what arrives; a Worker takes the newest images and answers them.
A lifecycle node: configure loads and warms the network, activate subscribes and starts the
worker. By default (parameter autostart) it does both by itself.
"""

from __future__ import annotations

import posixpath
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import rclpy
from ament_index_python.packages import get_package_share_directory
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.qos import QoSProfile, QoSReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from mono3d_ros import messages, network
from mono3d_ros.calibration import as_rectified, rectify
from mono3d_ros.diagnostics import Health, assess
from mono3d_ros.params import Params
from mono3d_ros.pipeline import Limits, Pipeline
from mono3d_ros.stream import INFOS_KEPT, Counters, FrameResult, LatestFrames
from mono3d_ros.worker import Outside, Worker

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks  # type: ignore[no-redef]

#: The messages that are made by name, see new.
MESSAGES: Mapping[str, Any] = {
    f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}': kind
    for kind in (
        *(Duration, Time, Point, Pose, Quaternion, Vector3),
        *(ColorRGBA, Header, Marker, MarkerArray),
    )
}

#: What each transport adds to the image topic, and the type there.
RAW, COMPRESSED = ('', Image), ('/compressed', CompressedImage)
TRANSPORTS = {'raw': (RAW,), 'compressed': (COMPRESSED,), 'auto': (RAW, COMPRESSED)}
RELIABILITIES = {
    'best_effort': QoSReliabilityPolicy.BEST_EFFORT,
    'reliable': QoSReliabilityPolicy.RELIABLE,
}

#: Where both transports are there, the other one is heeded after so long a silence.
SWITCH_NS = 1_000_000_000
#: /diagnostics speaks of the last so many seconds, once a second.
DIAGNOSTICS_WINDOW = 5
EXIT_UNUSABLE = 2


def new(type_name: str, /, **values: Any) -> Any:
    """Make a ROS message by name; fields that are not given take their defaults."""
    return MESSAGES[type_name](**values)


def declare(node: Any) -> Params:
    """
    Declare every field of Params as a ROS parameter.

    :param node: where to.
    :return: their values.
    :raises ValueError: for a wrong one; rclpy raises ParameterException for some.
    """
    values = {}
    for each in fields(Params):
        about = each.metadata
        descriptor = ParameterDescriptor(
            description=about['description'],
            additional_constraints=', '.join(about['choices']),
            read_only=not about['live'],
            dynamic_typing=True,  # or 1 in YAML would be refused where 1.0 is meant
        )
        if about['limits'] is not None and isinstance(each.default, float):
            low, high = about['limits']
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        default = list(each.default) if isinstance(each.default, tuple) else each.default
        values[each.name] = node.declare_parameter(each.name, default, descriptor).value
    return Params(**values)


class Detector(LifecycleNode):
    """Camera images in, 3D boxes out."""

    def __init__(self, load: network.Load = network.load_student, **options: Any) -> None:
        """
        Declare the parameters and start reporting.

        :param load: (path, device) -> Predictor; tests hand in their own.
        :param options: for rclpy's LifecycleNode.
        :raises ValueError: for a wrong parameter; rclpy raises ParameterException for some.
        """
        super().__init__('detector', **options)
        self.params = declare(self)
        self.counters = Counters()
        self._load = load
        self._pipeline: Pipeline | None = None
        self._device = ''
        self._latest: LatestFrames | None = None
        self._worker: Worker | None = None
        self._inputs: list[Any] = []
        self._image_topics: tuple[str, ...] = ()
        self._carrier: type | None = None  # the message type that images come as
        self._heard_ns = time.monotonic_ns()
        self._bad_qos: dict[str, str] = {}
        self._previous_ids: dict[str, tuple[int, ...]] = {}
        self._snapshots = deque([self.counters.snapshot()], maxlen=DIAGNOSTICS_WINDOW)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # a steady clock: with simulated time the node must speak up while there is no /clock
        self._timer = self.create_timer(
            1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self.add_on_set_parameters_callback(self._on_set_parameters)

    # transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network and run it once."""
        try:
            self._pipeline = self._make_pipeline()
        except network.LOAD_ERRORS as err:
            self.get_logger().fatal(' '.join(str(err).split()) or type(err).__name__)
            return TransitionCallbackReturn.FAILURE
        self._publisher = self.create_lifecycle_publisher(MarkerArray, '~/markers', 10)
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start working."""
        pipeline = self._pipeline
        assert pipeline is not None, 'activated without configure'
        self._carrier, self._heard_ns, self._bad_qos = None, time.monotonic_ns(), {}
        self._latest = LatestFrames(self.counters, time.monotonic_ns)
        try:
            self._subscribe()
        except (ValueError, RuntimeError, NameValidationException) as err:
            self.stop()
            self.get_logger().fatal(' '.join(str(err).split()))
            return TransitionCallbackReturn.FAILURE
        door = as_rectified if self.params.rectified else rectify
        outside = Outside(self._now_ns, self._publish, self._complain)
        self._worker = Worker(self._latest, pipeline, door, self.counters, outside)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop working."""
        self.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the network."""
        self._pipeline = None
        self.destroy_lifecycle_publisher(self._publisher)
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, whatever the state."""
        self.stop()
        return super().on_shutdown(state)

    def stop(self) -> None:
        """End the worker and the subscriptions; only to be called by the thread that spins."""
        while self._inputs:
            self.destroy_subscription(self._inputs.pop())
        if self._worker is not None:
            self._worker.stop()
        self._latest = self._worker = None

    def _make_pipeline(self) -> Pipeline:
        """Load and warm up what the parameters name."""
        params, log = self.params, self.get_logger()
        path = network.find_model(params.model, get_package_share_directory)
        predictor = self._load(path, params.device)
        self._device = network.device_of(predictor)
        if self._device.startswith('cpu') and params.require_cuda:
            raise ValueError('parameter require_cuda: there is no CUDA device to run on')
        limits = Limits(params.min_scores(tuple(predictor.spec.classes)), params.max_age_s)
        pipeline = Pipeline(predictor, limits, time.perf_counter)
        if self._cpu_fallback():
            log.warning('NO CUDA DEVICE: running on the CPU, which is many times slower')
        start_s = time.perf_counter()
        network.warm_up(predictor)
        took_s = time.perf_counter() - start_s
        classes = ', '.join(pipeline.classes)
        log.info(f'{path} on {self._device} finds {classes}; its first run took {took_s:.2f} s')
        return pipeline

    def _cpu_fallback(self) -> bool:
        return self._device.startswith('cpu') and self.params.device == 'auto'

    # what arrives

    def _subscribe(self) -> None:
        """Subscribe to the images and their camera_info."""
        image_topic, info_topic = self._topics()
        transports = TRANSPORTS[self.params.transport]
        self._image_topics = tuple(image_topic + suffix for suffix, _ in transports)
        for topic, (_, kind) in zip(self._image_topics, transports, strict=True):
            self._listen(kind, topic, partial(self._on_image, kind), depth=1)
        # infos are small and each may be wanted, so none shall be lost to a busy moment
        self._listen(CameraInfo, info_topic, self._on_info, depth=INFOS_KEPT)
        topics = ', '.join((*self._image_topics, info_topic))
        self.get_logger().info(f'listening to {topics}')

    def _topics(self) -> tuple[str, str]:
        """
        Return the full names of the image and the camera_info topic.

        camera_info lies beside the image topic, remapped or not, unless it is given by
        parameter or remapped itself.
        """
        image = self.resolve_topic_name(self.params.image_topic)
        image = image[: -len(COMPRESSED[0])] if image.endswith(COMPRESSED[0]) else image
        if self.params.camera_info_topic:
            return image, self.resolve_topic_name(self.params.camera_info_topic)
        info = self.resolve_topic_name('camera_info')
        if info != self.resolve_topic_name('camera_info', only_expand=True):
            return image, info
        return image, posixpath.join(posixpath.dirname(image), 'camera_info')

    def _listen(self, kind: type, topic: str, callback: Callable[[Any], None], depth: int) -> None:
        """Subscribe, with QoS that YAML can override, and watch for QoS that does not fit."""
        reliability = RELIABILITIES[self.params.reliability]
        subscription = self.create_subscription(
            kind,
            topic,
            callback,
            QoSProfile(depth=depth, reliability=reliability),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=partial(self._on_bad_qos, topic)
            ),
        )
        self._inputs.append(subscription)

    def _on_image(self, kind: type, message: Any) -> None:
        """Store an image; of two transports of the same pictures only one is heeded."""
        now_ns = time.monotonic_ns()
        if self._carrier not in (None, kind) and now_ns - self._heard_ns < SWITCH_NS:
            return
        self._carrier, self._heard_ns = kind, now_ns
        self.counters.add('received')
        stamp_ns = messages.stamp_ns(message.header)
        if self._latest is not None:
            self._latest.put_image(self.params.camera_name, stamp_ns, message)

    def _on_info(self, message: Any) -> None:
        """Store a camera_info."""
        self.counters.add('infos')
        stamp_ns = messages.stamp_ns(message.header)
        if self._latest is not None:
            self._latest.put_info(self.params.camera_name, stamp_ns, message)

    def _on_bad_qos(self, topic: str, event: Any) -> None:
        """Tell of a publisher that will never be heard."""
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._bad_qos[topic] = policy
        self.get_logger().error(
            f'a publisher of {topic} offers another {policy} than parameter reliability asks for: '
            'nothing will arrive from it'
        )

    # what goes out; called by the worker

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _publish(self, result: FrameResult) -> None:
        """Send the boxes of a frame, and take away those of the frame before."""
        array = messages.markers(
            result,
            self._previous_ids.get(result.camera, ()),
            new,
            lifetime_s=self.params.marker_lifetime_s,
        )
        self._publisher.publish(array)
        self._previous_ids[result.camera] = result.ids

    def _complain(self, text: str) -> None:
        if self.context.ok():  # else we are shutting down, and it is no fault of the frame
            self.get_logger().error(text)

    # parameters and diagnostics

    def _on_set_parameters(self, parameters: Iterable[Any]) -> SetParametersResult:
        """Take over thresholds while running; refuse wrong ones with the reason."""
        ours = {each.name for each in fields(Params)}
        changed = {each.name: each.value for each in parameters if each.name in ours}
        try:
            params = replace(self.params, **changed)
            if self._pipeline is not None:
                min_scores = params.min_scores(self._pipeline.classes)
                self._pipeline.limits = Limits(min_scores, params.max_age_s)
        except ValueError as err:
            return SetParametersResult(successful=False, reason=str(err))
        self.params = params
        return SetParametersResult(successful=True)

    def _report(self) -> None:
        """Publish /diagnostics."""
        now = self.counters.snapshot()
        status = assess(
            Health(
                active=self._latest is not None,
                silent_s=(time.monotonic_ns() - self._heard_ns) / 1e9,
                image_topics=self._image_topics,
                publishers=sum(self.count_publishers(each) for each in self._image_topics),
                device=self._device,
                cpu_fallback=self._cpu_fallback(),
                bad_qos=self._bad_qos,
                now=now,
                before=self._snapshots[0],
            )
        )
        self._snapshots.append(now)
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status = [
            DiagnosticStatus(
                level=bytes([status.level]),
                name=f'{self.get_fully_qualified_name().lstrip("/")}: {self.params.camera_name}',
                message=status.message,
                hardware_id=self._device,
                values=[KeyValue(key=key, value=text) for key, text in status.values.items()],
            )
        ]
        self._diagnostics.publish(array)


def main(args: list[str] | None = None, load: network.Load = network.load_student) -> int:
    """
    Run the node until it is interrupted or terminated.

    :param args: command line, ROS arguments included; sys.argv by default.
    :param load: see Detector.
    :return: exit code: 0, or 2 for a parameter or model that cannot be used.
    """
    try:
        rclpy.init(args=args)
        node = Detector(load)
    except (ValueError, RuntimeError, ParameterException) as err:
        get_logger('detector').fatal(' '.join(str(err).split()))
        rclpy.try_shutdown()
        return EXIT_UNUSABLE
    try:
        if node.params.autostart and not _start(node):
            return EXIT_UNUSABLE if rclpy.ok() else 0
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.stop()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _start(node: Detector) -> bool:
    """Configure and activate; tell whether both succeeded."""
    for name, transition in (
        ('configure', node.trigger_configure),
        ('activate', node.trigger_activate),
    ):
        if transition() != TransitionCallbackReturn.SUCCESS:
            if rclpy.ok():
                node.get_logger().fatal(f'could not {name}')
            return False
    return True


if __name__ == '__main__':
    sys.exit(main())

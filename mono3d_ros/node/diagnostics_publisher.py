"""Publisher of /diagnostics: one status per camera every second, with new issues logged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType

from mono3d_ros.monitoring.counters import Counters, CounterSnapshot
from mono3d_ros.monitoring.diagnostics import HealthInput, Status, assess_health
from mono3d_ros.monitoring.throttled_log import Throttle
from mono3d_ros.node.endpoints import QOS_OVERRIDES
from mono3d_ros.node.node_context import NodeContext

PERIOD_S = 1.0
#: Number of past periods that a status covers.
WINDOW_PERIODS = 5
#: Issues that no other code logs when they happen.
LOGGED_ISSUES = ('silent', 'wrong_type', 'unpaired', 'superseded')

#: (camera, counters now, counters before) -> HealthInput.
HealthCallback = Callable[[str, CounterSnapshot, CounterSnapshot], HealthInput]


class DiagnosticsPublisher:
    """Publishes /diagnostics from construction on, whether or not the node is active."""

    def __init__(
        self, node: NodeContext, counters: Mapping[str, Counters], get_health: HealthCallback
    ) -> None:
        """
        Create the publisher and its timer.

        :param node: ROS node that publishes and logs.
        :param counters: camera name -> its counters.
        :param get_health: returns the HealthInput of a camera.
        """
        self._node, self._counters, self._get_health = node, counters, get_health
        self._throttle = Throttle()
        self._snapshots = {
            camera: deque([each.snapshot()], maxlen=WINDOW_PERIODS)
            for camera, each in counters.items()
        }
        self._publisher = node.create_publisher(
            DiagnosticArray, '/diagnostics', 10, qos_overriding_options=QOS_OVERRIDES
        )
        # a steady clock: with simulated time, diagnostics must be published even without /clock
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_S, self._publish_safely, clock=clock)

    def _publish_safely(self) -> None:
        """Publish and log any exception, so that an error in diagnostics cannot end the node."""
        try:
            self._publish()
        except Exception as err:
            if self._throttle.allows('', 'diagnostics'):
                self._node.get_logger().error(f'diagnostics: {type(err).__name__}: {err}')

    def _publish(self) -> None:
        """Publish one status per camera."""
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        array.status = [self._make_status(camera) for camera in self._counters]
        self._publisher.publish(array)

    def _make_status(self, camera: str) -> DiagnosticStatus:
        now, snapshots = self._counters[camera].snapshot(), self._snapshots[camera]
        health = self._get_health(camera, now, snapshots[0])
        snapshots.append(now)
        status = assess_health(health)
        self._log_issues(camera, status)
        return DiagnosticStatus(
            level=bytes([status.level]),
            name=f'{self._node.get_fully_qualified_name().lstrip("/")}: {camera}',
            message=status.message,
            hardware_id=health.device,
            values=[KeyValue(key=key, value=text) for key, text in status.values.items()],
        )

    def _log_issues(self, camera: str, status: Status) -> None:
        """Log the issues of LOGGED_ISSUES, throttled."""
        for each in status.issues:
            if each.kind in LOGGED_ISSUES and self._throttle.allows(camera, each.kind):
                self._node.get_logger().warning(f'{camera}: {each.text}')

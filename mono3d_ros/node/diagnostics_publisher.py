"""The diagnostics of the node: a status of each camera every second; what is new, in the log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType

from mono3d_ros.monitoring.counters import Counters, Snapshot
from mono3d_ros.monitoring.diagnostics import Health, Status, assess
from mono3d_ros.monitoring.throttled_log import Throttle
from mono3d_ros.node.endpoints import OVERRIDES

PERIOD_S = 1.0
#: A status speaks of the last so many periods.
WINDOW = 5
#: What nobody has said in the log when it happened.
UNSAID = ('silent', 'unpaired', 'superseded')

#: (camera, counters now, counters before) -> Health.
Examine = Callable[[str, Snapshot, Snapshot], Health]


class Reporter:
    """Publishes /diagnostics from the call on, active or not."""

    def __init__(self, node: Any, counters: Mapping[str, Counters], examine: Examine) -> None:
        """
        Begin to report.

        :param node: whose health it is.
        :param counters: of each camera.
        :param examine: tells the health of a camera.
        """
        self._node, self._counters, self._examine = node, counters, examine
        self._throttle = Throttle()
        self._snapshots = {
            camera: deque([each.snapshot()], maxlen=WINDOW) for camera, each in counters.items()
        }
        self._publisher = node.create_publisher(
            DiagnosticArray, '/diagnostics', 10, qos_overriding_options=OVERRIDES
        )
        # a steady clock: with simulated time the node must speak up while there is no /clock
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_S, self._report, clock=clock)

    def _report(self) -> None:
        """Publish, whatever the graph is like: this must not end the node."""
        try:
            self._publish()
        except Exception as err:
            if self._throttle.admits('', 'diagnostics'):
                self._node.get_logger().error(f'diagnostics: {type(err).__name__}: {err}')

    def _publish(self) -> None:
        """Publish a status of each camera."""
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        array.status = [self._status(camera) for camera in self._counters]
        self._publisher.publish(array)

    def _status(self, camera: str) -> DiagnosticStatus:
        now, snapshots = self._counters[camera].snapshot(), self._snapshots[camera]
        health = self._examine(camera, now, snapshots[0])
        snapshots.append(now)
        status = assess(health)
        self._say(camera, status)
        return DiagnosticStatus(
            level=bytes([status.level]),
            name=f'{self._node.get_fully_qualified_name().lstrip("/")}: {camera}',
            message=status.message,
            hardware_id=health.device,
            values=[KeyValue(key=key, value=text) for key, text in status.values.items()],
        )

    def _say(self, camera: str, status: Status) -> None:
        """Write into the log what is not there yet, now and then."""
        for each in status.findings:
            if each.what in UNSAID and self._throttle.admits(camera, each.what):
                self._node.get_logger().warning(f'{camera}: {each.text}')

"""What runs while the node is active: subscriptions, the worker, and what connects them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mono3d_ros.camera_frame import Frame, FrameResult
from mono3d_ros.messages.rectification import as_rectified, rectify
from mono3d_ros.monitoring.throttled_log import Complaints
from mono3d_ros.node.endpoints import Endpoints
from mono3d_ros.node.publishers import CameraOutputs
from mono3d_ros.node.subscriptions import CameraInput, Topics
from mono3d_ros.node.tf_listener import Silence, listen
from mono3d_ros.param_validators import ANY
from mono3d_ros.params import Params
from mono3d_ros.perception.image_buffer import Anchor, LatestFrames
from mono3d_ros.perception.lens_check import Lens, unfamiliar
from mono3d_ros.perception.pipeline import Pipeline
from mono3d_ros.perception.worker import Outside, Worker
from mono3d_ros.tf.camera_poses import Frames, Placing


@dataclass(frozen=True)
class Channel:
    """A camera's way in and out: its topics and its publishers."""

    topics: Topics
    outputs: CameraOutputs


@dataclass(frozen=True)
class Perception:
    """
    What configuring made.

    :param pipeline: the network and what is done with its answers.
    :param lens: what the network has learnt to look through.
    :param device: where it runs.
    """

    pipeline: Pipeline
    lens: Lens | None
    device: str


class Operation:
    """Runs from the call to close; both only by the thread that spins."""

    def __init__(
        self,
        node: Any,
        endpoints: Endpoints,
        perception: Perception,
        channels: Mapping[str, Channel],
    ) -> None:
        """
        Subscribe and start the worker.

        :param node: the Detector; its params may change meanwhile.
        :param endpoints: makes the subscriptions; none must be left of another operation.
        :param perception: what answers images.
        :param channels: of each camera.
        """
        self._node, self._endpoints, self._channels = node, endpoints, channels
        params: Params = node.params
        self._complain = Complaints(node.counters, self._error, self._warn).add
        self._latest = LatestFrames(node.counters, time.monotonic_ns, anchor=_anchor(params))
        self.follow(params)
        self._inputs = {
            name: CameraInput(endpoints, name, each.topics, params.reliability, self._latest)
            for name, each in channels.items()
        }
        frames = _frames(params)
        self._tf = listen(node, endpoints) if frames.wanted else Silence()
        self._placing = Placing(self._tf, frames, self._complain)
        doors = {
            each.name: as_rectified if each.params.rectified else rectify for each in node.cameras
        }
        outside = self._outside(perception.lens)
        self._worker = Worker(self._latest, perception.pipeline, doors, outside)

    def silent_s(self, camera: str) -> float:
        """Tell how long ago the last image of a camera came, or all this began."""
        return self._inputs[camera].silent_s

    def follow(self, params: Params) -> None:
        """Take over what may change while running."""
        self._latest.max_rate_hz = params.max_rate_hz

    def rewind(self) -> None:
        """Forget where things were: time was set back."""
        self._tf.clear()

    def close(self) -> None:
        """End the worker and the subscriptions, and take the boxes away from viewers."""
        self._endpoints.unsubscribe_all()
        self._tf.close()
        self._worker.stop()
        if self._node.context.ok():  # else there is no way to say it any more
            for channel in self._channels.values():
                channel.outputs.clear()

    def _outside(self, lens: Lens | None) -> Outside:
        """Return what the worker may call."""
        return Outside(
            now_ns=self._now_ns,
            place=self._placing.place,
            strange=partial(unfamiliar, lens),
            publish=self._publish,
            report=self._report,
            complain=self._complain,
        )

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _publish(self, result: FrameResult, frame: Frame) -> None:
        self._channels[result.camera].outputs.publish(
            result, frame, self._placing.target(frame), self._node.params.marker_lifetime_s
        )

    def _report(self, camera: str, timings_ms: Mapping[str, float]) -> None:
        self._node.counters[camera].add('answered')
        self._node.counters[camera].record(timings_ms)
        self._channels[camera].outputs.report(timings_ms)

    def _error(self, text: str) -> None:
        if self._node.context.ok():  # else we are shutting down, and it is no fault of the frame
            self._node.get_logger().error(text)

    def _warn(self, text: str) -> None:
        self._node.get_logger().warning(text)


def _anchor(params: Params) -> Anchor | None:
    if params.trigger == ANY:
        return None
    return Anchor(params.trigger, int(params.max_apart_s * 1e9))


def _frames(params: Params) -> Frames:
    """Name the frames that tf is asked for; what nothing depends on is not."""
    several = len(params.cameras) > 1 and params.max_overlap_across < 1
    return Frames(
        target=params.target_frame,
        vehicle=params.vehicle_frame if several else '',
        fixed=params.fixed_frame if params.tracking else '',
    )

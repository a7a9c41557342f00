"""What runs while the node is active: subscriptions, the worker, and what connects them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mono3d_ros.camera_frame import Frame, FrameResult
from mono3d_ros.messages.rectification import passthrough_image, rectify_image
from mono3d_ros.monitoring.throttled_log import IssueLog
from mono3d_ros.node.endpoints import Endpoints
from mono3d_ros.node.publishers import CameraPublishers
from mono3d_ros.node.subscriptions import CameraSubscriptions, ResolvedTopics
from mono3d_ros.node.tf_listener import NullListener, make_listener
from mono3d_ros.param_validators import TRIGGER_ANY
from mono3d_ros.params import Params
from mono3d_ros.perception.image_buffer import ImageBuffer, SyncReference
from mono3d_ros.perception.lens_check import TrainedLens, lens_mismatch
from mono3d_ros.perception.pipeline import Pipeline
from mono3d_ros.perception.worker import Worker, WorkerCallbacks
from mono3d_ros.tf.camera_poses import CameraPoseLookup, FrameNames


@dataclass(frozen=True)
class CameraIO:
    """A camera's way in and out: its topics and its publishers."""

    topics: ResolvedTopics
    publishers: CameraPublishers


@dataclass(frozen=True)
class Perception:
    """
    What configuring made.

    :param pipeline: the network and what is done with its answers.
    :param lens: what the network has learnt to look through.
    :param device: where it runs.
    """

    pipeline: Pipeline
    lens: TrainedLens | None
    device: str


class Runtime:
    """Runs from the call to close; both only by the thread that spins."""

    def __init__(
        self,
        node: Any,
        endpoints: Endpoints,
        perception: Perception,
        camera_io: Mapping[str, CameraIO],
    ) -> None:
        """
        Subscribe and start the worker.

        :param node: the Detector; its params may change meanwhile.
        :param endpoints: makes the subscriptions; none must be left of another operation.
        :param perception: what answers images.
        :param camera_io: of each camera.
        """
        self._node, self._endpoints, self._camera_io = node, endpoints, camera_io
        params: Params = node.params
        self._report_issue = IssueLog(node.counters, self._error, self._warn).add
        self._image_buffer = ImageBuffer(
            node.counters, time.monotonic_ns, reference=_sync_reference(params)
        )
        self.update_params(params)
        self._subscriptions = {
            name: CameraSubscriptions(
                endpoints, name, each.topics, params.reliability, self._image_buffer
            )
            for name, each in camera_io.items()
        }
        frames = _frame_names(params)
        self._tf = make_listener(node, endpoints) if frames.any_requested else NullListener()
        self._camera_poses = CameraPoseLookup(self._tf, frames, self._report_issue)
        doors = {
            each.name: passthrough_image if each.params.rectified else rectify_image
            for each in node.cameras
        }
        outside = self._worker_callbacks(perception.lens)
        self._worker = Worker(self._image_buffer, perception.pipeline, doors, outside)

    def silent_s(self, camera: str) -> float:
        """Tell how long ago the last image of a camera came, or all this began."""
        return self._subscriptions[camera].silent_s

    def update_params(self, params: Params) -> None:
        """Take over what may change while running."""
        self._image_buffer.max_rate_hz = params.max_rate_hz

    def on_time_jump(self) -> None:
        """Forget where things were: time was set back."""
        self._tf.clear()

    def close(self) -> None:
        """End the worker and the subscriptions, and take the boxes away from viewers."""
        self._endpoints.destroy_subscriptions()
        self._tf.close()
        self._worker.stop()
        if self._node.context.ok():  # else there is no way to say it any more
            for channel in self._camera_io.values():
                channel.publishers.clear_markers()

    def _worker_callbacks(self, lens: TrainedLens | None) -> WorkerCallbacks:
        """Return what the worker may call."""
        return WorkerCallbacks(
            now_ns=self._now_ns,
            camera_pose=self._camera_poses.camera_pose,
            check_lens=partial(lens_mismatch, lens),
            publish=self._publish,
            report_timings=self._record_timings,
            report_issue=self._report_issue,
        )

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _publish(self, result: FrameResult, frame: Frame) -> None:
        self._camera_io[result.camera].publishers.publish(
            result,
            frame,
            self._camera_poses.target_frame(frame),
            self._node.params.marker_lifetime_s,
        )

    def _record_timings(self, camera: str, timings_ms: Mapping[str, float]) -> None:
        self._node.counters[camera].add('answered')
        self._node.counters[camera].record_timings(timings_ms)
        self._camera_io[camera].publishers.publish_timings(timings_ms)

    def _error(self, text: str) -> None:
        if self._node.context.ok():  # else we are shutting down, and it is no fault of the frame
            self._node.get_logger().error(text)

    def _warn(self, text: str) -> None:
        self._node.get_logger().warning(text)


def _sync_reference(params: Params) -> SyncReference | None:
    if params.trigger == TRIGGER_ANY:
        return None
    return SyncReference(params.trigger, int(params.max_apart_s * 1e9))


def _frame_names(params: Params) -> FrameNames:
    """Name the frames that tf is asked for; what nothing depends on is not."""
    several = len(params.cameras) > 1 and params.max_overlap_across < 1
    return FrameNames(
        target=params.target_frame,
        vehicle=params.vehicle_frame if several else '',
        fixed=params.fixed_frame if params.tracking else '',
    )

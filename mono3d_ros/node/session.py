"""Detection session of the active node: subscriptions, tf, the worker and its callbacks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from mono3d_ros.camera_frame import Frame, FrameResult
from mono3d_ros.messages.rectification import Rectifier
from mono3d_ros.monitoring.throttled_log import IssueLog
from mono3d_ros.node.endpoints import Endpoints
from mono3d_ros.node.node_context import NodeContext
from mono3d_ros.node.publishers import CameraPublishers
from mono3d_ros.node.subscriptions import CameraSubscriptions, ResolvedTopics
from mono3d_ros.node.tf_listener import NullListener, TfListener, make_listener
from mono3d_ros.param_validators import TRIGGER_ANY
from mono3d_ros.params import LATE_TF_DROP, Params
from mono3d_ros.perception.image_buffer import ImageBuffer, SyncReference
from mono3d_ros.perception.lens_check import TrainedLens, lens_mismatch
from mono3d_ros.perception.pipeline import Pipeline
from mono3d_ros.perception.worker import Worker, WorkerCallbacks
from mono3d_ros.tf.camera_poses import CameraPoseLookup, FrameNames


@dataclass(frozen=True)
class CameraIO:
    """Input topics and publishers of one camera."""

    topics: ResolvedTopics
    publishers: CameraPublishers


@dataclass(frozen=True)
class Perception:
    """
    Model and pipeline, created when the node is configured.

    :param pipeline: model, filters and tracker.
    :param lens: lens that the model was trained for; None if unknown.
    :param device: device that the model runs on.
    """

    pipeline: Pipeline
    lens: TrainedLens | None
    device: str


class DetectorSession:
    """Detects from construction until close; only the spinning thread may call either."""

    def __init__(
        self,
        node: NodeContext,
        endpoints: Endpoints,
        perception: Perception,
        camera_io: Mapping[str, CameraIO],
    ) -> None:
        """
        Subscribe and start the worker.

        :param node: the ROS node; its params may change at run time.
        :param endpoints: creates the subscriptions; must hold none of an earlier session.
        :param perception: processes the images.
        :param camera_io: camera name -> its topics and publishers.
        """
        self._node, self._endpoints, self._camera_io = node, endpoints, camera_io
        params = node.params
        self._report_issue = IssueLog(node.counters, self._error, self._warn).add
        self._image_buffer = ImageBuffer(
            node.counters, time.monotonic_ns, reference=_sync_reference(params)
        )
        self.update_params(params)
        self._subscriptions = {
            name: CameraSubscriptions(
                endpoints,
                name,
                each.topics,
                params.reliability,
                self._image_buffer,
                node.get_logger().info,
            )
            for name, each in camera_io.items()
        }
        frames = _frame_names(params)
        self._tf: TfListener = NullListener()
        if frames.any_requested:
            self._tf = make_listener(node, endpoints, self._note_tf)
        self._camera_poses = CameraPoseLookup(
            self._tf, frames, self._report_issue, params.tf_wait_s
        )
        rectifiers = {
            each.name: Rectifier(each.params.rectified, camera_io[each.name].topics.base)
            for each in node.cameras
        }
        bit_depths = {each.name: each.params.bit_depth for each in node.cameras}
        callbacks = self._worker_callbacks(perception.lens)
        self._worker = Worker(
            self._image_buffer, perception.pipeline, rectifiers, callbacks, bit_depths
        )

    def silent_s(self, camera: str) -> float:
        """Return the seconds since the last image of a camera, or since the subscription began."""
        return self._subscriptions[camera].silent_s

    def follow_types(self, camera: str) -> dict[str, str]:
        """Subscribe to the types that are published; topic of another type -> description."""
        return self._subscriptions[camera].follow_types()

    def update_params(self, params: Params) -> None:
        """Apply the parameters that may change at run time."""
        self._image_buffer.max_rate_hz = params.max_rate_hz

    def on_time_jump(self) -> None:
        """Clear the transforms after time was set back."""
        self._tf.clear()

    def close(self) -> None:
        """Unsubscribe, stop the worker and delete the boxes in viewers."""
        self._endpoints.destroy_subscriptions()
        self._tf.close()
        self._worker.stop()
        if self._node.context.ok():  # otherwise nothing can be published any more
            for each in self._camera_io.values():
                each.publishers.clear_markers()

    def _worker_callbacks(self, lens: TrainedLens | None) -> WorkerCallbacks:
        """Build the functions that the worker calls."""
        return WorkerCallbacks(
            now_ns=self._now_ns,
            is_wanted=self._is_wanted,
            camera_pose=self._camera_poses.camera_pose,
            check_lens=partial(lens_mismatch, lens),
            publish=self._publish,
            report_timings=self._record_timings,
            report_issue=self._report_issue,
        )

    def _note_tf(self, text: str) -> None:
        for camera in self._camera_io:
            self._report_issue(camera, 'tf_note', text)

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _is_wanted(self) -> bool:
        """Return whether to run the network: a parameter says so, or any output has a reader."""
        if self._node.params.run_without_subscribers or not self._node.context.ok():
            return True
        return any(each.publishers.have_subscribers for each in self._camera_io.values())

    def _publish(self, result: FrameResult, frame: Frame) -> None:
        target = self._camera_poses.target_frame(frame)
        params = self._node.params
        if target is None and params.target_frame and params.late_tf == LATE_TF_DROP:
            self._node.counters[result.camera].add(
                'not_placed', f'no transform to {params.target_frame} in time; see tf_wait_s'
            )
            return
        self._camera_io[result.camera].publishers.publish(
            result, frame, target, params.marker_lifetime_s
        )

    def _record_timings(self, camera: str, timings_ms: Mapping[str, float]) -> None:
        self._node.counters[camera].add('answered')
        self._node.counters[camera].record_timings(timings_ms)
        self._camera_io[camera].publishers.publish_timings(timings_ms)

    def _error(self, text: str) -> None:
        if self._node.context.ok():  # otherwise the shutdown, not the frame, caused the error
            self._node.get_logger().error(text)

    def _warn(self, text: str) -> None:
        self._node.get_logger().warning(text)


def _sync_reference(params: Params) -> SyncReference | None:
    if params.trigger == TRIGGER_ANY:
        return None
    return SyncReference(params.trigger, int(params.max_apart_s * 1e9))


def _frame_names(params: Params) -> FrameNames:
    """Return the frames to look up in tf; a name is empty where no feature needs it."""
    several = len(params.cameras) > 1 and params.max_overlap_across < 1
    return FrameNames(
        target=params.target_frame,
        vehicle=params.vehicle_frame if several else '',
        fixed=params.fixed_frame if params.tracking else '',
    )

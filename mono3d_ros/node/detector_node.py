"""
ROS 2 lifecycle node `detector`: subscribes to camera images and publishes 3D boxes.

One thread spins and stores incoming messages; a Worker thread processes the newest images.
on_configure loads the model and warms it up; on_activate subscribes and starts the worker. With
parameter autostart, the default, the node makes both transitions itself.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import rclpy
from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.utilities import get_rmw_implementation_identifier
from std_srvs.srv import SetBool

from mono3d_ros import process_signals
from mono3d_ros.monitoring.counters import Counters, CounterSnapshot
from mono3d_ros.monitoring.diagnostics import HealthInput, missing_result
from mono3d_ros.monitoring.transport_advice import lost_images_advice
from mono3d_ros.node import parameters, publishers, tf_listener
from mono3d_ros.node.diagnostics_publisher import DiagnosticsPublisher
from mono3d_ros.node.endpoints import Endpoints
from mono3d_ros.node.session import CameraIO, DetectorSession, Perception
from mono3d_ros.node.subscriptions import resolve_topics
from mono3d_ros.perception import lens_check, model_loading
from mono3d_ros.perception.pipeline import Pipeline

EXIT_UNUSABLE, EXIT_NO_IMAGES = 2, 3
#: Smaller steps back are jitter of /clock, at the start of a replay for example; tf ignores them.
MIN_STEP_BACK_S = 0.1
#: A node that ends sooner after its activation was interrupted, before images could arrive.
MIN_ACTIVE_S = 3.0


class DetectorNode(LifecycleNode):
    """Lifecycle node that detects 3D boxes in camera images and publishes them."""

    def __init__(
        self, load: model_loading.ModelLoader = model_loading.load_model, **options: Any
    ) -> None:
        """
        Declare the parameters and start publishing diagnostics.

        :param load: (path, device, precision) -> Predictor; tests pass a fake one.
        :param options: keyword arguments of rclpy's LifecycleNode.
        :raises ValueError: for an invalid parameter; rclpy raises ParameterException for some.
        """
        super().__init__('detector', **options)
        self.params = parameters.declare_params(self)
        self.cameras = parameters.declare_cameras(self, self.params)
        self.counters = {camera.name: Counters() for camera in self.cameras}
        self._unknown_parameters: tuple[str, ...] = ()
        self._report_unknown_parameters()
        self._load = load
        self._endpoints = Endpoints(self)
        self._perception: Perception | None = None
        self._camera_io: dict[str, CameraIO] = {}
        self._session: DetectorSession | None = None
        self._active, self._activated_s = False, math.inf
        self._diagnostics_publisher = DiagnosticsPublisher(self, self.counters, self._health_input)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.create_service(SetBool, '~/enable', self._on_enable)
        backwards = JumpThreshold(
            min_forward=None,
            min_backward=Duration(seconds=-MIN_STEP_BACK_S),
            on_clock_change=False,
        )
        self._jump_handle = self.get_clock().create_jump_callback(
            backwards, post_callback=self._on_time_jump
        )

    # transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, warm it up and create the publishers."""
        if not self._attempt(self._configure):
            self._release_model()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker."""
        if not self._attempt(self._start_session):
            self._endpoints.destroy_subscriptions()
            return TransitionCallbackReturn.FAILURE
        self._active, self._activated_s = True, time.monotonic()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker."""
        self.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model and destroy the publishers."""
        self._release_model()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker, in any state."""
        self.stop()
        return super().on_shutdown(state)

    def stop(self) -> None:
        """Unsubscribe and stop the worker; only the spinning thread may call this."""
        self._active = False
        self._stop_session()

    def _attempt(self, step: Callable[[], None]) -> bool:
        """Run a step of a transition; log an exception, which rclpy would hide; return success."""
        try:
            step()
        except Exception as err:
            text = ' '.join(str(err).split())
            expected = isinstance(err, ValueError) and text
            if self.context.ok():  # otherwise the shutdown, not the step, caused the exception
                self.get_logger().fatal(text if expected else f'{type(err).__name__}: {text}')
            return False
        return True

    def _configure(self) -> None:
        """Load the model that the parameters name and create the publishers of each camera."""
        topics = {camera.name: resolve_topics(self, camera) for camera in self.cameras}
        self._perception = self._make_perception()
        self._camera_io = {
            camera.name: CameraIO(
                topics[camera.name], publishers.CameraPublishers(self._endpoints, camera.prefix)
            )
            for camera in self.cameras
        }
        for topic, type_name in publishers.missing_message_types().items():
            package = type_name.partition('/')[0]
            self.get_logger().info(f'topic {topic} is not published: {package} is not installed')

    def _release_model(self) -> None:
        """Release the model and destroy the publishers: the reverse of _configure."""
        self._perception, self._camera_io = None, {}
        self._endpoints.destroy_publishers()

    def _make_perception(self) -> Perception:
        """Load the model, build the pipeline and run the model once to warm it up."""
        params, log = self.params, self.get_logger()
        path = model_loading.find_model(params.model, get_package_share_directory)
        predictor = self._load(path, params.device, params.precision)
        device = predictor.device
        if device.startswith('cpu') and params.require_cuda:
            raise ValueError('parameter require_cuda: there is no CUDA device')
        pipeline = Pipeline.from_params(predictor, params, time.perf_counter)
        if self._is_cpu_fallback(device):
            log.warning('NO CUDA DEVICE: running on the CPU, which is many times slower')
        start_s = time.perf_counter()
        model_loading.warm_up(predictor, len(self.cameras))
        warm_up_s = time.perf_counter() - start_s
        classes = ', '.join(pipeline.classes)
        log.info(f'{path} on {device} detects {classes}; warm-up took {warm_up_s:.2f} s')
        return Perception(pipeline, lens_check.trained_lens(predictor.spec), device)

    def _is_cpu_fallback(self, device: str) -> bool:
        return device.startswith('cpu') and self.params.device == 'auto'

    def _start_session(self) -> None:
        """Subscribe and start the worker."""
        assert self._perception is not None, 'activated before it was configured'
        self._session = DetectorSession(self, self._endpoints, self._perception, self._camera_io)
        topics = ', '.join(str(each.topics) for each in self._camera_io.values())
        self.get_logger().info(f'listening to {topics}')
        self._report_unknown_parameters(qos_overrides=True)

    def _stop_session(self) -> None:
        """Close the session that _start_session created, if there is one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    # callbacks other than those for images

    def _on_enable(self, request: Any, response: Any) -> Any:
        """Enable or disable detection; while disabled, the node does not subscribe to images."""
        if not self._active:
            response.success, response.message = False, 'the node is not active'
        elif not request.data:
            self._stop_session()
            response.success, response.message = True, 'switched off'
        elif self._session is None and not self._attempt(self._start_session):
            self._endpoints.destroy_subscriptions()
            response.success, response.message = False, 'could not start, see the log'
        else:
            response.success, response.message = True, 'switched on'
        return response

    def set_parameters_atomically(self, parameter_list: list[Any]) -> SetParametersResult:
        """
        Set parameters all at once; those that have the value already need not be changeable.

        So `ros2 param load` accepts what `ros2 param dump` wrote.
        """
        changed = [
            parameters.with_list_type(each)
            for each in parameter_list
            if not self.has_parameter(each.name)
            or not parameters.is_same_value(each.value, self.get_parameter(each.name).value)
        ]
        if not changed:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changed)

    def _report_unknown_parameters(self, *, qos_overrides: bool = False) -> None:
        """
        Log the parameters that were set in vain, such as misspelt ones, once.

        :param qos_overrides: those of topics are declared with their endpoints, not before.
        """
        given = [
            name
            for name in getattr(self, '_parameter_overrides', {})
            if qos_overrides or not name.startswith(parameters.QOS_PREFIX)
        ]
        declared = self.get_parameters_by_prefix('')
        unknown = (
            *parameters.misspelt_names(given, declared),
            *parameters.unused_names(self.params),
        )
        if unknown != self._unknown_parameters and unknown:
            self.get_logger().warning(f'unknown parameters: {", ".join(unknown)}')
        self._unknown_parameters = unknown

    def cameras_without_result(self) -> list[str]:
        """Return a line for each camera of which the active node published no image's result."""
        if time.monotonic() - self._activated_s < MIN_ACTIVE_S:
            return []
        texts = (missing_result(name, each.snapshot()) for name, each in self.counters.items())
        return [text for text in texts if text]

    def _on_set_parameters(self, changes: Iterable[Any]) -> SetParametersResult:
        """Apply parameters that may change at run time; reject invalid ones with the reason."""
        try:
            params = parameters.apply_changes(self.params, changes)
            if self._perception is not None:
                self._perception.pipeline.update_params(params)
        except ValueError as err:
            return SetParametersResult(successful=False, reason=str(err))
        self.params = params
        if self._session is not None:
            self._session.update_params(params)
        return SetParametersResult(successful=True)

    def _on_time_jump(self, jump: TimeJump) -> None:
        """Clear the transforms when simulated time jumps backwards, as when a bag loops."""
        seconds = -jump.delta.nanoseconds / 1e9
        self.get_logger().info(f'time was set back by {seconds:.1f} s')
        if self._session is not None:
            self._session.on_time_jump()

    def _health_input(
        self, camera: str, now: CounterSnapshot, before: CounterSnapshot
    ) -> HealthInput:
        """Return the state of the node for one camera, from which diagnostics are derived."""
        session, camera_io = self._session, self._camera_io.get(camera)
        images = tuple(camera_io.topics.images) if camera_io else ()
        topics = (
            (*images, camera_io.topics.info, *camera_io.publishers.topics) if camera_io else ()
        )
        device = self._perception.device if self._perception else ''
        return HealthInput(
            active=self._active,
            enabled=session is not None,
            silent_s=session.silent_s(camera) if session else 0.0,
            image_topics=images,
            publishers=sum(self.count_publishers(each) for each in images),
            device=device,
            cpu_fallback=self._is_cpu_fallback(device),
            qos_mismatches=self._endpoints.qos_mismatches(
                (*topics, tf_listener.TF_TOPIC, tf_listener.TF_STATIC_TOPIC)
            ),
            transport_advice=lost_images_advice(get_rmw_implementation_identifier(), os.environ),
            missing_types=publishers.missing_message_types(),
            now=now,
            before=before,
            unknown_parameters=self._unknown_parameters,
            wrong_types=session.follow_types(camera) if session else {},
            info_hint=self._endpoints.missing_hint(camera_io.topics.info) if camera_io else '',
        )


def main(
    args: list[str] | None = None, load: model_loading.ModelLoader = model_loading.load_model
) -> int:
    """
    Run the node until SIGINT or SIGTERM.

    :param args: command line, ROS arguments included; sys.argv by default.
    :param load: see DetectorNode.
    :return: exit code: 0, 2 if a parameter or the model is unusable, or 3 if parameter
        expect_images is true and nothing of a camera was published.
    """
    process_signals.interrupt_once()
    try:
        return _run(args, load)
    except KeyboardInterrupt:  # while the node was being built
        return 0
    finally:
        process_signals.ignore_signals()


def _run(args: list[str] | None, load: model_loading.ModelLoader) -> int:
    """Run the node and return its exit code, see main."""
    is_initialised = False
    try:
        rclpy.init(args=args)
        is_initialised = True
        node = DetectorNode(load)
    except (ValueError, RuntimeError, ParameterException) as err:
        if is_initialised and not rclpy.ok():  # a signal, not the node, caused the exception
            return 0
        get_logger('detector').fatal(' '.join(str(err).split()))
        rclpy.try_shutdown()
        return EXIT_UNUSABLE
    try:
        # created before the slow configure: a signal must not interrupt its constructor
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.params.autostart and not _configure_and_activate(node):
            return EXIT_UNUSABLE if rclpy.ok() else 0
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:  # rclpy raises it if a signal arrives between two of its steps
        if rclpy.ok():
            raise
    finally:
        process_signals.ignore_signals()
        node.stop()
        node.destroy_node()
        rclpy.try_shutdown()
    missing = node.cameras_without_result() if node.params.expect_images else []
    for text in missing:
        get_logger('mono3d_ros').fatal(text)  # that of the node would publish to /rosout
    return EXIT_NO_IMAGES if missing else 0


def _configure_and_activate(node: DetectorNode) -> bool:
    """Configure and activate the node; return whether both succeeded."""
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

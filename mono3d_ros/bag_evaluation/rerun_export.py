"""
Export detections to rerun's viewer: an .rrd recording with boxes in 3D and on the images.

rerun-sdk is optional: only RerunRecording imports it.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from mono3d_ros.bag_evaluation.offline_detector import ProcessedImage
from mono3d_ros.bags.drive_writer import LABELLED_CLASSES
from mono3d_ros.camera_frame import Frame, identity_target
from mono3d_ros.messages.detections import to_ros_boxes
from mono3d_ros.messages.markers import object_label
from mono3d_ros.perception.tracker import UPRIGHT_T_CAM
from stl_core.files import atomic_file
from stl_core.geometry import project_points
from stl_core.types import Array, Objects3D
from stl_core.visualization.style import TRUTH_COLOUR, class_colour

APPLICATION_ID, WORLD = 'mono3d_ros', 'world'
JPEG_QUALITY = 85
POINT_M = 0.03
#: Name of the time axis, the stamps of the images.
TIMELINE = 'stamp'


class RerunError(ValueError):
    """A recording cannot be made; the message gives the reason and the remedy."""


class RerunRecording:
    """
    Write a new .rrd file atomically; use it in a with statement.

    Call the recording with every processed image. The camera pose is that in the fixed frame if
    /tf has it, else that in the vehicle frame, else upright at the origin.
    """

    def __init__(self, path: Path) -> None:
        """
        Import rerun and check the path; __enter__ opens the file.

        :param path: the file to create.
        :raises RerunError: if rerun is not installed or the path exists.
        """
        self._rerun = _import_rerun()
        if path.exists():
            raise RerunError(f'{path}: exists already and is not overwritten; choose a new file')
        self._path, self._file = path, atomic_file(path)
        self._cameras: list[str] = []

    def __enter__(self) -> RerunRecording:
        """Open a temporary file next to the path."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._rerun.RecordingStream(APPLICATION_ID, recording_id=self._path.stem)
        self._stream.save(self._file.__enter__())
        self._log('', self._rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Move the finished file to its path, or delete it after an error."""
        if kind is None:
            self._stream.send_blueprint(self._blueprint())
        self._stream.disconnect()
        self._file.__exit__(kind, error, traceback)

    def __call__(self, processed: ProcessedImage) -> None:
        """Add an image with its detections, labels and scan."""
        result, camera = processed.result, processed.result.camera
        if camera not in self._cameras:
            self._cameras.append(camera)
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(result.stamp_ns, 'ns'))
        self._log(camera, self._to_transform3d(_camera_pose(processed)))
        self._log_image(camera, processed.frame)
        truth = (
            Objects3D.empty()
            if processed.sample.truth is None
            else processed.sample.truth.to_objects(LABELLED_CLASSES)
        )
        names = [result.classes[i] for i in result.objects.class_id]
        colours = [class_colour(name) for name in names]
        labels = [object_label(result, row) for row in range(len(names))]
        self._log(f'{camera}/boxes', self._to_boxes3d(result.objects, colours, labels))
        self._log(f'{camera}/truth', self._to_boxes3d(truth, [TRUTH_COLOUR] * len(truth), None))
        points = self._rerun.Points3D(_points_in_image(processed), radii=POINT_M)
        self._log(f'{camera}/points', points)
        velocity_m_s = result.velocity_m_s
        if velocity_m_s is not None:
            arrows = {
                'vectors': velocity_m_s,
                'origins': result.objects.center_m,
                'colors': colours,
            }
            self._log(f'{camera}/velocity', self._rerun.Arrows3D(**arrows))

    def _log_image(self, camera: str, frame: Frame) -> None:
        """Add an image with its pinhole camera and the position of the optical centre."""
        height, width = frame.image.shape[:2]
        K, quality = frame.P[:, :3], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        camera_T_centre = np.eye(4)
        camera_T_centre[:3, 3] = -np.linalg.solve(K, frame.P[:, 3])
        _, jpeg = cv2.imencode('.jpg', cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR), quality)
        pinhole = self._rerun.Pinhole(image_from_camera=K, width=width, height=height)
        image = self._rerun.EncodedImage(contents=jpeg.tobytes(), media_type='image/jpeg')
        self._log(f'{camera}/image', self._to_transform3d(camera_T_centre), pinhole, image)

    def _to_transform3d(self, matrix: Array) -> Any:
        return self._rerun.Transform3D(translation=matrix[:3, 3], mat3x3=matrix[:3, :3])

    def _to_boxes3d(
        self, objects: Objects3D, colours: list[tuple[int, int, int]], labels: list[str] | None
    ) -> Any:
        """Return boxes in the camera frame; without objects it clears the previous boxes."""
        boxes = to_ros_boxes(objects, identity_target(''))
        return self._rerun.Boxes3D(
            centers=boxes.center_m,
            half_sizes=boxes.size_lwh_m / 2,
            quaternions=boxes.quaternion_xyzw,
            colors=colours,
            labels=labels,
        )

    def _blueprint(self) -> Any:
        """Return the layout: the 3D view next to the images with their boxes."""
        blueprint = self._rerun.blueprint
        images = [
            blueprint.Spatial2DView(
                origin=f'{WORLD}/{camera}/image',
                contents=[
                    '$origin',
                    *(f'/{WORLD}/{camera}/{each}' for each in ('boxes', 'truth')),
                ],
                name=camera,
            )
            for camera in sorted(self._cameras)
        ]
        world = blueprint.Spatial3DView(origin=WORLD, name=WORLD)
        return blueprint.Blueprint(blueprint.Horizontal(world, blueprint.Grid(*images)))

    def _log(self, path: str, *parts: Any, static: bool = False) -> None:
        self._stream.log('/'.join(filter(None, (WORLD, path))), *parts, static=static)


def _import_rerun() -> Any:
    try:
        import rerun.blueprint  # type: ignore[import-not-found]
    except ImportError as err:
        raise RerunError(
            'a recording needs rerun, which is not installed: pip install rerun-sdk'
        ) from err
    return rerun


def _camera_pose(processed: ProcessedImage) -> Array:
    """Return world_T_camera: in the fixed frame, else in the vehicle frame, else upright."""
    pose = processed.sample.camera_pose
    for world_T_camera in (pose.fixed_T_cam, pose.vehicle_T_cam):
        if world_T_camera is not None:
            return world_T_camera
    return UPRIGHT_T_CAM


def _points_in_image(processed: ProcessedImage) -> Array:
    """Return the (K, 3) float32 points of the scan in the image; other cameras add the rest."""
    if processed.points_m is None:
        return np.zeros((0, 3), np.float32)
    height, width = processed.frame.image.shape[:2]
    pixels, w = project_points(processed.points_m, processed.frame.P)
    inside = (w > 0) & (pixels >= 0).all(1) & (pixels < [width, height]).all(1)
    return processed.points_m[inside].astype(np.float32)

"""
The command kitti_to_bag: labelled KITTI frames as a recorded drive, without ROS.

Each frame becomes an image, its camera_info, the transform to the LiDAR and, where the data set
has them, a point cloud and the labelled boxes, all with one stamp. P2 goes into camera_info with
all its twelve numbers, so boxes are in the frame that KITTI labels are in (rectified camera 0).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from mono3d_ros import messages
from mono3d_ros.bag import BagError, BagWriter, maker, typestore
from mono3d_ros.stream import FrameResult
from stl_core.data import kitti
from stl_core.progress import progress_bar
from stl_core.types import Array

EXIT_BAD_INPUT = 2

#: When the first frame was taken; fixed, so that the same data makes the same bag.
START_NS = 1_317_000_000_000_000_000

#: Every class that KITTI labels; DontCare is an area, not an object.
LABELLED = (*kitti.CLASSES, 'Van', 'Truck', 'Person_sitting', 'Tram', 'Misc')

#: sensor_msgs/msg/PointField
FLOAT32 = 7
POINT_FIELDS = ('x', 'y', 'z', 'intensity')


@dataclass(frozen=True)
class Layout:
    """
    How the bag names things.

    :param namespace: of the camera's topics, such as '/camera'.
    :param frame_id: coordinate frame of the camera: x right, y down, z forward.
    :param lidar_frame_id: coordinate frame of the LiDAR: x forward, y left, z up.
    :param rate_hz: frames a second.
    :param compressed: write the image files' own bytes (CompressedImage), not pixels.
    """

    namespace: str = '/camera'
    frame_id: str = 'camera_optical'
    lidar_frame_id: str = 'velodyne'
    rate_hz: float = 10.0
    compressed: bool = False

    @property
    def topics(self) -> dict[str, str]:
        """Topic -> message type, in the order they are written for each frame."""
        image = {f'{self.namespace}/image_raw': 'sensor_msgs/msg/Image'}
        if self.compressed:
            image = {f'{self.namespace}/image_raw/compressed': 'sensor_msgs/msg/CompressedImage'}
        return {
            f'{self.namespace}/camera_info': 'sensor_msgs/msg/CameraInfo',
            **image,
            '/tf': 'tf2_msgs/msg/TFMessage',
            '/velodyne_points': 'sensor_msgs/msg/PointCloud2',
            f'{self.namespace}/ground_truth': 'visualization_msgs/msg/MarkerArray',
        }


def write_bag(
    frames: Sequence[kitti.FrameFiles],
    path: str | Path,
    layout: Layout,
    told: Callable[[], None] = lambda: None,
) -> None:
    """
    Write frames into a new bag; it appears whole or not at all.

    :param frames: in their order.
    :param path: folder of the bag.
    :param layout: names and rate.
    :param told: called after each frame.
    :raises DataError: for a file that is missing or malformed, naming it.
    :raises BagError: where the bag cannot be written.
    """
    store = typestore()
    new = maker(store)
    if layout.rate_hz <= 0:
        raise BagError(f'{path}: the rate must be above 0 frames a second, got {layout.rate_hz:g}')
    with BagWriter(path, store) as bag:
        for topic, kind in layout.topics.items():
            bag.add_topic(topic, kind)
        previous: tuple[int, ...] = ()
        for number, files in enumerate(frames):
            stamp_ns = START_NS + round(number * 1e9 / layout.rate_hz)
            parts, previous = _frame_messages(files, stamp_ns, layout, previous, new)
            for topic, message in zip(layout.topics, parts, strict=True):
                if message is not None:
                    bag.write(topic, stamp_ns, message)
            told()


def _frame_messages(
    files: kitti.FrameFiles,
    stamp_ns: int,
    layout: Layout,
    previous: tuple[int, ...],
    new: messages.New,
) -> tuple[list[Any], tuple[int, ...]]:
    """Make one message a topic, None where the data set has none; and the ids of the boxes."""
    calib, image = kitti.read_calib(files.calib), kitti.read_image(files.image_2)
    header = messages.to_header(stamp_ns, layout.frame_id, new)
    lidar_header = messages.to_header(stamp_ns, layout.lidar_frame_id, new)
    truth = _ground_truth(files, stamp_ns, layout) if files.label_2 else None
    parts = [
        _camera_info(calib.P2, image.shape[1], image.shape[0], header, new),
        _compressed(files.image_2, header, new) if layout.compressed else _raw(image, header, new),
        _transform(calib.cam_T_velo, layout.frame_id, lidar_header, new),
        _cloud(kitti.read_velodyne(files.velodyne), lidar_header, new) if files.velodyne else None,
        messages.markers(truth, previous, new, lifetime_s=0.0) if truth else None,
    ]
    return parts, truth.ids if truth else ()


def _raw(image: Array, header: Any, new: messages.New) -> Any:
    height, width, _ = image.shape
    return new(
        'sensor_msgs/msg/Image',
        header=header,
        height=height,
        width=width,
        encoding='rgb8',
        step=3 * width,
        data=image,
    )


def _compressed(path: Path, header: Any, new: messages.New) -> Any:
    kind = 'png' if path.suffix == '.png' else 'jpeg'
    return new(
        'sensor_msgs/msg/CompressedImage', header=header, format=kind, data=path.read_bytes()
    )


def _camera_info(P: Array, width: int, height: int, header: Any, new: messages.New) -> Any:
    return new(
        'sensor_msgs/msg/CameraInfo',
        header=header,
        width=width,
        height=height,
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=P[:, :3],
        r=np.eye(3),
        p=P,
    )


def _transform(cam_T_velo: Array, camera: str, header: Any, new: messages.New) -> Any:
    """Make the pose of the camera in the LiDAR's frame, as tf wants it: child in parent."""
    velo_T_cam = np.linalg.inv(cam_T_velo)
    # KITTI prints rotations to 7 digits; the nearest true rotation has a quaternion
    u, _, vt = np.linalg.svd(velo_T_cam[:3, :3])
    x, y, z, w = Rotation.from_matrix(u @ vt).as_quat().tolist()
    tx, ty, tz = velo_T_cam[:3, 3].tolist()
    transform = new(
        'geometry_msgs/msg/Transform',
        translation=new('geometry_msgs/msg/Vector3', x=tx, y=ty, z=tz),
        rotation=new('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w),
    )
    stamped = new(
        'geometry_msgs/msg/TransformStamped',
        header=header,
        child_frame_id=camera,
        transform=transform,
    )
    return new('tf2_msgs/msg/TFMessage', transforms=[stamped])


def _cloud(points: Array, header: Any, new: messages.New) -> Any:
    fields = [
        new('sensor_msgs/msg/PointField', name=name, offset=4 * i, datatype=FLOAT32, count=1)
        for i, name in enumerate(POINT_FIELDS)
    ]
    return new(
        'sensor_msgs/msg/PointCloud2',
        header=header,
        height=1,
        width=len(points),
        fields=fields,
        point_step=16,
        row_step=16 * len(points),
        data=points.tobytes(),
        is_dense=True,
    )


def _ground_truth(files: kitti.FrameFiles, stamp_ns: int, layout: Layout) -> FrameResult:
    """Read the labels as if they were a result, so that the same code draws them."""
    objects = kitti.read_labels(files.label_2).select(LABELLED) if files.label_2 else None
    assert objects is not None
    return FrameResult(
        camera='ground_truth',
        stamp_ns=stamp_ns,
        frame_id=layout.frame_id,
        objects=objects,
        classes=LABELLED,
        ids=tuple(range(len(objects))),
        timings_ms={},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 and one line for bad input."""
    parser = argparse.ArgumentParser('kitti_to_bag', description=__doc__.split('\n')[1])
    parser.add_argument('root', type=Path, help='folder with image_2, calib, label_2, velodyne')
    parser.add_argument('out', type=Path, help='folder of the new bag (MCAP)')
    parser.add_argument('--rate', type=float, default=10.0, help='frames a second')
    parser.add_argument('--camera-ns', default='/camera', help='namespace of the topics')
    parser.add_argument('--frame-id', default='camera_optical', help='frame of the camera')
    parser.add_argument('--ids', nargs='*', default=[], help='frames wanted; all by default')
    parser.add_argument('--compressed', action='store_true', help='CompressedImage, not Image')
    args = parser.parse_args(argv)
    layout = Layout(
        namespace='/' + args.camera_ns.strip('/'),
        frame_id=args.frame_id,
        rate_hz=args.rate,
        compressed=args.compressed,
    )
    try:
        frames = kitti.find_frames(_source(args.root), tuple(args.ids))
        with progress_bar() as bar:
            task = bar.add_task('writing', total=len(frames), note=str(args.out))
            write_bag(frames, args.out, layout, lambda: bar.advance(task))
    except (kitti.DataError, BagError) as err:
        print(f'kitti_to_bag: {err}', file=sys.stderr)
        return EXIT_BAD_INPUT
    print(f'{len(frames)} frames: {args.out}')
    return 0


def _source(root: Path) -> kitti.Source:
    """Name the folders of a KITTI root; labels and scans only where there are any."""
    label_2, velodyne = root / 'label_2', root / 'velodyne'
    return kitti.Source(
        image_2=str(root / 'image_2'),
        calib=str(root / 'calib'),
        label_2=str(label_2) if label_2.is_dir() else '',
        velodyne=str(velodyne) if velodyne.is_dir() else '',
    )


if __name__ == '__main__':
    sys.exit(main())

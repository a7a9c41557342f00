"""
The command kitti_to_bag: convert labelled KITTI frames to a bag, without ROS.

ROOT in the tracking layout (image_02, also below ROOT/training) is a drive: frames keep their
times, /tf holds the motion of the car (odom -> base_link), /tf_static holds the sensor poses, and
each camera has its own namespace. ROOT in the object layout (image_2) is a set of unrelated
frames: they are written one after the other, each with its own transform to the LiDAR on /tf.
camera_info holds all twelve numbers of P2, so boxes are in the frame of KITTI's labels (rectified
camera 0).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mono3d_ros.bags import drive_writer
from mono3d_ros.bags.bag_io import STORAGES, BagError, BagWriter, require_absent
from mono3d_ros.bags.drive_writer import LIDAR_FRAME, CameraImage, CameraName, DriveFrame
from mono3d_ros.bags.message_types import make_message_factory, make_typestore
from mono3d_ros.tf.transforms import Pose
from stl_core.cli.command import CommandParser, run_command
from stl_core.data.frame_source import DataError
from stl_core.data.sources import kitti, kitti_calib, kitti_tracking
from stl_core.data.sources.kitti_tracking import NO_TRACKS, FrameTracks
from stl_core.progress import progress_bar

#: Stamp of frame 0; fixed, so that the same data makes the same bag.
START_NS = 1_317_000_000_000_000_000

ODOM_FRAME, BASE_FRAME = 'odom', 'base_link'
#: Camera name of frames in the object layout.
DEFAULT_CAMERA = 'camera'
ROS_NAME_PATTERN = re.compile(r'[A-Za-z]\w*(/[A-Za-z]\w*)*', re.ASCII)


@dataclass(frozen=True)
class ConversionOptions:
    """
    Which frames to convert, their rate and the names of the camera.

    :param ids: names of the frames to convert; all frames if empty.
    :param sequence: name of the drive, if the folder has several.
    :param rate_hz: frames per second.
    :param camera: name of the front or only camera; empty for the default of the layout.
    :param frame_id: its coordinate frame; empty for NAME_optical.
    """

    ids: tuple[str, ...] = ()
    sequence: str = ''
    rate_hz: float = 10.0
    camera: str = ''
    frame_id: str = ''


@dataclass(frozen=True)
class BagFormat:
    """
    Image encoding and storage format of a bag.

    :param image_encoding: RAW or COMPRESSED of drive_writer.
    :param storage: a key of STORAGES.
    """

    image_encoding: drive_writer.ImageEncoding = drive_writer.RAW
    storage: str = 'mcap'


def convert_kitti(root: Path, out: Path, options: ConversionOptions, bag_format: BagFormat) -> int:
    """
    Convert a KITTI folder, of either layout, to a new bag, complete or not at all.

    :param root: the KITTI folder.
    :param out: folder of the bag.
    :param options: frames, rate and names.
    :param bag_format: image encoding and storage.
    :return: number of frames written.
    :raises DataError: for a missing or malformed file; the message names it.
    :raises BagError: for an invalid name or rate, or if the bag cannot be written.
    """
    require_absent(out)
    if not 0 < options.rate_hz < np.inf:
        raise BagError(f'the rate must be above 0 frames per second, got {options.rate_hz:g}')
    read = _read_drive if kitti_tracking.is_drive(root) else _read_object_frames
    frames, static, count = read(root, options)
    store = make_typestore()
    with BagWriter(out, store, storage=STORAGES[bag_format.storage]) as bag, progress_bar() as bar:
        task = bar.add_task('writing', total=count, note=str(out))
        tracked = bar.track(frames, total=count, task_id=task)
        drive_writer.write_drive(
            bag, tracked, static, bag_format.image_encoding, make_message_factory(store)
        )
    return count


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that parse_format reads."""
    parser.add_argument(
        '--compressed', action='store_true', help='write CompressedImage, not Image'
    )
    parser.add_argument(
        '--storage', choices=tuple(STORAGES), default='mcap', help='storage format'
    )


def parse_format(args: argparse.Namespace) -> BagFormat:
    """Return the bag format that the command line selects."""
    return BagFormat(
        drive_writer.COMPRESSED if args.compressed else drive_writer.RAW, args.storage
    )


def _read_drive(
    root: Path, options: ConversionOptions
) -> tuple[Iterable[DriveFrame], list[Pose], int]:
    """Return the frames of a drive, the poses of its sensors and the number of frames."""
    drive = kitti_tracking.read_drive(root, options.sequence)
    front, *others = drive.cameras
    names = [_camera_name(options.camera or front.name, options.frame_id)]
    names += [_camera_name(camera.name, '') for camera in others]
    numbers = _select_frames(front.images, options.ids)
    static = [
        Pose(BASE_FRAME, name.frame_id, drive.base_T_cam(camera))
        for name, camera in zip(names, drive.cameras, strict=True)
    ]
    static.append(Pose(BASE_FRAME, LIDAR_FRAME, drive.base_T_velo))

    def make_frame(number: int) -> DriveFrame:
        """Return the images, scan and pose of a frame."""
        images = tuple(
            CameraImage(
                camera=name,
                image_path=camera.images[number],
                P=camera.calib.P2,
                truth=None if camera.tracks is None else camera.tracks.get(number, NO_TRACKS),
            )
            for name, camera in zip(names, drive.cameras, strict=True)
        )
        poses = (
            ()
            if drive.odom_T_base is None
            else (Pose(ODOM_FRAME, BASE_FRAME, drive.odom_T_base[number]),)
        )
        stamp_ns = _frame_stamp_ns(number, options)
        return DriveFrame(stamp_ns, images, drive.scans.get(number), poses)

    return map(make_frame, numbers), static, len(numbers)


def _select_frames(images: Mapping[int, Path], ids: Sequence[str]) -> list[int]:
    """Return the numbers of the selected frames, in order of time."""
    numbers = {path.stem: number for number, path in images.items()}
    if missing := [each for each in ids if each not in numbers]:
        folder = next(iter(images.values())).parent
        raise DataError(f'{folder / missing[0]}.png: listed but missing')
    return sorted(numbers[each] for each in ids) if ids else list(images)


def _read_object_frames(
    root: Path, options: ConversionOptions
) -> tuple[Iterable[DriveFrame], list[Pose], int]:
    """Return the frames of the object layout and their number; they share no transform."""
    frames = kitti.list_kitti_frames(_kitti_folders(root), options.ids)
    name = _camera_name(options.camera or DEFAULT_CAMERA, options.frame_id)

    def make_frame(number: int) -> DriveFrame:
        """Read the calibration and labels of a frame."""
        files = frames[number]
        calib = kitti_calib.read_calib(files.calib)
        lidar = []
        if files.velodyne:
            camera_T_lidar = kitti_calib.require_lidar_pose(calib, files.calib)
            lidar.append(Pose(LIDAR_FRAME, name.frame_id, np.linalg.inv(camera_T_lidar)))
        truth = _untracked_labels(files.label_2) if files.label_2 else None
        image = CameraImage(name, files.image_2, calib.P2, truth)
        return DriveFrame(_frame_stamp_ns(number, options), (image,), files.velodyne, tuple(lidar))

    return map(make_frame, range(len(frames))), [], len(frames)


def _untracked_labels(path: Path) -> FrameTracks:
    """Read labels without track ids; the ids are the rows of the file."""
    labels = kitti.read_labels(path)
    return FrameTracks(labels, tuple(range(len(labels))), path.read_text())


def _kitti_folders(root: Path) -> kitti.KittiFolders:
    """Return the folders of a KITTI root; labels and scans only if their folders exist."""
    label_2, velodyne = root / 'label_2', root / 'velodyne'
    return kitti.KittiFolders(
        image_2=str(root / 'image_2'),
        calib=str(root / 'calib'),
        label_2=str(label_2) if label_2.is_dir() else '',
        velodyne=str(velodyne) if velodyne.is_dir() else '',
    )


def _camera_name(camera: str, frame_id: str) -> CameraName:
    """Return the names of a camera; an empty frame_id becomes NAME_optical."""
    name = camera.strip('/')
    if not ROS_NAME_PATTERN.fullmatch(name):
        raise BagError(f'{camera!r}: not a valid topic name; expected letters, digits, _ and /')
    return CameraName(f'/{name}', frame_id or f'{name.replace("/", "_")}_optical')


def _frame_stamp_ns(number: int, options: ConversionOptions) -> int:
    return START_NS + round(number * 1e9 / options.rate_hz)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns exit code 2 after one line on stderr for bad input."""
    parser = CommandParser('kitti_to_bag', description=__doc__.split('\n')[1])
    parser.add_argument(
        'root',
        type=Path,
        help='KITTI folder, object (image_2, calib, ...) or tracking layout',
    )
    parser.add_argument('out', type=Path, help='folder of the new bag')
    parser.add_argument('--rate', type=float, default=10.0, help='frames per second')
    parser.add_argument('--camera-ns', default='', help='namespace of the front or only camera')
    parser.add_argument('--frame-id', default='', help='its coordinate frame; default: NS_optical')
    parser.add_argument('--ids', nargs='*', default=[], help='frames to convert; default: all')
    parser.add_argument(
        '--drive', default='', help='drive to convert, such as 0001, if ROOT has several'
    )
    add_format_arguments(parser)
    args = parser.parse_args(argv)
    options = ConversionOptions(
        tuple(args.ids), args.drive, args.rate, args.camera_ns, args.frame_id
    )

    counts: list[int] = []

    def run() -> None:
        counts.append(convert_kitti(args.root, args.out, options, parse_format(args)))

    bad_input = (DataError, BagError, OSError)
    code = run_command('kitti_to_bag', run, bad_input, 'stopped; nothing was written')
    for count in counts:  # here, because Ctrl-C above means that nothing was written
        print(f'{count} frames: {args.out}')
    return code


if __name__ == '__main__':
    sys.exit(main())

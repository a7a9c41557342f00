"""
The command kitti_to_bag: labelled KITTI frames as a recorded drive, without ROS.

ROOT in the tracking layout (image_02, also below ROOT/training) is a drive: its frames are as far
apart as they were recorded, the car moves on /tf (odom -> base_link), the sensors stand on
/tf_static, and every camera of a ring has its own namespace. ROOT in the object layout (image_2)
is a heap of unrelated frames: they follow one another, each with its own transform to the LiDAR.
P2 goes into camera_info with all its twelve numbers, so boxes are in the frame that KITTI's labels
are in (rectified camera 0).
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
from mono3d_ros.bags.bag_io import (
    STORAGES,
    BagError,
    BagWriter,
    make_message_factory,
    make_typestore,
)
from mono3d_ros.bags.drive_writer import LIDAR_FRAME, CameraImage, CameraName, DriveFrame
from mono3d_ros.tf.transforms import Pose
from stl_core.data.sources import kitti, kitti_tracking
from stl_core.data.sources.kitti_tracking import NO_TRACKS, FrameTracks
from stl_core.progress import progress_bar

EXIT_BAD_INPUT, EXIT_STOPPED = 2, 130

#: When frame 0 was taken; fixed, so that the same data makes the same bag.
START_NS = 1_317_000_000_000_000_000

ODOM_FRAME, BASE_FRAME = 'odom', 'base_link'
#: The camera of loose frames.
DEFAULT_CAMERA = 'camera'
ROS_NAME_PATTERN = re.compile(r'[A-Za-z]\w*(/[A-Za-z]\w*)*', re.ASCII)


@dataclass(frozen=True)
class ConversionOptions:
    """
    What to convert, and how to name it.

    :param ids: names of the frames wanted; all when empty.
    :param sequence: which drive, where a folder has several.
    :param rate_hz: frames a second.
    :param camera: name of the front or only camera; empty for the layout's own.
    :param frame_id: its coordinate frame; empty for one after its name.
    """

    ids: tuple[str, ...] = ()
    sequence: str = ''
    rate_hz: float = 10.0
    camera: str = ''
    frame_id: str = ''


@dataclass(frozen=True)
class BagFormat:
    """
    How a bag is written.

    :param image_encoding: RAW or COMPRESSED of recording.
    :param storage: a key of STORAGES.
    """

    image_encoding: drive_writer.ImageEncoding = drive_writer.RAW
    storage: str = 'mcap'


def convert_kitti(root: Path, out: Path, options: ConversionOptions, bag_format: BagFormat) -> int:
    """
    Write a KITTI folder, of either layout, into a new bag; it appears whole or not at all.

    :param root: the folder.
    :param out: folder of the bag.
    :param options: what of the folder.
    :param bag_format: how.
    :return: how many frames were written.
    :raises DataError: for a file that is missing or malformed, naming it.
    :raises BagError: for a name or rate that no bag can have, or one that cannot be written.
    """
    if not 0 < options.rate_hz < np.inf:
        raise BagError(f'the rate must be above 0 frames a second, got {options.rate_hz:g}')
    read = _read_drive if kitti_tracking.is_drive(root) else _read_object_frames
    moments, static, count = read(root, options)
    store = make_typestore()
    with BagWriter(out, store, storage=STORAGES[bag_format.storage]) as bag, progress_bar() as bar:
        task = bar.add_task('writing', total=count, note=str(out))
        shown = bar.track(moments, total=count, task_id=task)
        drive_writer.write_drive(
            bag, shown, static, bag_format.image_encoding, make_message_factory(store)
        )
    return count


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that read_form reads."""
    parser.add_argument('--compressed', action='store_true', help='CompressedImage, not Image')
    parser.add_argument('--storage', choices=tuple(STORAGES), default='mcap', help='kind of file')


def parse_format(args: argparse.Namespace) -> BagFormat:
    """Read how a bag is to be written off the command line."""
    return BagFormat(
        drive_writer.COMPRESSED if args.compressed else drive_writer.RAW, args.storage
    )


def _read_drive(
    root: Path, options: ConversionOptions
) -> tuple[Iterable[DriveFrame], list[Pose], int]:
    """Return the moments of a drive, where the sensors stand, and how many moments there are."""
    drive = kitti_tracking.read_drive(root, options.sequence)
    front, *others = drive.cameras
    names = [_camera_name(options.camera or front.name, options.frame_id)]
    names += [_camera_name(view.name, '') for view in others]
    numbers = _select_frames(front.images, options.ids)
    static = [
        Pose(BASE_FRAME, name.frame_id, drive.base_T_cam(view))
        for name, view in zip(names, drive.cameras, strict=True)
    ]
    static.append(Pose(BASE_FRAME, LIDAR_FRAME, drive.base_T_velo))

    def moment(number: int) -> DriveFrame:
        """Gather what the drive has of a frame."""
        shots = tuple(
            CameraImage(
                camera=name,
                image_path=view.images[number],
                P=view.calib.P2,
                truth=None if view.tracks is None else view.tracks.get(number, NO_TRACKS),
            )
            for name, view in zip(names, drive.cameras, strict=True)
        )
        way = (
            ()
            if drive.odom_T_base is None
            else (Pose(ODOM_FRAME, BASE_FRAME, drive.odom_T_base[number]),)
        )
        return DriveFrame(_frame_stamp_ns(number, options), shots, drive.scans.get(number), way)

    return map(moment, numbers), static, len(numbers)


def _select_frames(images: Mapping[int, Path], ids: Sequence[str]) -> list[int]:
    """Return the numbers of the frames wanted, in order of time."""
    numbers = {path.stem: number for number, path in images.items()}
    if missing := [each for each in ids if each not in numbers]:
        folder = next(iter(images.values())).parent
        raise kitti.DataError(f'{folder / missing[0]}.png: listed but missing')
    return sorted(numbers[each] for each in ids) if ids else list(images)


def _read_object_frames(
    root: Path, options: ConversionOptions
) -> tuple[Iterable[DriveFrame], list[Pose], int]:
    """Return unrelated frames as moments; no transform holds for all of them."""
    frames = kitti.list_kitti_frames(_kitti_folders(root), options.ids)
    name = _camera_name(options.camera or DEFAULT_CAMERA, options.frame_id)

    def moment(number: int) -> DriveFrame:
        """Read what goes with a frame."""
        files = frames[number]
        calib = kitti.read_calib(files.calib)
        lidar = Pose(LIDAR_FRAME, name.frame_id, np.linalg.inv(calib.cam_T_velo))
        truth = _untracked_labels(files.label_2) if files.label_2 else None
        shot = CameraImage(name, files.image_2, calib.P2, truth)
        return DriveFrame(_frame_stamp_ns(number, options), (shot,), files.velodyne, (lidar,))

    return map(moment, range(len(frames))), [], len(frames)


def _untracked_labels(path: Path) -> FrameTracks:
    """Read labels that do not say who is who in other frames."""
    labels = kitti.read_labels(path)
    return FrameTracks(labels, tuple(range(len(labels))), path.read_text())


def _kitti_folders(root: Path) -> kitti.KittiFolders:
    """Name the folders of a KITTI root; labels and scans only where there are any."""
    label_2, velodyne = root / 'label_2', root / 'velodyne'
    return kitti.KittiFolders(
        image_2=str(root / 'image_2'),
        calib=str(root / 'calib'),
        label_2=str(label_2) if label_2.is_dir() else '',
        velodyne=str(velodyne) if velodyne.is_dir() else '',
    )


def _camera_name(camera: str, frame_id: str) -> CameraName:
    """Return the names of a camera; its frame is called after it where nobody wants another."""
    name = camera.strip('/')
    if not ROS_NAME_PATTERN.fullmatch(name):
        raise BagError(f'{camera!r}: no name for topics; expected letters, digits, _ and /')
    return CameraName(f'/{name}', frame_id or f'{name.replace("/", "_")}_optical')


def _frame_stamp_ns(number: int, options: ConversionOptions) -> int:
    return START_NS + round(number * 1e9 / options.rate_hz)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 and one line for bad input."""
    parser = argparse.ArgumentParser('kitti_to_bag', description=__doc__.split('\n')[1])
    parser.add_argument(
        'root', type=Path, help='image_2, calib, ... of frames, or image_02, calib, ... of drives'
    )
    parser.add_argument('out', type=Path, help='folder of the new bag')
    parser.add_argument('--rate', type=float, default=10.0, help='frames a second')
    parser.add_argument('--camera-ns', default='', help='of the only or front camera')
    parser.add_argument('--frame-id', default='', help='of that camera; default: NS_optical')
    parser.add_argument('--ids', nargs='*', default=[], help='frames wanted; all by default')
    parser.add_argument('--drive', default='', help='which, such as 0001, where ROOT has several')
    add_format_arguments(parser)
    args = parser.parse_args(argv)
    wanted = ConversionOptions(
        tuple(args.ids), args.drive, args.rate, args.camera_ns, args.frame_id
    )
    try:
        count = convert_kitti(args.root, args.out, wanted, parse_format(args))
    except (kitti.DataError, BagError, OSError) as err:
        print(f'kitti_to_bag: {err}', file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print('kitti_to_bag: stopped; nothing was written', file=sys.stderr)
        return EXIT_STOPPED
    print(f'{count} frames: {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

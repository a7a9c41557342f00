"""
The command bag_to_kitti: a recorded drive as KITTI frames, to be labelled or trained on.

OUT/{image_2,calib}, and where the bag has them label_2 and velodyne, named 000000 onwards; the
layout is that of KITTI's object benchmark. P2 is camera_info's P of the image as it is written, so
P0 to P3 are all the same; Tr_velo_to_cam is /tf's, at the times of image and scan. A scan farther
in time than --max-offset is left out. frames.csv tells where in the bag each frame comes from.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mono3d_ros.bags.bag_io import BagError, BagReader
from mono3d_ros.bags.drive_reader import (
    DriveQuery,
    DriveReader,
    DriveSample,
    prefer_raw,
    prefer_rectified,
)
from mono3d_ros.bags.output_folder import atomic_folder
from mono3d_ros.camera_frame import Frame
from mono3d_ros.messages.images import to_frame
from mono3d_ros.messages.point_cloud import read_points
from mono3d_ros.messages.rectification import Rectifier, passthrough_image, rectify_image
from stl_core.progress import progress_bar
from stl_core.types import Array

EXIT_BAD_INPUT, EXIT_STOPPED = 2, 130


@dataclass(frozen=True)
class FrameRow:
    """
    A frame's line in frames.csv.

    :param id: name of its files.
    :param topic: of its image.
    :param stamp_ns: of its image.
    :param scan_offset_s: how much later its scan was taken; empty where it has none.
    :param labelled: 1 or 0.
    """

    id: str
    topic: str
    stamp_ns: int
    scan_offset_s: str
    labelled: int


@dataclass(frozen=True)
class ExtractionSummary:
    """
    What came out of a bag.

    :param num_frames: how many.
    :param notes: what some frames lack, and why: sentence -> how many.
    """

    num_frames: int
    notes: dict[str, int]


def extract_frames(
    bag: Path, out: Path, query: DriveQuery, rectifier: Rectifier
) -> ExtractionSummary:
    """
    Write the images of one camera as a KITTI folder; it appears whole or not at all.

    :param bag: folder or file.
    :param out: the new folder.
    :param query: what of the bag; it must come down to one camera.
    :param rectifier: calibration.as_rectified or calibration.rectify.
    :return: what was written.
    :raises BagError: for a bag, camera or folder that cannot be used.
    """
    with BagReader(bag) as reader:
        playback = DriveReader(reader, query)
        if len(playback.cameras) > 1:
            has = ', '.join(each.name for each in playback.cameras)
            raise BagError(f'{bag}: which camera? it has {has}; name one by --camera')
        with atomic_folder(out) as folder, progress_bar() as bar:
            task = bar.add_task('writing', total=len(playback), note=str(out))
            rows: list[FrameRow] = []
            notes = Counter[str]()
            for sight in bar.track(playback, total=len(playback), task_id=task):
                try:
                    frame = to_frame(sight.image, sight.info, sight.camera.name, rectifier)
                except ValueError as err:
                    notes[f'images left out: {err}'] += 1
                    continue
                rows.append(_write_frame(folder, f'{len(rows):06d}', frame, sight))
                notes.update(_missing_parts(sight, playback.cloud_topic, query))
            if not rows:
                why = next(iter(notes), 'no image with a camera_info')
                raise BagError(f'{bag}: nothing to write ({why})')
            _write_table(folder / 'frames.csv', rows)
    return ExtractionSummary(len(rows), dict(notes))


def _write_frame(folder: Path, frame_id: str, frame: Frame, sample: DriveSample) -> FrameRow:
    """Write the files of one frame."""
    image = cv2.imencode('.png', cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))[1]
    _file_path(folder, 'image_2', frame_id, '.png').write_bytes(image.tobytes())
    way = None if sample.scan is None else sample.scan.camera_T_cloud
    _file_path(folder, 'calib', frame_id, '.txt').write_text(calib_text(frame.P, way))
    if sample.truth is not None:
        _file_path(folder, 'label_2', frame_id, '.txt').write_text(sample.label_text)
    if sample.scan is not None:
        points = _read_scan(sample, sample.scan.cloud)
        _file_path(folder, 'velodyne', frame_id, '.bin').write_bytes(points.tobytes())
    return FrameRow(
        id=frame_id,
        topic=sample.camera.image,
        stamp_ns=frame.stamp_ns,
        scan_offset_s='' if sample.scan is None else f'{sample.scan.offset_s:.9f}',
        labelled=int(sample.truth is not None),
    )


def calib_text(P: Array, camera_T_velo: Array | None) -> str:
    """
    Write a calib file of the object benchmark, with every digit that a number has.

    :param P: (3, 4) of the image.
    :param camera_T_velo: (4, 4) scan to camera frame; left out where it is not known.
    """
    parts = {f'P{number}': P for number in range(4)} | {'R0_rect': np.eye(3)}
    if camera_T_velo is not None:
        parts['Tr_velo_to_cam'] = camera_T_velo[:3]
    rows = [f'{key}: ' + ' '.join(map(repr, part.ravel().tolist())) for key, part in parts.items()]
    return '\n'.join(rows) + '\n'


def _read_scan(sample: DriveSample, cloud: Any) -> Array:
    """(L, 4) float32 of the scan of a sight; BagError for one that cannot be read."""
    try:
        return read_points(cloud)
    except ValueError as err:
        raise BagError(
            f'the scan of image {sample.image_index} of {sample.camera.image}: {err}'
        ) from err


def _missing_parts(sample: DriveSample, cloud_topic: str, query: DriveQuery) -> list[str]:
    """Say what a frame is without, where the bag promises it."""
    lacks = []
    if cloud_topic and sample.scan is None:
        lacks.append(f'without a scan: none of {cloud_topic} within {query.max_offset_s:g} s')
    if sample.scan is not None and sample.scan.camera_T_cloud is None:
        frame_id = sample.scan.cloud.header.frame_id
        lacks.append(f'without Tr_velo_to_cam: no transform from {frame_id} to the camera')
    if sample.camera.labels and sample.truth is None:
        lacks.append(f'without labels: none of {sample.camera.labels} recorded with the image')
    return lacks


def _file_path(folder: Path, kind: str, frame_id: str, suffix: str) -> Path:
    """Return the path of a file; its folder is made where there is none."""
    (folder / kind).mkdir(exist_ok=True)
    return folder / kind / f'{frame_id}{suffix}'


def _write_table(path: Path, rows: Sequence[FrameRow]) -> None:
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator='\n')
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 and one line for bad input."""
    parser = argparse.ArgumentParser('bag_to_kitti', description=__doc__.split('\n')[1])
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap or .db3 file')
    parser.add_argument('out', type=Path, help='the new folder')
    parser.add_argument('--camera', default='', help='its namespace or image topic')
    parser.add_argument('--cloud', default='', help='topic of the scans; default: the first')
    parser.add_argument('--every', type=int, default=1, help='only the first image of so many')
    parser.add_argument('--max-offset', type=float, default=0.05, help='of a scan, seconds')
    parser.add_argument('--rectify', action='store_true', help='the images are raw: rectify them')
    args = parser.parse_args(argv)
    door, order = (
        (rectify_image, prefer_raw) if args.rectify else (passthrough_image, prefer_rectified)
    )
    try:
        wish = DriveQuery(args.camera, order, args.cloud, args.every, args.max_offset)
        done = extract_frames(args.bag, args.out, wish, door)
    except (BagError, OSError) as err:
        print(f'bag_to_kitti: {err}', file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print('bag_to_kitti: stopped; nothing was written', file=sys.stderr)
        return EXIT_STOPPED
    for note, count in done.notes.items():
        print(f'{count} {note}')
    print(f'{done.num_frames} frames: {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

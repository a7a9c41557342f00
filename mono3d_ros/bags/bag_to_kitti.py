"""
The command bag_to_kitti: convert a recorded drive to KITTI frames for labelling or training.

Writes OUT/image_2 and OUT/calib, and OUT/label_2 and OUT/velodyne if the bag has labels and scans,
in the layout of KITTI's object benchmark, numbered from 000000. P2 is the P of camera_info for the
image as written, and P0 to P3 are equal. Tr_velo_to_cam comes from /tf at the times of image and
scan. A scan farther in time than --max-offset is omitted. frames.csv lists the topic and the stamp
of each frame.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from mono3d_ros.bags.bag_io import BagError, BagReader, require_absent
from mono3d_ros.bags.bag_topics import BagReport
from mono3d_ros.bags.drive_query import (
    DriveQuery,
    add_camera_options,
    add_rectified_option,
    prefer_raw,
    prefer_rectified,
)
from mono3d_ros.bags.drive_reader import DriveReader, DriveSample, decode_image, read_scan
from mono3d_ros.camera_frame import Frame
from mono3d_ros.messages.images import ImageDecoder
from mono3d_ros.messages.rectification import AUTO, RAW
from stl_core.cli.command import CommandParser, run_command
from stl_core.data.sources.kitti_calib import calib_text
from stl_core.files import atomic_folder
from stl_core.progress import progress_bar
from stl_core.types import Array


@dataclass(frozen=True)
class FrameRow:
    """
    One row of frames.csv.

    :param id: name of the frame's files, without suffix.
    :param topic: topic of the image.
    :param stamp_ns: header stamp of the image.
    :param scan_offset_s: stamp of the scan minus that of the image; empty without a scan.
    :param labelled: 1 if the frame has labels, else 0.
    """

    id: str
    topic: str
    stamp_ns: int
    scan_offset_s: str
    labelled: int


@dataclass(frozen=True)
class ExtractionSummary:
    """
    Summary of an extraction.

    :param num_frames: number of frames written.
    :param notes: omitted images and missing parts: reason -> number of frames.
    :param report: numbers of messages read, skipped topics, unfinished files.
    """

    num_frames: int
    notes: dict[str, int]
    report: BagReport


def extract_frames(
    bag: Path, out: Path, query: DriveQuery, rectified: str = AUTO, bit_depth: int = 0
) -> ExtractionSummary:
    """
    Write the images of one camera as a KITTI folder, complete or not at all.

    :param bag: folder or file.
    :param out: the new folder.
    :param query: which part of the bag to read; it must select one camera.
    :param rectified: whether the images are rectified, see Rectifier.
    :param bit_depth: significant bits of 16-bit images; 0: found from their values.
    :return: number of frames and missing parts.
    :raises BagError: for a bag, camera or folder that cannot be used.
    """
    require_absent(out)
    with BagReader(bag) as reader:
        drive = DriveReader(reader, query)
        if len(drive.cameras) > 1:
            has = ', '.join(each.name for each in drive.cameras)
            raise BagError(f'{bag}: several cameras ({has}); choose one with --camera')
        with atomic_folder(out) as folder, progress_bar() as bar:
            task = bar.add_task('writing', total=len(drive), note=str(out))
            rows: list[FrameRow] = []
            notes = Counter[str]()
            image_notes: list[str] = []
            decoder = ImageDecoder(bit_depth, image_notes.append)
            for sample in bar.track(drive, total=len(drive), task_id=task):
                try:
                    frame = decode_image(sample, rectified, decoder, notes)
                except BagError:
                    raise
                except ValueError as err:
                    notes[f'images omitted: {err}'] += 1
                    continue
                points = read_scan(sample.scan, notes)
                rows.append(_write_frame(folder, f'{len(rows):06d}', frame, sample, points))
                notes.update(_missing_parts(sample, drive.cloud_topic, query))
            notes.update(drive.notes)
            if not rows:
                reason = next(iter(notes), 'no image with a camera_info')
                raise BagError(f'{bag}: {drive.cameras[0].image}: nothing to write ({reason})')
            _write_table(folder / 'frames.csv', rows)
        report = reader.report((*drive.choice.lines(), *image_notes))
        return ExtractionSummary(len(rows), dict(notes), report)


def _write_frame(
    folder: Path, frame_id: str, frame: Frame, sample: DriveSample, points: Array | None
) -> FrameRow:
    """Write the files of one frame, with the points of its scan; return its row of frames.csv."""
    image = cv2.imencode('.png', cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))[1]
    _file_path(folder, 'image_2', frame_id, '.png').write_bytes(image.tobytes())
    camera_T_velo = None if sample.scan is None else sample.scan.camera_T_cloud
    matrices = _calib_matrices(frame.P, camera_T_velo)
    _file_path(folder, 'calib', frame_id, '.txt').write_text(calib_text(matrices))
    if sample.truth is not None:
        _file_path(folder, 'label_2', frame_id, '.txt').write_text(sample.label_text)
    if points is not None:
        _file_path(folder, 'velodyne', frame_id, '.bin').write_bytes(points.tobytes())
    offset_s = '' if sample.scan is None else f'{sample.scan.offset_s:.9f}'
    return FrameRow(
        id=frame_id,
        topic=sample.camera.image,
        stamp_ns=frame.stamp_ns,
        scan_offset_s='' if points is None else offset_s,
        labelled=int(sample.truth is not None),
    )


def _calib_matrices(P: Array, camera_T_velo: Array | None) -> dict[str, Array]:
    """
    Return the matrices of a frame's calib file by key.

    :param P: (3, 4) projection of the image.
    :param camera_T_velo: (4, 4) scan to camera frame; None omits Tr_velo_to_cam.
    """
    matrices = {f'P{number}': P for number in range(4)} | {'R0_rect': np.eye(3)}
    if camera_T_velo is not None:
        matrices['Tr_velo_to_cam'] = camera_T_velo[:3]
    return matrices


def _missing_parts(sample: DriveSample, cloud_topic: str, query: DriveQuery) -> list[str]:
    """List the parts that a frame lacks although the bag has such topics."""
    lacks = []
    if cloud_topic and sample.scan is None:
        lacks.append(f'without a scan: none of {cloud_topic} within {query.max_offset_s:g} s')
    if sample.scan is not None and sample.scan.camera_T_cloud is None:
        frame_id = sample.scan.cloud.header.frame_id
        reason = sample.scan.missing
        lacks.append(
            f'without Tr_velo_to_cam: no transform from {frame_id} to the camera: {reason}'
        )
    if sample.camera.labels and sample.truth is None:
        lacks.append(f'without labels: none of {sample.camera.labels} recorded with the image')
    return lacks


def _file_path(folder: Path, kind: str, frame_id: str, suffix: str) -> Path:
    """Return the path of a file; creates its folder if necessary."""
    (folder / kind).mkdir(exist_ok=True)
    return folder / kind / f'{frame_id}{suffix}'


def _write_table(path: Path, rows: Sequence[FrameRow]) -> None:
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator='\n')
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns exit code 2 after one line on stderr for bad input."""
    parser = CommandParser('bag_to_kitti', description=__doc__.split('\n')[1])
    parser.add_argument('bag', type=Path, help='rosbag2 folder, .mcap or .db3 file, also .zstd')
    parser.add_argument('out', type=Path, help='the new folder')
    add_camera_options(parser)
    parser.add_argument('--cloud', default='', help='topic of the LiDAR scans; default: the first')
    parser.add_argument('--every', type=int, default=1, help='use every n-th image')
    parser.add_argument(
        '--max-offset',
        type=float,
        default=0.05,
        help='maximum time between image and scan, seconds',
    )
    add_rectified_option(parser)
    args = parser.parse_args(argv)
    order = prefer_raw if args.rectified == RAW else prefer_rectified

    summaries: list[ExtractionSummary] = []

    def run() -> None:
        query = DriveQuery(
            args.camera,
            order,
            args.cloud,
            args.every,
            args.max_offset,
            image=args.image,
            info=args.camera_info,
        )
        summaries.append(extract_frames(args.bag, args.out, query, args.rectified, args.bit_depth))

    stopped = 'stopped; nothing was written'
    code = run_command('bag_to_kitti', run, (BagError, OSError), stopped)
    for summary in summaries:  # here, because Ctrl-C above means that nothing was written
        for line in summary.report.lines():
            print(line)
        for note, count in summary.notes.items():
            print(f'{count} {note}')
        print(f'{summary.num_frames} frames: {args.out}')
    return code


if __name__ == '__main__':
    sys.exit(main())

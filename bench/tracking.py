"""
Compare tracking with and without depth_sigma_m: depth error, id switches and AMOTA.

python bench/tracking.py [--drives 4] [--frames 100] [--out runs/tracking] [--json FILE]

Drives are synthetic. Detections are simulated from their labels with the errors of a monocular
detector: depth errors along the ray with a Laplace distribution of 5 to 7 % of the depth, larger
for occluded objects; depth_sigma_m is known up to 15 %; some objects are missed, and there are
false alarms. A part of a depth error persists from frame to frame (--memory). An interrupted run
resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mono3d_ros.perception import tracker
from mono3d_ros.perception.kalman_filter import Noise
from stl_core.data.sources.kitti import to_labels
from stl_core.data.sources.kitti_tracking import NO_TRACKS, KittiDrive, read_drive
from stl_core.data.synthetic import sequence, writer
from stl_core.data.synthetic.sensors import camera
from stl_core.evaluation.error_matching import match_by_box_iou
from stl_core.evaluation.tracking_metrics import (
    DEFAULT_DIFFICULTY,
    TrackedFrame,
    evaluate_tracking,
)
from stl_core.geometry import wrap_angle
from stl_core.types import Array, Objects3D

CLASSES = ('Car', 'Pedestrian', 'Cyclist')
SIZE_PX = (320, 96)
MIN_IOU = 0.25
#: DEFAULT_DIFFICULTY has the minimum height for KITTI's images: scale it to SIZE_PX.
DIFFICULTY = replace(
    DEFAULT_DIFFICULTY, min_height_px=DEFAULT_DIFFICULTY.min_height_px * SIZE_PX[0] / 1242
)

DEPTH_ERROR = (0.05, 0.07)
#: By occlusion level: factor on the errors, and fraction of missed objects.
ERROR_FACTOR, MISS_RATE = np.array([1.0, 1.2, 1.5]), np.array([0.08, 0.15, 0.4])
FALSE_ALARMS_PER_FRAME = 0.4
#: Isotropic standard deviations, for the tracker without depth_sigma_m.
ISOTROPIC_SIGMAS_M = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class SimulatedFrame:
    """A frame: its labels, simulated detections, and the pose of the camera."""

    ground_truth: TrackedFrame
    detections: Objects3D
    stamp_ns: int
    odom_T_cam: Array


#: The frames of a drive.
Drive = Sequence[SimulatedFrame]


@dataclass(frozen=True)
class Row:
    """
    Results of one tracker configuration.

    :param depth_percent: mean depth error of cars, percent of depth.
    :param depth_p90_percent: 90th percentile of that error.
    :param answers: number of labelled cars matched with a tracked detection, by their 2D boxes.
    :param switches: number of id changes of those detections.
    """

    depth_percent: float
    depth_p90_percent: float
    answers: int
    switches: int
    samota: float
    amota: float
    amotp: float
    mota: float
    ids: int
    frag: int


def main() -> None:
    """Make the drives, track them with every configuration, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--drives', type=int, default=4)
    parser.add_argument('--frames', type=int, default=100)
    parser.add_argument('--out', type=Path, default=Path('runs/tracking'))
    parser.add_argument('--memory', type=float, nargs='+', default=[0.0, 0.8])
    parser.add_argument('--workers', type=int, default=1)
    parser.add_argument('--json', metavar='FILE')
    args = parser.parse_args()
    drives = [
        make_drive(args.out / f'{seed:02d}_{args.frames}', seed, args.frames, args.workers)
        for seed in range(args.drives)
    ]
    results = {}
    for memory in args.memory:
        simulated = [
            simulate(drive, np.random.default_rng([number, 9]), memory)
            for number, drive in enumerate(drives)
        ]
        print(f'\n{args.drives} drives of {args.frames} frames, memory of depth errors {memory:g}')
        print(f'{"":<34}depth %    p90  cars  changes  sAMOTA   AMOTA   AMOTP    MOTA   IDS  FRAG')
        results[f'memory {memory:g}'] = rows = compare(simulated)
        for name, row in rows.items():
            print(format_row(name, row))
    if args.json:
        as_json = {
            m: {name: asdict(row) for name, row in rows.items()} for m, rows in results.items()
        }
        Path(args.json).write_text(json.dumps(as_json, indent=1))


def make_drive(folder: Path, seed: int, frames: int, workers: int) -> KittiDrive:
    model = camera.KITTI.scaled(*SIZE_PX)
    job = writer.SynthesisJob(out=str(folder), seed=seed, model=model, depth=False, suffix='.jpg')
    if not (folder / 'training/label_02/0000.txt').is_file():
        sequence.synthesize_drive(job, frames, workers)
    return read_drive(folder)


def simulate(drive: KittiDrive, rng: np.random.Generator, memory: float) -> list[SimulatedFrame]:
    """Simulate detections; memory is the correlation of an object's errors in two frames."""
    (view,) = drive.cameras
    errors: dict[int, float] = {}
    frames = []
    for number in view.images:
        ground_truth = (view.tracks or {}).get(number, NO_TRACKS)
        detectable = np.isin(ground_truth.labels.name, CLASSES) & (
            ground_truth.labels.occluded < len(MISS_RATE)
        )
        objects = ground_truth.labels[detectable]
        ids = np.array(ground_truth.track_ids, np.int64)[detectable]
        new_errors = rng.laplace(0, np.sqrt(0.5), len(ids))
        error = np.array(
            [
                memory * errors[id] + np.sqrt(1 - memory**2) * new if id in errors else new
                for id, new in zip(ids.tolist(), new_errors, strict=True)
            ]
        )
        errors |= dict(zip(ids.tolist(), error.tolist(), strict=True))
        detections = detect(objects.to_objects(CLASSES), objects.occluded, error, rng)
        odom_T_base = drive.odom_T_base
        assert odom_T_base is not None, 'synthetic drives have odometry'
        frames.append(
            SimulatedFrame(
                ground_truth=TrackedFrame(ground_truth.labels, ground_truth.track_ids),
                detections=join(detections, false_alarms(rng)),
                stamp_ns=round((1 + number / sequence.FRAME_RATE_HZ) * 1e9),
                odom_T_cam=odom_T_base[number] @ drive.base_T_cam(view),
            )
        )
    return frames


def detect(
    objects: Objects3D, occluded: Array, error: Array, rng: np.random.Generator
) -> Objects3D:
    """Return objects with depth errors of `error` sigmas and small other errors; drop some."""
    count = len(objects)
    sigma_m = rng.uniform(*DEPTH_ERROR, count) * ERROR_FACTOR[occluded] * objects.center_m[:, 2]
    depth_factor = np.maximum(1 + error * sigma_m / objects.center_m[:, 2], 0.3)
    offset = rng.normal(0, 0.003, (count, 2)) * objects.center_m[:, 2:]
    center_m = objects.center_m * depth_factor[:, None]
    center_m[:, :2] += offset
    yaw_error = rng.normal(0, 0.12, count) + np.pi * (rng.random(count) < 0.04)
    detected = replace(
        objects,
        score=np.clip(rng.normal(0.75, 0.12, count) - 0.12 * occluded, 0.1, 1.0),
        center_m=center_m,
        size_hwl_m=objects.size_hwl_m * rng.normal(1, 0.04, (count, 3)),
        rotation_y=wrap_angle(objects.rotation_y + yaw_error),
        depth_sigma_m=sigma_m * np.exp(rng.normal(0, 0.15, count)),
    )
    return detected[rng.random(count) > MISS_RATE[occluded]]


def false_alarms(rng: np.random.Generator) -> Objects3D:
    count = rng.poisson(FALSE_ALARMS_PER_FRAME)
    z = rng.uniform(8, 60, count)
    left, top = rng.uniform(0, SIZE_PX[0] - 30, count), np.full(count, 45.0)
    return Objects3D(
        class_id=np.zeros(count),
        score=rng.uniform(0.1, 0.7, count),
        center_m=np.column_stack([rng.uniform(-0.5, 0.5, count) * z, np.full(count, 1.0), z]),
        size_hwl_m=np.tile([1.5, 1.65, 4.0], (count, 1)),
        rotation_y=rng.uniform(-np.pi, np.pi, count),
        box_px=np.column_stack([left, top, left + 30, top + 20]),
        depth_sigma_m=0.1 * z,
    )


def join(a: Objects3D, b: Objects3D) -> Objects3D:
    columns = {n: np.concatenate([getattr(a, n), getattr(b, n)]) for n in Objects3D.FIELD_SHAPES}
    return Objects3D(**columns)


def compare(drives: Sequence[Drive]) -> dict[str, Row]:
    """Score the detections without tracking, and each tracker configuration, by name."""
    config = tracker.TrackerConfig()
    untracked = [[as_untracked(frame) for frame in drive] for drive in drives]
    rows = {'as detected, no tracks': score(drives, untracked)}
    for name, in_odom in (('odom', True), ('camera frame', False)):
        tracked = [track(drive, config, in_odom) for drive in drives]
        rows[f'depth_sigma_m, {name}'] = score(drives, tracked)
    for sigma_m in ISOTROPIC_SIGMAS_M:
        noise = Noise(position_sigma_m=sigma_m, bearing_sigma=0.0)
        without_sigma = [[without_depth_sigma(frame) for frame in drive] for drive in drives]
        tracked = [track(drive, replace(config, noise=noise), True) for drive in without_sigma]
        rows[f'{sigma_m:g} m whatever the depth, odom'] = score(drives, tracked)
    return rows


def without_depth_sigma(frame: SimulatedFrame) -> SimulatedFrame:
    zeros = np.zeros(len(frame.detections))
    return replace(frame, detections=replace(frame.detections, depth_sigma_m=zeros))


def as_untracked(frame: SimulatedFrame) -> TrackedFrame:
    """Return the detections of a frame, each with a new track id."""
    first = frame.stamp_ns // 1000
    ids = range(first, first + len(frame.detections))
    return TrackedFrame(to_labels(frame.detections, CLASSES), ids)


def track(drive: Drive, config: tracker.TrackerConfig, in_odom: bool) -> list[TrackedFrame]:
    tracks, frames = tracker.NO_TRACKS, []
    for frame in drive:
        pose = frame.odom_T_cam if in_odom else tracker.UPRIGHT_T_CAM
        camera_detections = tracker.CameraDetections(
            'front', frame.detections, frame.stamp_ns, pose
        )
        tracks, (tracked,) = tracker.update_tracks(tracks, [camera_detections], config)
        frames.append(TrackedFrame(to_labels(tracked.objects, CLASSES), tracked.ids))
    return frames


def score(drives: Sequence[Drive], tracked: Sequence[Sequence[TrackedFrame]]) -> Row:
    """Match by 2D boxes for depth errors and id changes, by 3D boxes for the tracking metrics."""
    errors, switches = [], 0
    for drive, tracked_frames in zip(drives, tracked, strict=True):
        last_id: dict[int, int] = {}
        for frame, predictions in zip(drive, tracked_frames, strict=True):
            cars = frame.ground_truth.labels.name == 'Car'
            labels = frame.ground_truth.labels[cars]
            label_ids = np.array(frame.ground_truth.ids, np.int64)[cars]
            rows, matched = match_by_box_iou(labels, predictions.labels)
            z = labels.center_m[rows, 2]
            errors += (np.abs(predictions.labels.center_m[matched, 2] - z) / z).tolist()
            track_ids = {
                int(label_ids[r]): int(predictions.ids[k])
                for r, k in zip(rows, matched, strict=True)
            }
            switches += sum(
                last_id.get(label_id, track_id) != track_id
                for label_id, track_id in track_ids.items()
            )
            last_id |= track_ids
    ground_truth = [[frame.ground_truth for frame in drive] for drive in drives]
    result = evaluate_tracking(ground_truth, tracked, 'Car', MIN_IOU, DIFFICULTY)
    return Row(
        depth_percent=100 * float(np.mean(errors)),
        depth_p90_percent=100 * float(np.percentile(errors, 90)),
        answers=len(errors),
        switches=switches,
        samota=result.samota,
        amota=result.amota,
        amotp=result.amotp,
        mota=result.best.mota,
        ids=result.best.id_switches,
        frag=result.best.fragmentations,
    )


def format_row(name: str, row: Row) -> str:
    metrics = ''.join(f'{value:8.3f}' for value in (row.samota, row.amota, row.amotp, row.mota))
    depth = f'{row.depth_percent:7.2f}{row.depth_p90_percent:7.2f}'
    return f'{name:<34}{depth}{row.answers:6d}{row.switches:9d}{metrics}{row.ids:6d}{row.frag:6d}'


if __name__ == '__main__':
    main()

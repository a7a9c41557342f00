"""
What does a tracker that knows each detection's depth_sigma_m gain? Depth error, ids and AMOTA.

python bench/tracking.py [--drives 4] [--frames 100] [--out runs/tracking] [--json FILE]

Drives are synthetic; detections are made from their labels as a monocular detector errs: depth by
a Laplace distribution along the ray, of 5 to 7 % and more where hidden, told as depth_sigma_m but
for 15 %; some are missed, some false. A part of a depth error stays with its object from frame to
frame (--memory). An interrupted run goes on.
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
#: COUNTED speaks of the pixels of KITTI's images.
RULE = replace(
    DEFAULT_DIFFICULTY, min_height_px=DEFAULT_DIFFICULTY.min_height_px * SIZE_PX[0] / 1242
)

DEPTH_ERROR = (0.05, 0.07)
#: By occlusion level: how much larger errors are, and how many objects are missed.
WORSE, MISSED = np.array([1.0, 1.2, 1.5]), np.array([0.08, 0.15, 0.4])
FALSE_ALARMS = 0.4
#: Standard deviations of the same noise in all directions, for the tracker that knows no sigma.
SAME_M = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Shot:
    """One frame: its labels, what was detected in it, and where the camera stood."""

    truth: TrackedFrame
    found: Objects3D
    stamp_ns: int
    odom_T_cam: Array


@dataclass(frozen=True)
class Row:
    """
    What one way of tracking comes to.

    :param depth_percent: mean depth error of cars, percent of depth.
    :param depth_p90_percent: that which 90 % stay below.
    :param answers: how many cars of the labels have an answer, by their 2D boxes.
    :param switches: how often the id of those answers changes.
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
    """Make the drives, track them in several ways, print and write the table."""
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
    report = {}
    for memory in args.memory:
        shots = [
            simulate(drive, np.random.default_rng([number, 9]), memory)
            for number, drive in enumerate(drives)
        ]
        print(f'\n{args.drives} drives of {args.frames} frames, memory of depth errors {memory:g}')
        print(f'{"":<34}depth %    p90  cars  changes  sAMOTA   AMOTA   AMOTP    MOTA   IDS  FRAG')
        report[f'memory {memory:g}'] = rows = compare(shots)
        for name, row in rows.items():
            print(line(name, row))
    if args.json:
        told = {m: {name: asdict(row) for name, row in rows.items()} for m, rows in report.items()}
        Path(args.json).write_text(json.dumps(told, indent=1))


def make_drive(folder: Path, seed: int, frames: int, workers: int) -> KittiDrive:
    model = camera.KITTI.scaled(*SIZE_PX)
    job = writer.SynthesisJob(out=str(folder), seed=seed, model=model, depth=False, suffix='.jpg')
    if not (folder / 'training/label_02/0000.txt').is_file():
        sequence.synthesize_drive(job, frames, workers)
    return read_drive(folder)


def simulate(drive: KittiDrive, rng: np.random.Generator, memory: float) -> list[Shot]:
    """Detect what is labelled; memory is the correlation of an object's errors in two frames."""
    (view,) = drive.cameras
    errors: dict[int, float] = {}
    shots = []
    for number in view.images:
        truth = (view.tracks or {}).get(number, NO_TRACKS)
        here = np.isin(truth.labels.name, CLASSES) & (truth.labels.occluded < len(MISSED))
        there = truth.labels[here]
        ids = np.array(truth.track_ids, np.int64)[here]
        fresh = rng.laplace(0, np.sqrt(0.5), len(ids))
        error = np.array(
            [
                memory * errors[id] + np.sqrt(1 - memory**2) * new if id in errors else new
                for id, new in zip(ids.tolist(), fresh, strict=True)
            ]
        )
        errors |= dict(zip(ids.tolist(), error.tolist(), strict=True))
        found = detect(there.to_objects(CLASSES), there.occluded, error, rng)
        odom_T_base = drive.odom_T_base
        assert odom_T_base is not None, 'synthetic drives know their way'
        shots.append(
            Shot(
                truth=TrackedFrame(truth.labels, truth.track_ids),
                found=join(found, false_alarms(rng)),
                stamp_ns=round((1 + number / sequence.FRAME_RATE_HZ) * 1e9),
                odom_T_cam=odom_T_base[number] @ drive.base_T_cam(view),
            )
        )
    return shots


def detect(
    objects: Objects3D, occluded: Array, error: Array, rng: np.random.Generator
) -> Objects3D:
    """Err by error standard deviations of depth, and a little in all else; leave some out."""
    count = len(objects)
    sigma_m = rng.uniform(*DEPTH_ERROR, count) * WORSE[occluded] * objects.center_m[:, 2]
    nearer = np.maximum(1 + error * sigma_m / objects.center_m[:, 2], 0.3)
    aside = rng.normal(0, 0.003, (count, 2)) * objects.center_m[:, 2:]
    center_m = objects.center_m * nearer[:, None]
    center_m[:, :2] += aside
    turned = rng.normal(0, 0.12, count) + np.pi * (rng.random(count) < 0.04)
    made = replace(
        objects,
        score=np.clip(rng.normal(0.75, 0.12, count) - 0.12 * occluded, 0.1, 1.0),
        center_m=center_m,
        size_hwl_m=objects.size_hwl_m * rng.normal(1, 0.04, (count, 3)),
        rotation_y=wrap_angle(objects.rotation_y + turned),
        depth_sigma_m=sigma_m * np.exp(rng.normal(0, 0.15, count)),
    )
    return made[rng.random(count) > MISSED[occluded]]


def false_alarms(rng: np.random.Generator) -> Objects3D:
    count = rng.poisson(FALSE_ALARMS)
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


def compare(drives: Sequence[Sequence[Shot]]) -> dict[str, Row]:
    """Track in several ways."""
    config = tracker.TrackerConfig()
    rows = {'as detected, no tracks': judge(drives, [[raw(s) for s in drive] for drive in drives])}
    for name, given in (('odom', True), ('camera frame', False)):
        found = [track(drive, config, given) for drive in drives]
        rows[f'depth_sigma_m, {name}'] = judge(drives, found)
    for sigma_m in SAME_M:
        noise = Noise(position_sigma_m=sigma_m, bearing_sigma=0.0)
        blind = [
            [replace(s, found=replace(s.found, depth_sigma_m=np.zeros(len(s.found)))) for s in d]
            for d in drives
        ]
        found = [track(drive, replace(config, noise=noise), True) for drive in blind]
        rows[f'{sigma_m:g} m whatever the depth, odom'] = judge(drives, found)
    return rows


def raw(shot: Shot) -> TrackedFrame:
    """Take detections as answers, all of them objects of their own."""
    first = shot.stamp_ns // 1000
    return TrackedFrame(to_labels(shot.found, CLASSES), range(first, first + len(shot.found)))


def track(
    drive: Sequence[Shot], config: tracker.TrackerConfig, in_odom: bool
) -> list[TrackedFrame]:
    tracks, told = tracker.NO_TRACKS, []
    for shot in drive:
        place = shot.odom_T_cam if in_odom else tracker.UPRIGHT_T_CAM
        look = tracker.CameraDetections('front', shot.found, shot.stamp_ns, place)
        tracks, (answers,) = tracker.update_tracks(tracks, [look], config)
        told.append(TrackedFrame(to_labels(answers.objects, CLASSES), answers.ids))
    return told


def judge(drives: Sequence[Sequence[Shot]], found: Sequence[Sequence[TrackedFrame]]) -> Row:
    """Measure depth and ids by 2D boxes, the rest by 3D boxes."""
    errors, switches = [], 0
    for drive, told in zip(drives, found, strict=True):
        last: dict[int, int] = {}
        for shot, answers in zip(drive, told, strict=True):
            cars = shot.truth.labels.name == 'Car'
            truth, ids = shot.truth.labels[cars], np.array(shot.truth.ids, np.int64)[cars]
            rows, answered = match_by_box_iou(truth, answers.labels)
            z = truth.center_m[rows, 2]
            errors += (np.abs(answers.labels.center_m[answered, 2] - z) / z).tolist()
            now = {int(ids[r]): int(answers.ids[k]) for r, k in zip(rows, answered, strict=True)}
            switches += sum(last.get(id, answer) != answer for id, answer in now.items())
            last |= now
    result = evaluate_tracking([[s.truth for s in d] for d in drives], found, 'Car', MIN_IOU, RULE)
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


def line(name: str, row: Row) -> str:
    shares = ''.join(f'{value:8.3f}' for value in (row.samota, row.amota, row.amotp, row.mota))
    depth = f'{row.depth_percent:7.2f}{row.depth_p90_percent:7.2f}'
    return f'{name:<34}{depth}{row.answers:6d}{row.switches:9d}{shares}{row.ids:6d}{row.frag:6d}'


if __name__ == '__main__':
    main()

"""
Measure depth completion: on real scans against held-out rays, on synthetic data against truth.

Two simple methods are compared: the depth of the nearest ray, and dilation, the multiscale fill of
Ku, Harakeh and Waslander (CRV 2018). Errors are over the pixels that all three methods fill.
python bench/depth_maps.py [--synthetic 20] [--json FILE] [--plot FILE] [--frame 000008]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from stl_core.data import scan_file
from stl_core.data.depth_completion import complete_depth, occluded_rays, ray_spacing
from stl_core.data.depth_maps import MARGIN_BELOW_PX, depth_from_scan, sparse_depth, velo_to_camera
from stl_core.data.sources import kitti, kitti_calib
from stl_core.types import Array

DATA = Path(os.environ.get('MONO3D_DATA', Path(__file__).parents[1].parent / 'shared' / 'data'))
EDGES_M = (0, 10, 20, 40, 80)
#: Depth edge: the farther of two depths exceeds the nearer by more than this fraction.
EDGE = 0.33
#: Valid depth near an edge: within this relative tolerance of a true depth within BAND_PX pixels.
BAND_PX, ALIKE = 4, 0.05

#: One test: input rays, (H, W); true depth where known, else 0, (H, W).
Case = tuple[Array, Array]


def main() -> None:
    """Measure all methods; print the report and write JSON and picture if requested."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('--synthetic', type=int, default=20, help='number of synthetic frames')
    parser.add_argument('--json', metavar='FILE')
    parser.add_argument('--plot', metavar='FILE', help='a picture of --frame')
    parser.add_argument('--frame', default='000008')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    frames = real_frames()
    report: dict[str, Any] = {}
    if frames:
        report['real'] = {
            name: measure(real_cases(frames, keep)) for name, keep in HELD_BACK.items()
        }
        report['depth_m'] = moments(frames)
    worlds = list(synthetic_worlds(args.synthetic))
    report['synthetic'] = {
        f'{beams} beams': measure(synthetic_cases(worlds, 64 // beams)) for beams in (64, 32, 16)
    }
    print(text_of(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))
    if args.plot:
        draw(next(each for each in frames if each.id == args.frame), Path(args.plot))


def nearest(sparse_m: Array) -> Array:
    """Fill every pixel with the depth of the nearest ray in the image."""
    index = distance_transform_edt(sparse_m == 0, return_distances=False, return_indices=True)
    return sparse_m[tuple(index)]


def dilated(sparse_m: Array) -> Array:
    """Fill by the dilation of Ku et al.: the nearest depth wins, near rays reach farther."""
    far_m = np.float32(100.0)
    inverted = np.where(sparse_m > 0, far_m - sparse_m, np.float32(0))
    out = inverted.copy()
    for low, high, size in ((30, np.inf, 3), (15, 30, 5), (0, 15, 7)):
        band = np.where((sparse_m > low) & (sparse_m <= high), inverted, np.float32(0))
        grown = cv2.dilate(band, cv2.getStructuringElement(cv2.MORPH_CROSS, (size, size)))
        out = np.where(grown > 0, grown, out)
    out = cv2.morphologyEx(out, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    out = np.where(out > 0, cv2.medianBlur(out, 5), out)
    out = grow_below(out, below_top(out), 9)
    inside = below_top(out)
    for _ in range(6):
        out = grow_below(out, inside, 5)
    smooth = cv2.bilateralFilter(cv2.medianBlur(out, 5), 5, 0.5, 2.0)
    out = np.where((out > 0) & inside, smooth, out)
    return np.where(out > 0.1, far_m - out, np.float32(0))


def below_top(filled: Array) -> Array:
    """Return (H, W) bool, pixels at or below the topmost value of their column."""
    return np.maximum.accumulate(filled > 0.1, axis=0)


def grow_below(filled: Array, inside: Array, size: int) -> Array:
    """Fill empty pixels inside the mask with the greatest value in a window of `size`."""
    grown = cv2.dilate(filled, np.ones((size, size), np.uint8))
    return np.where((filled < 0.1) & inside, grown, filled)


METHODS: dict[str, Callable[[Array], Array]] = {
    'nearest ray': nearest,
    'dilation': dilated,
    'completion': complete_depth,
}
#: Name -> which rays of (beam, random number) are input; the others are held out as truth.
HELD_BACK: dict[str, Callable[[Array, Array], Array]] = {
    'a fifth of the rays held back': lambda beam, chance: chance >= 0.2,
    'every fifth beam held back': lambda beam, chance: beam % 5 != 2,
    '32 of 64 beams seen': lambda beam, chance: beam % 2 == 0,
    '16 of 64 beams seen': lambda beam, chance: beam % 4 == 0,
}


def measure(cases: Iterator[Case]) -> dict[str, Any]:
    """Complete every case by every method; return time, mixed fraction and errors by method."""
    filled: dict[str, list[Array]] = {name: [] for name in METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    mixed: dict[str, list[Array]] = {name: [] for name in METHODS}
    truth = []
    for sparse_m, true_m in cases:
        known = true_m > 0
        truth.append(true_m[known])
        edge, allowed = near_edges(true_m)
        for name, method in METHODS.items():
            start = time.process_time()
            depth_m = method(sparse_m)
            seconds[name].append(time.process_time() - start)
            filled[name].append(depth_m[known])
            mixed[name].append(~allowed(depth_m)[edge & (depth_m > 0)])
    joined = {name: np.concatenate(parts) for name, parts in filled.items()}
    all_true_m = np.concatenate(truth)
    filled_by_all = np.all([depths_m > 0 for depths_m in joined.values()], axis=0)
    return {
        name: {
            'ms': 1e3 * float(np.median(seconds[name])),
            'mixed': float(np.concatenate(mixed[name]).mean()),
            'bins': [
                figures(depths_m, all_true_m, filled_by_all, *bounds) for bounds in bounds_m()
            ],
        }
        for name, depths_m in joined.items()
    }


def bounds_m() -> list[tuple[float, float]]:
    """Return the depth bins, and one bin over all of them."""
    return [*pairwise(EDGES_M), (EDGES_M[0], EDGES_M[-1])]


def figures(
    result_m: Array, true_m: Array, shared: Array, low: float, high: float
) -> dict[str, float]:
    """Return the filled fraction of a depth bin, and errors where all methods fill it."""
    inside = (true_m >= low) & (true_m < high)
    error = np.abs(result_m - true_m)[inside & shared]
    relative_error = error / true_m[inside & shared]
    return {
        'truths': int(inside.sum()),
        'filled': float((result_m[inside] > 0).mean()),
        'median_m': float(np.median(error)),
        'mean_m': float(error.mean()),
        'within_5_percent': float((relative_error < 0.05).mean()),
    }


def near_edges(true_m: Array) -> tuple[Array, Callable[[Array], Array]]:
    """
    Find depth edges and the valid depths near them.

    :param true_m: (H, W), 0 where unknown; edges are found where it is dense.
    :return: (H, W) bool; and a function that returns the pixels of a depth map whose depth is
        close to a true depth within BAND_PX; other depths are mixtures of both sides, or invented.
    """
    window = np.ones((2 * BAND_PX + 1, 2 * BAND_PX + 1), np.uint8)
    low = cv2.erode(np.where(true_m > 0, true_m, np.float32(1e6)), window)
    high = cv2.dilate(true_m, window)
    edge = (true_m > 0) & (high > (1 + EDGE) * low)

    def allowed(depth_m: Array) -> Array:
        out = np.zeros(true_m.shape, bool)
        for down in range(-BAND_PX, BAND_PX + 1):
            for across in range(-BAND_PX, BAND_PX + 1):
                shifted_m = np.roll(true_m, (down, across), (0, 1))
                out |= np.abs(depth_m - shifted_m) < ALIKE * shifted_m
        return out

    return edge, allowed


def real_frames() -> list[kitti.FrameFiles]:
    """Return the real frames that have a full scan with beams in order."""
    folder = DATA / 'training'
    if not (folder / 'velodyne').is_dir():
        print(f'{folder / "velodyne"}: no real scans; set MONO3D_DATA')
        return []
    ids = tuple(path.stem for path in sorted((folder / 'velodyne').glob('*.bin')))
    names = ('image_2', 'calib', 'label_2', 'velodyne')
    return kitti.list_kitti_frames(
        kitti.KittiFolders(*(str(folder / name) for name in names)), ids
    )


def real_cases(
    frames: list[kitti.FrameFiles], keep: Callable[[Array, Array], Array]
) -> Iterator[Case]:
    """Yield real cases with held-out rays; rays occluded from the camera are no truth."""
    for number, files in enumerate(frames):
        scan, calib = scan_file.read_velodyne(files.velodyne), kitti_calib.read_calib(files.calib)
        height, width = kitti.read_image(files.image_2).shape[:2]
        points_m = velo_to_camera(scan, calib.cam_T_velo)
        bearing = np.degrees(np.arctan2(scan[:, 1], scan[:, 0]))
        beam = np.append(0, np.cumsum(np.diff(bearing) < -90))
        kept = keep(beam, np.random.default_rng(number).random(len(scan)))
        all_rays, input_rays = (
            sparse_depth(points, calib.P2, width, height + MARGIN_BELOW_PX)
            for points in (points_m, points_m[kept])
        )
        true_m = np.where(
            (input_rays == 0) & ~occluded_rays(all_rays, ray_spacing(all_rays)[0]), all_rays, 0
        )
        true_m[height:] = 0
        yield input_rays, true_m.astype(np.float32)


def synthetic_worlds(frames: int) -> Iterator[tuple[Array, Array, Array]]:
    """Yield synthetic points (camera frame) with their beam numbers, P and dense depth."""
    from stl_core.data.synthetic import frame
    from stl_core.data.synthetic.sensors import camera, lidar

    sensor = lidar.Lidar()
    pose = np.eye(4)
    pose[:3] = np.column_stack([[[0, -1, 0], [0, 0, -1], [1, 0, 0]], sensor.position_m])
    for number in range(frames):
        made = frame.make_frame(3, number, camera.KITTI, sensor)
        points = made.scan.points
        slope = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
        beam = np.abs(slope[:, None] - np.array(sensor.elevation_deg)).argmin(1)
        yield np.column_stack([velo_to_camera(points, pose), beam]), made.camera.P, made.depth_m


def synthetic_cases(worlds: list[tuple[Array, Array, Array]], step: int) -> Iterator[Case]:
    """Yield synthetic cases with every `step`-th beam as input."""
    for points, P, true_m in worlds:
        input_points = points[points[:, 3] % step == 0, :3]
        height, width = true_m.shape
        padded_m = np.pad(true_m, ((0, MARGIN_BELOW_PX), (0, 0)))
        yield sparse_depth(input_points, P, width, height + MARGIN_BELOW_PX), padded_m


def moments(frames: list[kitti.FrameFiles]) -> dict[str, float]:
    """Return mean and std of the known depths of the real frames, and the known fraction."""
    known_depths, known_fractions = [], []
    for files in frames:
        frame = kitti.read_source_image(files)
        height, width = frame.pixels.read().shape[:2]
        depth_m = depth_from_scan(frame, width, height)
        known_depths.append(depth_m[depth_m > 0])
        known_fractions.append((depth_m > 0).mean())
    joined = np.concatenate(known_depths).astype(float)
    return {'mean': joined.mean(), 'std': joined.std(), 'known': float(np.mean(known_fractions))}


def text_of(report: dict[str, Any]) -> str:
    """Format the report as text."""
    cell = '   filled  median    mean  <5 %'
    head = ''.join(f'{f"{low:g} to {high:g} m":>{len(cell)}}' for low, high in bounds_m())
    lines = []
    for kind, tests in ((k, report[k]) for k in ('real', 'synthetic') if k in report):
        for title, methods in tests.items():
            lines += [
                '',
                f'{kind}, {title}',
                f'{"":<12}{head}',
                f'{"":<12}{cell * 5}   mixed   ms',
            ]
            for name, one in methods.items():
                cells = ''.join(
                    f'{100 * each["filled"]:7.1f} %{each["median_m"]:8.3f}{each["mean_m"]:8.3f}'
                    f'{100 * each["within_5_percent"]:6.1f}'
                    for each in one['bins']
                )
                mixed = f'{100 * one["mixed"]:6.2f} %' if kind == 'synthetic' else f'{"":8}'
                lines.append(f'{name:<12}{cells}{mixed}{one["ms"]:5.0f}')
    if 'depth_m' in report:
        lines += ['', 'known pixels of the real frames: ' + json.dumps(report['depth_m'])]
    return '\n'.join(lines)


def draw(files: kitti.FrameFiles, path: Path) -> None:
    """Write a picture of image, rays, completed depth, validity and dilation of a frame."""
    image, calib = kitti.read_image(files.image_2), kitti_calib.read_calib(files.calib)
    height, width = image.shape[:2]
    points_m = velo_to_camera(scan_file.read_velodyne(files.velodyne), calib.cam_T_velo)
    sparse_m = sparse_depth(points_m, calib.P2, width, height)
    depth_m = depth_from_scan(kitti.read_source_image(files), width, height)
    known = np.repeat((depth_m > 0)[..., None] * np.uint8(255), 3, 2)
    rows = {
        f'image {files.id}': cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
        'LiDAR rays (drawn 2 px wide)': coloured(cv2.dilate(sparse_m, np.ones((2, 2)))),
        'completed': coloured(depth_m),
        'validity': known,
        'dilation, for comparison': coloured(dilated(sparse_m)),
    }
    for title, row in rows.items():
        for colour, thick in (((0, 0, 0), 4), ((255, 255, 255), 1)):
            cv2.putText(row, title, (10, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.8, colour, thick, 16)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(list(rows.values())))


def coloured(depth_m: Array) -> Array:
    """Colour (H, W) metres as (H, W, 3) uint8 BGR: red near, blue far, black unknown."""
    tone = 255 * np.sqrt(np.clip(4 / np.maximum(depth_m, 1e-3), 0, 1))
    colours = cv2.applyColorMap(tone.astype(np.uint8), cv2.COLORMAP_TURBO)
    return np.where(depth_m[..., None] > 0, colours, np.uint8(0))


if __name__ == '__main__':
    main()

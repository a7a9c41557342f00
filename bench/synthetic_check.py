"""
Check synthetic data: consistency of labels, masks, depth and LiDAR; statistics against KITTI.

Compares the difficulty and distributions of the labels with those of KITTI's training labels.
python bench/synthetic_check.py [--frames 500] [--json FILE] [--plot docs/synthetic_depth.png]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from stl_core.data import worker_pool
from stl_core.data.synthetic import frame
from stl_core.data.synthetic.scene.distributions import (
    CLASSES,
    MEASURES,
    QUANTILE_LEVELS,
    load_kitti_statistics,
    summarise_labels,
)
from stl_core.data.synthetic.sensors import camera, labels, lidar
from stl_core.evaluation.average_precision import evaluate_detections
from stl_core.geometry import project_points
from stl_core.types import Array, Labels

#: Quantiles in the printed table.
PRINTED_QUANTILES = (0.05, 0.5, 0.95)


def main() -> None:
    """Make and measure the frames; print the report and write JSON and plot if requested."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('--frames', type=int, default=500)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--workers', type=int, default=worker_pool.available_cpus())
    parser.add_argument('--json', metavar='FILE')
    parser.add_argument('--plot', metavar='FILE')
    args = parser.parse_args()
    items = [(args.seed, number) for number in range(args.frames)]
    measurements = list(
        worker_pool.with_progress(
            worker_pool.map_ordered(measure, items, args.workers), len(items), 'frames'
        )
    )
    frames = [measurement['labels'] for measurement in measurements]
    report = {
        'frames': len(frames),
        'consistency': consistency(measurements) | evaluate_labels_as_detections(frames),
        'classes': {name: summarise_labels(frames, name) for name in CLASSES},
    }
    print(text_of(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))
    if args.plot:
        plot(frames, Path(args.plot))


def measure(item: tuple[int, int]) -> dict[str, Any]:
    """Make one frame and measure the consistency of its labels, masks, depth and scan."""
    sensor = lidar.Lidar()
    made = frame.make_frame(*item, camera.KITTI, sensor)
    annotations = made.annotations
    keep = annotations.labels.name != 'DontCare'
    truth, P = annotations.labels[keep], made.camera.P
    last = np.array([made.camera.width_px - 1.0, made.camera.height_px - 1.0])
    projected = labels.project_boxes(truth.center_m, truth.size_hwl_m, truth.rotation_y, P)
    projected = np.clip(projected, 0, np.tile(last, 2))
    signs = np.array([1.0, 1.0, -1.0, -1.0])
    points = camera_frame(made.scan.points, sensor)
    actor_id, hits = annotations.actor_id[keep], made.scan.hits
    num_points = np.array([int((made.scan.actor_id == i).sum()) for i in actor_id])
    in_box = np.array([int(within(points, truth, i).sum()) for i in range(len(truth))])
    num_unoccluded, visible = hits.num_unoccluded[actor_id], hits.num_visible[actor_id]
    return {
        'labels': annotations.labels,
        'outside_px': (signs * (projected - truth.box_px)).max(1, initial=-9.0),
        'loose_px': (-signs * (projected - truth.box_px)).max(1, initial=0.0),
        'visibility': annotations.visibility[keep],
        'lidar_visibility': visible / np.maximum(num_unoccluded, 1),
        'lidar_alone': num_unoccluded,
        'points': num_points,
        'points_in_box': in_box,
        'whole': truth.truncated < 0.02,
        'depth_m': truth.center_m[:, 2],
        'depth_error': depth_errors(points, made, sensor),
        'scan': len(points),
    }


def camera_frame(points: Array, sensor: lidar.Lidar) -> Array:
    """Transform (N, 4) velodyne points to the camera frame, (N, 3)."""
    return np.stack([-points[:, 1], -points[:, 2], points[:, 0]], 1) + sensor.position_m


def within(points: Array, truth: Labels, row: int) -> Array:
    """Return which points lie in a labelled box, with a margin of 3 sigma of the range noise."""
    offset = points - truth.center_m[row]
    cos, sin = np.cos(truth.rotation_y[row]), np.sin(truth.rotation_y[row])
    turned = np.stack([offset[:, 1], sin * offset[:, 0] + cos * offset[:, 2],
                       cos * offset[:, 0] - sin * offset[:, 2]], 1)  # fmt: skip
    return (np.abs(turned) <= truth.size_hwl_m[row] / 2 + 0.05).all(1)


def depth_errors(points: Array, made: frame.SyntheticFrame, sensor: lidar.Lidar) -> Array:
    """
    Return dense depth minus scan, metres, where four pixels round a point show one surface.

    Inverse depth is linear on a plane, so it is interpolated; differences are along the ray.
    """
    pixels, depth = project_points(points, made.camera.P)
    height, width = made.depth_m.shape
    inside = (depth > 1) & (pixels > 0).all(1) & (pixels < [width - 2, height - 2]).all(1)
    pixels, points = pixels[inside], points[inside]
    u, v = pixels.astype(int).T
    four = np.stack([made.depth_m[v + j, u + i] for j in (0, 1) for i in (0, 1)])
    masks = np.stack([made.instance_mask[v + j, u + i] for j in (0, 1) for i in (0, 1)])
    same = (four > 0).all(0) & (masks == masks[0]).all(0)
    same &= (four.max(0) - four.min(0)) < 0.02 * four.min(0)
    a, b = (pixels - np.floor(pixels)).T
    weight = np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b])
    with np.errstate(divide='ignore', invalid='ignore'):
        dense = 1 / (weight / four).sum(0)
    ray_m = points - np.array(sensor.position_m)
    stretch = np.linalg.norm(ray_m, axis=1) / np.maximum(points[:, 2], 0.1)
    return ((dense - points[:, 2]) * stretch)[same]


def consistency(measurements: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Summarise the measurements of all frames."""
    joined = {
        key: np.concatenate([each[key] for each in measurements])
        for key in measurements[0]
        if key not in ('labels', 'scan')
    }
    error = np.abs(joined['depth_error'])
    near = (joined['depth_m'] < 60) & joined['whole'] & (joined['lidar_alone'] >= 10)
    camera_visibility, lidar_visibility = (
        joined['visibility'][near],
        joined['lidar_visibility'][near],
    )
    mostly_visible = near & (joined['visibility'] > 0.3)
    return {
        'objects': len(near),
        'scan_points_mean': float(np.mean([each['scan'] for each in measurements])),
        'mask_outside_box_px_max': float(joined['outside_px'].max()),
        'mask_inside_box_px_median': float(np.median(joined['loose_px'])),
        'lidar_camera_visibility_spearman': float(
            spearmanr(camera_visibility, lidar_visibility)[0]
        ),
        'lidar_camera_visibility_median_difference': float(
            np.median(np.abs(camera_visibility - lidar_visibility))
        ),
        'clear_objects_with_points': float((joined['points'][mostly_visible] > 0).mean()),
        'points_on_object_also_in_box': float(
            np.minimum(joined['points_in_box'], joined['points']).sum()
            / max(1, joined['points'].sum())
        ),
        'depth_lidar_error_median_m': float(np.median(error)),
        'depth_lidar_error_68_m': float(np.quantile(error, 0.68)),
        'depth_lidar_error_95_m': float(np.quantile(error, 0.95)),
    }


def evaluate_labels_as_detections(frames: Sequence[Labels]) -> dict[str, float]:
    """Evaluate the labels as detections of themselves: the least AP40 of all classes."""
    frames = list(frames) * 5  # AP40 needs 41 objects of each kind
    result = evaluate_detections(frames, [each[each.name != 'DontCare'] for each in frames])
    scores = [
        value
        for row in result.rows()
        if row['kind'] == 'AP40'
        for value in (row['easy'], row['moderate'], row['hard'])
    ]
    return {'own_labels_least_ap40': float(min(scores))}


def text_of(report: dict[str, Any]) -> str:
    """Format the report as text."""
    lines = [f'{key:<44}{value:12.4f}' for key, value in report['consistency'].items()]
    lines += [
        '',
        'synthetic / KITTI (of objects whose occlusion is annotated in KITTI)',
        f'{"":<13}{"easy":<25}{"moderate":<25}{"hard":<25}occluded 0 1 2 3',
    ]
    for name in CLASSES:
        stats, kitti = report['classes'][name], load_kitti_statistics()[name]
        pairs = zip(stats['difficulty'], kitti.difficulty, strict=True)
        stated = 1 - kitti.occluded[3]
        fractions = ''.join(f'{a:.3f} / {b:.3f} ({b / stated:.3f})    ' for a, b in pairs)
        levels = ' '.join(
            f'{a:.2f}/{b:.2f}' for a, b in zip(stats['occluded'], kitti.occluded, strict=True)
        )
        lines.append(f'{name:<13}{fractions}{levels}')
    head = ''.join(f'{f"q{level:g}":>16}' for level in PRINTED_QUANTILES)
    lines += ['', f'synthetic / KITTI        {"mean":>16}{"std":>16}{head}']
    for name in CLASSES:
        stats, kitti = report['classes'][name], load_kitti_statistics()[name]
        for measure_name in MEASURES:
            cells = [(stats['mean'][measure_name], kitti.mean[measure_name])]
            cells.append((stats['std'][measure_name], kitti.std[measure_name]))
            for level in PRINTED_QUANTILES:
                index = QUANTILE_LEVELS.index(level)
                cells.append(
                    (stats['quantiles'][measure_name][index], kitti.quantiles[measure_name][index])
                )
            row = ''.join(f'{a:8.2f}/{b:7.2f}' for a, b in cells)
            lines.append(f'{name:<11}{measure_name:<14}{row}')
        counts = [sum(i * p for i, p in enumerate(c)) for c in (stats['counts'], kitti.counts)]
        yaws = ' '.join(
            f'{a:.2f}/{b:.2f}' for a, b in zip(stats['directions'], kitti.directions, strict=True)
        )
        lines.append(
            f'{name:<11}per frame {counts[0]:.2f}/{counts[1]:.2f}; away, towards, across {yaws}; '
            f'truncated {stats["truncated"]:.2f}/{kitti.truncated:.2f}'
        )
    return '\n'.join(lines)


def plot(frames: Sequence[Labels], path: Path) -> None:
    """Plot the depth distributions of synthetic data and KITTI."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(CLASSES), figsize=(15, 3.2), sharex=True)
    for axis, name in zip(axes, CLASSES, strict=True):
        depth_m = np.concatenate([each.center_m[each.name == name, 2] for each in frames])
        axis.hist(depth_m, np.arange(0, 90, 5), density=True, color='#4c9be8', alpha=0.75)
        reference_m = np.interp(
            np.linspace(0, 1, 4001),
            QUANTILE_LEVELS,
            load_kitti_statistics()[name].quantiles['z_m'],
        )
        density, edges = np.histogram(reference_m, np.arange(0, 90, 5), density=True)
        axis.stairs(density, edges, color='#e8743b', linewidth=2)
        axis.set_title(f'{name} ({len(depth_m)})')
        axis.set_xlabel('depth, m')
        axis.set_yticks([])
    axes[0].legend(['KITTI train (from quantiles)', 'synthetic'])
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == '__main__':
    main()

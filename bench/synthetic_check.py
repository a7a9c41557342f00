"""
Measure the synthetic world against its own claims and against KITTI's labels.

Consistency of labels, masks, depth and LiDAR; difficulty and distributions beside KITTI's.
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

SHOWN = (0.05, 0.5, 0.95)


def main() -> None:
    """Make the frames, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('--frames', type=int, default=500)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--workers', type=int, default=worker_pool.available_cpus())
    parser.add_argument('--json', metavar='FILE')
    parser.add_argument('--plot', metavar='FILE')
    args = parser.parse_args()
    items = [(args.seed, number) for number in range(args.frames)]
    found = list(
        worker_pool.with_progress(
            worker_pool.map_ordered(measure, items, args.workers), len(items), 'frames'
        )
    )
    frames = [each['labels'] for each in found]
    report = {
        'frames': len(frames),
        'consistency': consistency(found) | own_score(frames),
        'classes': {name: summarise_labels(frames, name) for name in CLASSES},
    }
    print(text_of(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))
    if args.plot:
        plot(frames, Path(args.plot))


def measure(item: tuple[int, int]) -> dict[str, Any]:
    """Make one frame and measure what belongs together in it."""
    sensor = lidar.Lidar()
    made = frame.make_frame(*item, camera.KITTI, sensor)
    found = made.annotations
    keep = found.labels.name != 'DontCare'
    own, P = found.labels[keep], made.camera.P
    last = np.array([made.camera.width_px - 1.0, made.camera.height_px - 1.0])
    projected = labels.project_boxes(own.center_m, own.size_hwl_m, own.rotation_y, P)
    projected = np.clip(projected, 0, np.tile(last, 2))
    signs = np.array([1.0, 1.0, -1.0, -1.0])
    points = camera_frame(made.scan.points, sensor)
    owner, hits = found.actor_id[keep], made.scan.hits
    inside = np.array([int((made.scan.actor_id == i).sum()) for i in owner])
    in_box = np.array([int(within(points, own, i).sum()) for i in range(len(own))])
    alone, visible = hits.num_unoccluded[owner], hits.num_visible[owner]
    return {
        'labels': found.labels,
        'outside_px': (signs * (projected - own.box_px)).max(1, initial=-9.0),
        'loose_px': (-signs * (projected - own.box_px)).max(1, initial=0.0),
        'visibility': found.visibility[keep],
        'lidar_visibility': visible / np.maximum(alone, 1),
        'lidar_alone': alone,
        'points': inside,
        'points_in_box': in_box,
        'whole': own.truncated < 0.02,
        'depth_m': own.center_m[:, 2],
        'depth_error': depth_errors(points, made, sensor),
        'scan': len(points),
    }


def camera_frame(points: Array, sensor: lidar.Lidar) -> Array:
    """(N, 4) velodyne points -> (N, 3) camera frame."""
    return np.stack([-points[:, 1], -points[:, 2], points[:, 0]], 1) + sensor.position_m


def within(points: Array, own: Labels, row: int) -> Array:
    """Return which points lie in a labelled box, a margin of three sigmas of noise allowed."""
    away = points - own.center_m[row]
    cos, sin = np.cos(own.rotation_y[row]), np.sin(own.rotation_y[row])
    turned = np.stack([away[:, 1], sin * away[:, 0] + cos * away[:, 2],
                       cos * away[:, 0] - sin * away[:, 2]], 1)  # fmt: skip
    return (np.abs(turned) <= own.size_hwl_m[row] / 2 + 0.05).all(1)


def depth_errors(points: Array, made: frame.SyntheticFrame, sensor: lidar.Lidar) -> Array:
    """
    Compare the scan with dense depth where four pixels round a point show one smooth surface.

    Inverse depth is linear on a plane: it is interpolated, and the difference taken along the ray.
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
    away = points - np.array(sensor.position_m)
    stretch = np.linalg.norm(away, axis=1) / np.maximum(points[:, 2], 0.1)
    return ((dense - points[:, 2]) * stretch)[same]


def consistency(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Join what the frames measured."""
    joined = {
        key: np.concatenate([each[key] for each in found])
        for key in found[0]
        if key not in ('labels', 'scan')
    }
    error = np.abs(joined['depth_error'])
    near = (joined['depth_m'] < 60) & joined['whole'] & (joined['lidar_alone'] >= 10)
    seen, beamed = joined['visibility'][near], joined['lidar_visibility'][near]
    clear = near & (joined['visibility'] > 0.3)
    return {
        'objects': len(near),
        'scan_points_mean': float(np.mean([each['scan'] for each in found])),
        'mask_outside_box_px_max': float(joined['outside_px'].max()),
        'mask_inside_box_px_median': float(np.median(joined['loose_px'])),
        'lidar_camera_visibility_spearman': float(spearmanr(seen, beamed)[0]),
        'lidar_camera_visibility_median_difference': float(np.median(np.abs(seen - beamed))),
        'clear_objects_with_points': float((joined['points'][clear] > 0).mean()),
        'points_on_object_also_in_box': float(
            np.minimum(joined['points_in_box'], joined['points']).sum()
            / max(1, joined['points'].sum())
        ),
        'depth_lidar_error_median_m': float(np.median(error)),
        'depth_lidar_error_68_m': float(np.quantile(error, 0.68)),
        'depth_lidar_error_95_m': float(np.quantile(error, 0.95)),
    }


def own_score(frames: Sequence[Labels]) -> dict[str, float]:
    """Evaluate the labels as their own detections: the least AP40 of all that is defined."""
    frames = list(frames) * 5  # the measure wants 41 objects of each kind
    result = evaluate_detections(frames, [each[each.name != 'DontCare'] for each in frames])
    scores = [
        value
        for metrics in result.values()
        for kinds in metrics.values()
        for values in kinds['AP40'].values()
        for value in values
    ]
    return {'own_labels_least_ap40': float(min(scores))}


def text_of(report: dict[str, Any]) -> str:
    """Lay out the report."""
    lines = [f'{key:<44}{value:12.4f}' for key, value in report['consistency'].items()]
    lines += [
        '',
        'ours / KITTI (of those whose occlusion KITTI states)',
        f'{"":<13}{"easy":<25}{"moderate":<25}{"hard":<25}occluded 0 1 2 3',
    ]
    for name in CLASSES:
        ours, theirs = report['classes'][name], load_kitti_statistics()[name]
        pairs = zip(ours['difficulty'], theirs.difficulty, strict=True)
        stated = 1 - theirs.occluded[3]
        shares = ''.join(f'{a:.3f} / {b:.3f} ({b / stated:.3f})    ' for a, b in pairs)
        levels = ' '.join(
            f'{a:.2f}/{b:.2f}' for a, b in zip(ours['occluded'], theirs.occluded, strict=True)
        )
        lines.append(f'{name:<13}{shares}{levels}')
    head = ''.join(f'{f"q{level:g}":>16}' for level in SHOWN)
    lines += ['', f'ours / KITTI             {"mean":>16}{"std":>16}{head}']
    for name in CLASSES:
        ours, theirs = report['classes'][name], load_kitti_statistics()[name]
        for figure in MEASURES:
            cells = [(ours['mean'][figure], theirs.mean[figure])]
            cells.append((ours['std'][figure], theirs.std[figure]))
            for level in SHOWN:
                at = QUANTILE_LEVELS.index(level)
                cells.append((ours['quantiles'][figure][at], theirs.quantiles[figure][at]))
            row = ''.join(f'{a:8.2f}/{b:7.2f}' for a, b in cells)
            lines.append(f'{name:<11}{figure:<14}{row}')
        counts = [sum(i * p for i, p in enumerate(c)) for c in (ours['counts'], theirs.counts)]
        away = ' '.join(
            f'{a:.2f}/{b:.2f}' for a, b in zip(ours['directions'], theirs.directions, strict=True)
        )
        lines.append(
            f'{name:<11}per frame {counts[0]:.2f}/{counts[1]:.2f}; away, towards, across {away}; '
            f'truncated {ours["truncated"]:.2f}/{theirs.truncated:.2f}'
        )
    return '\n'.join(lines)


def plot(frames: Sequence[Labels], path: Path) -> None:
    """Draw the distributions of depth, ours beside KITTI's."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(CLASSES), figsize=(15, 3.2), sharex=True)
    for axis, name in zip(axes, CLASSES, strict=True):
        ours = np.concatenate([each.center_m[each.name == name, 2] for each in frames])
        axis.hist(ours, np.arange(0, 90, 5), density=True, color='#4c9be8', alpha=0.75)
        knots = np.interp(
            np.linspace(0, 1, 4001),
            QUANTILE_LEVELS,
            load_kitti_statistics()[name].quantiles['z_m'],
        )
        density, edges = np.histogram(knots, np.arange(0, 90, 5), density=True)
        axis.stairs(density, edges, color='#e8743b', linewidth=2)
        axis.set_title(f'{name} ({len(ours)})')
        axis.set_xlabel('depth, m')
        axis.set_yticks([])
    axes[0].legend(['KITTI train (from quantiles)', 'synthetic'])
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == '__main__':
    main()

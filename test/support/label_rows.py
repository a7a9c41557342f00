"""KITTI labels from rows of fields, for tests."""

import numpy as np

from stl_core.types import Labels


def box(name='Car', u=0.0, height_px=50.0, **fields):
    """
    Return an object 100 px wide at column u and, in 3D, a 2 m cube at x = u / 25.

    Columns 100 apart touch in the image and are 2 m apart in 3D.
    """
    row = {
        'name': name,
        'truncated': 0.0,
        'occluded': 0,
        'alpha': 0.0,
        'score': 1.0,
        'center_m': [u / 25, 1.0, 20.0],
        'size_hwl_m': [2.0, 2.0, 2.0],
        'rotation_y': 0.0,
        'box_px': [u, 100.0, u + 100, 100 + height_px],
    }
    return {**row, **fields}


def frame(*rows):
    """Return the labels of one frame."""
    if not rows:
        return Labels.empty()
    return Labels(**{name: [row[name] for row in rows] for name in rows[0]})


def crowd(rng, frames):
    """Return crowded frames: labels compete for detections, some are low, scores are tied."""
    names = ['Car', 'Car', 'Van', 'Pedestrian', 'Person_sitting', 'Cyclist', 'DontCare', 'Tram']
    labels_by_frame, detections_by_frame = [], []
    for _ in range(frames):
        labels, detections = [], []
        for _ in range(rng.integers(0, 9)):
            row = box(
                str(rng.choice(names)),
                u=float(rng.choice([0, 5, 10, 90, 100])),
                height_px=float(rng.choice([24.9, 25, 30, 40, 60])),
                occluded=int(rng.integers(0, 4)),
                truncated=float(rng.choice([0, 0, 0.15, 0.2, 0.5])),
                alpha=float(rng.uniform(-3, 3)),
            )
            labels.append(row)
            for _ in range(rng.integers(0, 4)):
                shift = rng.normal(0, 8, 4)
                detections.append(
                    {
                        **row,
                        'name': 'Car' if rng.random() < 0.3 else row['name'],
                        'score': float(rng.integers(0, 20)) / 20,
                        'alpha': row['alpha'] + rng.normal(),
                        'box_px': list(np.array(row['box_px']) + shift * [1, 0.1, 1, 0.1]),
                        'center_m': list(row['center_m'] + shift[:3] * 0.03),
                    }
                )
        labels_by_frame.append(labels)
        detections_by_frame.append(detections)
    return labels_by_frame, detections_by_frame

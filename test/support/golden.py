"""
Inputs and reference files for parity tests of our detectors with published programs.

test/parity/*.py run a program on these inputs and write its results to test/data/parity/*.json;
test_published_parity.py and test_monodetr.py compare our detectors with them, without the program.
"""

import json
import re
import sys
import types
from pathlib import Path

import cv2
import numpy as np
from name_seeded_weights import fill_all

from stl_core.geometry import box_corners, project_points, wrap_angle
from stl_core.preprocessing import InputSpec

FOLDER = Path(__file__).parents[1] / 'data' / 'parity'
SPEC = InputSpec(1280, 384)

#: Class, (height, width, length), bottom centre, rotation_y; camera frame, metres, radians. The
#: last object is partly visible: its 3D centre is left of the image.
OBJECTS = (
    ('Car', (1.52, 1.63, 3.88), (-3.1, 1.65, 14.2), -1.43),
    ('Car', (1.43, 1.70, 4.21), (6.4, 1.80, 33.5), 0.35),
    ('Pedestrian', (1.78, 0.66, 0.84), (2.2, 1.60, 9.4), 2.90),
    ('Cyclist', (1.74, 0.60, 1.76), (-8.3, 1.72, 21.7), 1.62),
    ('Car', (1.60, 1.75, 4.40), (-5.15, 1.70, 5.9), 1.20),
)


def stub_numba():
    """Install a stub of numba: programs import its CUDA part, which they do not need here."""
    numba, cuda = types.ModuleType('numba'), types.ModuleType('numba.cuda')
    cuda.jit = numba.jit = lambda *args, **_: (
        args[0] if args and callable(args[0]) else lambda function: function
    )
    numba.cuda, numba.float32 = cuda, np.float32
    sys.modules.update({'numba': numba, 'numba.cuda': cuda})


def projection(focal_px):
    """Return P, of shape (3, 4), of a camera at the origin; programs differ in column four."""
    return np.array([[focal_px, 0, 640, 0], [0, focal_px, 190, 0], [0, 0, 1, 0]], np.float64)


def label_lines(P):
    """Return OBJECTS as KITTI label lines, 6 decimals, with matching alpha and 2D boxes."""
    lines = []
    for name, size_hwl_m, bottom, rotation_y in OBJECTS:
        center = np.array(bottom) - [0, size_hwl_m[0] / 2, 0]
        points, _ = project_points(
            box_corners(center[None], np.array([size_hwl_m]), np.array([rotation_y])), P
        )
        box = np.clip([*points[0].min(0), *points[0].max(0)], 0, [1279, 383] * 2)
        alpha = float(wrap_angle(rotation_y - np.arctan2(bottom[0], bottom[2])))
        numbers = (alpha, *box, *size_hwl_m, *bottom, rotation_y)
        lines.append(f'{name} 0.0 0 ' + ' '.join(f'{value:.6f}' for value in numbers))
    return lines


def image():
    """Return (1, 3, 384, 1280) float32 standard normal noise as a normalised image."""
    shape = (1, 3, SPEC.height_px, SPEC.width_px)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def weights(shapes, adjustments):
    """
    Fill a state dict by name, then scale and shift it so that outputs resemble cars in a street.

    :param shapes: {key: shape} of the program.
    :param adjustments: rows of pattern, scale and shift (one number, or one per value) for the
        keys that match the pattern.
    :return: {key: array}.
    """
    filled = fill_all(shapes)
    for pattern, scale, shift in adjustments:
        keys = [key for key in filled if re.fullmatch(pattern, key)]
        assert keys, f'{pattern}: no such key'
        filled.update(
            {key: (filled[key] * scale + np.array(shift)).astype(np.float32) for key in keys}
        )
    return filled


def summary(values):
    """Return shape, mean, standard deviation and 200 values of an array, for JSON."""
    values = np.asarray(values, np.float64)
    return {
        'shape': list(values.shape),
        'mean': float(values.mean()),
        'std': float(values.std()),
        'values': [float(f'{value:.7g}') for value in sampled(values)],
    }


def sampled(values):
    """Return 200 values of an array, at fixed indices."""
    return values.reshape(-1)[(np.arange(200) * 7919) % values.size]


def write_frame(root, P, lines):
    """Write a KITTI folder of one grey frame 000000: image_2, calib, label_2 with these lines."""
    for name in ('image_2', 'calib', 'label_2'):
        (root / name).mkdir(parents=True)
    grey = np.full((SPEC.height_px, SPEC.width_px, 3), 128, np.uint8)
    cv2.imwrite(str(root / 'image_2' / '000000.png'), grey)
    (root / 'label_2' / '000000.txt').write_text('\n'.join(lines) + '\n')
    matrices = {f'P{camera}': P for camera in range(4)}
    matrices |= {'R0_rect': np.eye(3)}
    matrices |= dict.fromkeys(('Tr_velo_to_cam', 'Tr_imu_to_velo'), np.eye(3, 4))
    text = [f'{key}: ' + ' '.join(map(str, m.ravel())) for key, m in matrices.items()]
    (root / 'calib' / '000000.txt').write_text('\n'.join(text) + '\n')


def write(name, content):
    """Write a reference file, one line per entry, and return its path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f'{name}.json'
    rows = [f'{json.dumps(key)}: {json.dumps(value)}' for key, value in content.items()]
    path.write_text('{\n' + ',\n'.join(rows) + '\n}\n')
    return path


def read(name):
    """Read a reference file."""
    return json.loads((FOLDER / f'{name}.json').read_text())

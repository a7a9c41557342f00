"""Numbers that no object can have, by kind; real labels have none."""

import re
import zipfile

import numpy as np
import pytest
from label_rows import box, frame

from stl_core.data.checks.label_faults import describe_fault, find_faults, warn_of_faults
from stl_core.data.sources import kitti


@pytest.mark.parametrize(
    ('fields', 'kind', 'message'),
    [
        ({'size_hwl_m': [0.0, 1.6, 3.9]}, 'size', 'height width length 0 1.6 3.9'),
        ({'size_hwl_m': [-1.0, -1, -1]}, 'size', 'labels without 3D boxes'),
        ({'size_hwl_m': [1.5e3, 1.6e3, 3.9e3]}, 'size', 'expected metres'),
        ({'center_m': [1e9, 1.0, 20.0]}, 'position', r'position 1e\+09 1 20'),
        ({'center_m': [-1000.5, -1000, -1000]}, 'position', 'expected metres in the camera frame'),
        ({'box_px': [0.0, 0, 0, 0]}, 'box', 'x0 < x1'),
        ({'box_px': [-1.0, -1, -1, -1]}, 'box', 'without 2D boxes'),
        ({'box_px': [143.0, 36, 67, 27]}, 'box', 'x y w h'),
        ({'box_px': [10.0, 50, 60, 50]}, 'box', '2D box 10 50 60 50'),
        ({'truncated': 25.0}, 'truncation', 'truncated 25; expected a fraction, 0 to 1'),
        ({'truncated': -0.5}, 'truncation', 'truncated -0.5'),
        ({'rotation_y': 90.0}, 'rotation', 'rotation_y 90; expected radians'),
        ({'rotation_y': -10.0}, 'rotation', 'is it in degrees'),
    ],
)
def test_impossible_numbers_are_found_and_described(fields, kind, message):
    labels = frame(box(), box(**fields), box('DontCare', **fields))
    assert find_faults(labels).tolist() == ['', kind, '']
    assert re.search(message, describe_fault(labels, 1)), describe_fault(labels, 1)
    assert describe_fault(labels, 0) == ''
    warning = warn_of_faults([frame(box()), labels], [['a.txt:1'], ['b:1', 'b:2', 'b:3']])
    assert warning.startswith('1 of 4 labelled objects have impossible numbers: b:2: ')


@pytest.mark.parametrize(
    'fields',
    [
        {'truncated': 1.0},
        {'truncated': -1.0},  # unknown
        {'rotation_y': 6.28},
        {'center_m': [0.0, 0.0, -0.29]},  # KITTI has some behind the camera
        {'occluded': 3},
        {'box_px': [100.0, 100, 100.5, 100.5]},
    ],
)
def test_odd_numbers_are_possible(fields):
    labels = frame(box(**fields))
    assert find_faults(labels).tolist() == ['']
    assert warn_of_faults([labels], [['a.txt:1']]) == ''
    assert find_faults(frame()).tolist() == []


def test_no_label_of_kitti_is_impossible(mono3d_data):
    """3,712 real label files."""
    path = mono3d_data / 'kitti_train_split_labels.zip'
    if not path.exists():
        pytest.skip(f'{path} is missing')
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith('.txt')]
        lines = [
            (f'{name}:{number}', line)
            for name in names
            for number, line in enumerate(archive.read(name).decode().splitlines(), 1)
        ]
    labels = kitti.parse_labels(lines)
    assert len(labels) > 20000
    assert np.unique(find_faults(labels)).tolist() == ['']

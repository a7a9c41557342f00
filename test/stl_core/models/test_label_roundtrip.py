"""Round trip of labels: project, encode as perfect heads, decode and lift to 3D again."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]


def test_real_labels_survive_the_round_trip(mono3d_data, tmp_path):
    command = [sys.executable, 'bench/roundtrip.py', str(mono3d_data.resolve())]
    subprocess.run([*command, '--json', str(tmp_path / 'figures.json')], cwd=ROOT, check=True)
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert figures['frames'] == 18
    assert figures['objects'] == 85
    assert figures['worst_center_m'] <= 0.02
    assert figures['worst_size_m'] <= 1e-3
    assert figures['worst_yaw_deg'] <= 0.1
    # AP of the official evaluator for a perfect result on so few objects
    expected = {
        'Car': (25.0, 60.0, 92.5),
        'Pedestrian': (25.0, 37.5, 52.5),
        'Cyclist': (0, 12.5, 12.5),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(figures['ap40_3d'][name], values, atol=1e-3)

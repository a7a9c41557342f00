"""Issue 'first light' 1: labels lowered, drawn as a perfect answer, read and lifted again."""

import sys
from pathlib import Path

import numpy as np
import pytest

from stl_core.evaluation import average_precision as evaluate
from stl_core.preprocessing import InputSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'bench'))
roundtrip = pytest.importorskip('roundtrip')


def test_real_labels_survive_the_whole_chain(mono3d_data):
    trips = list(roundtrip.round_trip(mono3d_data / 'training', InputSpec(1280, 384)))
    worst = np.concatenate([roundtrip.errors(*trip) for trip in trips])
    assert len(trips) == 18
    assert len(worst) == 85
    assert worst[:, 0].max() <= 0.02
    assert worst[:, 1].max() <= 1e-3
    assert worst[:, 2].max() <= 0.1
    ap = evaluate.evaluate([trip[0] for trip in trips], [trip[1] for trip in trips])
    # what the official evaluator gives a perfect result on so few objects
    expected = {
        'Car': (25.0, 60.0, 92.5),
        'Pedestrian': (25.0, 37.5, 52.5),
        'Cyclist': (0, 12.5, 12.5),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(ap[name]['3d']['AP40']['strict'], values, atol=1e-3)

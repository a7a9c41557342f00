"""Small detectors for tests, random batches, and a module that detects and decodes."""

import numpy as np
import pytest
import torch

from stl_core.models import DETECTORS
from stl_core.tensors.batch import NetworkInput, pad_targets
from stl_core.types import ImageObjects

#: Options that make each detector small enough for tests.
SMALL = {
    'monodle': {'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 16},
    'monocon': {'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 16},
    'monodetr': {
        'backbone': 'mobilenetv4_conv_small',
        'width': 32,
        'feedforward': 32,
        'encoder_layers': 1,
        'decoder_layers': 2,
        'queries': 12,
        'groups': 2,
    },
}
H, W = 96, 320


def build(name, **options):
    torch.manual_seed(0)
    entry = DETECTORS[name]
    return entry.detector(entry.config(**{**SMALL[name], **options}), in_channels=3, num_classes=3)


def some_objects(seed=0, count=4):
    rng = np.random.default_rng(seed)
    center = rng.uniform([20, 20], [W - 20, H - 20], (count, 2))
    return ImageObjects(
        class_id=rng.integers(0, 3, count),
        score=np.ones(count),
        center_px=center,
        depth_m=rng.uniform(5, 50, count),
        size_hwl_m=rng.uniform(1, 4, (count, 3)),
        alpha=rng.uniform(-np.pi, np.pi, count),
        box_px=np.concatenate([center - 12, center + 14], 1),
        depth_log_sigma=np.zeros(count),
    )


def batch(rows=2, count=4):
    torch.manual_seed(1)
    image, P = torch.randn(rows, 3, H, W), torch.eye(3, 4).repeat(rows, 1, 1)
    P[:, 0, 0] = P[:, 1, 1] = 300.0
    P[:, 0, 2], P[:, 1, 2] = W / 2, H / 2
    return image, P, pad_targets([some_objects(i, count) for i in range(rows)], 10)


#: Detectors of single images; test_lift_splat.py holds the tests of the one of several cameras.
every_detector = pytest.mark.parametrize(
    'name', [name for name, each in DETECTORS.items() if not each.multi_view]
)


class DecodingDetector(torch.nn.Module):
    """A detector followed by its decoding: image and P to the fields of ImageObjects."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, image, P):
        return self.detector.decode(self.detector(NetworkInput(image, P)))

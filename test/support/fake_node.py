"""
The real node with a fake network that only reads colours: `python fake_node.py --ros-args ...`.

The network returns one car per 10 units of red in the top-left pixel (rounded), at
z = P[0, 0] / 10 m, so that a test can determine which image and which P were used. It fails if red
is 250 or more. It prints the size of each batch. A model file with the text `lens` was trained
for KITTI's focal length on a canvas of 64x32 pixels.
"""

import sys
import time
from types import SimpleNamespace

import numpy as np

from mono3d_ros.node.detector_node import main
from stl_core.preprocessing import InputSpec
from stl_core.types import Objects3D

MIN_FAILING_RED = 250


class FakePredictor:
    device = 'cpu'

    def __init__(self, **spec):
        self.spec = SimpleNamespace(classes=('Car', 'Pedestrian'), **spec)

    def __call__(self, images, Ps):
        print(f'a batch of {len(images)}', flush=True)
        return [self.detect(image, P) for image, P in zip(images, Ps, strict=True)]

    def detect(self, image, P):
        red = int(image[0, 0, 0])
        if red >= MIN_FAILING_RED:
            raise RuntimeError('this image is too red')
        n = round(red / 10)
        return Objects3D(
            class_id=np.zeros(n, int),
            score=np.linspace(0.9, 0.5, n),
            center_m=np.tile([0.0, 1.0, P[0, 0] / 10], (n, 1)),
            size_hwl_m=np.tile([1.5, 1.6, 4.0], (n, 1)),
            rotation_y=np.zeros(n),
            box_px=np.zeros((n, 4)),
            depth_sigma_m=np.ones(n),
        )


def load(path, device, precision):
    text = path.read_text()
    if text == 'broken':
        raise ValueError(f'{path}: not a readable model file')
    if text == 'slow':
        path.with_suffix('.loading').touch()
        time.sleep(2)
    if text == 'lens':
        return FakePredictor(input=InputSpec(64, 32), options={'virtual_focal_px': 720.0})
    return FakePredictor()


if __name__ == '__main__':
    sys.exit(main(load=load))

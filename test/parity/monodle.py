"""
Write the results of the public MonoDLE as the reference of test_published_parity.

git clone https://github.com/xinzhuma/monodle peers/monodle
git -C peers/monodle checkout e426aa6
python test/parity/monodle.py peers/monodle
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / 'support'))
import golden

FOCAL_PX = 743.6
ADJUSTMENTS = (
    (r'(heatmap|offset_2d|size_2d|depth|offset_3d|size_3d|heading)\.2\.weight', 0.05, 0.0),
    (r'depth\.2\.bias', 1.0, (-3.0, 1.0)),  # about 20 m, sigma about 3 m
    (r'heatmap\.2\.bias', 1.0, -2.0),
    (r'size_[23]d\.2\.bias', 1.0, 2.0),
)
CLASSES = ['Pedestrian', 'Car', 'Cyclist']


def main() -> None:
    """Run the program on the weights, image and labels of golden.py; write its results."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('clone', type=Path, help='xinzhuma/monodle at e426aa6')
    args = parser.parse_args()
    sys.path.insert(0, str(args.clone))
    stub_environment()
    from lib.models.centernet3d import CenterNet3D

    model = CenterNet3D().eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    filled = golden.weights(shapes, ADJUSTMENTS)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in filled.items()})
    with torch.no_grad():
        heads = model(torch.from_numpy(golden.image()))
    P = golden.projection(FOCAL_PX)
    lines = golden.label_lines(P)
    path = golden.write(
        'monodle',
        {
            'program': 'xinzhuma/monodle at e426aa6',
            'made_by': 'python test/parity/monodle.py CLONE',
            'focal_px': FOCAL_PX,
            'tone': ADJUSTMENTS,
            'labels': lines,
            'heads': {name: golden.summary(value.numpy()) for name, value in heads.items()},
            'boxes': boxes(heads, P),
            'losses': losses(heads, P, lines),
            'shapes': shapes,
        },
    )
    print(f'{path}: {path.stat().st_size / 1e3:.1f} kB')


def stub_environment() -> None:
    """Install stubs of what the program requires: CUDA, numba, skimage, a download."""
    golden.stub_numba()
    skimage: Any = types.ModuleType('skimage')
    skimage.io = None
    sys.modules.update({'skimage': skimage})
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
    from lib.backbones import dla

    dla.DLA.load_pretrained_model = lambda *_, **__: None


def boxes(heads: dict[str, torch.Tensor], P: np.ndarray) -> list[dict[str, Any]]:
    """Decode with the program's tester; return the 20 highest peaks."""
    from lib.datasets.kitti.kitti_utils import Calibration
    from lib.helpers.decode_helper import decode_detections, extract_dets_from_outputs

    copies = {name: value.clone() for name, value in heads.items()}  # sigmoid_ writes into them
    detections = extract_dets_from_outputs(copies, K=50).numpy()
    height, certainty = detections[0, :, 1].copy(), detections[0, :, -1].copy()
    identity = np.eye(3, 4, dtype=np.float32)
    calib = Calibration(
        {'P2': P.astype(np.float32), 'R0': np.eye(3, dtype=np.float32), 'Tr_velo2cam': identity}
    )
    info = {'img_id': [0], 'bbox_downsample_ratio': np.array([[4.0, 4.0]])}
    rows = decode_detections(detections, info, [calib], np.zeros((3, 3), np.float32), -1.0)[0]
    decoded = []
    for i in range(20):
        class_id, alpha, *rest = rows[i]
        box, size, bottom, (rotation_y, score) = rest[:4], rest[4:7], rest[7:10], rest[10:]
        decoded.append(
            {
                'class_id': int(class_id),
                'height': float(height[i]),
                'log_sigma': float(-np.log(certainty[i])),
                'score': float(score),
                'alpha': float(alpha),
                'box_px': [float(value) for value in box],
                'size_hwl_m': [float(value) for value in size],
                'floor_m': [float(value) for value in bottom],
                'rotation_y': float(rotation_y),
            }
        )
    return decoded


def losses(heads: dict[str, torch.Tensor], P: np.ndarray, lines: list[str]) -> dict[str, float]:
    """Encode the labels with the program's data set and return its losses."""
    from lib.datasets.kitti.kitti_dataset import KITTI_Dataset
    from lib.losses.centernet_loss import compute_centernet3d_loss

    with tempfile.TemporaryDirectory() as root:
        golden.write_frame(Path(root, 'object', 'training'), P, lines)
        Path(root, 'ImageSets').mkdir()
        Path(root, 'ImageSets', 'val.txt').write_text('000000\n')
        _, target, _ = KITTI_Dataset('val', {'root_dir': root, 'writelist': CLASSES})[0]
    batch = {key: torch.from_numpy(value)[None] for key, value in target.items()}
    for mask in ('mask_2d', 'mask_3d'):  # current torch does not treat uint8 indices as masks
        batch[mask] = batch[mask].bool()
    copies = {name: value.clone() for name, value in heads.items()}
    _, values = compute_centernet3d_loss(copies, batch)
    return values


if __name__ == '__main__':
    main()

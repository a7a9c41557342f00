"""
Write the results of the public MonoCon as the reference of test_published_parity.

git clone https://github.com/2gunsu/monocon-pytorch peers/monocon
git -C peers/monocon checkout 908807b
python test/parity/monocon.py peers/monocon
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

FOCAL_PX = 721.5
ADJUSTMENTS = (
    (r'head\.(\w+_head\.3|dir_(cls|reg)\.0)\.weight', 0.2, 0.0),
    (r'head\.(kpt_)?heatmap_head\.3\.bias', 1.0, -2.0),
    (r'head\.depth_head\.3\.bias', 1.0, (-3.0, 1.0)),  # about 20 m, sigma about 3 m
    (r'head\.(dim|wh)_head\.3\.bias', 1.0, 3.0),
)


def main() -> None:
    """Run the program on the weights, image and labels of golden.py; write its results."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('clone', type=Path, help='2gunsu/monocon-pytorch at 908807b')
    args = parser.parse_args()
    sys.path.insert(0, str(args.clone))
    stub_imports()
    from model import MonoConDetector

    model = MonoConDetector(pretrained_backbone=False).eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    filled = golden.weights(shapes, ADJUSTMENTS)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in filled.items()})
    with torch.no_grad():
        heads = model({'img': torch.from_numpy(golden.image())})
    P = golden.projection(FOCAL_PX)
    lines = golden.label_lines(P)
    path = golden.write(
        'monocon',
        {
            'program': '2gunsu/monocon-pytorch at 908807b',
            'made_by': 'python test/parity/monocon.py CLONE',
            'focal_px': FOCAL_PX,
            'tone': ADJUSTMENTS,
            'labels': lines,
            'heads': {name: golden.summary(value.numpy()) for name, value in heads.items()},
            'boxes': boxes(model.head, heads, P),
            # without the last object, which is only partly visible
            'losses': losses(model.head, heads, P, lines[:-1]),
            'losses_with_cut': losses(model.head, heads, P, lines),
            'shapes': shapes,
        },
    )
    print(f'{path}: {path.stat().st_size / 1e3:.1f} kB')


def stub_imports() -> None:
    """Install stubs of modules that the program's data set imports but does not need here."""
    golden.stub_numba()
    pandas: Any = types.ModuleType('pandas')
    pandas.DataFrame = None
    sys.modules.update({'pandas': pandas})


def boxes(head: Any, heads: dict[str, torch.Tensor], P: np.ndarray) -> list[dict[str, Any]]:
    """Decode with the program's code; return the 20 highest peaks."""
    from utils.data_classes import KITTICalibration
    from utils.tensor_ops import (
        get_local_maximum,
        get_topk_from_heatmap,
        transpose_and_gather_feat,
    )

    head.test_thres = -1.0
    identity = np.eye(3, 4)
    matrices = {f'P{camera}': P for camera in range(4)}
    calib = KITTICalibration(
        {**matrices, 'R0': np.eye(3), 'Tr_velo2cam': identity, 'Tr_imu2velo': identity}
    )
    batch = {'calib': [calib], 'img_metas': {'pad_shape': [image_hw(heads)]}}
    copies = {name: value.clone() for name, value in heads.items()}
    (boxes_2d,), (boxes_3d,), (labels,) = head.decode_heatmap(batch, copies)
    height, cell, *_ = get_topk_from_heatmap(get_local_maximum(heads['center_heatmap_pred']), 30)
    log_sigma = transpose_and_gather_feat(heads['depth_pred'], cell)[0, :, 1]
    return [
        {
            'class_id': int(labels[i]),
            'height': float(height[0, i]),
            'log_sigma': float(log_sigma[i]),
            'box_px': boxes_2d[i, :4].tolist(),
            'size_lhw_m': boxes_3d[i, 3:6].tolist(),
            'center_m': boxes_3d[i, :3].tolist(),
            'rotation_y': float(boxes_3d[i, 6]),
        }
        for i in range(20)
    ]


def image_hw(heads: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Return the height and width of the image."""
    h, w = heads['center_heatmap_pred'].shape[-2:]
    return 4 * h, 4 * w


def losses(
    head: Any, heads: dict[str, torch.Tensor], P: np.ndarray, lines: list[str]
) -> dict[str, float]:
    """Encode the labels with the program's data set and return its losses."""
    from dataset.monocon_dataset import MonoConDataset

    with tempfile.TemporaryDirectory() as root:
        training = Path(root, 'training')
        golden.write_frame(training, P, lines)
        data = MonoConDataset(root, 'val')
        data.image_files = [str(training / 'image_2' / '000000.png')]
        data.calib_files = [str(training / 'calib' / '000000.txt')]
        data.label_files = [str(training / 'label_2' / '000000.txt')]
        batch = data.collate_fn([data[0]])
    feature_shape = (1, 64, *heads['center_heatmap_pred'].shape[-2:])
    target = head.target_generator(batch, feat_shape=feature_shape)
    values = head._get_losses({name: value.clone() for name, value in heads.items()}, target)
    return {name: float(value) for name, value in values.items()}


if __name__ == '__main__':
    main()

"""
Write the results of the public MonoDETR as reference for test/stl_core/models/test_monodetr.py.

git clone https://github.com/ZrrSkywalker/MonoDETR peers/MonoDETR
git -C peers/MonoDETR checkout 6994b9f
python test/parity/monodetr.py peers/MonoDETR
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / 'support'))
import golden
import monodetr_queries

FOCAL_PX = 743.6
#: Scale and shift of weights: queries differ, and decoded objects resemble cars in a street.
ADJUSTMENTS = (
    (r'query_embed\.weight', 30.0, 0.0),
    (r'depthaware_transformer\.reference_points\.weight', 0.5, 0.0),
    (r'.+(level_embed|depth_pos_embed\.weight)', 10.0, 0.0),
    (r'(class|angle)_embed\.\d\..*weight', 0.5, 0.0),
    (r'bbox_embed\.\d\.layers\.2\.weight', 0.3, 0.0),
    (r'bbox_embed\.0\.layers\.2\.bias', 1.0, -2.0),
    (r'(dim_embed_3d|depth_embed)\.\d\.layers\.1\.weight', 0.1, 0.0),
    (r'dim_embed_3d\.\d\.layers\.1\.bias', 1.0, 2.0),
    (r'depth_embed\.\d\.layers\.1\.bias', 1.0, -3.0),
)
#: Prefix of the same parameters under a second name, which the program loads first.
ALIAS = 'depthaware_transformer.decoder.'
CONSTANT = 'depth_predictor.depth_bin_values'
CLASSES = ['Pedestrian', 'Car', 'Cyclist']


def main() -> None:
    """Run the program on the weights, image and labels of golden.py; write its results."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('clone', type=Path, help='ZrrSkywalker/MonoDETR at 6994b9f')
    args = parser.parse_args()
    sys.path.insert(0, str(args.clone))
    with stubbed_environment():
        model, criterion = build(args.clone)
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        unaliased = {key: shape for key, shape in shapes.items() if not is_alias(key)}
        weights = golden.weights(unaliased, ADJUSTMENTS)
        weights.pop(CONSTANT)
        state = {key: torch.from_numpy(value) for key, value in weights.items()}
        mismatch = model.load_state_dict(state, strict=False)
        assert not mismatch.unexpected_keys
        assert all(is_alias(key) or key == CONSTANT for key in mismatch.missing_keys)
        P = golden.projection(FOCAL_PX)
        with torch.no_grad():
            out = model.eval()(
                torch.from_numpy(golden.image()),
                torch.from_numpy(P[None]).float(),
                None,
                # the public code passes the image size before resizing
                torch.tensor([[golden.SPEC.width_px, golden.SPEC.height_px]]),
            )
        lines = golden.label_lines(P)
        losses, gradients = compare(criterion, P, lines)
        boxes = decoded(out, P)
    path = golden.write(
        'monodetr',
        {
            'program': 'ZrrSkywalker/MonoDETR at 6994b9f',
            'made_by': 'python test/parity/monodetr.py CLONE',
            'focal_px': FOCAL_PX,
            'tone': ADJUSTMENTS,
            'labels': lines,
            'heads': {name: golden.summary(value.numpy()) for name, value in heads(out).items()},
            'boxes': boxes,
            'losses': losses,
            'gradients': gradients,
            'shapes': shapes,
        },
    )
    print(f'{path}: {path.stat().st_size / 1e3:.1f} kB')


def is_alias(key: str) -> bool:
    """Return whether a key is a second name of a head."""
    return key.startswith((f'{ALIAS}bbox_embed', f'{ALIAS}dim_embed'))


@contextlib.contextmanager
def stubbed_environment() -> Iterator[None]:
    """Install stubs of what the program requires: CUDA, old torch, numba, skimage, ipdb."""
    make_tensor = torch.tensor

    def tensor(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        return make_tensor(*args, **kwargs)

    numba: Any = types.ModuleType('numba')
    numba_cuda: Any = types.ModuleType('numba.cuda')
    numba_cuda.jit = numba.jit = lambda *args, **_: (
        args[0] if args and callable(args[0]) else lambda function: function
    )
    numba.cuda, numba.float32 = numba_cuda, np.float32
    skimage: Any = types.ModuleType('skimage')
    skimage.io = None
    stubs = {
        'numba': numba,
        'numba.cuda': numba_cuda,
        'skimage': skimage,
        'ipdb': types.ModuleType('ipdb'),
        'MultiScaleDeformableAttention': types.ModuleType('MultiScaleDeformableAttention'),
        'torch._overrides': torch.overrides,
    }
    linear: Any = torch.nn.modules.linear
    linear._LinearWithBias = linear.NonDynamicallyQuantizableLinear
    with (
        mock.patch.dict(sys.modules, stubs),
        mock.patch.object(torch, 'tensor', tensor),
        mock.patch.object(torch.Tensor, 'cuda', lambda self: self),
        mock.patch.object(torch.cuda, 'current_device', return_value=0),
    ):
        yield


def build(clone: Path) -> tuple[Any, Any]:
    """Build model and criterion from the program's configuration, on the CPU."""
    from lib.models.monodetr import backbone, build_monodetr
    from lib.models.monodetr.depth_predictor.ddn_loss import focalloss
    from lib.models.monodetr.ops.functions import ms_deform_attn_func
    from lib.models.monodetr.ops.modules import ms_deform_attn

    backbone.is_main_process = lambda: False  # only the main process downloads weights
    core_attention = ms_deform_attn_func.ms_deform_attn_core_pytorch

    def apply_on_cpu(value: Any, sizes: Any, _: Any, locations: Any, weights: Any, __: Any) -> Any:
        return core_attention(value, sizes.tolist(), locations, weights)

    ms_deform_attn.MSDeformAttnFunction.apply = apply_on_cpu
    one_hot = focalloss.one_hot
    # its negative targets are 1e-6, which adds 1e-4 to a loss of 1; ours are 0
    focalloss.one_hot = lambda *args, **kwargs: one_hot(*args, **{**kwargs, 'eps': 0.0})
    config = yaml.safe_load((clone / 'configs' / 'monodetr.yaml').read_text())['model']
    config['depth_min'] = float(config['depth_min'])
    return build_monodetr({**config, 'device': 'cpu'})


def heads(out: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Stack the outputs of all layers, (B, L, Q, .), under our names; boxes after the sigmoid."""
    layers = [*out['aux_outputs'], out]
    names = {
        'class': 'pred_logits',
        'box': 'pred_boxes',
        'size_3d': 'pred_3d_dim',
        'heading': 'pred_angle',
        'depth': 'pred_depth',
    }
    stacked = {ours: torch.stack([each[old] for each in layers], 1) for ours, old in names.items()}
    return {**stacked, 'depth_map': out['pred_depth_map_logits']}


def decoded(out: dict[str, Any], P: np.ndarray) -> list[dict[str, Any]]:
    """Decode with the program's tester; return the 20 most probable objects."""
    from lib.datasets.kitti.kitti_utils import Calibration
    from lib.helpers.decode_helper import decode_detections, extract_dets_from_outputs

    detections = extract_dets_from_outputs(out, K=50, topk=50).numpy()
    probability, certainty = detections[0, :, 1].copy(), detections[0, :, -1].copy()
    identity = np.eye(3, 4, dtype=np.float32)
    calib = Calibration(
        {'P2': P.astype(np.float32), 'R0': np.eye(3, dtype=np.float32), 'Tr_velo2cam': identity}
    )
    info = {'img_id': [0], 'img_size': [[golden.SPEC.width_px, golden.SPEC.height_px]]}
    rows = decode_detections(detections, info, [calib], np.zeros((3, 3), np.float32), -1.0)[0]
    objects = []
    for i, (class_id, alpha, *rest) in enumerate(rows[:20]):
        box, size, bottom = rest[:4], rest[4:7], rest[7:10]
        objects.append(
            {
                'class_id': int(class_id),
                'probability': float(probability[i]),
                'log_sigma': float(-np.log(certainty[i])),
                'alpha': float(alpha),
                'box_px': [float(value) for value in box],
                'size_hwl_m': [float(value) for value in size],
                'floor_m': [float(value) for value in bottom],
            }
        )
    return objects


def compare(
    criterion: Any, P: np.ndarray, lines: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return losses and gradient norms of monodetr_queries against the labels of two frames."""
    targets = [encoded(P, lines), encoded(P, lines[:2])]
    random_heads = {
        name: torch.from_numpy(value).requires_grad_()
        for name, value in monodetr_queries.random_heads().items()
    }
    layers = [
        {
            'pred_logits': random_heads['class'][:, layer],
            'pred_boxes': random_heads['box'][:, layer].sigmoid(),
            'pred_3d_dim': random_heads['size_3d'][:, layer],
            'pred_angle': random_heads['heading'][:, layer],
            'pred_depth': random_heads['depth'][:, layer],
        }
        for layer in range(random_heads['class'].shape[1])
    ]
    out = {
        **layers[-1],
        'pred_depth_map_logits': random_heads['depth_map'],
        'aux_outputs': layers[:-1],
    }
    terms = criterion.train()(out, targets)
    names = {
        'det/class': 'ce',
        'det/center': 'center',
        'det/box': 'bbox',
        'det/giou': 'giou',
        'det/depth': 'depth',
        'det/size_3d': 'dim',
        'det/heading': 'angle',
        'det/depth_map': 'depth_map',
    }
    losses = {
        ours: sum(
            float(terms[key].detach())
            for key in (f'loss_{old}', f'loss_{old}_0', f'loss_{old}_1')
            if key in terms
        )
        for ours, old in names.items()
    }
    weights = criterion.weight_dict
    sum(weights[key] * value for key, value in terms.items() if key in weights).backward()
    return losses, {name: float(value.grad.norm()) for name, value in random_heads.items()}


def encoded(P: np.ndarray, lines: list[str]) -> dict[str, torch.Tensor]:
    """Encode the labels of a frame with the program's data set, but with the labelled alpha."""
    from lib.datasets.kitti.kitti_dataset import KITTI_Dataset
    from lib.datasets.utils import angle2class

    with tempfile.TemporaryDirectory() as root:
        golden.write_frame(Path(root, 'training'), P, lines)
        Path(root, 'ImageSets').mkdir()
        Path(root, 'ImageSets', 'val.txt').write_text('000000\n')
        _, _, target, _ = KITTI_Dataset('val', {'root_dir': root, 'writelist': CLASSES})[0]
    # the program uses the ray to the 2D box centre; alpha is relative to the ray to the 3D centre
    for row, line in enumerate(lines):
        target['heading_bin'][row], target['heading_res'][row] = angle2class(
            float(line.split()[3])
        )
    keep = target['mask_2d']
    names = ('labels', 'boxes', 'depth', 'size_3d', 'heading_bin', 'heading_res', 'boxes_3d')
    return {name: torch.from_numpy(target[name][keep]) for name in names}


if __name__ == '__main__':
    main()

"""
Write what the public MonoDETR answers, for
test/stl_core/models/test_monodetr.py to hold ours against.

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
#: Queries are toned to differ, and heads so that what is decoded is like cars in a street.
TONE = (
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
#: The same parameters under a second name, which is loaded first.
ALIAS = 'depthaware_transformer.decoder.'
CONSTANT = 'depth_predictor.depth_bin_values'
CLASSES = ['Pedestrian', 'Car', 'Cyclist']


def main() -> None:
    """Run the program on golden's weights, picture and labels."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('clone', type=Path, help='ZrrSkywalker/MonoDETR at 6994b9f')
    args = parser.parse_args()
    sys.path.insert(0, str(args.clone))
    with stand_ins():
        model, criterion = build(args.clone)
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        own = {key: shape for key, shape in shapes.items() if not second_name(key)}
        filled = golden.weights(own, TONE)
        filled.pop(CONSTANT)
        state = {key: torch.from_numpy(value) for key, value in filled.items()}
        wrong = model.load_state_dict(state, strict=False)
        assert not wrong.unexpected_keys
        assert all(second_name(key) or key == CONSTANT for key in wrong.missing_keys)
        P = golden.projection(FOCAL_PX)
        with torch.no_grad():
            out = model.eval()(
                torch.from_numpy(golden.picture()),
                torch.from_numpy(P[None]).float(),
                None,
                # the public code gives the size of the picture before it is brought to this one
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
            'tone': TONE,
            'labels': lines,
            'heads': {name: golden.summary(value.numpy()) for name, value in heads(out).items()},
            'boxes': boxes,
            'losses': losses,
            'gradients': gradients,
            'shapes': shapes,
        },
    )
    print(f'{path}: {path.stat().st_size / 1e3:.1f} kB')


def second_name(key: str) -> bool:
    """Whether a key names a head that has another key."""
    return key.startswith((f'{ALIAS}bbox_embed', f'{ALIAS}dim_embed'))


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Stand in for what the program asks of its surroundings: CUDA, old torch, a download."""
    anywhere = torch.tensor

    def tensor(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        return anywhere(*args, **kwargs)

    numba: Any = types.ModuleType('numba')
    numba_cuda: Any = types.ModuleType('numba.cuda')
    numba_cuda.jit = numba.jit = lambda *given, **_: (
        given[0] if given and callable(given[0]) else lambda function: function
    )
    numba.cuda, numba.float32 = numba_cuda, np.float32
    skimage: Any = types.ModuleType('skimage')
    skimage.io = None
    stood_in = {
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
        mock.patch.dict(sys.modules, stood_in),
        mock.patch.object(torch, 'tensor', tensor),
        mock.patch.object(torch.Tensor, 'cuda', lambda self: self),
        mock.patch.object(torch.cuda, 'current_device', return_value=0),
    ):
        yield


def build(clone: Path) -> tuple[Any, Any]:
    """Build model and criterion by the program's own configuration, on the CPU."""
    from lib.models.monodetr import backbone, build_monodetr
    from lib.models.monodetr.depth_predictor.ddn_loss import focalloss
    from lib.models.monodetr.ops.functions import ms_deform_attn_func
    from lib.models.monodetr.ops.modules import ms_deform_attn

    backbone.is_main_process = lambda: False  # whoever is not main downloads nothing
    plain = ms_deform_attn_func.ms_deform_attn_core_pytorch

    def attend(value: Any, sizes: Any, _: Any, places: Any, weights: Any, __: Any) -> Any:
        return plain(value, sizes.tolist(), places, weights)

    ms_deform_attn.MSDeformAttnFunction.apply = attend
    exact = focalloss.one_hot
    # its targets are 1e-6 everywhere, which adds 1e-4 to a loss of 1; ours are 0
    focalloss.one_hot = lambda *args, **kwargs: exact(*args, **{**kwargs, 'eps': 0.0})
    config = yaml.safe_load((clone / 'configs' / 'monodetr.yaml').read_text())['model']
    config['depth_min'] = float(config['depth_min'])
    return build_monodetr({**config, 'device': 'cpu'})


def heads(out: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Stack the answers of all layers (B, L, Q, .) under our names; boxes after the sigmoid."""
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
    """Decode as the program's tester does, the 20 most probable."""
    from lib.datasets.kitti.kitti_utils import Calibration
    from lib.helpers.decode_helper import decode_detections, extract_dets_from_outputs

    found = extract_dets_from_outputs(out, K=50, topk=50).numpy()
    probability, certainty = found[0, :, 1].copy(), found[0, :, -1].copy()
    eye = np.eye(3, 4, dtype=np.float32)
    calib = Calibration(
        {'P2': P.astype(np.float32), 'R0': np.eye(3, dtype=np.float32), 'Tr_velo2cam': eye}
    )
    info = {'img_id': [0], 'img_size': [[golden.SPEC.width_px, golden.SPEC.height_px]]}
    rows = decode_detections(found, info, [calib], np.zeros((3, 3), np.float32), -1.0)[0]
    told = []
    for i, (class_id, alpha, *rest) in enumerate(rows[:20]):
        box, size, floor = rest[:4], rest[4:7], rest[7:10]
        told.append(
            {
                'class_id': int(class_id),
                'probability': float(probability[i]),
                'log_sigma': float(-np.log(certainty[i])),
                'alpha': float(alpha),
                'box_px': [float(value) for value in box],
                'size_hwl_m': [float(value) for value in size],
                'floor_m': [float(value) for value in floor],
            }
        )
    return told


def compare(
    criterion: Any, P: np.ndarray, lines: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Compare monodetr_queries with two frames' labels: losses, and norms of gradients."""
    targets = [encoded(P, lines), encoded(P, lines[:2])]
    answers = {
        name: torch.from_numpy(value).requires_grad_()
        for name, value in monodetr_queries.answers().items()
    }
    layers = [
        {
            'pred_logits': answers['class'][:, layer],
            'pred_boxes': answers['box'][:, layer].sigmoid(),
            'pred_3d_dim': answers['size_3d'][:, layer],
            'pred_angle': answers['heading'][:, layer],
            'pred_depth': answers['depth'][:, layer],
        }
        for layer in range(answers['class'].shape[1])
    ]
    out = {
        **layers[-1],
        'pred_depth_map_logits': answers['depth_map'],
        'aux_outputs': layers[:-1],
    }
    found = criterion.train()(out, targets)
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
            float(found[key].detach())
            for key in (f'loss_{old}', f'loss_{old}_0', f'loss_{old}_1')
            if key in found
        )
        for ours, old in names.items()
    }
    weights = criterion.weight_dict
    sum(weights[key] * value for key, value in found.items() if key in weights).backward()
    return losses, {name: float(value.grad.norm()) for name, value in answers.items()}


def encoded(P: np.ndarray, lines: list[str]) -> dict[str, torch.Tensor]:
    """Encode the labels of a frame with the program's data set, alpha as labelled."""
    from lib.datasets.kitti.kitti_dataset import KITTI_Dataset
    from lib.datasets.utils import angle2class

    with tempfile.TemporaryDirectory() as root:
        golden.write_frame(Path(root, 'training'), P, lines)
        Path(root, 'ImageSets').mkdir()
        Path(root, 'ImageSets', 'val.txt').write_text('000000\n')
        _, _, target, _ = KITTI_Dataset('val', {'root_dir': root, 'writelist': CLASSES})[0]
    # the program takes the ray to the middle of the 2D box; an angle to a 3D centre is wanted
    for row, line in enumerate(lines):
        target['heading_bin'][row], target['heading_res'][row] = angle2class(
            float(line.split()[3])
        )
    keep = target['mask_2d']
    names = ('labels', 'boxes', 'depth', 'size_3d', 'heading_bin', 'heading_res', 'boxes_3d')
    return {name: torch.from_numpy(target[name][keep]) for name in names}


if __name__ == '__main__':
    main()

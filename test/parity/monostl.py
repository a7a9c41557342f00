"""
Write the values of MonoSTL's public losses as the reference of test_loss_formulas.

git clone https://github.com/DingCodeLab/MonoSTL peers/MonoSTL
git -C peers/MonoSTL checkout 2f761c9
pip install einops
python test/parity/monostl.py peers/MonoSTL

The program's losses run on the views of test/support/fake_views.py, whose tensors are seeded by
name. Where boxes overlap, the program keeps the last, so it receives the farthest objects first.
Without a GPU, this script turns the program's .cuda() calls into no-ops.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / 'support'))
import golden
from fake_views import STRIDES, cells, make_view

from stl_core.distill.view import DistillView

#: Objects per image, and slots. The program requires 50 slots for boxes; its heading loss includes
#: empty slots, so head losses are compared only where all slots are filled.
CASES = {'few': ((3, 2), 50), 'crowd': ((50, 50), 50), 'filled': ((3, 3), 3)}


def main() -> None:
    """Run the program's losses on every case and write the values."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('clone', type=Path, help='DingCodeLab/MonoSTL at 2f761c9')
    args = parser.parse_args()
    sys.path.insert(0, str(args.clone))
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self: self  # type: ignore
    reference: dict[str, Any] = {
        'program': 'DingCodeLab/MonoSTL at 2f761c9',
        'made_by': 'python test/parity/monostl.py CLONE',
    }
    for name, (counts, slots) in CASES.items():
        view = make_view(name, counts, slots)
        losses = public_losses(view) if slots == 50 else {}
        if view.targets.valid.all():
            losses['plain_heads'] = public_head_loss(view)
        reference[name] = {'objects': counts, 'slots': slots, 'losses': losses}
        for loss, value in losses.items():
            print(f'{name:<6} {loss:<16} {value:.9g}')
    print(golden.write('monostl', reference))


def public_losses(view: DistillView) -> dict[str, float]:
    """Return the values of the program's feature and relation losses, {key of LOSSES: value}."""
    from lib.losses import feature_distill_loss as public

    target, order = public_target(view)
    student_features = [view.adapted[stride] for stride in STRIDES]
    teacher_features = [view.teacher.levels[f'c{stride}'].map for stride in STRIDES]
    student, teacher = (
        (1 / outputs.depth_sigma_m).gather(1, order) for outputs in (view.student, view.teacher)
    )
    gated = public.compute_backbone_weight_l1_loss(
        student_features, teacher_features, target, teacher, student, 0
    )
    related = public.compute_backbone_roi_uncertainty_affinity_loss(
        student_features, teacher_features, target, teacher, student
    )
    return {
        'feature_public': float(gated),
        'relation_public': float(related),
        'plain_feature': float(
            public.compute_backbone_l1_loss(student_features, teacher_features, target)
        ),
        'plain_scene': float(
            public.compute_backbone_resize_affinity_loss(student_features, teacher_features)
        ),
        'plain_relation': float(
            public.compute_backbone_roi_affinity_loss(student_features, teacher_features, target)
        ),
    }


def public_head_loss(view: DistillView) -> float:
    """Return the value of the program's head loss."""
    from lib.losses import head_distill_loss as public

    target, _ = public_target(view)
    total, _ = public.compute_head_distill_loss(view.student.heads, view.teacher.heads, target)
    return float(total)


def public_target(view: DistillView) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return targets in the program's format, farthest object first, and the order of slots."""
    from lib.datasets.utils import angle2class

    targets = view.targets
    order = torch.where(targets.valid, -targets.depth_m, torch.inf).argsort(1)
    index = cells(targets, view.size_px[1] // 4).gather(1, order)
    box_px = targets.box_px.gather(1, order[..., None].expand(-1, -1, 4))
    bins = torch.tensor([[angle2class(float(a))[0] for a in row] for row in targets.alpha])
    target = {
        'indices': index,
        'indices_all': index,
        'obj_num': targets.valid.sum(1),
        'box2d_gt': box_px,
        'box2d_gt_head': box_px,
        'heading_bin': bins.gather(1, order),
    }
    return target, order


if __name__ == '__main__':
    main()

"""
Write what MonoSTL's public losses say, for
test/stl_core/distill/test_loss_formulas.py to hold ours against.

git clone https://github.com/DingCodeLab/MonoSTL peers/MonoSTL
git -C peers/MonoSTL checkout 2f761c9
pip install einops
python test/parity/monostl.py peers/MonoSTL

They are run on the views of test/support/fake_views.py, whose tensors follow from their names.
Where boxes overlap the last wins, so they get the objects farthest first. Without a GPU their
.cuda() calls are made to do nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / 'support'))
import golden
from fake_views import STRIDES, a_view, cells

from stl_core.tensors.batch import DistillView

#: Objects of each image, and slots. Its boxes must have 50 slots; in its loss of headings empty
#: slots take part, so heads are compared where there are none.
CASES = {'few': ((3, 2), 50), 'crowd': ((50, 50), 50), 'filled': ((3, 3), 3)}


def main() -> None:
    """Run the losses on every case."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', maxsplit=1)[0].strip())
    parser.add_argument('clone', type=Path, help='DingCodeLab/MonoSTL at 2f761c9')
    args = parser.parse_args()
    sys.path.insert(0, str(args.clone))
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self: self  # type: ignore
    told: dict[str, Any] = {
        'program': 'DingCodeLab/MonoSTL at 2f761c9',
        'made_by': 'python test/parity/monostl.py CLONE',
    }
    for name, (counts, slots) in CASES.items():
        view = a_view(name, counts, slots)
        losses = its_losses(view) if slots == 50 else {}
        if view.targets.valid.all():
            losses['plain_heads'] = its_heads(view)
        told[name] = {'objects': counts, 'slots': slots, 'losses': losses}
        for loss, value in losses.items():
            print(f'{name:<6} {loss:<16} {value:.9g}')
    print(golden.write('monostl', told))


def its_losses(view: DistillView) -> dict[str, float]:
    """Run its losses of features and relations -> {key of LOSSES: value}."""
    from lib.losses import feature_distill_loss as its

    target, order = its_target(view)
    own = [view.adapted[stride] for stride in STRIDES]
    ideal = [view.teacher.features[stride] for stride in STRIDES]
    student, teacher = (
        (1 / side.sigma_m).gather(1, order) for side in (view.student, view.teacher)
    )
    gated = its.compute_backbone_weight_l1_loss(own, ideal, target, teacher, student, 0)
    related = its.compute_backbone_roi_uncertainty_affinity_loss(
        own, ideal, target, teacher, student
    )
    return {
        'feature_public': float(gated),
        'relation_public': float(related),
        'plain_feature': float(its.compute_backbone_l1_loss(own, ideal, target)),
        'plain_scene': float(its.compute_backbone_resize_affinity_loss(own, ideal)),
        'plain_relation': float(its.compute_backbone_roi_affinity_loss(own, ideal, target)),
    }


def its_heads(view: DistillView) -> float:
    """Run its loss of heads."""
    from lib.losses import head_distill_loss as its

    target, _ = its_target(view)
    total, _ = its.compute_head_distill_loss(view.student.heads, view.teacher.heads, target)
    return float(total)


def its_target(view: DistillView) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Write targets as its data set does, farthest object first; also that order of slots."""
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

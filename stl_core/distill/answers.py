"""
Answers of two networks compared at objects, one vector of each.

Shapes: B batch, N object slots, D numbers of an answer, A heading bins.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stl_core.batch import View
from stl_core.means import masked_mean


def at_objects(view: View, weight: Tensor) -> Tensor:
    """
    Sum over the answers that both give of their weighted mean difference over objects.

    :param view: the batch.
    :param weight: (B, N).
    :return: scalar.
    :raises ValueError: when there is no common answer, or one has another size.
    """
    own, ideal = view.student.answers, view.teacher.answers
    both = [name for name in own if name in ideal]
    if not both:
        raise ValueError(f'answers: student gives {list(own)}, teacher {list(ideal)}; none common')
    for name in both:
        if own[name].shape != ideal[name].shape:
            raise ValueError(
                f'answer {name}: {own[name].shape[-1]} numbers from the student, '
                f'{ideal[name].shape[-1]} from the teacher; must be the same'
            )
    away = sum(gap(name, own[name], ideal[name]) for name in both)
    return masked_mean(weight * away, view.targets.valid)


def gap(name: str, own: Tensor, ideal: Tensor) -> Tensor:
    """(..., D), (..., D) raw answers of one name -> (...,): L1 over D, or heading_gap."""
    return heading_gap(own, ideal) if name == 'heading' else (own - ideal).abs().mean(-1)


def heading_gap(own: Tensor, ideal: Tensor) -> Tensor:
    """
    Compare headings: KL of the bins, and L1 of the remainders as far as the teacher holds a bin.

    :param own: (..., 2A) the student's bins (logits), then remainders (radians).
    :param ideal: (..., 2A) the teacher's.
    :return: (...,).
    """
    (own_bins, own_rest), (bins, rest) = own.chunk(2, -1), ideal.chunk(2, -1)
    log_p = bins.log_softmax(-1)
    kl = F.kl_div(own_bins.log_softmax(-1), log_p, reduction='none', log_target=True)
    return kl.sum(-1) + (log_p.exp() * (own_rest - rest).abs()).sum(-1)

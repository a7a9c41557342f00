"""
Depth supervision: the distribution of image cells learns the depth of a scan, or of the objects.

Shapes: S samples, V views, B = S V images, D depth bins, H W canvas, h w grid.
"""

from __future__ import annotations

from torch import Tensor, nn

from stl_core.models.lift_splat.depth_net import nearest_in_cells
from stl_core.models.lift_splat.grid import DepthBins
from stl_core.tensors.reductions import StepNormalizer, masked_mean

#: Which depth supervises a student, see data.rig.depth_targets; '' none.
DEPTH_SUPERVISIONS = ('none', 'scan', 'objects')


def depth_loss(
    logits: Tensor, depth_m: Tensor | None, bins: DepthBins, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute the cross-entropy of the depth bins, mean over the cells whose depth is known.

    BEVDepth takes a binary cross-entropy of each bin's probability; for a distribution whose
    probabilities add up to 1, the negative log-likelihood of the true bin is the proper score.

    :param logits: (B, D, h, w).
    :param depth_m: (S, V, H, W) metres, 0 where unknown; None without supervision.
    :param bins: the bins.
    :param normalizer: normaliser of the step.
    :return: scalar; 0 without known depth.
    """
    h, w = logits.shape[2:]
    if depth_m is None:
        taught_m = logits.new_zeros(len(logits), h, w)
    else:
        taught_m = nearest_in_cells(depth_m.flatten(0, 1), (h, w))
    index, known = bins.index(taught_m)
    entropy = nn.functional.cross_entropy(logits, index, reduction='none')
    return masked_mean(entropy, known, normalizer)

"""
Scorer of the adversarial scoring block: which of two networks made a feature map, cell by cell.

Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stl_core.distill.running_statistics import StepMarker
from stl_core.distill.weighting import cell_weights

#: Slope of LeakyReLU below 0.
NEGATIVE_SLOPE = 0.2
#: Power iterations when a scorer is built, as torch's spectral norm; then one a step.
_INITIAL_ITERATIONS = 15


class ConvWeights(NamedTuple):
    """Effective weights of one convolution: weight (out, in, 3, 3) and bias (out,)."""

    weight: Tensor
    bias: Tensor

    def detach(self) -> ConvWeights:
        """Return the weights without gradient."""
        return ConvWeights(self.weight.detach(), self.bias.detach())


class SpectralNorm(nn.Module):
    """
    Division of a weight by its largest singular value (Miyato et al., ICLR 2018).

    As torch.nn.utils.parametrizations.spectral_norm, except that the power iteration runs once a
    step however many parts a step has: with torch's, micro-batches of one step have different
    weights, and so a gradient other than that of the whole batch.

    :param weight: (out, ...) the weight to normalise, seen as a matrix (out, in * size).
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Start the power iteration."""
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer('left', F.normalize(torch.ones(len(matrix)), dim=0))
        self.register_buffer('right', F.normalize(torch.ones(matrix.shape[1]), dim=0))
        for _ in range(_INITIAL_ITERATIONS):
            self.left, self.right = _iterate(matrix, self.right)

    def forward(self, weight: Tensor, new_step: Tensor) -> Tensor:
        """
        Return the normalised weight.

        :param weight: of the shape that was given at the start.
        :param new_step: () bool, whether to improve the singular vectors by one power iteration.
        """
        matrix = weight.flatten(1)
        with torch.no_grad():
            vectors = zip(_iterate(matrix, self.right), (self.left, self.right), strict=True)
            # new tensors: backward needs those of this step after the buffers have changed
            left, right = (torch.where(new_step, new, old) for new, old in vectors)
            self.left.copy_(left)
            self.right.copy_(right)
        return weight / torch.dot(left, matrix @ right)


class Scorer(nn.Module):
    """
    Three 3x3 convolutions with LeakyReLU: score of each cell, above 0 for the teacher.

    :param channels: C of the maps.
    :param width: channels between the convolutions.
    :param spectral_norm: bound the slope of every convolution.
    """

    def __init__(self, channels: int, width: int = 64, spectral_norm: bool = True) -> None:
        """Build the convolutions, with torch's initial weights."""
        super().__init__()
        wide = (channels, width, width, 1)
        convs = [nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(wide)]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(SpectralNorm(each.weight) for each in convs if spectral_norm)
        self.step = StepMarker()

    def effective_weights(self, epoch: float) -> tuple[ConvWeights, ...]:
        """
        Return the weights of this step, with gradient.

        :param epoch: epochs so far, with a fraction; parts of one step have the same. The power
            iteration of spectral norm runs at the first part, in training mode.
        """
        new_step = self.step(epoch)
        weights = []
        for number, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            weight = self.norms[number](conv.weight, new_step) if self.norms else conv.weight
            weights.append(ConvWeights(weight, conv.bias))
        return tuple(weights)


def score_cells(features: Tensor, weights: tuple[ConvWeights, ...]) -> Tensor:
    """
    Return the score of each cell.

    :param features: (B, C, h, w), standardised.
    :param weights: from Scorer.effective_weights.
    :return: (B, h, w) logit of the cell being the teacher's.
    """
    *hidden, last = weights
    for each in hidden:
        features = F.leaky_relu(F.conv2d(features, *each, padding=1), NEGATIVE_SLOPE)
    return F.conv2d(features, *last, padding=1)[:, 0]


def balanced_weights(cells: Tensor) -> Tensor:
    """
    Return the weight of each cell: half of it on objects, half on background.

    Every object has the weight 1 and gives half of it to its cells, all alike, and half to the
    cells of its image that are in no object. This is the expectation of drawing as many background
    cells as an object has, without random numbers and without a count on the host; near objects,
    which have the most cells, do not dominate. An image without an object weighs nothing; without
    background, objects keep all of their weight.

    :param cells: (B, N, h, w) bool, cells of each object.
    :return: (B, h, w); the sum over cells is the number of objects.
    """
    background = (~cells.any(1)).float()
    space = background.sum((-1, -2), keepdim=True)
    objects = cells.any(-1).any(-1).sum(-1).float()[:, None, None]
    on_objects = cell_weights(cells) * torch.where(space > 0, 0.5, 1.0)
    return on_objects + background * (0.5 * objects / space.clamp(min=1))


def entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """
    Return the binary cross-entropy of the scorer, cell by cell.

    :param student: scores of the student's map, of any shape.
    :param teacher: scores of the teacher's map, of the same shape.
    :return: mean over both networks; log 2 for scores of 0.
    """
    return (F.softplus(student) + F.softplus(-teacher)) / 2


def right_cells(student: Tensor, teacher: Tensor) -> Tensor:
    """
    Return how well the scorer separates both networks, cell by cell.

    :param student: scores of the student's map, of any shape.
    :param teacher: scores of the teacher's map, of the same shape.
    :return: mean over both networks of 0 (wrong), 0.5 (a score of 0) or 1; without gradient.
    """
    return 0.5 + 0.25 * (teacher.detach().sign() - student.detach().sign())


def _iterate(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Improve the singular vectors of the largest singular value by one power iteration."""
    left = F.normalize(matrix.detach() @ right, dim=0)
    return left, F.normalize(matrix.detach().mT @ left, dim=0)

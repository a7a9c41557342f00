"""
Inputs of distillation losses: the outputs of student and teacher on one batch.

Shapes: B batch, N object slots, C channels, H W canvas, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from stl_core.tensors.batch import ObjectTargets
from stl_core.tensors.feature_level import FeatureLevel, FeaturePair, FeaturePlane


@dataclass(frozen=True)
class NetworkOutputs:
    """
    Outputs of one network on a batch, as input of a distillation loss.

    :param levels: its feature maps by name, in the order of Detector.levels.
    :param heads: raw head maps by name, before any sigmoid.
    :param predictions: raw head outputs at each target, {name: (B, N, D)}.
    :param depth_sigma_m: (B, N) predicted standard deviation of the depth of each target, metres,
        within distiller.SIGMA_BOUNDS_M.
    :param tokens: (B, N, C) vector by which the network represents each target, such as the query
        matched to it; None from networks without.
    :param given_depth_added: (B, C, h, w) what given depth added to a map, see Outputs; None from
        networks that are given no depth.
    :param visual_depth_m: (B, h, w) depth that such a network reads from the map without the given
        depth, see Outputs.
    """

    levels: dict[str, FeatureLevel]
    heads: dict[str, Tensor]
    predictions: dict[str, Tensor]
    depth_sigma_m: Tensor
    tokens: Tensor | None = None
    given_depth_added: Tensor | None = None
    visual_depth_m: Tensor | None = None

    def level(self, name: str) -> FeatureLevel:
        """Return the map of a name; ValueError that lists the network's maps if it has none."""
        if name not in self.levels:
            known = ', '.join(self.levels)
            raise ValueError(f'level {name!r}: unknown; this network has {known}')
        return self.levels[name]


@dataclass(frozen=True)
class DistillView:
    """
    Inputs of a distillation loss for one batch: student, teacher and targets.

    :param student: gradients flow to its maps, heads and predictions.
    :param teacher: carries no gradient.
    :param adapted: the student's maps at the teacher's widths, by the teacher's level, finest
        first; gradients flow.
    :param targets: of the kind that the networks learn (batch.Targets in network pixels, or
        rig.RigTargets); valid only where the canvas shows a part of the box, and both networks
        have a prediction for the object: losses learn nothing from other objects.
    :param P: (B, 3, 4) projections.
    :param size_px: height and width of the canvas.
    :param epoch: number of epochs so far, with a fraction.
    :param given_depth_m: (B, H, W) depth that the teacher was given, metres, 0 where none is; None
        without.
    :param projected: the student's maps in the teacher's channels, by level, where a Transfer
        projects them, see Transfer.projected_level; gradients reach the maps, not the projection.
    :param heads_plane: plane of the head maps of a detector whose heads do not lie in the image;
        None for the image.
    """

    student: NetworkOutputs
    teacher: NetworkOutputs
    adapted: dict[str, Tensor]
    targets: ObjectTargets
    P: Tensor
    size_px: tuple[int, int]
    epoch: float
    given_depth_m: Tensor | None = None
    projected: dict[str, Tensor] = field(default_factory=dict)
    heads_plane: FeaturePlane | None = None

    def feature_pairs(self) -> list[FeaturePair]:
        """
        Return the adapted maps of the student beside the teacher's.

        :return: one pair for each level of distill.layers, finest first.
        :raises ValueError: when no maps were adapted.
        """
        if not self.adapted:
            raise ValueError('this loss compares features: list strides in distill.layers.strides')
        return [
            FeaturePair(self.teacher.levels[name].spec, student, self.teacher.levels[name].map)
            for name, student in self.adapted.items()
        ]

"""Response distillation: at each object, and all over it, the student answers as the teacher."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stl_core.batch import View
from stl_core.distill import answer_maps, answers, gate


@dataclass(frozen=True)
class Config:
    """
    Our response distillation.

    :param half_sigma_m: the teacher's depth sigma at which an object counts half, metres;
        infinite (.inf in YAML) makes all alike.
    """

    half_sigma_m: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by."""
        gate.check_half('half_sigma_m', self.half_sigma_m)


def loss(view: View, config: Config) -> Tensor:
    """
    Sum of answers.at_objects and, where both draw heatmaps of one size, of answer_maps.

    :param view: the batch.
    :param config: the gate, of the teacher's certainty.
    :return: scalar; 0 when no object is valid.
    """
    weight = gate.certainty(view.teacher.sigma_m, config.half_sigma_m)
    total, maps = answers.at_objects(view, weight), answer_maps.common_maps(view)
    if maps is None:
        return total
    return (
        total
        + answer_maps.at_heatmap(view, maps, weight)
        + answer_maps.at_depth_map(view, maps, config.half_sigma_m)
        + answer_maps.at_peaks(view, maps, weight)
    )

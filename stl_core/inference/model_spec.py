"""Header of a model file: all that is needed to use its weights, the same in every format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stl_core.preprocessing import DepthSpec, InputSpec

#: Key of the provenance for the score thresholds by class.
SCORE_THRESHOLDS = 'score_thresholds'


@dataclass(frozen=True)
class ModelSpec:
    """
    Header of a model file: everything needed to use the weights.

    :param classes: class names, indexed by class_id.
    :param input: canvas size and normalisation of the network's input.
    :param detector: key of DETECTORS.
    :param options: fields of the detector's Config, as plain data.
    :param provenance: origin of the weights: software versions, seed, epochs, metrics, or the
        published checkpoint.
    :param multi_view: whether the network sees the cameras of a vehicle together, see
        rig_predictor; one that takes images one by one if not.
    """

    classes: tuple[str, ...]
    input: InputSpec
    detector: str
    options: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    multi_view: bool = False

    @property
    def score_thresholds(self) -> dict[str, float]:
        """
        Return the score of each class from which its detections should be shown.

        Training writes those with the best F1 of 2D boxes on the val frames into the provenance;
        classes without a true positive, and files of older versions, have none.
        """
        stored = self.provenance.get(SCORE_THRESHOLDS) or {}
        return {name: float(stored[name]) for name in self.classes if name in stored}

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> ModelSpec:
        """
        Build the spec of a header, the inverse of dataclasses.asdict.

        :param header: fields of this class as JSON holds them, with lists for tuples.
        :raises ValueError: for an invalid value; KeyError or TypeError for a missing or an
            unknown field.
        """
        canvas = {key: lists_to_tuples(value) for key, value in header['input'].items()}
        if canvas.get('depth'):
            # files older than this option hold teachers trained on depth in true metres
            canvas['depth'] = DepthSpec(**{'virtual_focal_px': 0.0, **canvas['depth']})
        return cls(**{**header, 'classes': tuple(header['classes']), 'input': InputSpec(**canvas)})


def lists_to_tuples(value: Any) -> Any:
    """Convert lists from JSON, also nested ones, to tuples, as frozen dataclasses hold them."""
    return tuple(lists_to_tuples(item) for item in value) if isinstance(value, list) else value

"""
Registry of the monocular 3D detectors by name: MonoDLE, MonoCon and MonoDETR.

To add a detector, write one module and add one line to DETECTORS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from stl_core.models import monocon, monodetr, monodle


class DetectorEntry(NamedTuple):
    """A detector's class, its configuration dataclass and the loss weights of its paper."""

    detector: type[nn.Module]
    config: type[Any]
    loss_weights: Mapping[str, float]


DETECTORS: dict[str, DetectorEntry] = {
    'monodle': DetectorEntry(monodle.MonoDLE, monodle.MonoDLEConfig, monodle.LOSS_WEIGHTS),
    'monocon': DetectorEntry(monocon.MonoCon, monocon.MonoConConfig, monocon.LOSS_WEIGHTS),
    'monodetr': DetectorEntry(monodetr.MonoDETR, monodetr.MonoDETRConfig, monodetr.LOSS_WEIGHTS),
}

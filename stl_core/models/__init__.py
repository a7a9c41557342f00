"""The base detectors. A new one is one file and one line in DETECTORS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from stl_core.models import monocon, monodetr, monodle


class Entry(NamedTuple):
    """A detector's class, the dataclass of its numbers, and the paper's weight of every loss."""

    detector: type[nn.Module]
    config: type[Any]
    weights: Mapping[str, float]


DETECTORS: dict[str, Entry] = {
    'monodle': Entry(monodle.MonoDLE, monodle.Config, monodle.WEIGHTS),
    'monocon': Entry(monocon.MonoCon, monocon.Config, monocon.WEIGHTS),
    'monodetr': Entry(monodetr.MonoDETR, monodetr.Config, monodetr.WEIGHTS),
}

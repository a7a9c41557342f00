"""The base detectors. A new one is one file and one line in DETECTORS."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from stl_core.models import monodle


class Entry(NamedTuple):
    """A detector's class and the dataclass of its numbers."""

    detector: type[nn.Module]
    config: type[Any]


DETECTORS: dict[str, Entry] = {
    'monodle': Entry(monodle.MonoDLE, monodle.Config),
}

"""How far a network's doubt of an object's depth opens or shuts what is transferred."""

from __future__ import annotations

from torch import Tensor


def certainty(sigma_m: Tensor, half_sigma_m: float) -> Tensor:
    """
    1 / (1 + (sigma / half)^2): 1 where sure, falling to 0, and a half at half_sigma_m.

    :param sigma_m: (...,) metres.
    :param half_sigma_m: metres; infinite makes all alike.
    :return: (...,) in (0, 1], without gradient: a network must not learn to doubt so as to be
        taught more, or less.
    """
    return 1 / (1 + (sigma_m.detach() / half_sigma_m).square())


def doubt(sigma_m: Tensor, half_sigma_m: float) -> Tensor:
    """sigma^2 / (half^2 + sigma^2), what certainty leaves: (...,) in [0, 1), no gradient."""
    return 1 - certainty(sigma_m, half_sigma_m)


def check_half(name: str, half_sigma_m: float) -> None:
    """Raise ValueError, naming the option, unless it can be divided by."""
    if not half_sigma_m > 0:
        raise ValueError(f'{name}: {half_sigma_m} metres; must be above 0')

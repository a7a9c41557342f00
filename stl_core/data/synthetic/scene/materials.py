"""Material ids of solids and their LiDAR reflectance and return probability."""

from __future__ import annotations

GROUND, BODY, CABIN, CARGO_CABIN, TYRE, CLOTH, HEAD, BUILDING, ROOF, WOOD, LEAF, METAL, PANEL = (
    range(13)
)
SIGN, BRICK, LAMP = 13, 14, 15

#: LiDAR reflectance by material at normal incidence; multiplied by the paint's brightness.
REFLECTANCE = (
    0.28, 0.45, 0.10, 0.25, 0.06, 0.35, 0.35, 0.38, 0.30, 0.30, 0.42, 0.45, 0.5, 0.95, 0.35, 0.4
)  # fmt: skip

#: Fraction of pulses that return, by material: glass transmits most, tyres absorb many.
RETURN_PROBABILITY = (
    0.97, 0.93, 0.35, 0.75, 0.8, 0.96, 0.97, 0.97, 0.96, 0.96, 0.9, 0.93, 0.96, 0.99, 0.97, 0.9
)  # fmt: skip

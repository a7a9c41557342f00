"""What surfaces are made of: numbers that solids carry, and how each sends a laser back."""

from __future__ import annotations

GROUND, BODY, CABIN, CARGO_CABIN, TYRE, CLOTH, HEAD, BUILDING, ROOF, WOOD, LEAF, METAL, PANEL = (
    range(13)
)
SIGN, BRICK, LAMP = 13, 14, 15

#: Reflectance at the LiDAR's wavelength when hit straight, by material; paint adds its brightness.
REFLECTANCE = (
    0.28, 0.45, 0.10, 0.25, 0.06, 0.35, 0.35, 0.38, 0.30, 0.30, 0.42, 0.45, 0.5, 0.95, 0.35, 0.4
)  # fmt: skip

#: Share of pulses that come back, by material: glass lets most through, tyres swallow many.
RETURN_PROBABILITY = (
    0.97, 0.93, 0.35, 0.75, 0.8, 0.96, 0.97, 0.97, 0.96, 0.96, 0.9, 0.93, 0.96, 0.99, 0.97, 0.9
)  # fmt: skip

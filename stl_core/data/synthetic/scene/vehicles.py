"""Build cars, vans and trucks of many shapes that fill their boxes exactly."""

from __future__ import annotations

import numpy as np

from stl_core.data.synthetic.scene.builder import Builder, Prism, box_shape, wheel_outline
from stl_core.data.synthetic.scene.distributions import draw_index, draw_uniform
from stl_core.data.synthetic.scene.materials import BODY, CABIN, CARGO_CABIN, METAL, PANEL, TYRE
from stl_core.data.synthetic.scene.solids import ObjectPose
from stl_core.types import Array

#: Foot of the windscreen, front and back of the roof, foot of the rear window, as fractions of the
#: length from the middle; heights of belt line and bonnet's edge as fractions of the height.
CAR_STYLES = {
    'hatchback': (0.21, 0.05, -0.32, -0.47, 0.60, 0.50),
    'saloon': (0.20, 0.03, -0.20, -0.36, 0.61, 0.50),
    'estate': (0.21, 0.05, -0.41, -0.485, 0.60, 0.50),
    'offroad': (0.23, 0.10, -0.39, -0.475, 0.61, 0.54),
    'minivan': (0.33, 0.17, -0.41, -0.485, 0.57, 0.48),
    'coupe': (0.17, -0.02, -0.20, -0.44, 0.62, 0.50),
}
_CAR_STYLE_WEIGHTS = (0.34, 0.22, 0.18, 0.11, 0.1, 0.05)

#: Linear RGB of car paints, mostly grey; their weights are below.
PAINT_COLOURS = np.array([
    [0.62, 0.63, 0.64], [0.33, 0.34, 0.36], [0.12, 0.125, 0.135], [0.025, 0.026, 0.03],
    [0.80, 0.80, 0.78], [0.02, 0.045, 0.16], [0.30, 0.02, 0.02], [0.05, 0.12, 0.07],
    [0.42, 0.38, 0.29], [0.06, 0.16, 0.34], [0.62, 0.40, 0.05], [0.10, 0.05, 0.04],
])  # fmt: skip
_PAINT_WEIGHTS = np.array([20, 14, 10, 17, 13, 8, 6, 3, 4, 3, 1, 1]) / 100
_RUBBER = np.array([0.018, 0.018, 0.02])


def draw_paint_colour(rng: np.random.Generator) -> Array:
    """Draw the colour of a car, varied in brightness: (3,) linear RGB."""
    return np.minimum(
        PAINT_COLOURS[draw_index(rng, _PAINT_WEIGHTS)] * draw_uniform(rng, 0.7, 1.3), 0.9
    )


def add_car(builder: Builder, pose: ObjectPose, rng: np.random.Generator) -> None:
    """Build a car: lower body, cabin and axles."""
    style = list(CAR_STYLES.values())[draw_index(rng, _CAR_STYLE_WEIGHTS)]
    shape = np.array(style) + rng.uniform(-0.015, 0.015, 6)
    shape[3] = max(shape[3], -0.492)
    _add_body_and_cabin(
        builder, pose, shape, draw_paint_colour(rng), CABIN, 0.17, rng.uniform(0.18, 0.32)
    )
    _add_axles(builder, pose, (0.31, -0.30), car_wheel_radius_m(pose.size_hwl_m[0]))


def add_van(builder: Builder, pose: ObjectPose, rng: np.random.Generator) -> None:
    """Build a van: bonnet and box, with windows on all sides or in front only."""
    shape = np.array([0.37, 0.24, -0.47, -0.49, 0.50, 0.42]) + rng.uniform(-0.02, 0.0, 6)
    shape[3] = max(shape[3], -0.492)
    colour = draw_paint_colour(rng) if rng.random() < 0.55 else np.array([0.72, 0.72, 0.7])
    material = CABIN if rng.random() < 0.4 else CARGO_CABIN
    _add_body_and_cabin(builder, pose, shape, colour, material, 0.13, rng.uniform(0.04, 0.1))
    _add_axles(builder, pose, (0.31, -0.30), car_wheel_radius_m(pose.size_hwl_m[0]))


def car_wheel_radius_m(height_m: float) -> float:
    """Return the wheel radius of a car or van of that height."""
    return min(0.205 * height_m, 0.36)


def _add_body_and_cabin(
    builder: Builder,
    pose: ObjectPose,
    shape: Array,
    colour: Array,
    cabin: int,
    clearance: float,
    lean: float,
) -> None:
    h, w, l = pose.size_hwl_m.tolist()
    foot, front, back, rear, belt, bonnet = shape
    outline = [
        (-0.47 * l, clearance * h), (0.455 * l, clearance * h), (0.5 * l, 0.32 * h),
        (0.492 * l, bonnet * h), (foot * l, belt * h), (-0.488 * l, (belt + 0.01) * h),
        (-0.5 * l, 0.42 * h),
    ]  # fmt: skip
    builder.add(pose, Prism(outline, w / 2, 0.03), BODY, colour)
    top = [(rear * l, belt * h - 0.03), (foot * l, belt * h - 0.03), (front * l, h), (back * l, h)]
    half = w / 2 - 0.03 * (belt - clearance) * h - 0.015
    builder.add(pose, Prism(top, half, lean), cabin, colour)
    for sign in (-1.0, 1.0):
        z = (sign * (w / 2 - 0.13), sign * (w / 2 - 0.005))
        x = ((foot - 0.035) * l, (foot - 0.005) * l)
        mirror = box_shape(x, ((belt + 0.02) * h, (belt + 0.1) * h), (min(z), max(z)))
        builder.add(pose, mirror, PANEL, colour, casts_shadow=False)


def _add_axles(builder: Builder, pose: ObjectPose, x: tuple[float, ...], radius: float) -> None:
    w, l = pose.size_hwl_m[1:].tolist()
    for fraction in x:
        outline = wheel_outline((fraction * l, radius), radius, 10)
        outline[:, 1] = np.maximum(outline[:, 1], 0.0)
        builder.add(pose, Prism(outline, w / 2 - 0.012), TYRE, _RUBBER, casts_shadow=False)


def add_truck(builder: Builder, pose: ObjectPose, rng: np.random.Generator) -> None:
    """Build a truck: cab, load, chassis, axles."""
    h, w, l = pose.size_hwl_m.tolist()
    cab = min(rng.uniform(1.7, 2.3), 0.35 * l)
    colour, load = draw_paint_colour(rng), np.array([0.6, 0.6, 0.58]) * rng.uniform(0.5, 1.3)
    if rng.random() < 0.35:
        load = draw_paint_colour(rng)
    front, floor = 0.5 * l, rng.uniform(0.24, 0.34) * h
    cab_h = h * (1.0 if rng.random() < 0.3 else rng.uniform(0.72, 0.95))
    outline = [
        (front - cab, 0.14 * h), (front - 0.06, 0.11 * h), (front, 0.25 * h),
        (front - 0.02, 0.45 * h), (front - 0.16, cab_h), (front - cab, cab_h),
    ]  # fmt: skip
    builder.add(pose, Prism(outline, w / 2 - 0.02, 0.012), CARGO_CABIN, colour)
    style = rng.random()
    x, z = (-l / 2, front - cab - rng.uniform(0.1, 0.5)), (-w / 2, w / 2)
    top = h if style < 0.75 or cab_h < h else h * rng.uniform(0.4, 0.8)
    builder.add(pose, box_shape(x, (floor, top), z), PANEL, load)
    chassis = box_shape((-0.46 * l, front - 0.4), (0.13 * h, floor), (-w / 2 + 0.35, w / 2 - 0.35))
    builder.add(pose, chassis, METAL, np.full(3, 0.04), casts_shadow=False)
    radius = min(0.5, 0.16 * h)
    axles = (0.36, -0.27, -0.38) if l > 8 else (0.34, -0.3)
    _add_axles(builder, pose, axles, radius)

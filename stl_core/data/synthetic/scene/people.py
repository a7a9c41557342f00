"""Build pedestrians and cyclists whose poses fill their boxes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from stl_core.data.synthetic.scene.builder import Bar, Builder, Frustum, Spheroid, box_shape
from stl_core.data.synthetic.scene.distributions import draw_uniform
from stl_core.data.synthetic.scene.materials import CLOTH, HEAD, METAL, TYRE
from stl_core.data.synthetic.scene.solids import ObjectPose
from stl_core.types import Array

_TROUSERS = np.array([
    [0.03, 0.035, 0.06], [0.015, 0.015, 0.018], [0.10, 0.09, 0.07], [0.05, 0.05, 0.055],
    [0.06, 0.08, 0.12], [0.25, 0.22, 0.17],
])  # fmt: skip
_SKIN = np.array([[0.45, 0.26, 0.18], [0.34, 0.19, 0.12], [0.16, 0.08, 0.05], [0.55, 0.35, 0.26]])


def _draw_clothes(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Draw the colours of top, trousers and skin."""
    hue = rng.random(3)
    top = hue * rng.uniform(0.05, 0.7) if rng.random() < 0.55 else np.full(3, hue[0] * 0.5 + 0.01)
    trousers = _TROUSERS[rng.integers(len(_TROUSERS))] * draw_uniform(rng, 0.6, 1.5)
    return top, trousers, _SKIN[rng.integers(len(_SKIN))]


def add_pedestrian(builder: Builder, pose: ObjectPose, rng: np.random.Generator) -> None:
    """Build a walking or standing person: feet reach the box's ends, arms its sides."""
    h, w, l = pose.size_hwl_m.tolist()
    top, trousers, skin = _draw_clothes(rng)
    side = 1.0 if rng.random() < 0.5 else -1.0  # which foot is in front
    hip, across = 0.50 * h, min(0.09, 0.2 * w)
    shoe = min(0.26, 0.6 * l)
    for sign in (1.0, -1.0):
        z = sign * side * across
        toe = l / 2 if sign > 0 else -l / 2 + shoe
        ankle = np.array([toe - 0.75 * shoe, 0.06, z])
        knee = np.array([(ankle[0]) * 0.45 + 0.05 * (l > 0.5), 0.27 * h, z])
        knee[0] = np.clip(knee[0], -l / 2 + 0.09, l / 2 - 0.09)
        builder.add(pose, Bar([0, hip + 0.04, z], knee, (0.17, 0.13)), CLOTH, trousers)
        builder.add(pose, Bar(knee, ankle, (0.13, 0.1)), CLOTH, trousers)
        builder.add(
            pose,
            box_shape((toe - shoe, toe), (0.0, 0.09), (z - 0.05, z + 0.05)),
            CLOTH,
            trousers * 0.4,
        )
        out = w / 2 - 0.045
        depth = min(l / 2 - 0.05, 0.30)
        hand = np.array([-sign * depth, 0.50 * h, sign * side * out])
        elbow = np.array([-sign * depth * 0.35 - 0.03, 0.63 * h, sign * side * out])
        shoulder = np.array([0.0, 0.79 * h, sign * side * min(out - 0.02, 0.2)])
        builder.add(pose, Bar(shoulder, elbow, (0.11, 0.09)), CLOTH, top)
        builder.add(pose, Bar(elbow, hand, (0.09, 0.07)), CLOTH, top * 0.97)
    half, thick = min(max(w / 2 - 0.07, 0.13), 0.21), min(0.12, l / 2)
    torso = Frustum(
        (-thick * 0.9, thick * 0.9), (-half * 0.8, half * 0.8),
        (-thick, thick), (-half, half), (0.46 * h, 0.80 * h),
    )  # fmt: skip
    builder.add(pose, torso, CLOTH, top)
    chest = Frustum(
        (-thick, thick), (-half, half), (-0.06, 0.06), (-0.07, 0.07), (0.80 * h, 0.87 * h)
    )
    builder.add(pose, chest, CLOTH, top)
    builder.add(pose, Spheroid((0.01, h - 0.125, 0.0), (0.098, 0.125)), HEAD, skin)
    if rng.random() < 0.25 and l > 0.6:  # a rucksack
        pack = box_shape((-thick - 0.16, -thick + 0.02), (0.55 * h, 0.8 * h), (-0.14, 0.14))
        builder.add(pose, pack, CLOTH, rng.random(3) * 0.3)


def _add_bicycle(
    builder: Builder, pose: ObjectPose, rng: np.random.Generator
) -> tuple[Array, ...]:
    """Build a bicycle; return the positions of saddle, cranks and middle of the handlebar."""
    w, l = pose.size_hwl_m[1:].tolist()
    radius = min(0.345, 0.21 * l)
    axle = l / 2 - radius
    metal, rubber = rng.random(3) * 0.4, np.full(3, 0.02)
    turn = 2 * np.pi * np.arange(9) / 8 + np.pi / 8
    ring = 0.94 * radius * np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    for x in (-axle, axle):
        for a, b in pairwise(ring + [x, radius, 0.0]):
            builder.add(pose, Bar(a, b, (0.045, 0.045)), TYRE, rubber)
    saddle, head_tube = np.array([-0.13 * l, 0.93, 0.0]), np.array([0.24 * l, 0.88, 0.0])
    crank = np.array([-0.03 * l, 0.30, 0.0])
    bars = (
        (saddle, crank), (crank, head_tube), (head_tube - [0, 0.08, 0], saddle - [0, 0.12, 0]),
        (crank, [-axle, radius, 0]), (head_tube, [axle, radius, 0]),
    )  # fmt: skip
    for a, b in bars:
        builder.add(pose, Bar(a, b, (0.05, 0.045)), METAL, metal)
    grip = np.array([0.2 * l, 1.03, 0.0])
    handlebar = Bar(grip - [0, 0, w / 2], grip + [0, 0, w / 2], (0.04, 0.04))
    builder.add(pose, handlebar, METAL, metal)
    return saddle, crank, grip


def add_cyclist(builder: Builder, pose: ObjectPose, rng: np.random.Generator) -> None:
    """Build a person on a bicycle: wheels reach the box's ends, the handlebar its sides."""
    h, w, l = pose.size_hwl_m.tolist()
    top, trousers, skin = _draw_clothes(rng)
    saddle, crank, grip = _add_bicycle(builder, pose, rng)
    hip, neck = saddle + [0, 0.06, 0], np.array([0.07 * l, h - 0.30, 0.0])
    half = min(0.2, w / 2 - 0.04)
    builder.add(pose, Bar(hip, neck, (0.25, 2 * half - 0.05)), CLOTH, top)
    head = np.array([0.10 * l, h - 0.13, 0.0])
    helmet = rng.random() < 0.4
    builder.add(pose, Spheroid(head, (0.105, 0.13)), HEAD, rng.random(3) * 0.6 if helmet else skin)
    for sign in (1.0, -1.0):
        z = sign * min(0.11, 0.3 * w)
        foot = crank + [sign * 0.14, sign * 0.1 - 0.02, z]
        knee = np.array([0.11 * l, 0.66 + sign * 0.06, z])
        builder.add(pose, Bar(hip + [0, 0, z * 0.7], knee, (0.17, 0.13)), CLOTH, trousers)
        builder.add(pose, Bar(knee, foot, (0.13, 0.09)), CLOTH, trousers)
        shoe = box_shape(
            (foot[0] - 0.08, foot[0] + 0.16),
            (foot[1] - 0.05, foot[1] + 0.03),
            (z - 0.05, z + 0.05),
        )
        builder.add(pose, shoe, CLOTH, np.full(3, 0.03))
        hand = grip + [0, 0, sign * (w / 2 - 0.06)]
        shoulder = neck + [-0.02, -0.06, sign * half * 0.8]
        builder.add(pose, Bar(shoulder, hand, (0.1, 0.07)), CLOTH, top)

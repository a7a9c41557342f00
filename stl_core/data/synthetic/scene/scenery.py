"""Roadside scenery: houses, trees, hedges, walls, lamp posts, signs, guard rails."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from stl_core.data.synthetic.scene import materials
from stl_core.data.synthetic.scene.builder import (
    Bar,
    Builder,
    Frustum,
    Prism,
    Spheroid,
    box_shape,
    wheel_outline,
)
from stl_core.data.synthetic.scene.distributions import draw_uniform, scale_draws
from stl_core.data.synthetic.scene.road import Road
from stl_core.data.synthetic.scene.solids import ObjectPose
from stl_core.types import Array

_FACADES = np.array([
    [0.62, 0.56, 0.45], [0.66, 0.64, 0.60], [0.55, 0.42, 0.30], [0.48, 0.24, 0.17],
    [0.40, 0.40, 0.40], [0.62, 0.50, 0.36], [0.50, 0.56, 0.58], [0.68, 0.60, 0.38],
])  # fmt: skip
_ROOFS = np.array([[0.25, 0.08, 0.05], [0.12, 0.10, 0.10], [0.30, 0.13, 0.07], [0.08, 0.08, 0.09]])

_BARK, _FENCE = np.array([0.09, 0.065, 0.045]), np.array([0.16, 0.10, 0.06])

#: Gap to the pavement, fraction of the roadside with houses, tree spacing, by kind of road.
_ROADSIDE = {
    'residential': (3.0, 0.8, 16.0),
    'city': (0.6, 0.95, 22.0),
    'country': (16.0, 0.2, 8.0),
    'highway': (22.0, 0.25, 9.0),
}

#: Lower and upper bounds of uniform draws. Leaves: brightness, red, blue. Crowns of the woods: x
#: and z of the centre, width and height, as fractions of the tree height; brightness. Clumps of a
#: crown: angle, radius, offset outwards, offset upwards, height over width, brightness.
_LEAF_TONES = np.array([[0.6, 0.8, 0.7], [1.5, 1.9, 1.3]])
_CROWN = np.array([[-0.4, -0.4, 0.25, 0.25, 0.8], [0.4, 0.4, 0.4, 0.4, 1.2]])
_CLUMP = np.array([
    [0.0, 0.26, 0.45, -0.6, 0.7, 0.75], [0.7, 0.55, 0.75, 0.75, 1.0, 1.25],
])  # fmt: skip


def add_scenery(builder: Builder, road: Road, sightlines: Array, rng: np.random.Generator) -> None:
    """
    Add the scenery on both sides of a road.

    :param builder: collects the parts.
    :param road: the road.
    :param sightlines: (M, 4) x z of the camera and x z of an object that should stay visible.
    :param rng: random generator of the scenery.
    """
    fraction = np.linspace(0.04, 1.0, 24)[:, None]
    sightline_points = (
        sightlines[:, None, :2] * (1 - fraction) + sightlines[:, None, 2:] * fraction
    ).reshape(-1, 2)
    for sign in (-1.0, 1.0):
        _add_houses(builder, road, sign, sightline_points, rng)
        _add_trees(builder, road, sign, sightline_points, rng)
        _add_woods(builder, road, sign, rng)
        _add_lamp_posts(builder, road, sign, rng)
        if road.has_kerb:
            _add_yard_boundaries(builder, road, sign, rng)
        if road.kind in ('country', 'highway') and rng.random() < 0.6:
            _add_guard_rail(builder, road, sign)
    if road.kind != 'highway':
        _add_signs(builder, road, rng)


def _pavement_edge(road: Road, sign: float) -> float:
    left, right = road.edges_m
    return (left if sign < 0 else right) + sign * road.pavement_width_m


def _xz_axes(yaw: float) -> Array:
    """Return the unit vectors along and across in x z, as rows (2, 2)."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin], [sin, cos]])


def _blocks_sightline(
    position_m: Array, yaw: float, length: float, width: float, sightline_points: Array
) -> bool:
    """Return whether a rectangle at (x, _, z) covers points of sightlines, (L, 2) x z."""
    along, across = _xz_axes(yaw) @ (sightline_points - position_m[[0, 2]]).T
    margin = 0.8
    inside = np.abs(along) <= length / 2 + margin
    return bool((inside & (np.abs(across) <= width / 2 + margin)).any())


def _add_houses(
    builder: Builder, road: Road, sign: float, sightline_points: Array, rng: np.random.Generator
) -> None:
    gap, built, _ = _ROADSIDE[road.kind]
    gap, z = gap * rng.uniform(0.6, 1.6), road.start_m + 10 * rng.random()
    storeys = rng.uniform(2, 5) if road.kind == 'city' else rng.uniform(1.3, 3.2)
    while z < road.end_m - 10:
        length, depth = draw_uniform(rng, 8, 22), draw_uniform(rng, 7, 13)
        middle = z + length / 2
        z += length + (
            0.0 if road.kind == 'city' and rng.random() < 0.7 else draw_uniform(rng, 2, 9)
        )
        if rng.random() > built or any(
            road.in_junction(middle + k * length / 2) for k in (-1, 0, 1)
        ):
            continue
        setback = gap + draw_uniform(rng, 0, 0.4 * gap) + depth / 2
        position_m, heading = road.point_at(_pavement_edge(road, sign) + sign * setback, middle)
        yaw = heading - np.pi / 2
        if (
            _blocks_sightline(position_m, yaw, length, depth, sightline_points)
            and rng.random() < 0.93
        ):
            continue
        height = 2.9 * max(1, round(storeys + rng.normal(0, 0.7))) + 0.6
        pose = ObjectPose(position_m, yaw, np.array([height, depth, length]))
        _add_house(builder, pose, rng)


def _add_house(builder: Builder, pose: ObjectPose, rng: np.random.Generator) -> None:
    h, w, l = pose.size_hwl_m.tolist()
    facade = _FACADES[rng.integers(len(_FACADES))]
    colour = facade * draw_uniform(rng, 0.75, 1.1) * scale_draws(rng.random(3), 0.95, 1.05)
    walls = box_shape((-l / 2, l / 2), (-1.5, h), (-w / 2, w / 2))
    builder.add(pose, walls, materials.BUILDING, colour)
    if rng.random() < 0.65:
        ridge = h + w / 2 * draw_uniform(rng, 0.45, 0.95)
        outline = [(-w / 2 - 0.4, h), (w / 2 + 0.4, h), (0.0, ridge)]
        turned = ObjectPose(pose.bottom_m, pose.yaw + np.pi / 2, np.array([h, l, w]))
        shape = Prism(outline, l / 2 + 0.3)
        builder.add(turned, shape, materials.ROOF, _ROOFS[rng.integers(len(_ROOFS))])
    else:
        brim = box_shape((-l / 2 - 0.2, l / 2 + 0.2), (h, h + 0.5), (-w / 2 - 0.2, w / 2 + 0.2))
        builder.add(pose, brim, materials.PANEL, colour * 0.6)


def _add_trees(
    builder: Builder, road: Road, sign: float, sightline_points: Array, rng: np.random.Generator
) -> None:
    gap, _, spacing = _ROADSIDE[road.kind]
    z = road.start_m + spacing * rng.random()
    avenue = rng.random() < 0.5
    while z < road.end_m - 30:
        z += spacing * draw_uniform(rng, 0.5, 1.7)
        out = 1.2 if avenue and road.has_kerb else draw_uniform(rng, 1.5, max(2.5, gap + 10))
        position_m, _ = road.point_at(
            _pavement_edge(road, sign) + sign * (out - 1.8 * (avenue and road.has_kerb)), z
        )
        if road.in_junction(z) or (rng.random() < 0.25):
            continue
        if _blocks_sightline(position_m, 0.0, 0.5, 0.5, sightline_points) and rng.random() < 0.6:
            continue
        if rng.random() < 0.25 and not avenue:
            _add_bush(builder, position_m, rng)
        else:
            _add_tree(builder, position_m, 0.0 if road.end_m > 200 else z, rng)


def _add_woods(builder: Builder, road: Road, sign: float, rng: np.random.Generator) -> None:
    """Add woods far from the road: groups of trees with a few crowns each."""
    lateral = _pavement_edge(road, sign) + sign * rng.uniform(32, 50)
    z, density, colour = road.start_m, rng.uniform(0.35, 1.0), _draw_leaf_colour(rng)
    while z < road.end_m - 5:
        z += draw_uniform(rng, 7, 13) * (1 + max(0.0, z) / 90)
        if rng.random() > density:
            continue
        position_m, _ = road.point_at(lateral + sign * draw_uniform(rng, 0, 18), z)
        height = draw_uniform(rng, 5, 13)
        pose = ObjectPose(position_m, 0.0, np.array([height, height, height]))
        tone = colour * draw_uniform(rng, 0.6, 1.2)
        for up in (0.28, draw_uniform(rng, 0.35, 0.6)):
            x, z_, wide, tall, shade = scale_draws(rng.random(5), *_CROWN).tolist()
            center = (x * height, up * height, z_ * height)
            crown = Spheroid(center, (wide * height, tall * height))
            builder.add(pose, crown, materials.LEAF, tone * shade, casts_shadow=False)


def _draw_leaf_colour(rng: np.random.Generator) -> Array:
    tone, red, blue = scale_draws(rng.random(3), *_LEAF_TONES).tolist()
    return np.array([0.06 * tone * red, 0.115 * tone, 0.022 * tone * blue])


def _add_tree(
    builder: Builder, position_m: Array, distance_m: float, rng: np.random.Generator
) -> None:
    """Add a tree; the farther its least distance to the camera, the fewer clumps it has."""
    height = draw_uniform(rng, 4.5, 12.0)
    crown, trunk = height * draw_uniform(rng, 0.24, 0.36), height * draw_uniform(rng, 0.28, 0.42)
    size = np.array([height, 2 * crown, 2 * crown])
    pose = ObjectPose(position_m, draw_uniform(rng, -np.pi, np.pi), size)
    thick = 0.035 * height
    top = (0.1 * rng.standard_normal(), trunk + 0.3 * crown, 0.0)
    bar = Bar((0.0, -0.3, 0.0), top, (thick, 0.7 * thick))
    builder.add(pose, bar, materials.WOOD, _BARK)
    colour = _draw_leaf_colour(rng)
    if rng.random() < 0.18:  # a conifer, built from tiers
        for k in range(4):
            r = crown * (0.8 - 0.17 * k)
            y = trunk * 0.7 + (height - 0.7 * trunk) * (0.15 + 0.22 * k)
            tier = Spheroid((0.0, y, 0.0), (r, height * 0.17))
            builder.add(pose, tier, materials.LEAF, colour * 0.7)
        return
    clumps = 11 if distance_m < 25 else 7 if distance_m < 50 else 4 if distance_m < 90 else 1
    middle = (height + trunk) / 2
    tall = (height - trunk) / 2
    inner = Spheroid((0.0, middle, 0.0), (0.78 * crown, 0.82 * tall))
    builder.add(pose, inner, materials.LEAF, colour * 0.85)
    turn, wide, out, up, round_, shade = scale_draws(rng.random((clumps, 6)), *_CLUMP).T
    turn = 2 * np.pi * (np.arange(clumps) + turn) / clumps
    wide, out = crown * wide, crown * out
    center = np.stack([out * np.cos(turn), middle + tall * up, out * np.sin(turn)], 1)
    radius = np.stack([wide, wide * round_], 1)
    for k in range(clumps):
        clump = Spheroid(center[k], radius[k])
        builder.add(pose, clump, materials.LEAF, colour * shade[k], casts_shadow=k < 5)


def _add_bush(builder: Builder, position_m: Array, rng: np.random.Generator) -> None:
    pose = ObjectPose(position_m, 0.0, np.ones(3))
    colour = _draw_leaf_colour(rng)
    for _ in range(3):
        center = (rng.normal(0, 0.6), draw_uniform(rng, 0.2, 0.6), rng.normal(0, 0.6))
        part = Spheroid(center, (draw_uniform(rng, 0.5, 1.1), draw_uniform(rng, 0.5, 0.9)))
        builder.add(pose, part, materials.LEAF, colour * draw_uniform(rng, 0.8, 1.2))


def _add_yard_boundaries(
    builder: Builder, road: Road, sign: float, rng: np.random.Generator
) -> None:
    """Add hedges, walls and fences along the pavement, which hide wheels and bonnets."""
    z, density = road.start_m + 10 * rng.random(), rng.uniform(0.1, 0.8)
    kind, height = rng.random(), rng.uniform(0.55, 1.25)
    while z < road.end_m - 12:
        length = draw_uniform(rng, 3, 10)
        z += length + (
            draw_uniform(rng, 0.0, 0.4) if rng.random() < 0.6 else draw_uniform(rng, 2, 6)
        )
        if rng.random() > density or road.in_junction(z) or road.in_junction(z - length):
            continue
        position_m, heading = road.point_at(
            _pavement_edge(road, sign) + sign * 0.5, z - length / 2
        )
        tall = height * draw_uniform(rng, 0.85, 1.15)
        pose = ObjectPose(position_m, heading - np.pi / 2, np.array([tall, 0.6, length]))
        along = (-length / 2, length / 2)
        if kind < 0.55:
            green = Frustum(along, (-0.4, 0.4), along, (-0.32, 0.32), (-0.3, tall))
            builder.add(pose, green, materials.LEAF, _draw_leaf_colour(rng))
        elif kind < 0.8:
            stone = np.array([0.32, 0.28, 0.24]) * draw_uniform(rng, 0.7, 1.4)
            builder.add(
                pose, box_shape(along, (-0.3, tall), (-0.12, 0.12)), materials.PANEL, stone
            )
        else:
            builder.add(
                pose, box_shape(along, (-0.2, tall), (-0.04, 0.04)), materials.WOOD, _FENCE
            )


def _add_lamp_posts(builder: Builder, road: Road, sign: float, rng: np.random.Generator) -> None:
    spacing = rng.uniform(22, 40)
    if road.kind == 'country' and rng.random() < 0.6:
        return
    left, right = road.edges_m
    lateral = (left if sign < 0 else right) + sign * 0.5
    height, grey = rng.uniform(5, 9), np.full(3, rng.uniform(0.1, 0.35))
    for z in np.arange(road.start_m + spacing * rng.random(), road.end_m - 5, spacing):
        position_m, heading = road.point_at(lateral, float(z))
        if road.in_junction(float(z)):
            continue
        pose = ObjectPose(
            position_m, heading + sign * np.pi / 2 - np.pi / 2, np.array([height, 0.2, 0.2])
        )
        post = Bar([0, -0.2, 0], [0, height, 0], (0.16, 0.09))
        builder.add(pose, post, materials.METAL, grey)
        arm = ObjectPose(position_m, heading + (np.pi if sign > 0 else 0.0), pose.size_hwl_m)
        bar = Bar([0, height - 0.1, 0], [1.6, height + 0.1, 0], (0.08, 0.06))
        builder.add(arm, bar, materials.METAL, grey)
        head = box_shape((1.3, 2.0), (height, height + 0.14), (-0.13, 0.13))
        builder.add(arm, head, materials.LAMP, np.full(3, 0.55))


def _add_signs(builder: Builder, road: Road, rng: np.random.Generator) -> None:
    left, right = road.edges_m
    for _ in range(rng.integers(1, 6)):
        sign = 1.0 if rng.random() < 0.7 else -1.0
        z = rng.uniform(8, 90)
        position_m, heading = road.point_at((left if sign < 0 else right) + sign * 0.7, z)
        pose = ObjectPose(position_m, heading, np.array([2.6 + rng.random(), 0.1, 0.6]))
        post = Bar([0, -0.2, 0], [0, 2.4, 0], (0.07, 0.06))
        builder.add(pose, post, materials.METAL, np.full(3, 0.3))
        plate = Prism(wheel_outline((0.0, 2.3), 0.29, (10, 4, 6)[int(rng.integers(3))]), 0.02)
        colours = np.array(
            [[0.6, 0.02, 0.02], [0.02, 0.1, 0.5], [0.8, 0.8, 0.8], [0.7, 0.5, 0.02]]
        )
        builder.add(pose, plate, materials.SIGN, colours[rng.integers(4)])


def _add_guard_rail(builder: Builder, road: Road, sign: float) -> None:
    left, right = road.edges_m
    lateral = (left if sign < 0 else right) + sign * 0.8
    z_m = np.arange(max(road.start_m, -40.0), min(road.end_m, 140.0), 10.0)
    points = [road.point_at(lateral, z)[0] for z in z_m.tolist()]
    grey, dark = np.full(3, 0.3), np.full(3, 0.22)
    for a, b in pairwise(points):
        pose = ObjectPose(a, 0.0, np.ones(3))
        end = (b - a) * [1, -1, 1]
        bar = Bar((0.0, 0.62, 0.0), end + [0, 0.62, 0], (0.24, 0.24))
        builder.add(pose, bar, materials.METAL, dark)
        post = Bar((0.0, -0.2, 0.0), (0.0, 0.6, 0.0), (0.12, 0.12))
        builder.add(pose, post, materials.METAL, grey)

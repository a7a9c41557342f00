"""What stands beside the road: houses, trees, hedges, walls, lamp posts, signs, guard rails."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from stl_core.data.synthetic import materials
from stl_core.data.synthetic.road import Road
from stl_core.data.synthetic.shapes import Builder, Placement, box, extruded, limb, tapered, wheel
from stl_core.types import Array

_FACADES = np.array([
    [0.62, 0.56, 0.45], [0.66, 0.64, 0.60], [0.55, 0.42, 0.30], [0.48, 0.24, 0.17],
    [0.40, 0.40, 0.40], [0.62, 0.50, 0.36], [0.50, 0.56, 0.58], [0.68, 0.60, 0.38],
])  # fmt: skip
_ROOFS = np.array([[0.25, 0.08, 0.05], [0.12, 0.10, 0.10], [0.30, 0.13, 0.07], [0.08, 0.08, 0.09]])

#: Gap to the pavement, share of the roadside built up, tree spacing, by kind of road.
_SITES = {
    'residential': (3.0, 0.8, 16.0),
    'city': (0.6, 0.95, 22.0),
    'country': (16.0, 0.2, 8.0),
    'highway': (22.0, 0.25, 9.0),
}


def add_scenery(builder: Builder, road: Road, views: Array, rng: np.random.Generator) -> None:
    """
    Line the road.

    :param builder: takes the parts.
    :param road: the road.
    :param views: (M, 4) x z of an observer and of an object that buildings should leave visible.
    :param rng: this frame's scenery.
    """
    for sign in (-1.0, 1.0):
        _houses(builder, road, sign, views, rng)
        _trees(builder, road, sign, views, rng)
        _woods(builder, road, sign, rng)
        _posts(builder, road, sign, rng)
        if road.kerb:
            _hedges(builder, road, sign, rng)
        if road.kind in ('country', 'highway') and rng.random() < 0.6:
            _rail(builder, road, sign)
    if road.kind != 'highway':
        _signs(builder, road, rng)


def _edge(road: Road, sign: float) -> float:
    left, right = road.edges_m
    return (left if sign < 0 else right) + sign * road.walk_m


def _hides(footprint: Array, views: Array) -> bool:
    """Tell whether a rectangle (4, 2) stands in one of the lines of sight (M, 4)."""
    if not len(views):
        return False
    t = np.linspace(0.04, 1.0, 24)[:, None]
    points = views[:, None, :2] * (1 - t) + views[:, None, 2:] * t  # (M, 24, 2)
    inside = np.ones(points.shape[:2], bool)
    middle = footprint.mean(0)
    for a, b in zip(footprint, np.roll(footprint, -1, 0), strict=True):
        normal = np.array([b[1] - a[1], a[0] - b[0]])
        normal = normal if normal @ (a - middle) > 0 else -normal
        inside &= (points - a) @ normal <= 0.8 * np.linalg.norm(normal)
    return bool(inside.any())


def _footprint(at: Array, yaw: float, length: float, width: float) -> Array:
    along = np.array([np.cos(yaw), -np.sin(yaw)]) * length / 2
    across = np.array([np.sin(yaw), np.cos(yaw)]) * width / 2
    return np.array(
        [at + along + across, at + along - across, at - along - across, at - along + across]
    )


def _houses(
    builder: Builder, road: Road, sign: float, views: Array, rng: np.random.Generator
) -> None:
    gap, built, _ = _SITES[road.kind]
    gap, z = gap * rng.uniform(0.6, 1.6), road.start_m + 10 * rng.random()
    storeys = rng.uniform(2, 5) if road.kind == 'city' else rng.uniform(1.3, 3.2)
    while z < road.end_m - 10:
        length, depth = rng.uniform(8, 22), rng.uniform(7, 13)
        middle = z + length / 2
        z += length + (0.0 if road.kind == 'city' and rng.random() < 0.7 else rng.uniform(2, 9))
        if rng.random() > built or any(road.crossed(middle + k * length / 2) for k in (-1, 0, 1)):
            continue
        setback = gap + rng.uniform(0, 0.4 * gap) + depth / 2
        at, heading = road.at(_edge(road, sign) + sign * setback, middle)
        yaw = heading - np.pi / 2
        if _hides(_footprint(at[[0, 2]], yaw, length, depth), views) and rng.random() < 0.93:
            continue
        height = 2.9 * max(1, round(storeys + rng.normal(0, 0.7))) + 0.6
        place = Placement(at, yaw, np.array([height, depth, length]))
        _house(builder, place, rng)


def _house(builder: Builder, at: Placement, rng: np.random.Generator) -> None:
    h, w, l = at.size_hwl_m
    colour = (
        _FACADES[rng.integers(len(_FACADES))] * rng.uniform(0.75, 1.1) * rng.uniform(0.95, 1.05, 3)
    )
    walls = box((-l / 2, l / 2), (-1.5, h), (-w / 2, w / 2))
    builder.polytope(at, walls, materials.BUILDING, colour)
    if rng.random() < 0.65:
        ridge = h + w / 2 * rng.uniform(0.45, 0.95)
        outline = np.array([[-w / 2 - 0.4, h], [w / 2 + 0.4, h], [0.0, ridge]])
        turned = Placement(at.bottom_m, at.yaw + np.pi / 2, np.array([h, l, w]))
        shape = extruded(outline, l / 2 + 0.3)
        builder.polytope(turned, shape, materials.ROOF, _ROOFS[rng.integers(len(_ROOFS))])
    else:
        brim = box((-l / 2 - 0.2, l / 2 + 0.2), (h, h + 0.5), (-w / 2 - 0.2, w / 2 + 0.2))
        builder.polytope(at, brim, materials.PANEL, colour * 0.6)


def _trees(
    builder: Builder, road: Road, sign: float, views: Array, rng: np.random.Generator
) -> None:
    gap, _, spacing = _SITES[road.kind]
    z = road.start_m + spacing * rng.random()
    avenue = rng.random() < 0.5
    while z < road.end_m - 30:
        z += spacing * rng.uniform(0.5, 1.7)
        out = 1.2 if avenue and road.kerb else rng.uniform(1.5, max(2.5, gap + 10))
        at, _ = road.at(_edge(road, sign) + sign * (out - 1.8 * (avenue and road.kerb)), z)
        if road.crossed(z) or (rng.random() < 0.25):
            continue
        if _hides(_footprint(at[[0, 2]], 0.0, 0.5, 0.5), views) and rng.random() < 0.6:
            continue
        if rng.random() < 0.25 and not avenue:
            _bush(builder, at, rng)
        else:
            _tree(builder, at, 0.0 if road.end_m > 200 else z, rng)


def _woods(builder: Builder, road: Road, sign: float, rng: np.random.Generator) -> None:
    """Close the view far from the road with groups of trees, each a few crowns."""
    lateral = _edge(road, sign) + sign * rng.uniform(32, 50)
    z, share, colour = road.start_m, rng.uniform(0.35, 1.0), _leaf_colour(rng)
    while z < road.end_m - 5:
        z += rng.uniform(7, 13) * (1 + max(0.0, z) / 90)
        if rng.random() > share:
            continue
        at, _ = road.at(lateral + sign * rng.uniform(0, 18), z)
        height = rng.uniform(5, 13)
        place = Placement(at, 0.0, np.array([height, height, height]))
        tone = colour * rng.uniform(0.6, 1.2)
        for up in (0.28, rng.uniform(0.35, 0.6)):
            center = (
                rng.uniform(-0.4, 0.4) * height,
                up * height,
                rng.uniform(-0.4, 0.4) * height,
            )
            size = (height * rng.uniform(0.25, 0.4), height * rng.uniform(0.25, 0.4))
            builder.spheroid(
                place, center, size, materials.LEAF, tone * rng.uniform(0.8, 1.2), casts=False
            )


def _leaf_colour(rng: np.random.Generator) -> Array:
    hue = np.array([0.06, 0.115, 0.022]) * rng.uniform(0.6, 1.5)
    return hue * np.array([rng.uniform(0.8, 1.9), 1.0, rng.uniform(0.7, 1.3)])


def _tree(builder: Builder, at: Array, away_m: float, rng: np.random.Generator) -> None:
    """Grow a tree of fewer crowns the farther it will ever be seen from."""
    height = rng.uniform(4.5, 12.0)
    crown, trunk = height * rng.uniform(0.24, 0.36), height * rng.uniform(0.28, 0.42)
    place = Placement(at, rng.uniform(-np.pi, np.pi), np.array([height, 2 * crown, 2 * crown]))
    thick = 0.035 * height
    bar = limb([0, -0.3, 0], [rng.normal(0, 0.1), trunk + 0.3 * crown, 0], (thick, 0.7 * thick))
    builder.polytope(place, bar, materials.WOOD, np.array([0.09, 0.065, 0.045]))
    colour = _leaf_colour(rng)
    if rng.random() < 0.18:  # a conifer: tiers
        for k in range(4):
            r = crown * (0.8 - 0.17 * k)
            y = trunk * 0.7 + (height - 0.7 * trunk) * (0.15 + 0.22 * k)
            builder.spheroid(
                place, np.array([0, y, 0]), (r, height * 0.17), materials.LEAF, colour * 0.7
            )
        return
    clumps = 11 if away_m < 25 else 7 if away_m < 50 else 4 if away_m < 90 else 1
    middle = (height + trunk) / 2
    tall = (height - trunk) / 2
    builder.spheroid(
        place, np.array([0, middle, 0]), (0.78 * crown, 0.82 * tall), materials.LEAF, colour * 0.85
    )
    for k in range(clumps):
        turn = 2 * np.pi * (k + rng.random() * 0.7) / clumps
        r = crown * rng.uniform(0.26, 0.55)
        out, up = crown * rng.uniform(0.45, 0.75), tall * rng.uniform(-0.6, 0.75)
        center = np.array([out * np.cos(turn), middle + up, out * np.sin(turn)])
        size = (r, r * rng.uniform(0.7, 1.0))
        shade = colour * rng.uniform(0.75, 1.25)
        builder.spheroid(place, center, size, materials.LEAF, shade, casts=k < 5)


def _bush(builder: Builder, at: Array, rng: np.random.Generator) -> None:
    place = Placement(at, 0.0, np.ones(3))
    colour = _leaf_colour(rng)
    for _ in range(3):
        center = np.array([rng.normal(0, 0.6), rng.uniform(0.2, 0.6), rng.normal(0, 0.6)])
        size = (rng.uniform(0.5, 1.1), rng.uniform(0.5, 0.9))
        builder.spheroid(place, center, size, materials.LEAF, colour * rng.uniform(0.8, 1.2))


def _hedges(builder: Builder, road: Road, sign: float, rng: np.random.Generator) -> None:
    """Part yards from the pavement by hedges, walls and fences that hide wheels and bonnets."""
    z, share = road.start_m + 10 * rng.random(), rng.uniform(0.1, 0.8)
    kind, height = rng.random(), rng.uniform(0.55, 1.25)
    while z < road.end_m - 12:
        length = rng.uniform(3, 10)
        z += length + (rng.uniform(0.0, 0.4) if rng.random() < 0.6 else rng.uniform(2, 6))
        if rng.random() > share or road.crossed(z) or road.crossed(z - length):
            continue
        at, heading = road.at(_edge(road, sign) + sign * 0.5, z - length / 2)
        tall = height * rng.uniform(0.85, 1.15)
        place = Placement(at, heading - np.pi / 2, np.array([tall, 0.6, length]))
        if kind < 0.55:
            green = tapered((-length / 2, length / 2), (-0.4, 0.4), (-length / 2, length / 2),
                            (-0.32, 0.32), (-0.3, tall))  # fmt: skip
            builder.polytope(place, green, materials.LEAF, _leaf_colour(rng))
        elif kind < 0.8:
            wall = box((-length / 2, length / 2), (-0.3, tall), (-0.12, 0.12))
            stone = np.array([0.32, 0.28, 0.24]) * rng.uniform(0.7, 1.4)
            builder.polytope(place, wall, materials.PANEL, stone)
        else:
            rail = box((-length / 2, length / 2), (-0.2, tall), (-0.04, 0.04))
            builder.polytope(place, rail, materials.WOOD, np.array([0.16, 0.10, 0.06]))


def _posts(builder: Builder, road: Road, sign: float, rng: np.random.Generator) -> None:
    spacing = rng.uniform(22, 40)
    if road.kind == 'country' and rng.random() < 0.6:
        return
    left, right = road.edges_m
    lateral = (left if sign < 0 else right) + sign * 0.5
    height, grey = rng.uniform(5, 9), np.full(3, rng.uniform(0.1, 0.35))
    for z in np.arange(road.start_m + spacing * rng.random(), road.end_m - 5, spacing):
        at, heading = road.at(lateral, float(z))
        if road.crossed(float(z)):
            continue
        place = Placement(at, heading + sign * np.pi / 2 - np.pi / 2, np.array([height, 0.2, 0.2]))
        post = limb([0, -0.2, 0], [0, height, 0], (0.16, 0.09))
        builder.polytope(place, post, materials.METAL, grey)
        arm = Placement(at, heading + (np.pi if sign > 0 else 0.0), place.size_hwl_m)
        bar = limb([0, height - 0.1, 0], [1.6, height + 0.1, 0], (0.08, 0.06))
        builder.polytope(arm, bar, materials.METAL, grey)
        head = box((1.3, 2.0), (height, height + 0.14), (-0.13, 0.13))
        builder.polytope(arm, head, materials.LAMP, np.full(3, 0.55))


def _signs(builder: Builder, road: Road, rng: np.random.Generator) -> None:
    left, right = road.edges_m
    for _ in range(rng.integers(1, 6)):
        sign = 1.0 if rng.random() < 0.7 else -1.0
        z = rng.uniform(8, 90)
        at, heading = road.at((left if sign < 0 else right) + sign * 0.7, z)
        place = Placement(at, heading, np.array([2.6 + rng.random(), 0.1, 0.6]))
        post = limb([0, -0.2, 0], [0, 2.4, 0], (0.07, 0.06))
        builder.polytope(place, post, materials.METAL, np.full(3, 0.3))
        plate = extruded(wheel((0.0, 2.3), 0.29, (10, 4, 6)[int(rng.integers(3))]), 0.02)
        colours = np.array(
            [[0.6, 0.02, 0.02], [0.02, 0.1, 0.5], [0.8, 0.8, 0.8], [0.7, 0.5, 0.02]]
        )
        builder.polytope(place, plate, materials.SIGN, colours[rng.integers(4)])


def _rail(builder: Builder, road: Road, sign: float) -> None:
    left, right = road.edges_m
    lateral = (left if sign < 0 else right) + sign * 0.8
    at = np.arange(max(road.start_m, -40.0), min(road.end_m, 140.0), 10.0)
    for z0, z1 in pairwise(at.tolist()):
        (a, _), (b, _) = road.at(lateral, float(z0)), road.at(lateral, float(z1))
        place = Placement(a, 0.0, np.ones(3))
        end = (b - a) * [1, -1, 1]
        bar = limb([0, 0.62, 0], end + [0, 0.62, 0], (0.24, 0.24))
        builder.polytope(place, bar, materials.METAL, np.full(3, 0.22))
        post = limb([0, -0.2, 0], [0, 0.6, 0], (0.12, 0.12))
        builder.polytope(place, post, materials.METAL, np.full(3, 0.3))

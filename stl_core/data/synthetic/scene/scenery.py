"""What stands beside the road: houses, trees, hedges, walls, lamp posts, signs, guard rails."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from stl_core.data.synthetic.scene import materials
from stl_core.data.synthetic.scene.builder import (
    Builder,
    Frustum,
    Limb,
    Prism,
    Spheroid,
    box,
    wheel,
)
from stl_core.data.synthetic.scene.distributions import between, uniform
from stl_core.data.synthetic.scene.road import Road
from stl_core.data.synthetic.scene.solids import Placement
from stl_core.types import Array

_FACADES = np.array([
    [0.62, 0.56, 0.45], [0.66, 0.64, 0.60], [0.55, 0.42, 0.30], [0.48, 0.24, 0.17],
    [0.40, 0.40, 0.40], [0.62, 0.50, 0.36], [0.50, 0.56, 0.58], [0.68, 0.60, 0.38],
])  # fmt: skip
_ROOFS = np.array([[0.25, 0.08, 0.05], [0.12, 0.10, 0.10], [0.30, 0.13, 0.07], [0.08, 0.08, 0.09]])

_BARK, _FENCE = np.array([0.09, 0.065, 0.045]), np.array([0.16, 0.10, 0.06])

#: Gap to the pavement, share of the roadside built up, tree spacing, by kind of road.
_SITES = {
    'residential': (3.0, 0.8, 16.0),
    'city': (0.6, 0.95, 22.0),
    'country': (16.0, 0.2, 8.0),
    'highway': (22.0, 0.25, 9.0),
}

#: Least and greatest of what is drawn. Leaves: brightness, red, blue. Crowns of the woods: x and z
#: of the middle, width and height, as shares of the tree's; brightness. Clumps of a crown: turn,
#: radius, way out, way up, height over width, brightness.
_LEAF_TONES = np.array([[0.6, 0.8, 0.7], [1.5, 1.9, 1.3]])
_CROWN = np.array([[-0.4, -0.4, 0.25, 0.25, 0.8], [0.4, 0.4, 0.4, 0.4, 1.2]])
_CLUMP = np.array([
    [0.0, 0.26, 0.45, -0.6, 0.7, 0.75], [0.7, 0.55, 0.75, 0.75, 1.0, 1.25],
])  # fmt: skip


def add_scenery(builder: Builder, road: Road, views: Array, rng: np.random.Generator) -> None:
    """
    Line the road.

    :param builder: takes the parts.
    :param road: the road.
    :param views: (M, 4) x z of an observer and of an object that buildings should leave visible.
    :param rng: this frame's scenery.
    """
    share = np.linspace(0.04, 1.0, 24)[:, None]
    sights = (views[:, None, :2] * (1 - share) + views[:, None, 2:] * share).reshape(-1, 2)
    for sign in (-1.0, 1.0):
        _houses(builder, road, sign, sights, rng)
        _trees(builder, road, sign, sights, rng)
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


def _axes(yaw: float) -> Array:
    """Return the directions along and across in x z, as rows."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin], [sin, cos]])


def _hides(at: Array, yaw: float, length: float, width: float, sights: Array) -> bool:
    """Tell whether a rectangle at (x, _, z) stands on points of lines of sight, (L, 2) x z."""
    along, across = _axes(yaw) @ (sights - at[[0, 2]]).T
    margin = 0.8
    inside = np.abs(along) <= length / 2 + margin
    return bool((inside & (np.abs(across) <= width / 2 + margin)).any())


def _houses(
    builder: Builder, road: Road, sign: float, sights: Array, rng: np.random.Generator
) -> None:
    gap, built, _ = _SITES[road.kind]
    gap, z = gap * rng.uniform(0.6, 1.6), road.start_m + 10 * rng.random()
    storeys = rng.uniform(2, 5) if road.kind == 'city' else rng.uniform(1.3, 3.2)
    while z < road.end_m - 10:
        length, depth = uniform(rng, 8, 22), uniform(rng, 7, 13)
        middle = z + length / 2
        z += length + (0.0 if road.kind == 'city' and rng.random() < 0.7 else uniform(rng, 2, 9))
        if rng.random() > built or any(road.crossed(middle + k * length / 2) for k in (-1, 0, 1)):
            continue
        setback = gap + uniform(rng, 0, 0.4 * gap) + depth / 2
        at, heading = road.at(_edge(road, sign) + sign * setback, middle)
        yaw = heading - np.pi / 2
        if _hides(at, yaw, length, depth, sights) and rng.random() < 0.93:
            continue
        height = 2.9 * max(1, round(storeys + rng.normal(0, 0.7))) + 0.6
        place = Placement(at, yaw, np.array([height, depth, length]))
        _house(builder, place, rng)


def _house(builder: Builder, at: Placement, rng: np.random.Generator) -> None:
    h, w, l = at.size_hwl_m.tolist()
    facade = _FACADES[rng.integers(len(_FACADES))]
    colour = facade * uniform(rng, 0.75, 1.1) * between(rng.random(3), 0.95, 1.05)
    walls = box((-l / 2, l / 2), (-1.5, h), (-w / 2, w / 2))
    builder.add(at, walls, materials.BUILDING, colour)
    if rng.random() < 0.65:
        ridge = h + w / 2 * uniform(rng, 0.45, 0.95)
        outline = [(-w / 2 - 0.4, h), (w / 2 + 0.4, h), (0.0, ridge)]
        turned = Placement(at.bottom_m, at.yaw + np.pi / 2, np.array([h, l, w]))
        shape = Prism(outline, l / 2 + 0.3)
        builder.add(turned, shape, materials.ROOF, _ROOFS[rng.integers(len(_ROOFS))])
    else:
        brim = box((-l / 2 - 0.2, l / 2 + 0.2), (h, h + 0.5), (-w / 2 - 0.2, w / 2 + 0.2))
        builder.add(at, brim, materials.PANEL, colour * 0.6)


def _trees(
    builder: Builder, road: Road, sign: float, sights: Array, rng: np.random.Generator
) -> None:
    gap, _, spacing = _SITES[road.kind]
    z = road.start_m + spacing * rng.random()
    avenue = rng.random() < 0.5
    while z < road.end_m - 30:
        z += spacing * uniform(rng, 0.5, 1.7)
        out = 1.2 if avenue and road.kerb else uniform(rng, 1.5, max(2.5, gap + 10))
        at, _ = road.at(_edge(road, sign) + sign * (out - 1.8 * (avenue and road.kerb)), z)
        if road.crossed(z) or (rng.random() < 0.25):
            continue
        if _hides(at, 0.0, 0.5, 0.5, sights) and rng.random() < 0.6:
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
        z += uniform(rng, 7, 13) * (1 + max(0.0, z) / 90)
        if rng.random() > share:
            continue
        at, _ = road.at(lateral + sign * uniform(rng, 0, 18), z)
        height = uniform(rng, 5, 13)
        place = Placement(at, 0.0, np.array([height, height, height]))
        tone = colour * uniform(rng, 0.6, 1.2)
        for up in (0.28, uniform(rng, 0.35, 0.6)):
            x, z_, wide, tall, shade = between(rng.random(5), *_CROWN).tolist()
            center = (x * height, up * height, z_ * height)
            crown = Spheroid(center, (wide * height, tall * height))
            builder.add(place, crown, materials.LEAF, tone * shade, casts=False)


def _leaf_colour(rng: np.random.Generator) -> Array:
    tone, red, blue = between(rng.random(3), *_LEAF_TONES).tolist()
    return np.array([0.06 * tone * red, 0.115 * tone, 0.022 * tone * blue])


def _tree(builder: Builder, at: Array, away_m: float, rng: np.random.Generator) -> None:
    """Grow a tree of fewer crowns the farther it will ever be seen from."""
    height = uniform(rng, 4.5, 12.0)
    crown, trunk = height * uniform(rng, 0.24, 0.36), height * uniform(rng, 0.28, 0.42)
    size = np.array([height, 2 * crown, 2 * crown])
    place = Placement(at, uniform(rng, -np.pi, np.pi), size)
    thick = 0.035 * height
    top = (0.1 * rng.standard_normal(), trunk + 0.3 * crown, 0.0)
    bar = Limb((0.0, -0.3, 0.0), top, (thick, 0.7 * thick))
    builder.add(place, bar, materials.WOOD, _BARK)
    colour = _leaf_colour(rng)
    if rng.random() < 0.18:  # a conifer: tiers
        for k in range(4):
            r = crown * (0.8 - 0.17 * k)
            y = trunk * 0.7 + (height - 0.7 * trunk) * (0.15 + 0.22 * k)
            tier = Spheroid((0.0, y, 0.0), (r, height * 0.17))
            builder.add(place, tier, materials.LEAF, colour * 0.7)
        return
    clumps = 11 if away_m < 25 else 7 if away_m < 50 else 4 if away_m < 90 else 1
    middle = (height + trunk) / 2
    tall = (height - trunk) / 2
    inner = Spheroid((0.0, middle, 0.0), (0.78 * crown, 0.82 * tall))
    builder.add(place, inner, materials.LEAF, colour * 0.85)
    turn, wide, out, up, round_, shade = between(rng.random((clumps, 6)), *_CLUMP).T
    turn = 2 * np.pi * (np.arange(clumps) + turn) / clumps
    wide, out = crown * wide, crown * out
    center = np.stack([out * np.cos(turn), middle + tall * up, out * np.sin(turn)], 1)
    radius = np.stack([wide, wide * round_], 1)
    for k in range(clumps):
        clump = Spheroid(center[k], radius[k])
        builder.add(place, clump, materials.LEAF, colour * shade[k], casts=k < 5)


def _bush(builder: Builder, at: Array, rng: np.random.Generator) -> None:
    place = Placement(at, 0.0, np.ones(3))
    colour = _leaf_colour(rng)
    for _ in range(3):
        center = (rng.normal(0, 0.6), uniform(rng, 0.2, 0.6), rng.normal(0, 0.6))
        part = Spheroid(center, (uniform(rng, 0.5, 1.1), uniform(rng, 0.5, 0.9)))
        builder.add(place, part, materials.LEAF, colour * uniform(rng, 0.8, 1.2))


def _hedges(builder: Builder, road: Road, sign: float, rng: np.random.Generator) -> None:
    """Part yards from the pavement by hedges, walls and fences that hide wheels and bonnets."""
    z, share = road.start_m + 10 * rng.random(), rng.uniform(0.1, 0.8)
    kind, height = rng.random(), rng.uniform(0.55, 1.25)
    while z < road.end_m - 12:
        length = uniform(rng, 3, 10)
        z += length + (uniform(rng, 0.0, 0.4) if rng.random() < 0.6 else uniform(rng, 2, 6))
        if rng.random() > share or road.crossed(z) or road.crossed(z - length):
            continue
        at, heading = road.at(_edge(road, sign) + sign * 0.5, z - length / 2)
        tall = height * uniform(rng, 0.85, 1.15)
        place = Placement(at, heading - np.pi / 2, np.array([tall, 0.6, length]))
        along = (-length / 2, length / 2)
        if kind < 0.55:
            green = Frustum(along, (-0.4, 0.4), along, (-0.32, 0.32), (-0.3, tall))
            builder.add(place, green, materials.LEAF, _leaf_colour(rng))
        elif kind < 0.8:
            stone = np.array([0.32, 0.28, 0.24]) * uniform(rng, 0.7, 1.4)
            builder.add(place, box(along, (-0.3, tall), (-0.12, 0.12)), materials.PANEL, stone)
        else:
            builder.add(place, box(along, (-0.2, tall), (-0.04, 0.04)), materials.WOOD, _FENCE)


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
        post = Limb([0, -0.2, 0], [0, height, 0], (0.16, 0.09))
        builder.add(place, post, materials.METAL, grey)
        arm = Placement(at, heading + (np.pi if sign > 0 else 0.0), place.size_hwl_m)
        bar = Limb([0, height - 0.1, 0], [1.6, height + 0.1, 0], (0.08, 0.06))
        builder.add(arm, bar, materials.METAL, grey)
        head = box((1.3, 2.0), (height, height + 0.14), (-0.13, 0.13))
        builder.add(arm, head, materials.LAMP, np.full(3, 0.55))


def _signs(builder: Builder, road: Road, rng: np.random.Generator) -> None:
    left, right = road.edges_m
    for _ in range(rng.integers(1, 6)):
        sign = 1.0 if rng.random() < 0.7 else -1.0
        z = rng.uniform(8, 90)
        at, heading = road.at((left if sign < 0 else right) + sign * 0.7, z)
        place = Placement(at, heading, np.array([2.6 + rng.random(), 0.1, 0.6]))
        post = Limb([0, -0.2, 0], [0, 2.4, 0], (0.07, 0.06))
        builder.add(place, post, materials.METAL, np.full(3, 0.3))
        plate = Prism(wheel((0.0, 2.3), 0.29, (10, 4, 6)[int(rng.integers(3))]), 0.02)
        colours = np.array(
            [[0.6, 0.02, 0.02], [0.02, 0.1, 0.5], [0.8, 0.8, 0.8], [0.7, 0.5, 0.02]]
        )
        builder.add(place, plate, materials.SIGN, colours[rng.integers(4)])


def _rail(builder: Builder, road: Road, sign: float) -> None:
    left, right = road.edges_m
    lateral = (left if sign < 0 else right) + sign * 0.8
    at = np.arange(max(road.start_m, -40.0), min(road.end_m, 140.0), 10.0)
    points = [road.at(lateral, z)[0] for z in at.tolist()]
    grey, dark = np.full(3, 0.3), np.full(3, 0.22)
    for a, b in pairwise(points):
        place = Placement(a, 0.0, np.ones(3))
        end = (b - a) * [1, -1, 1]
        bar = Limb((0.0, 0.62, 0.0), end + [0, 0.62, 0], (0.24, 0.24))
        builder.add(place, bar, materials.METAL, dark)
        post = Limb((0.0, -0.2, 0.0), (0.0, 0.6, 0.0), (0.12, 0.12))
        builder.add(place, post, materials.METAL, grey)

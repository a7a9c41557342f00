"""What each material looks like: colour and gloss at points, from patterns laid on the objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stl_core.data.synthetic import materials
from stl_core.data.synthetic.road import PARKING_M, Road
from stl_core.data.synthetic.textures import (
    BLADES,
    CLOUD,
    GRAIN,
    LEAVES,
    noise,
    random_of,
    stripe,
)
from stl_core.data.synthetic.vehicles import car_wheel_m


@dataclass
class Points:
    """
    L visible points of solids.

    :param local: (3, L) along, up, across in the frame of the object.
    :param normal: (3, L) in that frame.
    :param size: (3, L) height, width, length of the object.
    :param colour: (3, L) of the solid.
    :param footprint: (L,) metres that a pixel covers there.
    :param rim: (L,) distance to the nearest other plane of the solid, metres; cabins only.
    :param key: (L,) a number of the object, to vary patterns.
    """

    local: Tensor
    normal: Tensor
    size: Tensor
    colour: Tensor
    footprint: Tensor
    rim: Tensor
    key: Tensor


def bent(material: int, p: Points) -> Tensor | None:
    """
    Round what is built flat: normals (3, L), local, that turn over a panel or a crown.

    :param material: of the points.
    :param p: the points.
    :return: unit normals; None where the flat ones are right.
    """
    x, y, z = p.normal
    if material in (materials.BODY, materials.CABIN, materials.CARGO_CABIN):
        rise, out = p.local[1] / p.size[0] - 0.42, p.local[2] / p.size[1]
        crease = 0.35 * (rise > 0.06)  # light breaks along the waist line
        ahead = p.local[0] / p.size[2]
        side, end = z.abs(), x.abs()
        y = y + (1.5 * rise - crease) * side + 0.8 * rise * end
        z = z + 0.9 * out * end * out.abs() + 0.5 * out * y.abs()
        x = x + 1.1 * ahead * ahead * ahead * side + 0.25 * ahead * y.abs()
    elif material == materials.LEAF:
        u, v = _unrolled(p)
        x = x + 0.5 * noise(LEAVES, u, v, p.footprint, 5.0)
        y = y + 0.5 * noise(LEAVES, v + 2.0, u, p.footprint, 5.0)
    else:
        return None
    return torch.stack([x, y, z]) * (x * x + y * y + z * z).rsqrt()


#: Linear RGB (3, L) and gloss (L,): the share of light mirrored when looking straight at it.
Look = tuple[Tensor, Tensor]


def look(material: int, points: Points) -> Look:
    """Return colour and gloss of points of one material, the ground excepted."""
    return _LOOKS[material](points)


def _mix(a: Tensor, b: Tensor | float, share: Tensor) -> Tensor:
    return a + (b - a) * share


def _flat(p: Points) -> Look:
    u, v = p.local[0] + p.local[2], p.local[1]
    grain = noise(CLOUD, u, v, p.footprint, 3.0)
    return p.colour * (1 + 0.10 * grain), torch.full_like(u, 0.02)


def _body(p: Points) -> Look:
    """Paint with lamps, grille, plate, sill, door gaps and wheels."""
    (x, y, z), (h, w, l) = p.local, p.size
    foot = p.footprint
    colour = p.colour * (1 - 0.35 * stripe(y, 0.24 * h, 0.1 * h))
    gloss = torch.full_like(x, 0.045)
    front, back = p.normal[0] > 0.55, p.normal[0] < -0.55
    side = p.normal[2].abs() > 0.6
    rise, out = y / h, z.abs() / w
    lamp = stripe(out - 0.40, 0.085, foot / w)
    head = lamp * stripe(rise - 0.43, 0.045, foot / h) * front
    tail = lamp * stripe(rise - 0.50, 0.07, foot / h) * back
    grille = stripe(out, 0.24, foot / w) * stripe(rise - 0.39, 0.05, foot / h) * front
    plate = stripe(z, 0.26, foot) * stripe(rise - 0.29, 0.035, foot / h) * (front | back)
    colour = _mix(colour, 0.03, 0.9 * grille)
    colour = _mix(colour, 0.62, plate)
    colour = _mix(colour, 0.75, head)
    red = torch.tensor([0.42, 0.012, 0.012], device=x.device)[:, None]
    colour = _mix(colour, red, tail)
    gaps = stripe(x - 0.02 * l, 0.006, foot) + stripe(x + 0.20 * l, 0.006, foot)
    gaps = (gaps + stripe(x - 0.19 * l, 0.006, foot)) * (rise > 0.2)
    colour = colour * (1 - 0.6 * gaps.clamp(max=1) * side)
    radius = (0.205 * h).clamp(max=car_wheel_m(9.0))
    along = torch.minimum((x - 0.31 * l).abs(), (x + 0.30 * l).abs())
    far = torch.hypot(along, y - radius)
    arch = stripe(far, radius + 0.045, foot) * side
    tyre = stripe(far, radius, foot) * side
    rim = stripe(far, 0.64 * radius, foot) * side
    colour = _mix(_mix(_mix(colour, 0.008, arch), 0.02, tyre), 0.30, 0.9 * rim)
    gloss = gloss * (1 - arch) + 0.05 * (head + tail) * gloss
    return colour, gloss


def _windows(p: Points, panes: Tensor) -> Look:
    """Glass where panes is 1, paint elsewhere; rim keeps pillars and roof painted."""
    inside = ((p.rim - 0.055) / p.footprint + 0.5).clamp(0, 1) * panes
    glass = torch.full_like(p.colour, 0.012) + 0.02 * (p.local[1] / p.size[0] < 0.7)
    return _mix(p.colour, glass, inside), 0.045 + 0.05 * inside


def _cabin(p: Points) -> Look:
    roof = p.normal[1] > 0.85
    side = p.normal[2].abs() > 0.6
    pillar = stripe(p.local[0] - 0.01 * p.size[2], 0.045, p.footprint) * side
    pillar = pillar + stripe(p.local[0] + 0.23 * p.size[2], 0.035, p.footprint) * side
    return _windows(p, (~roof) * (1 - pillar.clamp(max=1)))


def _cargo_cabin(p: Points) -> Look:
    roof, back = p.normal[1] > 0.85, p.normal[0] < -0.5
    ahead = p.local[0] > 0.5 * p.size[2] - 0.34 * p.size[0] - 0.85
    high = p.local[1] > 0.52 * p.size[0]
    return _windows(p, ((~roof) & (~back) & ahead & high).float())


def _tyre(p: Points) -> Look:
    return p.colour + 0.0 * p.local[0], torch.full_like(p.local[0], 0.01)


def _cloth(p: Points) -> Look:
    fold = noise(CLOUD, p.local[0] + p.local[2], p.local[1], p.footprint, 0.9)
    return p.colour * (1 + 0.18 * fold), torch.zeros_like(fold)


def _head(p: Points) -> Look:
    height = p.size[0] - p.local[1]
    hair = ((height < 0.055) | (p.local[0] < -0.01) & (height < 0.17)).float()
    dark = 0.02 + 0.1 * random_of(p.key) ** 3
    return _mix(p.colour, dark, hair), torch.full_like(hair, 0.01)


def _building(p: Points) -> Look:
    """Plaster or brick, with a grid of windows."""
    (x, y, z), foot = p.local, p.footprint
    lengthways = p.normal[2].abs() > 0.5
    u, extent = torch.where(lengthways, x, z), torch.where(lengthways, p.size[2], p.size[1])
    wall = (p.normal[1].abs() < 0.5).float()
    stain = noise(CLOUD, u + 17 * p.key, y, foot, 14.0, smooth=True)
    fine = noise(GRAIN, u, y, foot, 2.5)
    colour = p.colour * (1 + 0.10 * stain + 0.05 * fine)
    brick = (random_of(p.key, p.key) < 0.4).float() * wall
    course = (y / 0.075).floor()
    joint = stripe((y / 0.075 - course - 0.5).abs() - 0.5, 0.09, foot / 0.075)
    shift = (u / 0.25 + 0.5 * (course % 2)) % 1.0
    joint = torch.maximum(joint, stripe((shift - 0.5).abs() - 0.5, 0.04, foot / 0.25))
    colour = colour * (
        1 - brick * (0.35 * joint + 0.12 * (random_of(course) - 0.5) / (1 + 8 * foot))
    )
    colour = colour * (1 - 0.3 * stripe(y, 0.5, foot))
    vary = random_of(p.key, p.key + 3)
    pitch, storey = 2.1 + 1.6 * vary, 2.9
    cell_u, cell_v = torch.floor(u / pitch), torch.floor(y / storey)
    du, dv = u - (cell_u + 0.5) * pitch, y - (cell_v + 0.58) * storey
    fits = ((u.abs() < extent / 2 - 0.5) & (y < p.size[0] - 0.4) & (cell_v >= 0)).float() * wall
    half = 0.38 + 0.24 * random_of(p.key, p.key + 5)
    frame = stripe(du, half + 0.09, foot) * stripe(dv, 0.78, foot) * fits
    pane = stripe(du, half, foot) * stripe(dv, 0.69, foot) * fits
    pane = pane * (1 - 0.9 * stripe(du, 0.03, foot))
    inside = random_of(cell_u + 31, cell_v + 7, p.key)
    glass = 0.02 + 0.20 * (inside > 0.72) * (inside - 0.6)
    colour = _mix(_mix(colour, 0.55, frame), glass, pane)
    return colour, 0.09 * pane


def _roof(p: Points) -> Look:
    course = (p.local[1] / 0.30) % 1.0
    shade = stripe(course - 0.1, 0.12, p.footprint / 0.3)
    stain = noise(CLOUD, p.local[2], p.local[1], p.footprint, 9.0)
    return p.colour * (1 - 0.4 * shade) * (1 + 0.15 * stain), torch.full_like(shade, 0.01)


def _wood(p: Points) -> Look:
    bark = noise(BLADES, p.local[0] * 4 + p.local[2] * 4, p.local[1], p.footprint, 2.5)
    return p.colour * (1 + 0.4 * bark).clamp(min=0.2), torch.zeros_like(bark)


def _unrolled(p: Points) -> tuple[Tensor, Tensor]:
    """Lay a tile on each side of a crown, and on its top: coordinates in metres."""
    x, y, z = p.local
    above = p.normal[1].abs() > 0.75
    sideways = p.normal[0].abs() > p.normal[2].abs()
    return torch.where(sideways & ~above, z, x) + 0.3 * y, torch.where(above, z, y)


def _leaf(p: Points) -> Look:
    u, v = _unrolled(p)
    clump = noise(LEAVES, u, v, p.footprint, 7.0)
    leaf = noise(LEAVES, u + 3.1, v, p.footprint, 2.2)
    light = (1 + 0.42 * clump + 0.42 * leaf).clamp(min=0.12)
    return p.colour * light, torch.zeros_like(light)


def _metal(p: Points) -> Look:
    return p.colour + 0.0 * p.local[0], torch.full_like(p.local[0], 0.06)


def _panel(p: Points) -> Look:
    dirt = noise(CLOUD, p.local[0] + p.local[2], p.local[1], p.footprint, 6.0)
    seam = stripe(p.local[0] % 1.2 - 0.6, 0.012, p.footprint)
    band = stripe(p.local[1] / p.size[0] - 0.62, 0.10, p.footprint / p.size[0])
    band = band * (random_of(p.key) < 0.5)
    colour = p.colour * (1 + 0.06 * dirt) * (1 - 0.35 * seam)
    return _mix(colour, p.colour.flip(0) * 0.5, 0.7 * band), torch.full_like(seam, 0.03)


def _sign(p: Points) -> Look:
    away = torch.hypot(p.local[0], p.local[1] - 2.3)
    white = stripe(away, 0.22, p.footprint) * (p.normal[2].abs() > 0.5) * (random_of(p.key) < 0.6)
    return _mix(p.colour, 0.75, white), torch.full_like(white, 0.02)


def _lamp(p: Points) -> Look:
    return p.colour + 0.0 * p.local[0], torch.full_like(p.local[0], 0.04)


_LOOKS = {
    materials.BODY: _body,
    materials.CABIN: _cabin,
    materials.CARGO_CABIN: _cargo_cabin,
    materials.TYRE: _tyre,
    materials.CLOTH: _cloth,
    materials.HEAD: _head,
    materials.BUILDING: _building,
    materials.ROOF: _roof,
    materials.WOOD: _wood,
    materials.LEAF: _leaf,
    materials.METAL: _metal,
    materials.PANEL: _panel,
    materials.SIGN: _sign,
    materials.BRICK: _building,
    materials.LAMP: _lamp,
}


def ground(road: Road, x: Tensor, z: Tensor, upright: Tensor, foot: Tensor, tint: float) -> Look:
    """
    Lay the road: asphalt with marks and wear, pavements, kerbs, grass.

    :param road: the road.
    :param x: (L,) world.
    :param z: (L,) world.
    :param upright: (L,) bool, points on the face of a kerb.
    :param foot: (L,) metres that a pixel covers across the view.
    :param tint: 0 to 1, draws the asphalt's brightness.
    :return: colour and gloss.
    """
    lateral = _lateral(road, x, z)
    left, right = road.edges_m
    grain, patches = noise(GRAIN, x, z, foot, 1.6), noise(CLOUD, x, z, foot, 23.0)
    crossed = torch.zeros_like(x)
    for z0, z1 in road.junctions:
        crossed = torch.maximum(crossed, stripe(z - (z0 + z1) / 2, (z1 - z0) / 2, foot))
    on_road = stripe(lateral - (left + right) / 2, (right - left) / 2, foot)
    on_road = torch.maximum(on_road, crossed)
    worn = (lateral / road.lane_m - (lateral / road.lane_m).floor() - 0.5).abs() * road.lane_m
    tracks = stripe(worn - 0.75, 0.22, 0.35 + foot)
    grey = (0.075 + 0.085 * tint) * (1 + 0.16 * grain + 0.10 * patches - 0.12 * tracks)
    grey = grey * (1 - 0.35 * (patches > 1.6) - 0.10 * (patches < -1.1))
    asphalt = torch.stack([grey, grey, grey * 1.03])
    mark = _marks(road, lateral, z, foot) * (1 - crossed)
    asphalt = _mix(
        asphalt, 0.58 * (1 + 0.12 * grain + 0.12 * patches).clamp(0.4, 1.3), mark * 0.88
    )
    colour = _mix(_verge(road, lateral, x, z, foot, grain, patches), asphalt, on_road)
    colour = torch.where(upright, 0.33 * (1 + 0.1 * grain), colour)
    return colour, 0.012 * on_road


def _lateral(road: Road, x: Tensor, z: Tensor) -> Tensor:
    """(L,) x and z -> lateral position; the twin of Road.lateral."""
    middle, slope = torch.zeros_like(x), torch.zeros_like(x)
    for swing, wave, phase in zip(road.swing_m, road.wave_m, road.phase, strict=True):
        angle = z * (2 * np.pi / wave) + phase
        middle = middle + swing * (angle.sin() - np.sin(phase))
        slope = slope + (swing * 2 * np.pi / wave) * angle.cos()
    return (x - middle) / (1 + slope * slope).sqrt()


def _marks(road: Road, lateral: Tensor, z: Tensor, foot: Tensor) -> Tensor:
    """Paint lane lines, bay lines, edge lines and zebra crossings: (L,) coverage."""
    fine = foot.clamp(min=0.004)
    dash = stripe(z % 9.0 - 1.5, 1.5, fine)
    fast = road.kind in ('country', 'highway')
    solid = road.kind == 'highway' or (road.kind == 'country' and road.phase[0] > 0)
    mark = stripe(lateral, 0.07, fine) * (1.0 if solid else dash)
    if road.kind == 'residential' and road.phase[1] > 0.5:
        mark = mark * 0.0
    for side, sign in ((0, -1.0), (1, 1.0)):
        for lane in range(1, road.lanes[side]):
            mark = mark + stripe(lateral - sign * lane * road.lane_m, 0.06, fine) * dash
        inner = sign * road.lanes[side] * road.lane_m
        if fast:
            mark = mark + stripe(lateral - inner, 0.075, fine)
        elif road.parking[side]:
            reach = PARKING_M[road.parking[side]]
            bay = 2.5 if road.parking[side] == 2 else 6.0
            inside = stripe(lateral - inner - sign * reach / 2, reach / 2, fine)
            mark = mark + inside * stripe(z % bay - bay / 2, 0.05, fine) * 0.8
            if road.parking[side] == 1:
                mark = mark + stripe(lateral - inner, 0.05, fine) * 0.7
    for z0, z1 in road.junctions:
        for at in (z0 - 2.6, z1 + 2.6):
            bars = stripe(lateral % 1.0 - 0.5, 0.25, fine) * stripe(z - at, 1.5, fine)
            inside = (lateral > road.edges_m[0]) & (lateral < road.edges_m[1])
            mark = mark * (1 - stripe(z - at, 1.8, fine)) + bars * inside
    return mark.clamp(max=1.0)


def _verge(
    road: Road, lateral: Tensor, x: Tensor, z: Tensor, foot: Tensor, grain: Tensor, patches: Tensor
) -> Tensor:
    """Lay what is beside the road: slabs of the pavement and beyond them grass or paving."""
    left, right = road.edges_m
    beyond = torch.maximum(lateral - right, left - lateral)
    blades = noise(BLADES, x, z, foot, 2.3)
    lush = (1 + 0.22 * blades + 0.22 * patches).clamp(min=0.2)
    green = x.new_tensor([0.075, 0.11, 0.030])[:, None] * lush
    dry = x.new_tensor([0.17, 0.14, 0.07])[:, None] * lush
    grass = _mix(green, dry, (0.25 + 0.3 * patches).clamp(0, 0.9))
    if not road.kerb:
        gravel = stripe(beyond, 0.6, foot + 0.15)
        return _mix(grass, 0.16 * (1 + 0.25 * grain), gravel)
    slab = stripe(beyond % 0.5 - 0.25, 0.235, foot) * stripe(z % 0.5 - 0.25, 0.235, foot)
    tone = (0.24 + 0.07 * np.sin(3 * road.phase[0])) * (1 + 0.08 * grain + 0.06 * patches)
    paved = tone * (0.8 + 0.2 * slab)
    paved = _mix(paved, 0.34 * (1 + 0.08 * grain), stripe(beyond - 0.07, 0.07, foot))
    paved = torch.stack([paved * 1.03, paved, paved * 0.95])
    yards = road.walk_m + (60.0 if road.kind == 'city' else 0.0)
    return _mix(grass, paved, stripe(beyond, yards, foot))

"""What each material looks like: colour and gloss at points, from patterns laid on the objects."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stl_core.data.synthetic.rendering.lighting import Vectors
from stl_core.data.synthetic.rendering.textures import (
    BLADES,
    CLOUD,
    GRAIN,
    LEAVES,
    noise,
    over,
    random_of,
    sharpness,
    stripe,
    wrapped,
)
from stl_core.data.synthetic.scene import materials
from stl_core.data.synthetic.scene.road import PARKING_M, Road
from stl_core.data.synthetic.scene.vehicles import car_wheel_m


@dataclass
class Points:
    """
    L visible points of solids.

    :param local: along, up, across in the frame of the object.
    :param normal: in that frame.
    :param size: height, width, length of the object.
    :param colour: (3, L) of the solid.
    :param footprint: (L,) metres that a pixel covers there.
    :param rim: (L,) distance to the nearest other plane of the solid, metres; cabins only.
    :param key: (L,) a number of the object, to vary patterns.
    :param keys: (S,) the numbers of all solids.
    :param solid: (L,) whose they are.
    """

    local: Vectors
    normal: Vectors
    size: Vectors
    colour: Tensor
    footprint: Tensor
    rim: Tensor
    key: Tensor
    keys: Tensor
    solid: Tensor

    def luck(self, *shifts: float) -> Tensor:
        """Return a number in [0, 1) drawn for each object, another one for other shifts: (L,)."""
        drawn = random_of(self.keys, *(self.keys + shift for shift in shifts))
        return drawn.index_select(0, self.solid)


def bent(material: int, p: Points) -> Vectors | None:
    """
    Round what is built flat: normals, local, that turn over a panel or a crown.

    :param material: of the points.
    :param p: the points.
    :return: unit normals; None where the flat ones are right.
    """
    x, y, z = p.normal
    if material in (materials.BODY, materials.CABIN, materials.CARGO_CABIN):
        rise, out = p.local[1] / p.size[0] - 0.42, p.local[2] / p.size[1]
        crease = 0.35 * over(rise, 0.06)  # light breaks along the waist line
        ahead = p.local[0] / p.size[2]
        side, end = z.abs(), x.abs()
        y = y + (1.5 * rise - crease) * side + 0.8 * rise * end
        z = z + 0.9 * out * end * out.abs() + 0.5 * out * y.abs()
        x = x + 1.1 * ahead * ahead * ahead * side + 0.25 * ahead * y.abs()
    elif material == materials.LEAF:
        u, v = _unrolled(p)
        x = noise(LEAVES, u, v, p.footprint, 5.0).mul_(0.5).add_(x)
        y = noise(LEAVES, v + 2.0, u, p.footprint, 5.0).mul_(0.5).add_(y)
    else:
        return None
    scale = (x * x).addcmul_(y, y).addcmul_(z, z).rsqrt_()
    return x * scale, y * scale, z * scale


#: Linear RGB (3, L) and gloss (L,): the share of light mirrored when looking straight at it.
Look = tuple[Tensor, Tensor | float]


def look(material: int, points: Points) -> Look:
    """Return colour and gloss of points of one material, the ground excepted."""
    return _LOOKS[material](points)


def _mix(a: Tensor, b: Tensor | float, share: Tensor) -> Tensor:
    return torch.addcmul(a, b - a, share)


def _body(p: Points) -> Look:
    """Paint with lamps, grille, plate, sill, door gaps and wheels."""
    (x, y, z), (h, w, l) = p.local, p.size
    sharp = sharpness(p.footprint)
    front, back = over(p.normal[0], 0.55), over(-p.normal[0], 0.55)
    side = over(p.normal[2].abs(), 0.6)
    rise, out = y / h, z.abs() / w
    up, across = (h * sharp).clamp_(max=1e3), (w * sharp).clamp_(max=1e3)
    lamp = stripe(out - 0.40, 0.085, across)
    head = stripe(rise - 0.43, 0.045, up).mul_(lamp).mul_(front)
    tail = stripe(rise - 0.50, 0.07, up).mul_(lamp).mul_(back)
    grille = stripe(out, 0.24, across).mul_(stripe(rise - 0.39, 0.05, up)).mul_(front)
    plate = stripe(z, 0.26, sharp).mul_(stripe(rise - 0.29, 0.035, up)).mul_(front + back)
    colour = p.colour * (1 - 0.35 * stripe(y, 0.24 * h, 10 / h))
    for shade, share in ((0.03, grille.mul_(0.9)), (0.62, plate), (0.75, head)):
        colour = _mix(colour, shade, share)
    colour = _mix(colour, x.new_tensor([0.42, 0.012, 0.012])[:, None], tail)
    gaps = stripe(x - 0.02 * l, 0.006, sharp).add_(stripe(x + 0.20 * l, 0.006, sharp))
    gaps = gaps.add_(stripe(x - 0.19 * l, 0.006, sharp)).mul_(over(rise, 0.2)).clamp_(max=1)
    colour.mul_(1 - 0.6 * gaps * side)
    radius = (0.205 * h).clamp(max=car_wheel_m(9.0))
    along = torch.minimum((x - 0.31 * l).abs(), (x + 0.30 * l).abs())
    far = torch.hypot(along, y - radius)
    arch, tyre, rim = (
        stripe(far, grow, sharp).mul_(side) for grow in (radius + 0.045, radius, 0.64 * radius)
    )
    for shade, share in ((0.008, arch), (0.02, tyre), (0.30, rim.mul_(0.9))):
        colour = _mix(colour, shade, share)
    return colour, 0.045 * ((1 - arch) + 0.05 * (head + tail))


def _windows(p: Points, panes: Tensor) -> Look:
    """Glass where panes is 1, paint elsewhere; rim keeps pillars and roof painted."""
    inside = ((p.rim - 0.055) / p.footprint).add_(0.5).clamp_(0, 1).mul_(panes)
    glass = 0.012 + 0.02 * (1 - over(p.local[1] / p.size[0], 0.7))
    return _mix(p.colour, glass, inside), 0.045 + 0.05 * inside


def _cabin(p: Points) -> Look:
    sharp, (x, _, _), length = sharpness(p.footprint), p.local, p.size[2]
    pillar = stripe(x - 0.01 * length, 0.045, sharp)
    pillar = pillar.add_(stripe(x + 0.23 * length, 0.035, sharp)).mul_(
        over(p.normal[2].abs(), 0.6)
    )
    roof = over(p.normal[1], 0.85)
    return _windows(p, (1 - roof) * (1 - pillar.clamp_(max=1)))


def _cargo_cabin(p: Points) -> Look:
    roof, back = p.normal[1] > 0.85, p.normal[0] < -0.5
    ahead = p.local[0] > 0.5 * p.size[2] - 0.34 * p.size[0] - 0.85
    high = p.local[1] > 0.52 * p.size[0]
    return _windows(p, ((~roof) & (~back) & ahead & high).float())


def _cloth(p: Points) -> Look:
    fold = noise(CLOUD, p.local[0] + p.local[2], p.local[1], p.footprint, 0.9)
    return p.colour * (1 + 0.18 * fold), 0.0


def _head(p: Points) -> Look:
    height = p.size[0] - p.local[1]
    hair = ((height < 0.055) | (p.local[0] < -0.01) & (height < 0.17)).float()
    return _mix(p.colour, 0.02 + 0.1 * p.luck() ** 3, hair), 0.01


def _building(p: Points) -> Look:
    """Plaster or brick, with a grid of windows."""
    (x, y, z), foot = p.local, p.footprint
    sharp = sharpness(foot)
    lengthways = p.normal[2].abs() > 0.5
    u = torch.where(lengthways, x, z)
    extent = torch.where(lengthways, p.size[2], p.size[1])
    wall = 1 - over(p.normal[1].abs(), 0.5)
    stain = noise(CLOUD, u + 17 * p.key, y, foot, 14.0, smooth=True)
    tone = noise(GRAIN, u, y, foot, 2.5).mul_(0.05).add_(stain, alpha=0.10).add_(1)
    tone.mul_(1 - _bricks(u, y, foot, sharp).mul_(1 - over(p.luck(0), 0.4)).mul_(wall))
    tone.mul_(1 - 0.3 * stripe(y, 0.5, sharp))
    pitch, storey = 2.1 + 1.6 * p.luck(3), 2.9
    cell_u, cell_v = torch.floor(u / pitch), torch.floor(y / storey)
    du, dv = u - (cell_u + 0.5) * pitch, y - (cell_v + 0.58) * storey
    fits = (u.abs() < extent / 2 - 0.5) & (y < p.size[0] - 0.4) & (cell_v >= 0)
    half = 0.38 + 0.24 * p.luck(5)
    wall = wall.mul_(fits)
    frame = stripe(du, half + 0.09, sharp).mul_(stripe(dv, 0.78, sharp)).mul_(wall)
    pane = stripe(du, half, sharp).mul_(stripe(dv, 0.69, sharp)).mul_(wall)
    pane.mul_(1 - 0.9 * stripe(du, 0.03, sharp))
    inside = random_of(cell_u + 31, cell_v + 7, p.key)
    glass = 0.02 + 0.20 * over(inside, 0.72) * (inside - 0.6)
    return _mix(_mix(p.colour * tone, 0.55, frame), glass, pane), 0.09 * pane


def _bricks(u: Tensor, y: Tensor, foot: Tensor, sharp: Tensor) -> Tensor:
    """Return how much darker than the wall the joints and the bricks are, (L,) shares."""
    high, wide = 0.075, 0.25
    course = (y / high).floor()
    joint = stripe((y / high - course - 0.5).abs() - 0.5, 0.09, high * sharp)
    shift = wrapped(u / wide + 0.5 * wrapped(course, 2.0), 1.0)
    upright = stripe((shift - 0.5).abs() - 0.5, 0.04, wide * sharp)
    tone = (random_of(course) - 0.5) / (1 + 8 * foot)
    return torch.maximum(joint, upright).mul_(0.35).add_(tone, alpha=0.12)


def _roof(p: Points) -> Look:
    course = wrapped(p.local[1] / 0.30, 1.0)
    shade = stripe(course - 0.1, 0.12, 0.3 * sharpness(p.footprint))
    stain = noise(CLOUD, p.local[2], p.local[1], p.footprint, 9.0)
    return p.colour * ((1 - 0.4 * shade) * (1 + 0.15 * stain)), 0.01


def _wood(p: Points) -> Look:
    bark = noise(BLADES, p.local[0] * 4 + p.local[2] * 4, p.local[1], p.footprint, 2.5)
    return p.colour * (1 + 0.4 * bark).clamp_(min=0.2), 0.0


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
    return p.colour * clump.add_(leaf).mul_(0.42).add_(1).clamp_(min=0.12), 0.0


def _panel(p: Points) -> Look:
    sharp, (x, y, z), height = sharpness(p.footprint), p.local, p.size[0]
    dirt = noise(CLOUD, x + z, y, p.footprint, 6.0)
    seam = stripe(wrapped(x, 1.2) - 0.6, 0.012, sharp)
    band = stripe(y / height - 0.62, 0.10, (height * sharp).clamp_(max=1e3))
    band.mul_(1 - over(p.luck(), 0.5))
    colour = p.colour * ((1 + 0.06 * dirt) * (1 - 0.35 * seam))
    return _mix(colour, p.colour.flip(0) * 0.5, 0.7 * band), 0.03


def _sign(p: Points) -> Look:
    away = torch.hypot(p.local[0], p.local[1] - 2.3)
    white = stripe(away, 0.22, sharpness(p.footprint)).mul_(over(p.normal[2].abs(), 0.5))
    return _mix(p.colour, 0.75, white.mul_(1 - over(p.luck(), 0.6))), 0.02


_LOOKS = {
    materials.BODY: _body,
    materials.CABIN: _cabin,
    materials.CARGO_CABIN: _cargo_cabin,
    materials.HEAD: _head,
    materials.BUILDING: _building,
    materials.ROOF: _roof,
    materials.PANEL: _panel,
    materials.SIGN: _sign,
    materials.BRICK: _building,
    materials.CLOTH: _cloth,
    materials.WOOD: _wood,
    materials.LEAF: _leaf,
}
#: Materials of one colour, and their gloss.
PLAIN = {materials.TYRE: 0.01, materials.METAL: 0.06, materials.LAMP: 0.04}
#: Materials without gloss, the last of all; and all of them, in the order points are looked at.
DULL = (materials.CLOTH, materials.WOOD, materials.LEAF)
ORDER = (materials.GROUND, *PLAIN, *_LOOKS)


def ground(road: Road, x: Tensor, z: Tensor, upright: Tensor, foot: Tensor, tint: float) -> Look:
    """
    Lay the road: asphalt with marks and wear, pavements, kerbs, grass.

    :param road: the road.
    :param x: (L,) world.
    :param z: (L,) world.
    :param upright: (L,) 1 for points on the face of a kerb, else 0.
    :param foot: (L,) metres that a pixel covers across the view.
    :param tint: 0 to 1, draws the asphalt's brightness.
    :return: colour and gloss.
    """
    lateral, sharp = _lateral(road, x, z), sharpness(foot)
    left, right = road.edges_m
    grain, patches = noise(GRAIN, x, z, foot, 1.6), noise(CLOUD, x, z, foot, 23.0)
    crossed = torch.zeros_like(x)
    for z0, z1 in road.junctions:
        crossed = torch.maximum(crossed, stripe(z - (z0 + z1) / 2, (z1 - z0) / 2, sharp))
    on_road = stripe(lateral - (left + right) / 2, (right - left) / 2, sharp)
    on_road = torch.maximum(on_road, crossed)
    worn = (wrapped(lateral, road.lane_m) - road.lane_m / 2).abs_().sub_(0.75)
    tracks = stripe(worn, 0.22, (foot + 0.35).reciprocal_())
    grey = tracks.mul_(-0.12).add_(patches, alpha=0.10).add_(grain, alpha=0.16).add_(1)
    grey.mul_(1 - 0.35 * over(patches, 1.6) - 0.10 * over(-patches, 1.1))
    grey.mul_(0.075 + 0.085 * tint)
    mark = _marks(road, lateral, z, foot).mul_(1 - crossed).mul_(0.88)
    paint = (grain + patches).mul_(0.12).add_(1).clamp_(0.4, 1.3).mul_(0.58)
    blue = _mix(1.03 * grey, paint, mark)
    grey = _mix(grey, paint, mark)
    colour = _verge(road, lateral, x, z, foot, sharp, grain, patches)
    kerb = grain.mul_(0.033).add_(0.33)
    for own, asphalt in zip(colour, (grey, grey, blue), strict=True):
        own.addcmul_(asphalt - own, on_road)
        own.addcmul_(kerb - own, upright)
    return colour, on_road.mul_(0.012)


def _lateral(road: Road, x: Tensor, z: Tensor) -> Tensor:
    """(L,) x and z -> lateral position; the twin of Road.lateral."""
    away, slope = x.clone(), torch.zeros_like(x)
    for swing, wave, phase in road.waves:
        angle = z * (2 * math.pi / wave) + phase
        away.add_(angle.sin(), alpha=-swing).add_(swing * math.sin(phase))
        slope.add_(angle.cos_(), alpha=swing * 2 * math.pi / wave)
    return away.mul_(slope.square_().add_(1).rsqrt_())


def _marks(road: Road, lateral: Tensor, z: Tensor, foot: Tensor) -> Tensor:
    """Paint lane lines, bay lines, edge lines and zebra crossings: (L,) coverage."""
    fine = foot.clamp(min=0.004).reciprocal_()
    dash = stripe(wrapped(z, 9.0) - 1.5, 1.5, fine)
    fast = road.kind in ('country', 'highway')
    solid = road.kind == 'highway' or (road.kind == 'country' and road.phase[0] > 0)
    mark = stripe(lateral, 0.07, fine)
    if not solid:
        mark.mul_(dash)
    if road.kind == 'residential' and road.phase[1] > 0.5:
        mark.zero_()
    for side, sign in ((0, -1.0), (1, 1.0)):
        for lane in range(1, road.lanes[side]):
            mark.add_(stripe(lateral - sign * lane * road.lane_m, 0.06, fine).mul_(dash))
        inner = sign * road.lanes[side] * road.lane_m
        if fast:
            mark.add_(stripe(lateral - inner, 0.075, fine))
        elif road.parking[side]:
            reach = PARKING_M[road.parking[side]]
            bay = 2.5 if road.parking[side] == 2 else 6.0
            inside = stripe(lateral - inner - sign * reach / 2, reach / 2, fine)
            line = stripe(wrapped(z, bay) - bay / 2, 0.05, fine)
            mark.addcmul_(inside, line, value=0.8)
            if road.parking[side] == 1:
                mark.add_(stripe(lateral - inner, 0.05, fine), alpha=0.7)
    if road.junctions:
        left, right = road.edges_m
        bars = stripe(wrapped(lateral, 1.0) - 0.5, 0.25, fine)
        bars.mul_(over(lateral, left)).mul_(over(-lateral, -right))
    for z0, z1 in road.junctions:
        for at in (z0 - 2.6, z1 + 2.6):
            mark.mul_(1 - stripe(z - at, 1.8, fine)).addcmul_(bars, stripe(z - at, 1.5, fine))
    return mark.clamp_(max=1.0)


def _verge(
    road: Road,
    lateral: Tensor,
    x: Tensor,
    z: Tensor,
    foot: Tensor,
    sharp: Tensor,
    grain: Tensor,
    patches: Tensor,
) -> Tensor:
    """Lay what is beside the road: slabs of the pavement and beyond them grass or paving."""
    left, right = road.edges_m
    beyond = torch.maximum(lateral - right, left - lateral)
    blades = noise(BLADES, x, z, foot, 2.3)
    lush = blades.add_(patches).mul_(0.22).add_(1).clamp_(min=0.2)
    dry = (0.25 + 0.3 * patches).clamp_(0, 0.9)
    # green (0.075, 0.11, 0.03) where it is lush, straw (0.17, 0.14, 0.07) where it is dry
    tones = ((0.075, 0.095), (0.11, 0.03), (0.03, 0.04))
    grass = torch.stack([(dry * more).add_(green).mul_(lush) for green, more in tones])
    if not road.kerb:
        gravel = stripe(beyond, 0.6, (foot + 0.15).reciprocal_())
        return _mix(grass, 0.16 * (1 + 0.25 * grain), gravel)
    slab = stripe(wrapped(beyond, 0.5) - 0.25, 0.235, sharp)
    slab.mul_(stripe(wrapped(z, 0.5) - 0.25, 0.235, sharp))
    tone = 0.24 + 0.07 * math.sin(3 * road.phase[0])
    paved = (0.08 * grain).add_(patches, alpha=0.06).add_(1).mul_(slab.mul_(0.2).add_(0.8))
    paved = _mix(paved.mul_(tone), 0.34 * (1 + 0.08 * grain), stripe(beyond - 0.07, 0.07, sharp))
    yards = stripe(beyond, road.walk_m + (60.0 if road.kind == 'city' else 0.0), sharp)
    for own, tint in zip(grass, (1.03, 1.0, 0.95), strict=True):
        own.addcmul_(tint * paved - own, yards)
    return grass

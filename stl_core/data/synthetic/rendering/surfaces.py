"""Surface shaders: colour and gloss of each material, from patterns in object coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stl_core.data.synthetic.rendering.lighting import Vectors
from stl_core.data.synthetic.rendering.textures import (
    BLADES,
    CLOUD,
    GRAIN,
    LEAVES,
    fast_remainder,
    hash_random,
    pixels_per_metre,
    sample_noise,
    step_above,
    stripe_coverage,
)
from stl_core.data.synthetic.scene import materials
from stl_core.data.synthetic.scene.vehicles import car_wheel_radius_m


@dataclass
class SurfacePoints:
    """
    L visible points of solids.

    :param local: along, up, across in the frame of the object, metres.
    :param normal: unit normals in that frame.
    :param size: height, width, length of the object, metres.
    :param colour: (3, L) linear RGB of the solid.
    :param footprint: (L,) metres that a pixel covers at the point.
    :param edge_distance: (L,) distance to the nearest other plane of the solid, metres; cabins
        only.
    :param object_key: (L,) key of the object, to vary patterns.
    :param object_keys: (S,) keys of all solids.
    :param solid: (L,) index of the solid.
    """

    local: Vectors
    normal: Vectors
    size: Vectors
    colour: Tensor
    footprint: Tensor
    edge_distance: Tensor
    object_key: Tensor
    object_keys: Tensor
    solid: Tensor

    def object_random(self, *shifts: float) -> Tensor:
        """Return a random number in [0, 1) per object, (L,); other shifts give other numbers."""
        drawn = hash_random(self.object_keys, *(self.object_keys + shift for shift in shifts))
        return drawn.index_select(0, self.solid)


def bend_normals(material: int, points: SurfacePoints) -> Vectors | None:
    """
    Return normals that vary over flat panels and tree crowns, so they look rounded.

    :param material: material of the points.
    :param points: the points.
    :return: unit normals in object frames; None for materials that keep the flat normals.
    """
    x, y, z = points.normal
    if material in (materials.BODY, materials.CABIN, materials.CARGO_CABIN):
        rise, out = points.local[1] / points.size[0] - 0.42, points.local[2] / points.size[1]
        crease = 0.35 * step_above(rise, 0.06)  # the crease of the belt line
        ahead = points.local[0] / points.size[2]
        side, end = z.abs(), x.abs()
        y = y + (1.5 * rise - crease) * side + 0.8 * rise * end
        z = z + 0.9 * out * end * out.abs() + 0.5 * out * y.abs()
        x = x + 1.1 * ahead * ahead * ahead * side + 0.25 * ahead * y.abs()
    elif material == materials.LEAF:
        u, v = _crown_uv(points)
        x = sample_noise(LEAVES, u, v, points.footprint, 5.0).mul_(0.5).add_(x)
        y = sample_noise(LEAVES, v + 2.0, u, points.footprint, 5.0).mul_(0.5).add_(y)
    else:
        return None
    scale = (x * x).addcmul_(y, y).addcmul_(z, z).rsqrt_()
    return x * scale, y * scale, z * scale


#: Linear RGB (3, L) and gloss (L,): the specular reflectance at normal incidence.
ColourAndGloss = tuple[Tensor, Tensor | float]


def shade_material(material: int, points: SurfacePoints) -> ColourAndGloss:
    """Return colour and gloss of points of one material, except the ground."""
    return _SHADERS[material](points)


def mix_colours(a: Tensor, b: Tensor | float, weight: Tensor) -> Tensor:
    """Return the linear blend: a where weight is 0, b where it is 1."""
    return torch.addcmul(a, b - a, weight)


def _shade_body(p: SurfacePoints) -> ColourAndGloss:
    """Shade a car body: paint, lamps, grille, plate, sill, door gaps and wheels."""
    (x, y, z), (h, w, l) = p.local, p.size
    sharp = pixels_per_metre(p.footprint)
    front, back = step_above(p.normal[0], 0.55), step_above(-p.normal[0], 0.55)
    side = step_above(p.normal[2].abs(), 0.6)
    rise, out = y / h, z.abs() / w
    up, across = (h * sharp).clamp_(max=1e3), (w * sharp).clamp_(max=1e3)
    lamp = stripe_coverage(out - 0.40, 0.085, across)
    head = stripe_coverage(rise - 0.43, 0.045, up).mul_(lamp).mul_(front)
    tail = stripe_coverage(rise - 0.50, 0.07, up).mul_(lamp).mul_(back)
    grille = (
        stripe_coverage(out, 0.24, across).mul_(stripe_coverage(rise - 0.39, 0.05, up)).mul_(front)
    )
    plate = (
        stripe_coverage(z, 0.26, sharp)
        .mul_(stripe_coverage(rise - 0.29, 0.035, up))
        .mul_(front + back)
    )
    colour = p.colour * (1 - 0.35 * stripe_coverage(y, 0.24 * h, 10 / h))
    for shade, coverage in ((0.03, grille.mul_(0.9)), (0.62, plate), (0.75, head)):
        colour = mix_colours(colour, shade, coverage)
    colour = mix_colours(colour, x.new_tensor([0.42, 0.012, 0.012])[:, None], tail)
    gaps = stripe_coverage(x - 0.02 * l, 0.006, sharp).add_(
        stripe_coverage(x + 0.20 * l, 0.006, sharp)
    )
    gaps = (
        gaps.add_(stripe_coverage(x - 0.19 * l, 0.006, sharp))
        .mul_(step_above(rise, 0.2))
        .clamp_(max=1)
    )
    colour.mul_(1 - 0.6 * gaps * side)
    radius = (0.205 * h).clamp(max=car_wheel_radius_m(9.0))
    along = torch.minimum((x - 0.31 * l).abs(), (x + 0.30 * l).abs())
    far = torch.hypot(along, y - radius)
    arch, tyre, rim = (
        stripe_coverage(far, grow, sharp).mul_(side)
        for grow in (radius + 0.045, radius, 0.64 * radius)
    )
    for shade, coverage in ((0.008, arch), (0.02, tyre), (0.30, rim.mul_(0.9))):
        colour = mix_colours(colour, shade, coverage)
    return colour, 0.045 * ((1 - arch) + 0.05 * (head + tail))


def _shade_windows(p: SurfacePoints, panes: Tensor) -> ColourAndGloss:
    """Shade glass where panes is 1, paint elsewhere; paint near edges keeps the pillars."""
    inside = ((p.edge_distance - 0.055) / p.footprint).add_(0.5).clamp_(0, 1).mul_(panes)
    glass = 0.012 + 0.02 * (1 - step_above(p.local[1] / p.size[0], 0.7))
    return mix_colours(p.colour, glass, inside), 0.045 + 0.05 * inside


def _shade_cabin(p: SurfacePoints) -> ColourAndGloss:
    sharp, (x, _, _), length = pixels_per_metre(p.footprint), p.local, p.size[2]
    pillar = stripe_coverage(x - 0.01 * length, 0.045, sharp)
    pillar = pillar.add_(stripe_coverage(x + 0.23 * length, 0.035, sharp)).mul_(
        step_above(p.normal[2].abs(), 0.6)
    )
    roof = step_above(p.normal[1], 0.85)
    return _shade_windows(p, (1 - roof) * (1 - pillar.clamp_(max=1)))


def _shade_cargo_cabin(p: SurfacePoints) -> ColourAndGloss:
    roof, back = p.normal[1] > 0.85, p.normal[0] < -0.5
    ahead = p.local[0] > 0.5 * p.size[2] - 0.34 * p.size[0] - 0.85
    high = p.local[1] > 0.52 * p.size[0]
    return _shade_windows(p, ((~roof) & (~back) & ahead & high).float())


def _shade_cloth(p: SurfacePoints) -> ColourAndGloss:
    fold = sample_noise(CLOUD, p.local[0] + p.local[2], p.local[1], p.footprint, 0.9)
    return p.colour * (1 + 0.18 * fold), 0.0


def _shade_head(p: SurfacePoints) -> ColourAndGloss:
    height = p.size[0] - p.local[1]
    hair = ((height < 0.055) | (p.local[0] < -0.01) & (height < 0.17)).float()
    return mix_colours(p.colour, 0.02 + 0.1 * p.object_random() ** 3, hair), 0.01


def _shade_building(p: SurfacePoints) -> ColourAndGloss:
    """Shade a wall of plaster or brick with a grid of windows."""
    (x, y, z), foot = p.local, p.footprint
    sharp = pixels_per_metre(foot)
    lengthways = p.normal[2].abs() > 0.5
    u = torch.where(lengthways, x, z)
    extent = torch.where(lengthways, p.size[2], p.size[1])
    wall = 1 - step_above(p.normal[1].abs(), 0.5)
    stain = sample_noise(CLOUD, u + 17 * p.object_key, y, foot, 14.0, smooth=True)
    tone = sample_noise(GRAIN, u, y, foot, 2.5).mul_(0.05).add_(stain, alpha=0.10).add_(1)
    tone.mul_(
        1
        - _brick_pattern(u, y, foot, sharp)
        .mul_(1 - step_above(p.object_random(0), 0.4))
        .mul_(wall)
    )
    tone.mul_(1 - 0.3 * stripe_coverage(y, 0.5, sharp))
    pitch, storey = 2.1 + 1.6 * p.object_random(3), 2.9
    cell_u, cell_v = torch.floor(u / pitch), torch.floor(y / storey)
    du, dv = u - (cell_u + 0.5) * pitch, y - (cell_v + 0.58) * storey
    fits = (u.abs() < extent / 2 - 0.5) & (y < p.size[0] - 0.4) & (cell_v >= 0)
    half = 0.38 + 0.24 * p.object_random(5)
    wall = wall.mul_(fits)
    frame = (
        stripe_coverage(du, half + 0.09, sharp).mul_(stripe_coverage(dv, 0.78, sharp)).mul_(wall)
    )
    pane = stripe_coverage(du, half, sharp).mul_(stripe_coverage(dv, 0.69, sharp)).mul_(wall)
    pane.mul_(1 - 0.9 * stripe_coverage(du, 0.03, sharp))
    inside = hash_random(cell_u + 31, cell_v + 7, p.object_key)
    glass = 0.02 + 0.20 * step_above(inside, 0.72) * (inside - 0.6)
    return mix_colours(mix_colours(p.colour * tone, 0.55, frame), glass, pane), 0.09 * pane


def _brick_pattern(u: Tensor, y: Tensor, footprint: Tensor, px_per_m: Tensor) -> Tensor:
    """Return by which fraction joints and bricks are darker than the wall, (L,)."""
    high, wide = 0.075, 0.25
    course = (y / high).floor()
    joint = stripe_coverage((y / high - course - 0.5).abs() - 0.5, 0.09, high * px_per_m)
    shift = fast_remainder(u / wide + 0.5 * fast_remainder(course, 2.0), 1.0)
    upright = stripe_coverage((shift - 0.5).abs() - 0.5, 0.04, wide * px_per_m)
    tone = (hash_random(course) - 0.5) / (1 + 8 * footprint)
    return torch.maximum(joint, upright).mul_(0.35).add_(tone, alpha=0.12)


def _shade_roof(p: SurfacePoints) -> ColourAndGloss:
    course = fast_remainder(p.local[1] / 0.30, 1.0)
    shade = stripe_coverage(course - 0.1, 0.12, 0.3 * pixels_per_metre(p.footprint))
    stain = sample_noise(CLOUD, p.local[2], p.local[1], p.footprint, 9.0)
    return p.colour * ((1 - 0.4 * shade) * (1 + 0.15 * stain)), 0.01


def _shade_wood(p: SurfacePoints) -> ColourAndGloss:
    bark = sample_noise(BLADES, p.local[0] * 4 + p.local[2] * 4, p.local[1], p.footprint, 2.5)
    return p.colour * (1 + 0.4 * bark).clamp_(min=0.2), 0.0


def _crown_uv(p: SurfacePoints) -> tuple[Tensor, Tensor]:
    """Return texture coordinates on each side and the top of a crown, metres."""
    x, y, z = p.local
    above = p.normal[1].abs() > 0.75
    sideways = p.normal[0].abs() > p.normal[2].abs()
    return torch.where(sideways & ~above, z, x) + 0.3 * y, torch.where(above, z, y)


def _shade_leaf(p: SurfacePoints) -> ColourAndGloss:
    u, v = _crown_uv(p)
    clump = sample_noise(LEAVES, u, v, p.footprint, 7.0)
    leaf = sample_noise(LEAVES, u + 3.1, v, p.footprint, 2.2)
    return p.colour * clump.add_(leaf).mul_(0.42).add_(1).clamp_(min=0.12), 0.0


def _shade_panel(p: SurfacePoints) -> ColourAndGloss:
    sharp, (x, y, z), height = pixels_per_metre(p.footprint), p.local, p.size[0]
    dirt = sample_noise(CLOUD, x + z, y, p.footprint, 6.0)
    seam = stripe_coverage(fast_remainder(x, 1.2) - 0.6, 0.012, sharp)
    band = stripe_coverage(y / height - 0.62, 0.10, (height * sharp).clamp_(max=1e3))
    band.mul_(1 - step_above(p.object_random(), 0.5))
    colour = p.colour * ((1 + 0.06 * dirt) * (1 - 0.35 * seam))
    return mix_colours(colour, p.colour.flip(0) * 0.5, 0.7 * band), 0.03


def _shade_sign(p: SurfacePoints) -> ColourAndGloss:
    away = torch.hypot(p.local[0], p.local[1] - 2.3)
    white = stripe_coverage(away, 0.22, pixels_per_metre(p.footprint)).mul_(
        step_above(p.normal[2].abs(), 0.5)
    )
    return mix_colours(p.colour, 0.75, white.mul_(1 - step_above(p.object_random(), 0.6))), 0.02


_SHADERS = {
    materials.BODY: _shade_body,
    materials.CABIN: _shade_cabin,
    materials.CARGO_CABIN: _shade_cargo_cabin,
    materials.HEAD: _shade_head,
    materials.BUILDING: _shade_building,
    materials.ROOF: _shade_roof,
    materials.PANEL: _shade_panel,
    materials.SIGN: _shade_sign,
    materials.BRICK: _shade_building,
    materials.CLOTH: _shade_cloth,
    materials.WOOD: _shade_wood,
    materials.LEAF: _shade_leaf,
}
#: Materials with a uniform colour, and their gloss.
PLAIN_GLOSS = {materials.TYRE: 0.01, materials.METAL: 0.06, materials.LAMP: 0.04}
#: Materials without gloss, which come last, and all materials in the order of the G-buffer.
MATTE_MATERIALS = (materials.CLOTH, materials.WOOD, materials.LEAF)
MATERIAL_ORDER = (materials.GROUND, *PLAIN_GLOSS, *_SHADERS)

"""Ground shader: asphalt with markings and wear, pavements, kerbs, grass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stl_core.data.synthetic.rendering.surfaces import ColourAndGloss, mix_colours
from stl_core.data.synthetic.rendering.textures import (
    BLADES,
    CLOUD,
    GRAIN,
    fast_remainder,
    pixels_per_metre,
    sample_noise,
    step_above,
    stripe_coverage,
)
from stl_core.data.synthetic.scene.road import PARKING_WIDTH_M, Road


def shade_ground(
    road: Road, x: Tensor, z: Tensor, upright: Tensor, footprint: Tensor, tint: float
) -> ColourAndGloss:
    """
    Return colour and gloss of ground points: road, markings, pavements, kerbs, grass.

    :param road: the road.
    :param x: (L,) world x, metres.
    :param z: (L,) world z, metres.
    :param upright: (L,) 1 for points on the face of a kerb, else 0.
    :param footprint: (L,) metres that a pixel covers.
    :param tint: random number from 0 to 1 that sets the asphalt's brightness.
    :return: colour (3, L) and gloss (L,).
    """
    lateral, sharp = _lateral_position(road, x, z), pixels_per_metre(footprint)
    left, right = road.edges_m
    grain, patches = (
        sample_noise(GRAIN, x, z, footprint, 1.6),
        sample_noise(CLOUD, x, z, footprint, 23.0),
    )
    crossed = torch.zeros_like(x)
    for z0, z1 in road.junctions:
        crossed = torch.maximum(crossed, stripe_coverage(z - (z0 + z1) / 2, (z1 - z0) / 2, sharp))
    on_road = stripe_coverage(lateral - (left + right) / 2, (right - left) / 2, sharp)
    on_road = torch.maximum(on_road, crossed)
    worn = (fast_remainder(lateral, road.lane_width_m) - road.lane_width_m / 2).abs_().sub_(0.75)
    tracks = stripe_coverage(worn, 0.22, (footprint + 0.35).reciprocal_())
    grey = tracks.mul_(-0.12).add_(patches, alpha=0.10).add_(grain, alpha=0.16).add_(1)
    grey.mul_(1 - 0.35 * step_above(patches, 1.6) - 0.10 * step_above(-patches, 1.1))
    grey.mul_(0.075 + 0.085 * tint)
    mark = _road_marking_coverage(road, lateral, z, footprint).mul_(1 - crossed).mul_(0.88)
    paint = (grain + patches).mul_(0.12).add_(1).clamp_(0.4, 1.3).mul_(0.58)
    blue = mix_colours(1.03 * grey, paint, mark)
    grey = mix_colours(grey, paint, mark)
    colour = _roadside_colour(road, lateral, x, z, footprint, sharp, grain, patches)
    kerb = grain.mul_(0.033).add_(0.33)
    for channel, asphalt in zip(colour, (grey, grey, blue), strict=True):
        channel.addcmul_(asphalt - channel, on_road)
        channel.addcmul_(kerb - channel, upright)
    return colour, on_road.mul_(0.012)


def _lateral_position(road: Road, x: Tensor, z: Tensor) -> Tensor:
    """Return the lateral position of points (L,); the tensor version of Road.lateral_position."""
    away, slope = x.clone(), torch.zeros_like(x)
    for swing, wave, phase in road.waves:
        angle = z * (2 * math.pi / wave) + phase
        away.add_(angle.sin(), alpha=-swing).add_(swing * math.sin(phase))
        slope.add_(angle.cos_(), alpha=swing * 2 * math.pi / wave)
    return away.mul_(slope.square_().add_(1).rsqrt_())


def _road_marking_coverage(road: Road, lateral: Tensor, z: Tensor, footprint: Tensor) -> Tensor:
    """Return the coverage of lane, bay and edge lines and zebra crossings, (L,)."""
    fine = footprint.clamp(min=0.004).reciprocal_()
    dash = stripe_coverage(fast_remainder(z, 9.0) - 1.5, 1.5, fine)
    fast = road.kind in ('country', 'highway')
    solid = road.kind == 'highway' or (road.kind == 'country' and road.phase[0] > 0)
    mark = stripe_coverage(lateral, 0.07, fine)
    if not solid:
        mark.mul_(dash)
    if road.kind == 'residential' and road.phase[1] > 0.5:
        mark.zero_()
    for side, sign in ((0, -1.0), (1, 1.0)):
        for lane in range(1, road.lanes[side]):
            mark.add_(
                stripe_coverage(lateral - sign * lane * road.lane_width_m, 0.06, fine).mul_(dash)
            )
        inner = sign * road.lanes[side] * road.lane_width_m
        if fast:
            mark.add_(stripe_coverage(lateral - inner, 0.075, fine))
        elif road.parking[side]:
            reach = PARKING_WIDTH_M[road.parking[side]]
            bay = 2.5 if road.parking[side] == 2 else 6.0
            inside = stripe_coverage(lateral - inner - sign * reach / 2, reach / 2, fine)
            line = stripe_coverage(fast_remainder(z, bay) - bay / 2, 0.05, fine)
            mark.addcmul_(inside, line, value=0.8)
            if road.parking[side] == 1:
                mark.add_(stripe_coverage(lateral - inner, 0.05, fine), alpha=0.7)
    if road.junctions:
        left, right = road.edges_m
        bars = stripe_coverage(fast_remainder(lateral, 1.0) - 0.5, 0.25, fine)
        bars.mul_(step_above(lateral, left)).mul_(step_above(-lateral, -right))
    for z0, z1 in road.junctions:
        for at in (z0 - 2.6, z1 + 2.6):
            mark.mul_(1 - stripe_coverage(z - at, 1.8, fine)).addcmul_(
                bars, stripe_coverage(z - at, 1.5, fine)
            )
    return mark.clamp_(max=1.0)


def _roadside_colour(
    road: Road,
    lateral: Tensor,
    x: Tensor,
    z: Tensor,
    footprint: Tensor,
    px_per_m: Tensor,
    grain: Tensor,
    patches: Tensor,
) -> Tensor:
    """Return the colour next to the road, (3, L): pavement slabs, then grass or paving."""
    left, right = road.edges_m
    beyond = torch.maximum(lateral - right, left - lateral)
    blades = sample_noise(BLADES, x, z, footprint, 2.3)
    lush = blades.add_(patches).mul_(0.22).add_(1).clamp_(min=0.2)
    dry = (0.25 + 0.3 * patches).clamp_(0, 0.9)
    # green (0.075, 0.11, 0.03) where it is lush, straw (0.17, 0.14, 0.07) where it is dry
    tones = ((0.075, 0.095), (0.11, 0.03), (0.03, 0.04))
    grass = torch.stack([(dry * more).add_(green).mul_(lush) for green, more in tones])
    if not road.has_kerb:
        gravel = stripe_coverage(beyond, 0.6, (footprint + 0.15).reciprocal_())
        return mix_colours(grass, 0.16 * (1 + 0.25 * grain), gravel)
    slab = stripe_coverage(fast_remainder(beyond, 0.5) - 0.25, 0.235, px_per_m)
    slab.mul_(stripe_coverage(fast_remainder(z, 0.5) - 0.25, 0.235, px_per_m))
    tone = 0.24 + 0.07 * math.sin(3 * road.phase[0])
    paved = (0.08 * grain).add_(patches, alpha=0.06).add_(1).mul_(slab.mul_(0.2).add_(0.8))
    paved = mix_colours(
        paved.mul_(tone), 0.34 * (1 + 0.08 * grain), stripe_coverage(beyond - 0.07, 0.07, px_per_m)
    )
    yards = stripe_coverage(
        beyond, road.pavement_width_m + (60.0 if road.kind == 'city' else 0.0), px_per_m
    )
    for channel, tint in zip(grass, (1.03, 1.0, 0.95), strict=True):
        channel.addcmul_(tint * paved - channel, yards)
    return grass

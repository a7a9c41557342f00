"""Hits -> light: surfaces, shadows, reflections and haze of one camera's picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stl_core.data.synthetic import materials, surfaces
from stl_core.data.synthetic.caster import Hits, Rays, in_shadow, rectangles
from stl_core.data.synthetic.lighting import Weather, column, mirrored, sky, weather
from stl_core.data.synthetic.shapes import MAX_PLANES, Solids, turn_about_y
from stl_core.data.synthetic.surfaces import Points
from stl_core.data.synthetic.world import World
from stl_core.types import Array

#: Shadows of things smaller than this many pixels of the picture are left out.
LEAST_SHADOW_PX = 24
#: How far a shadow is followed, metres.
SHADOW_M = 45.0


@dataclass
class _View:
    """
    What is needed of L pixels that show a solid.

    :param pixel: (L,) flat index into the picture.
    :param at: (3, L) points, rig frame.
    :param ray: (3, L) unit vectors from the eye.
    :param normal: (3, L) rig frame.
    :param distance: (L,) metres.
    """

    pixel: Tensor
    at: Tensor
    ray: Tensor
    normal: Tensor
    distance: Tensor


def render(world: World, solids: Solids, rays: Rays, hits: Hits) -> Tensor:
    """
    Light the picture.

    :param world: road, sun and weather.
    :param solids: in the rig's frame, as cast.
    :param rays: the camera's.
    :param hits: what they meet.
    :return: (3, H, W) linear RGB, about 1 for a white wall in the sun.
    """
    device = hits.inverse.device
    sun = turn_about_y(-world.heading) @ world.sun
    light = weather(world.sky, world.sun)
    directions, length = _directions(rays, device)
    flat = hits.solid.flatten()
    shown = torch.nonzero(flat >= 0).squeeze(1)
    open_sky = torch.nonzero(flat < 0).squeeze(1)
    picture = torch.empty(3, flat.numel(), device=device)
    turn = directions.new_tensor(turn_about_y(world.heading).tolist())
    toward = directions.new_tensor(world.sun.tolist())
    above = turn @ directions.index_select(1, open_sky)
    picture.index_copy_(1, open_sky, sky(above, toward, light, float(world.sky[6])))
    points = _points(rays, directions, length, hits)
    dark = _shadows(points, solids, sun, rays, light, device)
    hidden = _contact(points, solids, rays)
    view = _view(solids, hits, shown, points, directions, length, device)
    colour, gloss = _surfaces(world, solids, rays, hits, view)
    lit = _light(view, colour, gloss, sun, light, dark.flatten()[shown], hidden.flatten()[shown])
    picture.index_copy_(1, shown, _haze(lit, view, light))
    return picture.view(3, *rays.shape)


def _directions(rays: Rays, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the rays as unit vectors (3, H * W) and their lengths as given, (H * W,)."""
    columns, rows = rays.grids(device)
    height, width = rays.shape
    grid = torch.stack(
        [
            columns[0].expand(height, width),
            rows[:, None].expand(height, width),
            columns[1].expand(height, width),
        ]
    ).view(3, -1)
    length = grid.square().sum(0).sqrt()
    return grid / length, length


def _points(rays: Rays, directions: Tensor, length: Tensor, hits: Hits) -> Tensor:
    """Return the points that rays meet, (3, H, W) rig frame; far away where they meet nothing."""
    stretch = length / hits.inverse.flatten().clamp(min=1e-4)
    points = directions * stretch + column(rays.origin, directions)
    return points.view(3, *rays.shape)


def _view(
    solids: Solids,
    hits: Hits,
    shown: Tensor,
    points: Tensor,
    directions: Tensor,
    length: Tensor,
    device: torch.device,
) -> _View:
    solid = hits.solid.flatten()[shown]
    face = hits.face.flatten()[shown]
    normals = torch.as_tensor(solids.planes[..., :3].reshape(-1, 3), dtype=torch.float32)
    normal = normals.to(device)[solid * MAX_PLANES + face].T.contiguous()
    at = points.view(3, -1).index_select(1, shown)
    balls = torch.as_tensor(solids.spheroid, dtype=torch.float32, device=device)
    round_ = torch.nonzero(balls[solid, 3] > 0).squeeze(1)
    if len(round_):
        ball = balls[solid[round_]]
        out = (at[:, round_] - ball[:, :3].T) / torch.stack(
            [ball[:, 3], ball[:, 4], ball[:, 3]]
        ).square()
        normal[:, round_] = out / out.square().sum(0).sqrt()
    distance = length[shown] / hits.inverse.flatten()[shown]
    return _View(shown, at, directions.index_select(1, shown), normal, distance)


def _surfaces(
    world: World, solids: Solids, rays: Rays, hits: Hits, view: _View
) -> tuple[Tensor, Tensor]:
    """Return the colour (3, L) and the gloss (L,) of every visible point."""
    device = view.at.device
    colour, gloss = torch.empty_like(view.at), torch.empty_like(view.distance)
    solid = hits.solid.flatten()[view.pixel]
    material = torch.as_tensor(solids.material, device=device)[solid]
    pixel = float(np.abs(np.diff(rays.rows)).mean())
    facing = -(view.ray * view.normal).sum(0).clamp(max=-0.05)
    foot = view.distance * pixel
    turn = np.stack([np.cos(solids.yaw), np.sin(solids.yaw)], 1)
    table = torch.as_tensor(
        np.concatenate([solids.bottom, turn, solids.size, solids.colour], 1),
        dtype=torch.float32,
        device=device,
    )
    for number in np.unique(material.cpu().numpy()).tolist():
        rows = torch.nonzero(material == number).squeeze(1)
        if number == materials.GROUND:
            x, z = _world_xz(world, view.at.index_select(1, rows))
            upright = view.normal[1, rows] > -0.5
            wide = foot[rows] * facing[rows].rsqrt()
            found = surfaces.ground(world.road, x, z, upright, wide, float(world.sky[7]))
        else:
            p = _local(solids, table, solid[rows], view, rows, foot[rows] * facing[rows].rsqrt())
            if number in (materials.CABIN, materials.CARGO_CABIN):
                p.rim = _rim(
                    solids,
                    solid[rows],
                    hits.face.flatten()[view.pixel[rows]],
                    view.at.index_select(1, rows),
                )
            found = surfaces.look(number, p)
            bent = surfaces.bent(number, p)
            if bent is not None:
                view.normal.index_copy_(1, rows, _unturned(bent, table[solid[rows]].T))
        colour.index_copy_(1, rows, found[0])
        gloss.index_copy_(0, rows, found[1])
    return colour, gloss


def _world_xz(world: World, at: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = float(np.cos(world.heading)), float(np.sin(world.heading))
    x = cos * at[0] + sin * at[2] + float(world.eye_m[0])
    return x, -sin * at[0] + cos * at[2] + float(world.eye_m[2])


def _local(
    solids: Solids, table: Tensor, solid: Tensor, view: _View, rows: Tensor, foot: Tensor
) -> Points:
    own = table[solid].T
    away, normal = view.at.index_select(1, rows) - own[:3], view.normal.index_select(1, rows)
    cos, sin = own[3], own[4]

    def turned(v: Tensor) -> Tensor:
        return torch.stack([cos * v[0] - sin * v[2], -v[1], sin * v[0] + cos * v[2]])

    key = (own[5] * 977 + own[6] * 331 + own[7] * 7919).floor()
    return Points(turned(away), turned(normal), own[5:8], own[8:11], foot, foot, key)


def _unturned(local: Tensor, own: Tensor) -> Tensor:
    """Turn vectors of objects' frames (along, up, across) back into the rig's."""
    cos, sin = own[3], own[4]
    return torch.stack(
        [cos * local[0] + sin * local[2], -local[1], cos * local[2] - sin * local[0]]
    )


def _rim(solids: Solids, solid: Tensor, face: Tensor, at: Tensor) -> Tensor:
    """Return how far points on a solid are from its other planes, (L,) metres."""
    planes = torch.as_tensor(solids.planes, dtype=torch.float32, device=at.device)[solid]
    slack = planes[..., 3] - (planes[..., :3] * at.T[:, None]).sum(-1)
    own = torch.arange(MAX_PLANES, device=at.device)[None] == face[:, None]
    unused = planes[..., :3].abs().sum(-1) == 0
    return torch.where(own | unused, torch.full_like(slack, 9.0), slack).amin(1)


def _shadows(
    points: Tensor, solids: Solids, sun: Array, rays: Rays, light: Weather, device: torch.device
) -> Tensor:
    """Return which points the sun does not reach, (H, W) bool."""
    if light.sun.max() < 0.02:
        return torch.ones(points.shape[1:], dtype=torch.bool, device=device)
    middle = solids.bounds.mean(1)
    casters = solids[solids.casts & (np.linalg.norm(middle, axis=1) < 80)]
    # a shadow ends where the ray from its top comes down; houses' long ones are cut
    floor = casters.bounds[..., 1].max(1, keepdims=True) + 1.0
    reach = np.minimum((floor - casters.bounds[..., 1]) / -sun[1], SHADOW_M)
    ends = casters.bounds - sun * reach[..., None]
    rects = rectangles(rays, np.concatenate([casters.bounds, ends], 1))
    rects = [
        [r for r in each if (r[1] - r[0]) * (r[3] - r[2]) >= LEAST_SHADOW_PX] for each in rects
    ]
    return in_shadow(points, sun, casters, rects, device)


def _contact(points: Tensor, solids: Solids, rays: Rays) -> Tensor:
    """Return how much sky a point near the ground sees beside and under things, (H, W) 0 to 1."""
    open_ = torch.ones(points.shape[1:], device=points.device)
    _, first = np.unique(solids.owner, return_index=True)
    first = first[solids.owner[first] >= 0]
    for number in first.tolist():
        h, w, l = solids.size[number].tolist()
        margin = 0.22 * min(h, 2.0)
        turn = turn_about_y(float(solids.yaw[number]))
        corner = np.array(
            [[(i & 1) - 0.5, -0.05 - 0.1 * (i >> 2), (i >> 1 & 1) - 0.5] for i in range(8)]
        )
        corner[:, 1] = np.where(corner[:, 1] < -0.1, -0.35, 0.12)
        around = corner * [l + 2 * margin, 1.0, w + 2 * margin]
        bounds = around @ turn.T + solids.bottom[number]
        for y0, y1, x0, x1 in rectangles(rays, bounds[None])[0]:
            x, y, z = points[:, y0:y1, x0:x1] - column(solids.bottom[number], points)[..., None]
            cos, sin = float(turn[0, 0]), float(turn[0, 2])
            along = (cos * x - sin * z).abs() - l / 2
            across = (sin * x + cos * z).abs() - w / 2
            out = torch.maximum(along, across)
            near = (1 - out / margin).clamp(0, 1) * (1 - (y.abs() - 0.12) / 0.1).clamp(0, 1)
            inside = (-out / 0.25).clamp(0, 1)
            open_[y0:y1, x0:x1] *= 1 - near * (0.45 + 0.42 * inside)
    return open_


def _light(
    view: _View,
    colour: Tensor,
    gloss: Tensor,
    sun: Array,
    light: Weather,
    dark: Tensor,
    open_: Tensor,
) -> Tensor:
    """Return the light that each point sends to the eye, (3, L)."""
    toward = column(sun, colour)
    straight = (view.normal * toward).sum(0).clamp(min=0)
    direct = straight * (~dark) * (0.25 + 0.75 * open_)
    above = 0.5 - 0.5 * view.normal[1]
    ambient = column(light.zenith * 0.55 + light.horizon * 0.35, above) * above
    ambient = (ambient + column(light.bounce, above) * (1.35 - above)) * open_
    lit = colour * (column(light.sun, above) * direct + ambient)
    shiny = torch.nonzero(gloss > 0.005).squeeze(1)
    ray, normal = (x.index_select(1, shiny) for x in (view.ray, view.normal))
    share = gloss[shiny]
    against = (ray * normal).sum(0)
    bounce = ray - 2 * against * normal
    fresnel = share + (1 - share) * (1 + against).clamp(0, 1) ** 5 * (share * 18).clamp(max=1)
    glint = (bounce * toward).sum(0).clamp(min=0) ** 180 * (~dark[shiny]) * 9.0
    image = mirrored(-bounce[1], light) + column(light.sun, glint) * glint
    lit[:, shiny] += (image * (0.4 + 0.6 * open_[shiny]) - lit[:, shiny] * 0.6) * fresnel
    return lit


def _haze(lit: Tensor, view: _View, light: Weather) -> Tensor:
    clear = (-view.distance / light.sight_m).exp()
    return lit * clear + column(light.horizon, clear) * (1 - clear)

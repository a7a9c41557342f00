"""Hits -> light: surfaces, shadows, reflections and haze of one camera's picture."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stl_core.data.synthetic.rendering import surfaces
from stl_core.data.synthetic.rendering import textures as textures_module
from stl_core.data.synthetic.rendering.gbuffer import SKY, View, picked, see, vectors
from stl_core.data.synthetic.rendering.lighting import (
    Facets,
    Vectors,
    Weather,
    diffuse,
    gleam,
    haze,
    ridges,
    sky,
    weather,
)
from stl_core.data.synthetic.rendering.shadows import open_sky, sunlit
from stl_core.data.synthetic.rendering.surfaces import Look, Points
from stl_core.data.synthetic.scene import materials
from stl_core.data.synthetic.scene.solids import MAX_PLANES, Solids, turn_about_y
from stl_core.data.synthetic.scene.world import World
from stl_core.data.synthetic.sensors.ray_caster import Hits, Rays

#: Sunlight weaker than this throws no shadow that could be seen.
FAINT = 0.02

#: Cabins are told how far their points are from the edges; from edges they do not have, this far.
_CABINS, _FAR_M = (materials.CABIN, materials.CARGO_CABIN), 9.0


def render(world: World, solids: Solids, rays: Rays, hits: Hits, device: torch.device) -> Tensor:
    """
    Light the picture.

    :param world: road, sun and weather.
    :param solids: in the rig's frame, as cast.
    :param rays: the camera's.
    :param hits: what they meet.
    :param device: where to compute.
    :return: (3, H, W) linear RGB, about 1 for a white wall in the sun.
    """
    sun, light = turn_about_y(-world.heading) @ world.sun, weather(world.sky, world.sun)
    view = see(rays, solids, hits, device)
    count, glossy = len(view.solid), view.slices[surfaces.DULL[0]].start
    picture = torch.empty(3, len(view.pixel), device=device)
    picture[:, count:] = _sky(world, light, rays, view)
    colour = picture[:, :count]
    gloss = _surfaces(world, solids, rays, view, colour)
    free = torch.from_numpy(open_sky(view.points, solids, rays)).to(device)
    bright = torch.zeros_like(free)
    if light.sun.max() >= FAINT:
        points = torch.from_numpy(view.points).to(device)
        bright = sunlit(points, hits.solid >= 0, sun, solids, rays)
    reached = picked([bright.flatten(), free.flatten()], view.pixel[:count])
    facets = Facets(vectors([each[:count] for each in view.ray]), view.normal, *reached)
    diffuse(colour, facets, sun, light)
    gleam(colour[:, :glossy], gloss[:glossy], facets[:glossy], sun, light)
    haze(colour, view.distance[:count], light)
    return torch.stack(picked(picture, view.place)).view(3, *rays.shape)


def _sky(world: World, light: Weather, rays: Rays, view: View) -> Tensor:
    """Paint the pixels that show no solid: (3, N - L)."""
    seed, rows = float(world.sky[6]), view.slices[SKY]
    x, z = torch.from_numpy(rays.columns.T.astype(np.float32)).to(view.pixel.device)
    outlines = ridges(torch.atan2(*_turned(x, z, world.heading)), seed)
    hills = picked(outlines, view.pixel[rows] % len(x))
    x, y, z = (each[rows] for each in view.ray)
    x, z = _turned(x, z, world.heading)
    return sky((x, y, z), hills, world.sun, light, seed)


def _turned(x: Tensor, z: Tensor, heading: float) -> tuple[Tensor, Tensor]:
    """Turn from the rig's frame into the world's."""
    cos, sin = math.cos(heading), math.sin(heading)
    return cos * x + sin * z, cos * z - sin * x


def _surfaces(world: World, solids: Solids, rays: Rays, view: View, colour: Tensor) -> Tensor:
    """Write the colour (3, L) of every visible point, bend its normal, return its gloss (L,)."""
    gloss = torch.empty(len(view.solid), device=view.pixel.device)
    foot = _footprint(rays, view)
    table = _table(solids, gloss)
    for material, rows in view.slices.items():
        if material == SKY or rows.start == rows.stop:
            continue
        found: Look
        if material == materials.GROUND:
            found = _ground(world, view, rows, foot[rows])
        elif material in surfaces.PLAIN:
            plain = picked(table[8:11], view.solid[rows])
            found = torch.stack(plain), surfaces.PLAIN[material]
        else:
            rim = _rim(solids, view, rows) if material in _CABINS else None
            p = _local(table, view, rows, foot[rows], rim)
            found = surfaces.look(material, p)
            bent = surfaces.bent(material, p)
            if bent is not None:
                _unturn(bent, table, view, rows)
        colour[:, rows], gloss[rows] = found
    return gloss


def _footprint(rays: Rays, view: View) -> Tensor:
    """Return how far a pixel reaches on the surface it shows, (L,) metres."""
    facing = torch.zeros(len(view.solid), device=view.pixel.device)
    for ray, normal in zip(view.ray, view.normal, strict=True):
        facing.addcmul_(ray[: len(normal)], normal, value=-1)
    pixel = float(np.abs(np.diff(rays.rows)).mean())
    return facing.clamp_(min=0.05).rsqrt_().mul_(view.distance[: len(facing)]).mul_(pixel)


def _ground(world: World, view: View, rows: slice, foot: Tensor) -> Look:
    x, z = _turned(view.at[0][rows], view.at[2][rows], world.heading)
    x, z = x.add_(float(world.eye_m[0])), z.add_(float(world.eye_m[2]))
    upright = textures_module.over(view.normal[1][rows], -0.5)
    return surfaces.ground(world.road, x, z, upright, foot, float(world.sky[7]))


def _table(solids: Solids, like: Tensor) -> Tensor:
    """Return what points need of their solids, (12, S): see _local."""
    turn = np.stack([np.cos(solids.yaw), np.sin(solids.yaw)], 1)
    rows = np.concatenate([solids.bottom, turn, solids.size, solids.colour], 1).T
    table = torch.from_numpy(rows.astype(np.float32)).to(like)
    h, w, l = table[5:8]
    return torch.cat([table, (h * 977 + w * 331 + l * 7919).floor()[None]])


def _local(table: Tensor, view: View, rows: slice, foot: Tensor, rim: Tensor | None) -> Points:
    """Turn points into the frames of their objects."""
    solid = view.solid[rows]
    x0, y0, z0, cos, sin, h, w, l, *colour, key = picked(table, solid)
    x, y, z = (at[rows] - start for at, start in zip(view.at, (x0, y0, z0), strict=True))
    u, v, n = (normal[rows] for normal in view.normal)
    return Points(
        local=((cos * x).sub_(sin * z), -y, (sin * x).add_(cos * z)),
        normal=((cos * u).sub_(sin * n), -v, (sin * u).add_(cos * n)),
        size=(h, w, l),
        colour=torch.stack(colour),
        footprint=foot,
        rim=foot if rim is None else rim,
        key=key,
        keys=table[-1],
        solid=solid,
    )


def _unturn(local: Vectors, table: Tensor, view: View, rows: slice) -> None:
    """Turn normals of objects' frames (along, up, across) back into the rig's."""
    cos, sin = picked(table[3:5], view.solid[rows])
    x, y, z = local
    view.normal[0][rows] = (cos * x).add_(sin * z)
    view.normal[1][rows] = -y
    view.normal[2][rows] = (cos * z).sub_(sin * x)


def _rim(solids: Solids, view: View, rows: slice) -> Tensor:
    """Return how far points on solids are from the other planes of these, (L,) metres."""
    used = np.abs(solids.planes[..., :3]).sum(-1) > 0
    away = np.where(used, solids.planes[..., 3], _FAR_M)
    table = np.concatenate([solids.planes[..., :3], away[..., None]], 2).reshape(-1, 4).T
    planes = torch.from_numpy(table.astype(np.float32)).to(view.distance)
    number = torch.arange(int(used[np.isin(solids.material, _CABINS)].sum(1).max()))
    each = (number.to(view.solid)[:, None] + view.solid[rows] * MAX_PLANES).flatten()
    *normal, slack = (row.view(len(number), -1) for row in picked(planes, each))
    for at, part in zip(view.at, normal, strict=True):
        slack.addcmul_(at[rows], part, value=-1)
    return slack.scatter_(0, view.face[rows].long()[None], _FAR_M).amin(0).clamp_(max=_FAR_M)

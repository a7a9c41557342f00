"""Renderer: shade the hits of a camera's rays into a linear RGB image."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stl_core.data.synthetic.rendering import ground, surfaces, textures
from stl_core.data.synthetic.rendering.gbuffer import (
    SKY,
    GBuffer,
    as_vectors,
    build_gbuffer,
    gather_rows,
)
from stl_core.data.synthetic.rendering.lighting import (
    ShadingPoints,
    Vectors,
    Weather,
    apply_diffuse,
    apply_haze,
    apply_specular,
    horizon_ridges,
    render_sky,
    weather_from_draws,
)
from stl_core.data.synthetic.rendering.shadows import sky_visibility, sunlit_mask
from stl_core.data.synthetic.rendering.surfaces import ColourAndGloss, SurfacePoints
from stl_core.data.synthetic.scene import materials
from stl_core.data.synthetic.scene.solids import MAX_PLANES, Solids, rotation_about_y
from stl_core.data.synthetic.scene.world import World
from stl_core.data.synthetic.sensors.ray_caster import Hits, RayGrid

#: Weaker sunlight casts no visible shadow.
MIN_SUNLIGHT = 0.02

#: Materials whose shaders need the distance to the edges; distance for edges that do not exist.
_CABINS, _FAR_M = (materials.CABIN, materials.CARGO_CABIN), 9.0


def render_image(
    world: World, solids: Solids, rays: RayGrid, hits: Hits, device: torch.device
) -> Tensor:
    """
    Render the image of one camera.

    :param world: road, sun and weather.
    :param solids: the solids that were cast, rig frame.
    :param rays: the camera's rays.
    :param hits: first hits of the rays.
    :param device: device of the computation.
    :return: (3, H, W) linear RGB, about 1 for a white wall in the sun.
    """
    sun, weather = (
        rotation_about_y(-world.heading) @ world.sun,
        weather_from_draws(world.weather_draws, world.sun),
    )
    gbuffer = build_gbuffer(rays, solids, hits, device)
    count, glossy = len(gbuffer.solid), gbuffer.slices[surfaces.MATTE_MATERIALS[0]].start
    image = torch.empty(3, len(gbuffer.pixel_index), device=device)
    image[:, count:] = _render_sky(world, weather, rays, gbuffer)
    colour = image[:, :count]
    gloss = _shade_surfaces(world, solids, rays, gbuffer, colour)
    sky = torch.from_numpy(sky_visibility(gbuffer.hit_points, solids, rays)).to(device)
    sunlit = torch.zeros_like(sky)
    if weather.sun.max() >= MIN_SUNLIGHT:
        hit_points = torch.from_numpy(gbuffer.hit_points).to(device)
        sunlit = sunlit_mask(hit_points, hits.solid >= 0, sun, solids, rays)
    reached = gather_rows([sunlit.flatten(), sky.flatten()], gbuffer.pixel_index[:count])
    points = ShadingPoints(
        as_vectors([each[:count] for each in gbuffer.ray]), gbuffer.normal, *reached
    )
    apply_diffuse(colour, points, sun, weather)
    apply_specular(colour[:, :glossy], gloss[:glossy], points[:glossy], sun, weather)
    apply_haze(colour, gbuffer.distance[:count], weather)
    return torch.stack(gather_rows(image, gbuffer.inverse_index)).view(3, *rays.shape)


def _render_sky(world: World, weather: Weather, rays: RayGrid, gbuffer: GBuffer) -> Tensor:
    """Render the pixels without a solid: (3, N - L)."""
    seed, rows = float(world.weather_draws[6]), gbuffer.slices[SKY]
    x, z = torch.from_numpy(rays.columns.T.astype(np.float32)).to(gbuffer.pixel_index.device)
    outlines = horizon_ridges(torch.atan2(*_rig_to_world(x, z, world.heading)), seed)
    hills = gather_rows(outlines, gbuffer.pixel_index[rows] % len(x))
    x, y, z = (each[rows] for each in gbuffer.ray)
    x, z = _rig_to_world(x, z, world.heading)
    return render_sky((x, y, z), hills, world.sun, weather, seed)


def _rig_to_world(x: Tensor, z: Tensor, heading: float) -> tuple[Tensor, Tensor]:
    """Rotate x and z from the rig frame to the world frame."""
    cos, sin = math.cos(heading), math.sin(heading)
    return cos * x + sin * z, cos * z - sin * x


def _shade_surfaces(
    world: World, solids: Solids, rays: RayGrid, gbuffer: GBuffer, colour: Tensor
) -> Tensor:
    """Write the colour (3, L) and bent normal of every solid pixel; return the gloss (L,)."""
    gloss = torch.empty(len(gbuffer.solid), device=gbuffer.pixel_index.device)
    footprint = _pixel_footprint(rays, gbuffer)
    table = _object_table(solids, gloss)
    for material, rows in gbuffer.slices.items():
        if material == SKY or rows.start == rows.stop:
            continue
        shaded: ColourAndGloss
        if material == materials.GROUND:
            shaded = _shade_ground(world, gbuffer, rows, footprint[rows])
        elif material in surfaces.PLAIN_GLOSS:
            plain = gather_rows(table[8:11], gbuffer.solid[rows])
            shaded = torch.stack(plain), surfaces.PLAIN_GLOSS[material]
        else:
            edge_distance = _edge_distance(solids, gbuffer, rows) if material in _CABINS else None
            points = _to_object_frame(table, gbuffer, rows, footprint[rows], edge_distance)
            shaded = surfaces.shade_material(material, points)
            normals = surfaces.bend_normals(material, points)
            if normals is not None:
                _write_object_normals(normals, table, gbuffer, rows)
        colour[:, rows], gloss[rows] = shaded
    return gloss


def _pixel_footprint(rays: RayGrid, gbuffer: GBuffer) -> Tensor:
    """Return the width of a pixel on the surface it shows, (L,) metres."""
    facing = torch.zeros(len(gbuffer.solid), device=gbuffer.pixel_index.device)
    for ray, normal in zip(gbuffer.ray, gbuffer.normal, strict=True):
        facing.addcmul_(ray[: len(normal)], normal, value=-1)
    pixel = float(np.abs(np.diff(rays.rows)).mean())
    return facing.clamp_(min=0.05).rsqrt_().mul_(gbuffer.distance[: len(facing)]).mul_(pixel)


def _shade_ground(
    world: World, gbuffer: GBuffer, rows: slice, footprint: Tensor
) -> ColourAndGloss:
    x, z = _rig_to_world(gbuffer.position[0][rows], gbuffer.position[2][rows], world.heading)
    x, z = x.add_(float(world.ego_m[0])), z.add_(float(world.ego_m[2]))
    upright = textures.step_above(gbuffer.normal[1][rows], -0.5)
    return ground.shade_ground(world.road, x, z, upright, footprint, float(world.weather_draws[7]))


def _object_table(solids: Solids, like: Tensor) -> Tensor:
    """Return the attributes of solids that shaders need, (12, S): see _to_object_frame."""
    turn = np.stack([np.cos(solids.yaw), np.sin(solids.yaw)], 1)
    rows = np.concatenate([solids.bottom, turn, solids.size, solids.colour], 1).T
    table = torch.from_numpy(rows.astype(np.float32)).to(like)
    h, w, l = table[5:8]
    return torch.cat([table, (h * 977 + w * 331 + l * 7919).floor()[None]])


def _to_object_frame(
    table: Tensor, gbuffer: GBuffer, rows: slice, footprint: Tensor, edge_distance: Tensor | None
) -> SurfacePoints:
    """Transform points into the frames of their objects."""
    solid = gbuffer.solid[rows]
    x0, y0, z0, cos, sin, h, w, l, *colour, key = gather_rows(table, solid)
    x, y, z = (
        position[rows] - start
        for position, start in zip(gbuffer.position, (x0, y0, z0), strict=True)
    )
    u, v, n = (normal[rows] for normal in gbuffer.normal)
    return SurfacePoints(
        local=((cos * x).sub_(sin * z), -y, (sin * x).add_(cos * z)),
        normal=((cos * u).sub_(sin * n), -v, (sin * u).add_(cos * n)),
        size=(h, w, l),
        colour=torch.stack(colour),
        footprint=footprint,
        edge_distance=footprint if edge_distance is None else edge_distance,
        object_key=key,
        object_keys=table[-1],
        solid=solid,
    )


def _write_object_normals(local: Vectors, table: Tensor, gbuffer: GBuffer, rows: slice) -> None:
    """Store normals given in object frames (along, up, across) in the rig frame."""
    cos, sin = gather_rows(table[3:5], gbuffer.solid[rows])
    x, y, z = local
    gbuffer.normal[0][rows] = (cos * x).add_(sin * z)
    gbuffer.normal[1][rows] = -y
    gbuffer.normal[2][rows] = (cos * z).sub_(sin * x)


def _edge_distance(solids: Solids, gbuffer: GBuffer, rows: slice) -> Tensor:
    """Return the distance of points to the nearest other plane of their solid, (L,) metres."""
    used = np.abs(solids.planes[..., :3]).sum(-1) > 0
    away = np.where(used, solids.planes[..., 3], _FAR_M)
    table = np.concatenate([solids.planes[..., :3], away[..., None]], 2).reshape(-1, 4).T
    planes = torch.from_numpy(table.astype(np.float32)).to(gbuffer.distance)
    number = torch.arange(int(used[np.isin(solids.material, _CABINS)].sum(1).max()))
    each = (number.to(gbuffer.solid)[:, None] + gbuffer.solid[rows] * MAX_PLANES).flatten()
    *normal, slack = (row.view(len(number), -1) for row in gather_rows(planes, each))
    for position, part in zip(gbuffer.position, normal, strict=True):
        slack.addcmul_(position[rows], part, value=-1)
    return slack.scatter_(0, gbuffer.face[rows].long()[None], _FAR_M).amin(0).clamp_(max=_FAR_M)

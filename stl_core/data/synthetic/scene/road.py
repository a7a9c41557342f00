"""Road geometry: centre line, elevation, lanes, parking, kerbs and junctions."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stl_core.data.synthetic.scene.distributions import draw_index, draw_uniform
from stl_core.data.synthetic.scene.materials import GROUND
from stl_core.data.synthetic.scene.solids import MAX_PLANES, Solids, aabb_corners
from stl_core.types import Array

#: Extent of the ground to each side of x = 0.
GROUND_HALF_WIDTH_M = 150.0
KERB_HEIGHT_M = 0.12
#: The period of the hills is 2 pi times this.
HILL_SCALE_M = 40.0
PARKING_WIDTH_M = (0.0, 2.1, 5.0)
ROAD_KINDS = ('residential', 'city', 'country', 'highway')
_ROAD_KIND_WEIGHTS = (0.46, 0.29, 0.13, 0.12)


@dataclass(frozen=True)
class Road:
    """
    A road along z; lateral positions count from the centre line, positive to the right.

    :param kind: 'residential', 'city', 'country' or 'highway'.
    :param lane_width_m: width of a lane.
    :param lanes: number of oncoming lanes and of lanes in the ego direction.
    :param parking: left and right: 0 none, 1 parallel to the kerb, 2 perpendicular.
    :param pavement_width_m: width of the pavements.
    :param has_kerb: whether there are pavements, raised above the road.
    :param amplitude_m: (2,) amplitudes of the two sines of the centre line.
    :param wavelength_m: (2,) their wavelengths.
    :param phase: (2,) their phases.
    :param slope: rise per metre at z = 0.
    :param slope_change: change of the slope per metre, at z = 0; it sets the height of the hills.
    :param crossfall: fall of the ground per metre to the right.
    :param junctions: first and last z of each crossing road.
    :param start_m: first z.
    :param end_m: last z.
    """

    kind: str
    lane_width_m: float
    lanes: tuple[int, int]
    parking: tuple[int, int]
    pavement_width_m: float
    has_kerb: bool
    amplitude_m: Array
    wavelength_m: Array
    phase: Array
    slope: float
    slope_change: float
    crossfall: float
    junctions: tuple[tuple[float, float], ...]
    start_m: float = -70.0
    end_m: float = 190.0

    @cached_property
    def edges_m(self) -> tuple[float, float]:
        """Lateral positions of the left and right edges of the carriageway, parking included."""
        left, right = (
            self.lanes[i] * self.lane_width_m + PARKING_WIDTH_M[self.parking[i]] + 0.25
            for i in (0, 1)
        )
        return -left, right

    def center_x(self, z: float) -> float:
        """Return x of the centre line at z."""
        return sum(
            [
                swing * (math.sin(2 * math.pi * z / wave + phase) - math.sin(phase))
                for swing, wave, phase in self.waves
            ]
        )

    def heading_at(self, z: float) -> float:
        """Return the heading of the road at z, atan(dx/dz), radians."""
        turn = 2 * math.pi
        return math.atan(
            sum(
                [
                    swing * math.cos(turn * z / wave + phase) * turn / wave
                    for swing, wave, phase in self.waves
                ]
            )
        )

    @cached_property
    def waves(self) -> list[list[float]]:
        """Amplitude, wavelength and phase of each sine."""
        return np.stack([self.amplitude_m, self.wavelength_m, self.phase], 1).tolist()

    @cached_property
    def stations(self) -> Array:
        """The z at which the planar ground pieces meet: fine near the start, then coarse."""
        near = np.arange(-30.0, 60.0, 5.0)
        far = np.arange(60.0, self.end_m, 10.0)
        if self.end_m > 200:  # a long road for a drive: equal steps everywhere
            near, far = np.arange(-30.0, self.end_m, 6.0), np.zeros(0)
        return np.concatenate([np.arange(self.start_m, -30.0, 10.0), near, far, [self.end_m]])

    @cached_property
    def _station_y(self) -> Array:
        """The y (down) of the centre line at the stations."""
        z = self.stations
        return -(
            self.slope * z + self.slope_change * HILL_SCALE_M**2 * (1 - np.cos(z / HILL_SCALE_M))
        )

    @cached_property
    def _profile(self) -> tuple[list[float], list[float]]:
        """Stations and heights as lists, in which looking up single points is fastest."""
        return self.stations.tolist(), self._station_y.tolist()

    def ground_y(self, x: float, z: float) -> float:
        """Return y (down) of the road surface, without pavements."""
        at, downs = self._profile
        i = min(max(bisect_right(at, z), 1), len(at) - 1)
        rise = (downs[i] - downs[i - 1]) / (at[i] - at[i - 1])
        return downs[i - 1] + rise * (min(max(z, at[0]), at[-1]) - at[i - 1]) + self.crossfall * x

    def edge_x(self, side: int, z: float) -> float:
        """Return x of the left (0) or right (1) edge of the carriageway at z."""
        return self.center_x(z) + self.edges_m[side] / math.cos(self.heading_at(z))

    def lateral_position(self, x: float, z: float) -> float:
        """Return the lateral position of a point."""
        return (x - self.center_x(z)) * math.cos(self.heading_at(z))

    def point_at(self, lateral: float, z: float) -> tuple[Array, float]:
        """Return the ground point (3,), on a pavement if any, and the heading of the road."""
        heading = self.heading_at(z)
        x = self.center_x(z) + lateral / math.cos(heading)
        left, right = self.edges_m
        raised = self.has_kerb and not (left <= lateral <= right) and not self.in_junction(z)
        return np.array([x, self.ground_y(x, z) - KERB_HEIGHT_M * raised, z]), heading

    def in_junction(self, z: float) -> bool:
        """Return whether z lies in a junction."""
        return any(z0 <= z <= z1 for z0, z1 in self.junctions)

    def ground_solids(self) -> Solids:
        """Return the ground as slabs between stations, with pavements on top."""
        pieces = [self._ground_slabs(0.0)]
        if self.has_kerb:
            pieces += [self._ground_slabs(KERB_HEIGHT_M, side) for side in (0, 1)]
        # in order along the road; no pavements in junctions
        middle = (self.stations[:-1] + self.stations[1:]) / 2
        crossed = np.array([self.in_junction(z) for z in middle.tolist()])
        use = np.stack([np.full(len(middle), True), ~crossed, ~crossed][: len(pieces)], 1)
        planes = np.stack([planes for planes, _ in pieces], 1)[use]
        bounds = np.stack([bounds for _, bounds in pieces], 1)[use]
        count, none = len(planes), np.zeros((len(planes), 3))
        return Solids(
            planes=planes,
            bounds=bounds,
            spheroid=np.zeros((count, 5)),
            material=np.full(count, GROUND),
            colour=none + 0.2,
            actor_id=np.full(count, -1),
            bottom=none,
            yaw=none[:, 0],
            size=none + 1.0,
            casts_shadow=np.full(count, False),
        )

    def _ground_slabs(self, height_m: float, side: int | None = None) -> tuple[Array, Array]:
        """
        Return the slabs of the ground between stations, just thick enough for visible sides.

        :param height_m: height above the road.
        :param side: 0 or 1 for the ground beyond the left or right edge only; None for all.
        :return: planes (N, MAX_PLANES, 4) and bounds (N, 8, 3) of N slabs, world.
        """
        z0, z1, top = self.stations[:-1], self.stations[1:], self._station_y - height_m
        rise, thick = (top[1:] - top[:-1]) / (z1 - z0), height_m + 0.05
        planes = np.tile([0.0, 0.0, 0.0, 1.0], (len(z0), MAX_PLANES, 1))
        # the top: y >= top + roll * x + rise * (z - z0), y being down
        planes[:, 0, 0], planes[:, 0, 1], planes[:, 0, 2] = self.crossfall, -1.0, rise
        planes[:, 0, 3] = rise * z0 - top[:-1]
        planes[:, 0] /= np.sqrt(self.crossfall**2 + 1.0 + rise**2)[:, None]
        planes[:, 1, 2], planes[:, 1, 3] = 1.0, z1 + 0.02
        planes[:, 2, 2], planes[:, 2, 3] = -1.0, 0.02 - z0
        planes[:, 3] = -planes[:, 0]
        planes[:, 3, 3] += thick * planes[:, 3, 1]
        low, high = np.empty((2, len(z0), 3))
        fall = GROUND_HALF_WIDTH_M * abs(self.crossfall)
        low[:, 0], low[:, 1], low[:, 2] = (
            -GROUND_HALF_WIDTH_M,
            np.minimum(top[:-1], top[1:]) - fall,
            z0,
        )
        high[:, 0], high[:, 1], high[:, 2] = (
            GROUND_HALF_WIDTH_M,
            np.maximum(top[:-1], top[1:]) + fall,
            z1,
        )
        high[:, 1] += thick
        if side is not None:
            edge = np.array([self.edge_x(side, z) for z in self.stations.tolist()])
            away = np.stack([z0 - z1, edge[1:] - edge[:-1]], 1) * (-1.0, 1.0)[side]
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            planes[:, 4, [0, 2]] = away
            planes[:, 4, 3] = away[:, 0] * edge[:-1] + away[:, 1] * z0
            if side:
                low[:, 0] = np.minimum(edge[:-1], edge[1:])
            else:
                high[:, 0] = np.maximum(edge[:-1], edge[1:])
        return planes, aabb_corners(low, high)


def draw_road(rng: np.random.Generator, length_m: float) -> Road:
    """
    Draw a random road.

    :param rng: the random generator.
    :param length_m: last z of the road.
    :return: the road.
    """
    kind = ROAD_KINDS[draw_index(rng, _ROAD_KIND_WEIGHTS)]
    wide = kind == 'highway' or (kind == 'city' and rng.random() < 0.3)
    parking = {
        'residential': [draw_index(rng, (0.12, 0.58, 0.30)) for _ in (0, 1)],
        'city': [draw_index(rng, (0.35, 0.45, 0.20)) for _ in (0, 1)],
    }.get(kind, [0, 0])
    junctions: list[tuple[float, float]] = []
    start = draw_uniform(rng, 12, 70)
    while start < length_m and kind in ('residential', 'city') and len(junctions) < length_m / 60:
        junctions.append((start, start + draw_uniform(rng, 7, 13)))
        start += draw_uniform(rng, 45, 90)
    gentle = 0.4 if kind == 'highway' else 1.0
    wave = rng.uniform([130, 60], [320, 110])
    swing = gentle * rng.normal(0, 1, 2) * wave * [0.022, 0.009]
    return Road(
        kind=kind,
        lane_width_m=draw_uniform(rng, 2.8, 3.3)
        if kind in ('residential', 'city')
        else draw_uniform(rng, 3.2, 3.75),
        lanes=(2 if wide else 1, 2 if wide else 1),
        parking=(parking[0], parking[1]),
        pavement_width_m=draw_uniform(rng, 1.6, 4.0),
        has_kerb=kind in ('residential', 'city'),
        amplitude_m=np.clip(swing, -0.03 * wave, 0.03 * wave),
        wavelength_m=wave,
        phase=rng.uniform(-np.pi, np.pi, 2),
        slope=float(np.clip(rng.normal(-0.004, 0.008), -0.02, 0.02)),
        slope_change=float(np.clip(rng.normal(0, 2.2e-4), -5e-4, 5e-4)),
        crossfall=float(np.clip(rng.normal(0, 0.008), -0.02, 0.02)),
        junctions=tuple(junctions),
        end_m=length_m,
    )

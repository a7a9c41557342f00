"""The road: where its middle runs, how it rises, its lanes, kerbs and junctions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from stl_core.data.synthetic.materials import GROUND
from stl_core.data.synthetic.shapes import Builder, Placement, Shape
from stl_core.types import Array

#: How far to the sides the ground reaches.
SIDE_M = 150.0
KERB_M = 0.12
#: Hills follow one another every 2 pi times this.
ROLLING_M = 40.0
PARKING_M = (0.0, 2.1, 5.0)


@dataclass(frozen=True)
class Road:
    """
    A road along z. Lateral positions count from the line between the directions, right is +.

    :param kind: 'residential', 'city', 'country' or 'highway'.
    :param lane_m: width of a lane.
    :param lanes: lanes of the oncoming and of our own direction.
    :param parking: on the left and on the right 0 none, 1 along the kerb, 2 across.
    :param walk_m: width of the pavements.
    :param kerb: whether there are pavements, raised above the road.
    :param swing_m: (2,) amplitudes of the two sines that the middle follows.
    :param wave_m: (2,) their wavelengths.
    :param phase: (2,) their phases.
    :param slope: rise per metre at z = 0.
    :param bend: change of that rise per metre, at z = 0; the road rolls up and down with it.
    :param roll: fall of the ground to the right per metre.
    :param junctions: from and to z, where another road crosses.
    :param start_m: first z.
    :param end_m: last z.
    """

    kind: str
    lane_m: float
    lanes: tuple[int, int]
    parking: tuple[int, int]
    walk_m: float
    kerb: bool
    swing_m: Array
    wave_m: Array
    phase: Array
    slope: float
    bend: float
    roll: float
    junctions: tuple[tuple[float, float], ...]
    start_m: float = -70.0
    end_m: float = 190.0

    @property
    def edges_m(self) -> tuple[float, float]:
        """Lateral position of the left and the right edge of what cars drive and park on."""
        left, right = (
            self.lanes[i] * self.lane_m + PARKING_M[self.parking[i]] + 0.25 for i in (0, 1)
        )
        return -left, right

    def middle(self, z: float) -> float:
        """Return x of the road's middle."""
        return sum(
            swing * (math.sin(2 * math.pi * z / wave + phase) - math.sin(phase))
            for swing, wave, phase in self.waves
        )

    def heading(self, z: float) -> float:
        """Return the direction of the road, atan(dx/dz)."""
        turn = 2 * math.pi
        return math.atan(
            sum(
                swing * math.cos(turn * z / wave + phase) * turn / wave
                for swing, wave, phase in self.waves
            )
        )

    @cached_property
    def waves(self) -> list[list[float]]:
        """Amplitude, wavelength and phase of each sine."""
        return np.stack([self.swing_m, self.wave_m, self.phase], 1).tolist()

    @cached_property
    def stations(self) -> Array:
        """The z at which the ground's flat pieces meet: short near the start, then long."""
        near = np.arange(-30.0, 60.0, 5.0)
        far = np.arange(60.0, self.end_m, 10.0)
        if self.end_m > 200:  # a long road to drive along: equally fine everywhere
            near, far = np.arange(-30.0, self.end_m, 6.0), np.zeros(0)
        return np.concatenate([np.arange(self.start_m, -30.0, 10.0), near, far, [self.end_m]])

    @cached_property
    def _downs(self) -> Array:
        """The y of the road's middle at the stations."""
        z = self.stations
        return -(self.slope * z + self.bend * ROLLING_M**2 * (1 - np.cos(z / ROLLING_M)))

    def down(self, x: float, z: float) -> float:
        """Return y (down) of the road, pavements not counted."""
        return float(np.interp(z, self.stations, self._downs)) + self.roll * x

    def lateral(self, x: float, z: float) -> float:
        """Return the lateral position of a point."""
        return (x - self.middle(z)) * math.cos(self.heading(z))

    def at(self, lateral: float, z: float) -> tuple[Array, float]:
        """Return the point on the ground, pavement included, and the direction of the road."""
        heading = self.heading(z)
        x = self.middle(z) + lateral / math.cos(heading)
        left, right = self.edges_m
        raised = self.kerb and not (left <= lateral <= right) and not self.crossed(z)
        return np.array([x, self.down(x, z) - KERB_M * raised, z]), heading

    def crossed(self, z: float) -> bool:
        """Tell whether z lies in a junction."""
        return any(z0 <= z <= z1 for z0, z1 in self.junctions)

    def build(self, builder: Builder) -> None:
        """Lay the ground: flat pieces from station to station, pavements on top."""
        at = self.stations
        place = Placement(np.zeros(3), 0.0, np.ones(3))
        grey = np.full(3, 0.2)
        left, right = self.edges_m
        for z0, z1 in pairwise(at.tolist()):
            builder.polytope(place, self._slab(z0, z1, 0.0), GROUND, grey, casts=False)
            if not self.kerb or self.crossed((z0 + z1) / 2):
                continue
            for edge, sign in ((left, -1.0), (right, 1.0)):
                slab = self._slab(z0, z1, KERB_M, edge, sign)
                builder.polytope(place, slab, GROUND, grey, casts=False)

    def _slab(
        self, z0: float, z1: float, raise_m: float, edge: float = 0.0, sign: float = 0.0
    ) -> Shape:
        """Cut the ground between two z: planes and vertices, y up; with sign one side of edge."""
        up = raise_m - np.array([self.down(0.0, z) for z in (z0, z1)])
        normal = np.array([self.roll, 1.0, -(up[1] - up[0]) / (z1 - z0)])
        top = [*normal, up[0] + normal[2] * z0]
        planes = [np.array(top) / np.linalg.norm(normal)]
        planes += [np.array([0, 0, 1.0, z1 + 0.02]), np.array([0, 0, -1.0, 0.02 - z0])]
        planes += [np.array([0, -1.0, 0, 3.0 - up.min()])]
        x = [-SIDE_M, SIDE_M]
        if sign:
            points = [self.at(edge, z)[0] for z in (z0, z1)]
            away = np.array([points[1][2] - points[0][2], 0.0, points[0][0] - points[1][0]])
            away *= -sign / np.linalg.norm(away)
            planes.append(np.array([*away, away @ (points[0] * [1, 0, 1])]))
            near = min(sign * p[0] for p in points)
            x = sorted([sign * near, sign * SIDE_M])
        fall = SIDE_M * abs(self.roll)
        low = up.min() - fall - (3.0 if sign == 0 else KERB_M + 0.3)
        vertices = [[a, b, c] for a in x for b in (low, up.max() + fall) for c in (z0, z1)]
        return np.array(planes), np.array(vertices)

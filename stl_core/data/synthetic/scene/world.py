"""
One world: a road, what stands beside it, and traffic drawn as KITTI's labels are distributed.

Everything follows from a numpy Generator, which the caller keys by (seed, frame).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stl_core.data.synthetic.scene import people, scenery, vehicles
from stl_core.data.synthetic.scene.builder import Builder
from stl_core.data.synthetic.scene.distributions import CLASSES, kitti, pick, uniform
from stl_core.data.synthetic.scene.road import PARKING_M, Road
from stl_core.data.synthetic.scene.solids import Placement, Solids, joined
from stl_core.types import Array

BUILD: dict[str, Callable[[Builder, Placement, np.random.Generator], None]] = {
    'Car': vehicles.add_car,
    'Van': vehicles.add_van,
    'Truck': vehicles.add_truck,
    'Pedestrian': people.add_pedestrian,
    'Cyclist': people.add_cyclist,
}

KINDS = ('residential', 'city', 'country', 'highway')
_KIND_SHARES = (0.46, 0.29, 0.13, 0.12)

#: How far a road goes on, and the stretch of it that one draw of traffic fills, metres.
REACH_M = 190.0
WINDOW_M = 65.0

#: How many objects are tried for each that KITTI labels: some end up hidden or on top of others.
CROWDING = {'Car': 1.34, 'Van': 1.2, 'Truck': 1.05, 'Pedestrian': 1.1, 'Cyclist': 1.5}

#: How often a vehicle parks next to another, and a pedestrian walks beside another.
TOGETHER = 0.5

#: How often a place behind another road user is looked for.
COVERED = {'Car': 0.55, 'Van': 0.9, 'Truck': 0.7}


@dataclass(frozen=True)
class Thing:
    """
    One road user.

    :param name: class, one of CLASSES.
    :param place: where it stands, world; owner is its number.
    :param speed_m_s: along its heading.
    :param look: seed of its shape and colours.
    """

    name: str
    place: Placement
    speed_m_s: float
    look: int


@dataclass(frozen=True)
class World:
    """
    All there is.

    :param road: the road.
    :param scenery: what never moves, world frame.
    :param things: N road users.
    :param sun: (3,) unit vector to the sun.
    :param sky: draws of the weather, see shading.Weather.
    :param eye_m: (3,) the ground under the camera.
    :param heading: direction of the rig about y.
    :param lateral_m: of the camera on the road.
    :param speed_m_s: of our own car.
    """

    road: Road
    scenery: Solids
    things: list[Thing]
    sun: Array
    sky: Array
    eye_m: Array
    heading: float
    lateral_m: float
    speed_m_s: float

    def solids(self) -> Solids:
        """Return scenery and traffic, world frame."""
        if not self.things:
            return self.scenery
        builder = Builder()
        for thing in self.things:
            BUILD[thing.name](builder, thing.place, np.random.default_rng(thing.look))
        return joined([self.scenery, builder.solids()])


def make_world(rng: np.random.Generator, drive_m: float = 0.0) -> World:
    """
    Draw a world.

    :param rng: all its randomness.
    :param drive_m: how far the car will go, so that there is road and traffic on the way.
    """
    road = _road(rng, REACH_M + drive_m)
    lane = int(rng.integers(road.lanes[1])) if road.kind == 'highway' else road.lanes[1] - 1
    lateral = float((lane + 0.5) * road.lane_m + rng.normal(0, 0.15))
    eye_m, heading = road.at(lateral, 0.0)
    heading += rng.normal(0, 0.012)
    traffic = _Traffic(road, eye_m, heading, lateral, rng)
    for start_m in np.arange(0.0, drive_m + 1.0, WINDOW_M):
        traffic.draw(float(start_m))
    things = traffic.things
    views = np.array([[*eye_m[[0, 2]], *t.place.bottom_m[[0, 2]]] for t in things]).reshape(-1, 4)
    builder = Builder()
    scenery.add_scenery(builder, road, views, rng)
    azimuth, height = uniform(rng, -np.pi, np.pi), np.radians(uniform(rng, 18, 62))
    sun = np.array(
        [np.cos(height) * np.sin(azimuth), -np.sin(height), np.cos(height) * np.cos(azimuth)]
    )
    speed = traffic.speeds[road.lanes[0] + lane]
    fixed = joined([road.ground(), builder.solids()])
    return World(road, fixed, things, sun, rng.random(8), eye_m, heading, lateral, speed)


def _road(rng: np.random.Generator, length_m: float) -> Road:
    kind = KINDS[pick(rng, _KIND_SHARES)]
    wide = kind == 'highway' or (kind == 'city' and rng.random() < 0.3)
    parking = {
        'residential': [pick(rng, (0.12, 0.58, 0.30)) for _ in (0, 1)],
        'city': [pick(rng, (0.35, 0.45, 0.20)) for _ in (0, 1)],
    }.get(kind, [0, 0])
    junctions: list[tuple[float, float]] = []
    start = uniform(rng, 12, 70)
    while start < length_m and kind in ('residential', 'city') and len(junctions) < length_m / 60:
        junctions.append((start, start + uniform(rng, 7, 13)))
        start += uniform(rng, 45, 90)
    gentle = 0.4 if kind == 'highway' else 1.0
    wave = rng.uniform([130, 60], [320, 110])
    swing = gentle * rng.normal(0, 1, 2) * wave * [0.022, 0.009]
    return Road(
        kind=kind,
        lane_m=uniform(rng, 2.8, 3.3)
        if kind in ('residential', 'city')
        else uniform(rng, 3.2, 3.75),
        lanes=(2 if wide else 1, 2 if wide else 1),
        parking=(parking[0], parking[1]),
        walk_m=uniform(rng, 1.6, 4.0),
        kerb=kind in ('residential', 'city'),
        swing_m=np.clip(swing, -0.03 * wave, 0.03 * wave),
        wave_m=wave,
        phase=rng.uniform(-np.pi, np.pi, 2),
        slope=float(np.clip(rng.normal(-0.004, 0.008), -0.02, 0.02)),
        bend=float(np.clip(rng.normal(0, 2.2e-4), -5e-4, 5e-4)),
        roll=float(np.clip(rng.normal(0, 0.008), -0.02, 0.02)),
        junctions=tuple(junctions),
        end_m=length_m,
    )


class _Traffic:
    """Finds a place for each road user: in a lane, parked, on a pavement, in a side road."""

    def __init__(
        self,
        road: Road,
        eye_m: Array,
        heading: float,
        own_lateral: float,
        rng: np.random.Generator,
    ) -> None:
        self.road, self.rng, self.eye, self.heading = road, rng, eye_m, heading
        self.own_lateral = own_lateral
        self.things: list[Thing] = []
        self.rows: tuple[list[tuple[float, float]], ...] = ([], [])  # z and length of the parked
        # all of a lane go at one speed, so that none runs into another; ours at our own
        self.speeds = rng.uniform(6.0, 12.0, sum(road.lanes)).tolist()
        self.bodies = np.zeros((0, 3))  # x, z and half the length of what has found its place
        # nothing stands where our own car is
        self.taken = _discs(eye_m[[0, 2]] + [0, -0.5], 3.0, 1.1, heading - np.pi / 2)

    def draw(self, start_m: float) -> None:
        """Draw every class's number and find places, z counting from start_m."""
        fits = kitti()
        for name in CLASSES:
            wanted = fits[name].draw_count(self.rng)
            if name == 'Car' and self.road.kind in ('country', 'highway'):
                wanted = round(0.75 * wanted)
            wanted += int(self.rng.poisson(wanted * (CROWDING[name] - 1)))
            sizes = fits[name].draw_sizes(self.rng, wanted)
            for size in sizes:
                self._place(name, size, start_m)

    def _place(self, name: str, size: Array, start_m: float) -> None:
        wants_cover = self.rng.random() < COVERED.get(name, 0.0)
        for attempt in range(20):
            if attempt % 12 == 0:  # try elsewhere beside the road before going nearer or farther
                z = float(kitti()[name].draw('z_m', self.rng, 1)[0]) + start_m
            found = self._spot(name, size, z)
            if found is None:
                continue
            at, yaw, speed = found
            if attempt < 8 and wants_cover and not self._covered(at[[0, 2]]):
                continue
            discs = _discs(at[[0, 2]], size[2] / 2, size[1] / 2, yaw)
            if self._free(discs):
                self.taken = np.concatenate([self.taken, discs])
                self.bodies = np.concatenate([self.bodies, [[at[0], at[2], size[2] / 2]]])
                place = Placement(at, yaw, size, len(self.things))
                look = int(self.rng.integers(2**31))
                self.things.append(Thing(name, place, speed, look))
                return

    def _covered(self, at: Array) -> bool:
        """Tell whether something stands between the camera and a place."""
        way, others = at - self.eye[[0, 2]], self.bodies[:, :2] - self.eye[[0, 2]]
        share = others @ way / (way @ way)
        apart = np.linalg.norm(share[:, None] * way - others, axis=1)
        between = (share > 0.1) & (share < 0.95)
        return bool((between & (apart < 0.5 * self.bodies[:, 2] + 0.5)).any())

    def _free(self, discs: Array) -> bool:
        """Tell whether a footprint, covered by discs, keeps clear of the others."""
        apart = np.hypot(*(discs[:, None, i] - self.taken[:, i] for i in (0, 1)))
        return not (apart < discs[:, None, 2] + self.taken[:, 2] + 0.12).any()

    def _spot(self, name: str, size: Array, z: float) -> tuple[Array, float, float] | None:
        if name == 'Pedestrian':
            others = [t.place for t in self.things if t.name == name]
            if others and self.rng.random() < 0.7 * TOGETHER:
                return self._beside(others[int(self.rng.integers(len(others)))])
            return self._on_foot(z)
        if name == 'Cyclist':
            return self._cycling(z)
        return self._driving(name, size, z)

    def _driving(self, name: str, size: Array, z: float) -> tuple[Array, float, float] | None:
        """Pick lane, parking space, side road or yard for a vehicle."""
        road, rng = self.road, self.rng
        choice = rng.random()
        parked = road.parking[0] + road.parking[1] > 0
        if z > 9 and choice < (0.23 if name != 'Truck' else 0.1):
            return self._aside(name, z)
        if parked and choice < (0.80 if name != 'Truck' else 0.3):
            sides = [side for side in (0, 1) if road.parking[side]]
            return self._parked(sides[int(rng.integers(len(sides)))], size, z)
        lane = int(rng.integers(sum(road.lanes)))
        if name == 'Truck' and rng.random() < 0.4:
            lane = sum(road.lanes) - 1
        ours = lane >= road.lanes[0]
        lateral = (lane - road.lanes[0] + 0.5) * road.lane_m + rng.normal(0, 0.18)
        if abs(lateral - self.own_lateral) < 1.5 and z < 9:
            return None
        at, heading = road.at(lateral, z)
        yaw = heading + (-np.pi / 2 if ours else np.pi / 2) + rng.normal(0, 0.02)
        return at, float(yaw), self.speeds[lane]

    def _parked(self, side: int, size: Array, z: float) -> tuple[Array, float, float] | None:
        road, rng = self.road, self.rng
        sign = (-1.0, 1.0)[side]
        row = self.rows[side]
        if row and rng.random() < TOGETHER:
            z, length = row[int(rng.integers(len(row)))]
            apart = (
                2.5 if road.parking[side] == 2 else (length + size[2]) / 2 + uniform(rng, 0.4, 1.2)
            )
            z += apart * (-1.0, 1.0)[rng.integers(2)]
        if road.crossed(z) or z < 2.0:
            return None
        row.append((z, size[2]))
        inner = sign * road.lanes[side] * road.lane_m
        if road.parking[side] == 1:
            lateral = inner + sign * (PARKING_M[1] - size[1] / 2 + 0.05 + abs(rng.normal(0, 0.1)))
            at, heading = road.at(lateral, z)
            away = side == 1 if rng.random() < 0.93 else side == 0
            return (
                at,
                float(heading + (-np.pi / 2 if away else np.pi / 2) + rng.normal(0, 0.025)),
                0.0,
            )
        z = round(z / 2.5) * 2.5 + rng.normal(0, 0.08)
        lateral = inner + sign * (PARKING_M[2] - size[2] / 2 - abs(rng.normal(0, 0.25)))
        at, heading = road.at(lateral, z)
        inwards = heading + (np.pi if side == 0 else 0.0)
        turned = 0.0 if rng.random() < 0.7 else np.pi
        return at, float(inwards + turned + rng.normal(0, 0.04)), 0.0

    def _aside(self, name: str, z: float) -> tuple[Array, float, float]:
        """Stand in a side road, yard or car park: anywhere beyond the pavements."""
        road, rng = self.road, self.rng
        left, right = road.edges_m
        sign = -1.0 if rng.random() < (0.64 if name == 'Car' else 0.4) else 1.0
        edge = (left if sign < 0 else right) + sign * (road.walk_m + 2.5)
        reach = max(2.0, min(0.75 * z, 22.0) - abs(edge) * 0.4)
        at, heading = road.at(edge + sign * uniform(rng, 0, reach), z)
        turn = (0.0, 0.5, 1.0, -0.5)[pick(rng, (0.28, 0.3, 0.27, 0.15))] * np.pi
        return at, float(heading + turn + rng.normal(0, 0.12)), 0.0

    def _on_foot(self, z: float) -> tuple[Array, float, float]:
        road, rng = self.road, self.rng
        left, right = road.edges_m
        sign = -1.0 if rng.random() < 0.45 else 1.0
        if rng.random() < (0.14 if z > 11 else 0.5):  # crossing
            reach = min(0.75 * z, right - left)
            lateral = float(np.clip(self.own_lateral + uniform(rng, -reach, reach), left, right))
            across = True
        else:
            lateral = (left if sign < 0 else right) + sign * uniform(rng, 0.4, road.walk_m + 1.5)
            across = rng.random() < 0.6
        at, heading = road.at(lateral, z)
        along = heading + (np.pi / 2 if rng.random() < 0.5 else -np.pi / 2)
        yaw = uniform(rng, -np.pi, np.pi) if across else along + rng.normal(0, 0.25)
        return at, float(yaw), float(uniform(rng, 0.6, 1.7))

    def _beside(self, other: Placement) -> tuple[Array, float, float]:
        """Walk with somebody, or past them."""
        rng = self.rng
        far, side = uniform(rng, 0.5, 1.6), (-1, 1)[rng.integers(2)]
        x, _, z = other.bottom_m + far * np.array([side, 0.0, uniform(rng, -1.5, 1.5)])
        at, _ = self.road.at(float(self.road.lateral(x, z)), float(z))
        turn = np.pi if rng.random() < 0.25 else 0.0
        return at, float(other.yaw + turn + rng.normal(0, 0.15)), float(uniform(rng, 0.6, 1.7))

    def _cycling(self, z: float) -> tuple[Array, float, float]:
        road, rng = self.road, self.rng
        left, right = road.edges_m
        sign = -1.0 if rng.random() < 0.12 else 1.0
        inner = sign * road.lanes[int(sign > 0)] * road.lane_m
        if rng.random() < 0.7:
            lateral = inner - sign * uniform(rng, 0.3, 0.9)
        else:
            lateral = (left if sign < 0 else right) + sign * uniform(rng, 0.4, road.walk_m + 1.0)
        at, heading = road.at(lateral, z)
        turn = -np.pi / 2 if (sign > 0) == (rng.random() < 0.8) else np.pi / 2
        if rng.random() < 0.4:
            turn = uniform(rng, -np.pi, np.pi)
        return at, float(heading + turn + rng.normal(0, 0.08)), float(uniform(rng, 2.5, 6.5))


def _discs(at: Array, half_length: float, half_width: float, yaw: float) -> Array:
    """Cover a footprint with discs: (K, 3) x, z, radius."""
    count = max(1, int(np.ceil(half_length / max(half_width, 0.2))))
    along = (np.arange(count) - (count - 1) / 2) * 2 * half_length / count
    direction = np.array([np.cos(yaw), -np.sin(yaw)])
    radius = np.hypot(half_length / count, half_width) * 0.93
    return np.column_stack([at + along[:, None] * direction, np.full(count, radius)])


def moved(thing: Thing, road: Road, seconds: float) -> Thing:
    """Let a thing go on for a while: along the road in its lane, or straight across it."""
    place, way = thing.place, thing.speed_m_s * seconds
    if not way:
        return thing
    x, _, z = place.bottom_m
    start = float(road.heading(z))
    along = -np.sin(place.yaw - start)
    if abs(along) > 0.8:
        at, heading = road.at(float(road.lateral(x, z)), float(z + np.sign(along) * way))
        yaw = place.yaw + heading - start
    else:
        x, z = x + np.cos(place.yaw) * way, z - np.sin(place.yaw) * way
        (at, _), yaw = road.at(float(road.lateral(x, z)), float(z)), place.yaw
    return replace(thing, place=Placement(at, yaw, place.size_hwl_m, place.owner))

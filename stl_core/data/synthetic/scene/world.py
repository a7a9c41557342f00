"""
World generation: a road, roadside scenery, and traffic drawn from KITTI's label statistics.

All randomness comes from a numpy Generator, which the caller seeds by (seed, frame).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stl_core.data.synthetic.scene import people, scenery, vehicles
from stl_core.data.synthetic.scene.builder import Builder
from stl_core.data.synthetic.scene.distributions import (
    CLASSES,
    draw_index,
    draw_uniform,
    load_kitti_statistics,
)
from stl_core.data.synthetic.scene.road import PARKING_WIDTH_M, Road, draw_road
from stl_core.data.synthetic.scene.solids import ObjectPose, Solids, concatenate_solids
from stl_core.types import Array

ACTOR_BUILDERS: dict[str, Callable[[Builder, ObjectPose, np.random.Generator], None]] = {
    'Car': vehicles.add_car,
    'Van': vehicles.add_van,
    'Truck': vehicles.add_truck,
    'Pedestrian': people.add_pedestrian,
    'Cyclist': people.add_cyclist,
}

#: Length of a road, and length of the stretch that one draw of traffic fills, metres.
ROAD_LENGTH_M = 190.0
TRAFFIC_WINDOW_M = 65.0

#: Objects attempted per object in KITTI's labels: some end up hidden or find no free pose.
OVERSAMPLING = {'Car': 1.34, 'Van': 1.2, 'Truck': 1.05, 'Pedestrian': 1.1, 'Cyclist': 1.5}

#: Probability that a vehicle parks next to another, and that a pedestrian walks with another.
GROUP_PROBABILITY = 0.5

#: Probability that a pose behind another road user is tried first.
OCCLUDED_PROBABILITY = {'Car': 0.55, 'Van': 0.9, 'Truck': 0.7}


@dataclass(frozen=True)
class Actor:
    """
    One road user.

    :param name: class, one of CLASSES.
    :param pose: pose in the world frame; its actor_id is the number of this road user.
    :param speed_m_s: speed along its heading.
    :param appearance_seed: seed of its shape and colours.
    """

    name: str
    pose: ObjectPose
    speed_m_s: float
    appearance_seed: int


@dataclass(frozen=True)
class World:
    """
    A scene: road, scenery, road users, sun, weather and the pose of the ego car.

    :param road: the road.
    :param scenery: the static solids, ground included, world frame.
    :param actors: N road users.
    :param sun: (3,) unit vector to the sun.
    :param weather_draws: (8,) random draws of the weather, see lighting.weather_from_draws.
    :param ego_m: (3,) ground point under the camera.
    :param heading: heading of the rig about y, radians.
    :param lateral_m: lateral position of the camera on the road.
    :param speed_m_s: speed of the ego car.
    """

    road: Road
    scenery: Solids
    actors: list[Actor]
    sun: Array
    weather_draws: Array
    ego_m: Array
    heading: float
    lateral_m: float
    speed_m_s: float

    def solids(self) -> Solids:
        """Return the solids of scenery and road users, world frame."""
        if not self.actors:
            return self.scenery
        builder = Builder()
        for actor in self.actors:
            ACTOR_BUILDERS[actor.name](
                builder, actor.pose, np.random.default_rng(actor.appearance_seed)
            )
        return concatenate_solids([self.scenery, builder.solids()])


def make_world(rng: np.random.Generator, drive_m: float = 0.0) -> World:
    """
    Draw a random world.

    :param rng: the only source of randomness.
    :param drive_m: length of the drive: road and traffic extend as far.
    :return: the world.
    """
    road = draw_road(rng, ROAD_LENGTH_M + drive_m)
    lane = int(rng.integers(road.lanes[1])) if road.kind == 'highway' else road.lanes[1] - 1
    lateral = float((lane + 0.5) * road.lane_width_m + rng.normal(0, 0.15))
    ego_m, heading = road.point_at(lateral, 0.0)
    heading += rng.normal(0, 0.012)
    placer = _TrafficPlacer(road, ego_m, heading, lateral, rng)
    for start_m in np.arange(0.0, drive_m + 1.0, TRAFFIC_WINDOW_M):
        placer.draw_window(float(start_m))
    actors = placer.actors
    sightlines = np.array(
        [[*ego_m[[0, 2]], *actor.pose.bottom_m[[0, 2]]] for actor in actors]
    ).reshape(-1, 4)
    builder = Builder()
    scenery.add_scenery(builder, road, sightlines, rng)
    azimuth, height = draw_uniform(rng, -np.pi, np.pi), np.radians(draw_uniform(rng, 18, 62))
    sun = np.array(
        [np.cos(height) * np.sin(azimuth), -np.sin(height), np.cos(height) * np.cos(azimuth)]
    )
    speed = placer.lane_speeds_m_s[road.lanes[0] + lane]
    static = concatenate_solids([road.ground_solids(), builder.solids()])
    return World(road, static, actors, sun, rng.random(8), ego_m, heading, lateral, speed)


class _TrafficPlacer:
    """Finds a free pose for each road user: in a lane, parked, on a pavement, in a side road."""

    def __init__(
        self,
        road: Road,
        ego_m: Array,
        heading: float,
        ego_lateral_m: float,
        rng: np.random.Generator,
    ) -> None:
        self.road, self.rng, self.ego_m, self.heading = road, rng, ego_m, heading
        self.ego_lateral_m = ego_lateral_m
        self.actors: list[Actor] = []
        # z and length of the vehicles parked left and right
        self.parked_rows: tuple[list[tuple[float, float]], ...] = ([], [])
        # one speed per lane, so vehicles in a lane never collide
        self.lane_speeds_m_s = rng.uniform(6.0, 12.0, sum(road.lanes)).tolist()
        # x, z and half the length of the road users placed so far
        self.placed_bodies = np.zeros((0, 3))
        # the footprint of the ego car stays free
        self.occupied_discs = _footprint_discs(
            ego_m[[0, 2]] + [0, -0.5], 3.0, 1.1, heading - np.pi / 2
        )

    def draw_window(self, start_m: float) -> None:
        """Draw the number of road users of every class and place them, with z from start_m."""
        statistics = load_kitti_statistics()
        for name in CLASSES:
            count = statistics[name].draw_count(self.rng)
            if name == 'Car' and self.road.kind in ('country', 'highway'):
                count = round(0.75 * count)
            count += int(self.rng.poisson(count * (OVERSAMPLING[name] - 1)))
            sizes = statistics[name].draw_sizes(self.rng, count)
            for size in sizes:
                self._place_actor(name, size, start_m)

    def _place_actor(self, name: str, size: Array, start_m: float) -> None:
        occluded = self.rng.random() < OCCLUDED_PROBABILITY.get(name, 0.0)
        for attempt in range(20):
            if attempt % 12 == 0:  # try other lateral positions before another z
                z = float(load_kitti_statistics()[name].draw('z_m', self.rng, 1)[0]) + start_m
            proposal = self._propose(name, size, z)
            if proposal is None:
                continue
            position_m, yaw, speed = proposal
            if attempt < 8 and occluded and not self._is_occluded(position_m[[0, 2]]):
                continue
            discs = _footprint_discs(position_m[[0, 2]], size[2] / 2, size[1] / 2, yaw)
            if self._is_free(discs):
                self.occupied_discs = np.concatenate([self.occupied_discs, discs])
                self.placed_bodies = np.concatenate(
                    [self.placed_bodies, [[position_m[0], position_m[2], size[2] / 2]]]
                )
                pose = ObjectPose(position_m, yaw, size, len(self.actors))
                appearance_seed = int(self.rng.integers(2**31))
                self.actors.append(Actor(name, pose, speed, appearance_seed))
                return

    def _is_occluded(self, position_xz: Array) -> bool:
        """Return whether a placed road user stands between the camera and a position."""
        to_position, others = (
            position_xz - self.ego_m[[0, 2]],
            self.placed_bodies[:, :2] - self.ego_m[[0, 2]],
        )
        fraction = others @ to_position / (to_position @ to_position)
        distance = np.linalg.norm(fraction[:, None] * to_position - others, axis=1)
        between = (fraction > 0.1) & (fraction < 0.95)
        return bool((between & (distance < 0.5 * self.placed_bodies[:, 2] + 0.5)).any())

    def _is_free(self, discs: Array) -> bool:
        """Return whether a footprint, covered by discs, overlaps none of the others."""
        distance = np.hypot(*(discs[:, None, i] - self.occupied_discs[:, i] for i in (0, 1)))
        return not (distance < discs[:, None, 2] + self.occupied_discs[:, 2] + 0.12).any()

    def _propose(self, name: str, size: Array, z: float) -> tuple[Array, float, float] | None:
        if name == 'Pedestrian':
            others = [t.pose for t in self.actors if t.name == name]
            if others and self.rng.random() < 0.7 * GROUP_PROBABILITY:
                return self._propose_companion(others[int(self.rng.integers(len(others)))])
            return self._propose_pedestrian(z)
        if name == 'Cyclist':
            return self._propose_cyclist(z)
        return self._propose_vehicle(name, size, z)

    def _propose_vehicle(
        self, name: str, size: Array, z: float
    ) -> tuple[Array, float, float] | None:
        """Propose a lane, parking space, side road or yard for a vehicle; None to try again."""
        road, rng = self.road, self.rng
        choice = rng.random()
        parked = road.parking[0] + road.parking[1] > 0
        if z > 9 and choice < (0.23 if name != 'Truck' else 0.1):
            return self._propose_off_road(name, z)
        if parked and choice < (0.80 if name != 'Truck' else 0.3):
            sides = [side for side in (0, 1) if road.parking[side]]
            return self._propose_parked(sides[int(rng.integers(len(sides)))], size, z)
        lane = int(rng.integers(sum(road.lanes)))
        if name == 'Truck' and rng.random() < 0.4:
            lane = sum(road.lanes) - 1
        same_direction = lane >= road.lanes[0]
        lateral = (lane - road.lanes[0] + 0.5) * road.lane_width_m + rng.normal(0, 0.18)
        if abs(lateral - self.ego_lateral_m) < 1.5 and z < 9:
            return None
        position_m, heading = road.point_at(lateral, z)
        yaw = heading + (-np.pi / 2 if same_direction else np.pi / 2) + rng.normal(0, 0.02)
        return position_m, float(yaw), self.lane_speeds_m_s[lane]

    def _propose_parked(
        self, side: int, size: Array, z: float
    ) -> tuple[Array, float, float] | None:
        road, rng = self.road, self.rng
        sign = (-1.0, 1.0)[side]
        row = self.parked_rows[side]
        if row and rng.random() < GROUP_PROBABILITY:
            z, length = row[int(rng.integers(len(row)))]
            spacing = (
                2.5
                if road.parking[side] == 2
                else (length + size[2]) / 2 + draw_uniform(rng, 0.4, 1.2)
            )
            z += spacing * (-1.0, 1.0)[rng.integers(2)]
        if road.in_junction(z) or z < 2.0:
            return None
        row.append((z, size[2]))
        inner = sign * road.lanes[side] * road.lane_width_m
        if road.parking[side] == 1:
            lateral = inner + sign * (
                PARKING_WIDTH_M[1] - size[1] / 2 + 0.05 + abs(rng.normal(0, 0.1))
            )
            position_m, heading = road.point_at(lateral, z)
            away = side == 1 if rng.random() < 0.93 else side == 0
            return (
                position_m,
                float(heading + (-np.pi / 2 if away else np.pi / 2) + rng.normal(0, 0.025)),
                0.0,
            )
        z = round(z / 2.5) * 2.5 + rng.normal(0, 0.08)
        lateral = inner + sign * (PARKING_WIDTH_M[2] - size[2] / 2 - abs(rng.normal(0, 0.25)))
        position_m, heading = road.point_at(lateral, z)
        inwards = heading + (np.pi if side == 0 else 0.0)
        turned = 0.0 if rng.random() < 0.7 else np.pi
        return position_m, float(inwards + turned + rng.normal(0, 0.04)), 0.0

    def _propose_off_road(self, name: str, z: float) -> tuple[Array, float, float]:
        """Propose a pose in a side road, yard or car park, beyond the pavements."""
        road, rng = self.road, self.rng
        left, right = road.edges_m
        sign = -1.0 if rng.random() < (0.64 if name == 'Car' else 0.4) else 1.0
        edge = (left if sign < 0 else right) + sign * (road.pavement_width_m + 2.5)
        reach = max(2.0, min(0.75 * z, 22.0) - abs(edge) * 0.4)
        position_m, heading = road.point_at(edge + sign * draw_uniform(rng, 0, reach), z)
        turn = (0.0, 0.5, 1.0, -0.5)[draw_index(rng, (0.28, 0.3, 0.27, 0.15))] * np.pi
        return position_m, float(heading + turn + rng.normal(0, 0.12)), 0.0

    def _propose_pedestrian(self, z: float) -> tuple[Array, float, float]:
        road, rng = self.road, self.rng
        left, right = road.edges_m
        sign = -1.0 if rng.random() < 0.45 else 1.0
        if rng.random() < (0.14 if z > 11 else 0.5):  # crossing
            reach = min(0.75 * z, right - left)
            lateral = float(
                np.clip(self.ego_lateral_m + draw_uniform(rng, -reach, reach), left, right)
            )
            across = True
        else:
            lateral = (left if sign < 0 else right) + sign * draw_uniform(
                rng, 0.4, road.pavement_width_m + 1.5
            )
            across = rng.random() < 0.6
        position_m, heading = road.point_at(lateral, z)
        along = heading + (np.pi / 2 if rng.random() < 0.5 else -np.pi / 2)
        yaw = draw_uniform(rng, -np.pi, np.pi) if across else along + rng.normal(0, 0.25)
        return position_m, float(yaw), float(draw_uniform(rng, 0.6, 1.7))

    def _propose_companion(self, other: ObjectPose) -> tuple[Array, float, float]:
        """Propose a pose next to another pedestrian, in the same or the opposite direction."""
        rng = self.rng
        far, side = draw_uniform(rng, 0.5, 1.6), (-1, 1)[rng.integers(2)]
        x, _, z = other.bottom_m + far * np.array([side, 0.0, draw_uniform(rng, -1.5, 1.5)])
        position_m, _ = self.road.point_at(float(self.road.lateral_position(x, z)), float(z))
        turn = np.pi if rng.random() < 0.25 else 0.0
        return (
            position_m,
            float(other.yaw + turn + rng.normal(0, 0.15)),
            float(draw_uniform(rng, 0.6, 1.7)),
        )

    def _propose_cyclist(self, z: float) -> tuple[Array, float, float]:
        road, rng = self.road, self.rng
        left, right = road.edges_m
        sign = -1.0 if rng.random() < 0.12 else 1.0
        inner = sign * road.lanes[int(sign > 0)] * road.lane_width_m
        if rng.random() < 0.7:
            lateral = inner - sign * draw_uniform(rng, 0.3, 0.9)
        else:
            lateral = (left if sign < 0 else right) + sign * draw_uniform(
                rng, 0.4, road.pavement_width_m + 1.0
            )
        position_m, heading = road.point_at(lateral, z)
        turn = -np.pi / 2 if (sign > 0) == (rng.random() < 0.8) else np.pi / 2
        if rng.random() < 0.4:
            turn = draw_uniform(rng, -np.pi, np.pi)
        return (
            position_m,
            float(heading + turn + rng.normal(0, 0.08)),
            float(draw_uniform(rng, 2.5, 6.5)),
        )


def _footprint_discs(
    position_xz: Array, half_length: float, half_width: float, yaw: float
) -> Array:
    """Return discs that cover a footprint: (K, 3) x, z, radius."""
    count = max(1, int(np.ceil(half_length / max(half_width, 0.2))))
    along = (np.arange(count) - (count - 1) / 2) * 2 * half_length / count
    direction = np.array([np.cos(yaw), -np.sin(yaw)])
    radius = np.hypot(half_length / count, half_width) * 0.93
    return np.column_stack([position_xz + along[:, None] * direction, np.full(count, radius)])


def move_actor(actor: Actor, road: Road, seconds: float) -> Actor:
    """Return a road user after some seconds: moved along its lane, or straight across."""
    pose, distance_m = actor.pose, actor.speed_m_s * seconds
    if not distance_m:
        return actor
    x, _, z = pose.bottom_m
    start = float(road.heading_at(z))
    along = -np.sin(pose.yaw - start)
    if abs(along) > 0.8:
        position_m, heading = road.point_at(
            float(road.lateral_position(x, z)), float(z + np.sign(along) * distance_m)
        )
        yaw = pose.yaw + heading - start
    else:
        x, z = x + np.cos(pose.yaw) * distance_m, z - np.sin(pose.yaw) * distance_m
        (position_m, _), yaw = (
            road.point_at(float(road.lateral_position(x, z)), float(z)),
            pose.yaw,
        )
    return replace(actor, pose=ObjectPose(position_m, yaw, pose.size_hwl_m, pose.actor_id))

"""
Names of nuScenes' detection benchmark: cameras, classes, attributes, ranges.

Facts of the benchmark (Caesar et al., nuScenes, CVPR 2020; configuration detection_cvpr_2019).
Names travel as strings, so that the order of a list never exchanges classes.
"""

from __future__ import annotations

#: The six cameras, clockwise from the front.
CAMERAS = (
    'CAM_FRONT',
    'CAM_FRONT_RIGHT',
    'CAM_BACK_RIGHT',
    'CAM_BACK',
    'CAM_BACK_LEFT',
    'CAM_FRONT_LEFT',
)
LIDAR = 'LIDAR_TOP'

#: The ten classes, in the benchmark's order.
CLASSES = (
    'car',
    'truck',
    'bus',
    'trailer',
    'construction_vehicle',
    'pedestrian',
    'motorcycle',
    'bicycle',
    'traffic_cone',
    'barrier',
)

#: Category of an annotation -> class; other categories are not evaluated.
CATEGORY_CLASSES = {
    'movable_object.barrier': 'barrier',
    'vehicle.bicycle': 'bicycle',
    'vehicle.bus.bendy': 'bus',
    'vehicle.bus.rigid': 'bus',
    'vehicle.car': 'car',
    'vehicle.construction': 'construction_vehicle',
    'vehicle.motorcycle': 'motorcycle',
    'human.pedestrian.adult': 'pedestrian',
    'human.pedestrian.child': 'pedestrian',
    'human.pedestrian.construction_worker': 'pedestrian',
    'human.pedestrian.police_officer': 'pedestrian',
    'movable_object.trafficcone': 'traffic_cone',
    'vehicle.trailer': 'trailer',
    'vehicle.truck': 'truck',
}

_VEHICLE = ('vehicle.moving', 'vehicle.parked', 'vehicle.stopped')
_CYCLE = ('cycle.with_rider', 'cycle.without_rider')
_PEDESTRIAN = ('pedestrian.moving', 'pedestrian.sitting_lying_down', 'pedestrian.standing')

ATTRIBUTES = (*_VEHICLE, *_CYCLE, *_PEDESTRIAN)

#: Attributes that an object of a class may have.
CLASS_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    'car': _VEHICLE,
    'truck': _VEHICLE,
    'bus': _VEHICLE,
    'trailer': _VEHICLE,
    'construction_vehicle': _VEHICLE,
    'pedestrian': _PEDESTRIAN,
    'motorcycle': _CYCLE,
    'bicycle': _CYCLE,
    'traffic_cone': (),
    'barrier': (),
}

#: Greatest distance from the vehicle, on the ground, at which a class is evaluated, metres.
CLASS_RANGE_M = {
    'car': 50.0,
    'truck': 50.0,
    'bus': 50.0,
    'trailer': 50.0,
    'construction_vehicle': 50.0,
    'pedestrian': 40.0,
    'motorcycle': 40.0,
    'bicycle': 40.0,
    'traffic_cone': 30.0,
    'barrier': 30.0,
}

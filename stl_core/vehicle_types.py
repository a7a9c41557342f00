"""
Objects around a vehicle, as several cameras or a LiDAR show them: detected, and annotated.

The vehicle frame is x forward, y left, z up, in metres, from a point on the ground below the
vehicle; nuScenes calls it ego frame. N is the number of objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stl_core.types import Array, StructOfArrays, index_names


@dataclass(frozen=True)
class VehicleObjects(StructOfArrays):
    """
    N objects around a vehicle: x forward, y left, z up, from a point on the ground.

    :param class_id: (N,) index into the class list in use, -1 for a class not in it.
    :param score: (N,) confidence, 0 to 1; 1 for labels.
    :param center_m: (N, 3) geometric centre of the box.
    :param size_hwl_m: (N, 3) height, width, length.
    :param yaw: (N,) about z, 0 = length along x, in [-pi, pi).
    :param velocity_mps: (N, 2) velocity over ground along x and y; nan where unknown.
    :param attribute_id: (N,) index into the attributes in use; -1 where unknown.
    :param range_sigma_m: (N,) standard deviation of the distance from the vehicle; 0 for labels.
    """

    class_id: Array
    score: Array
    center_m: Array
    size_hwl_m: Array
    yaw: Array
    velocity_mps: Array = None  # type: ignore[assignment]  # becomes an array of UNKNOWN
    attribute_id: Array = None  # type: ignore[assignment]
    range_sigma_m: Array = None  # type: ignore[assignment]

    FIELD_SHAPES: ClassVar[dict[str, tuple[int, ...]]] = {
        'class_id': (),
        'score': (),
        'center_m': (3,),
        'size_hwl_m': (3,),
        'yaw': (),
        'velocity_mps': (2,),
        'attribute_id': (),
        'range_sigma_m': (),
    }
    FIELD_DTYPES: ClassVar[dict[str, Any]] = {'class_id': np.int64, 'attribute_id': np.int64}
    UNKNOWN: ClassVar[dict[str, Any]] = {
        'velocity_mps': np.nan,
        'attribute_id': -1,
        'range_sigma_m': 0.0,
    }


@dataclass(frozen=True)
class VehicleLabels(StructOfArrays):
    """
    Annotated objects around a vehicle at one time, of every class; see VehicleObjects.

    :param name: (N,) class name.
    :param center_m: (N, 3) geometric centre.
    :param size_hwl_m: (N, 3) height, width, length.
    :param yaw: (N,) about z.
    :param velocity_mps: (N, 2) velocity over ground; nan where unknown.
    :param attribute: (N,) attribute; '' where unknown.
    :param num_points: (N,) points of LiDAR and radar inside the box; -1 where not counted.
    """

    name: Array
    center_m: Array
    size_hwl_m: Array
    yaw: Array
    velocity_mps: Array = None  # type: ignore[assignment]  # becomes an array of UNKNOWN
    attribute: Array = None  # type: ignore[assignment]
    num_points: Array = None  # type: ignore[assignment]

    FIELD_SHAPES: ClassVar[dict[str, tuple[int, ...]]] = {
        'name': (),
        'center_m': (3,),
        'size_hwl_m': (3,),
        'yaw': (),
        'velocity_mps': (2,),
        'attribute': (),
        'num_points': (),
    }
    FIELD_DTYPES: ClassVar[dict[str, Any]] = {
        'name': np.str_,
        'attribute': np.str_,
        'num_points': np.int64,
    }
    UNKNOWN: ClassVar[dict[str, Any]] = {'velocity_mps': np.nan, 'attribute': '', 'num_points': -1}

    def to_objects(
        self, classes: tuple[str, ...], attributes: tuple[str, ...] = ()
    ) -> VehicleObjects:
        """Return the objects of the listed classes, see Labels.to_objects."""
        class_id, attribute_id = (
            index_names(self.name, classes),
            index_names(self.attribute, attributes),
        )
        keep = class_id >= 0
        return VehicleObjects(
            class_id=class_id[keep],
            score=np.ones(int(keep.sum())),
            center_m=self.center_m[keep],
            size_hwl_m=self.size_hwl_m[keep],
            yaw=self.yaw[keep],
            velocity_mps=self.velocity_mps[keep],
            attribute_id=attribute_id[keep],
        )

"""Structs of arrays: columns that may be left out, joining, names to indices."""

import numpy as np
import pytest
from label_rows import box, frame

from stl_core.geometry import flip_objects, lift, project_objects
from stl_core.types import Labels
from stl_core.vehicle_types import VehicleLabels

CLASSES, ATTRIBUTES = ('Car', 'Pedestrian'), ('vehicle.moving', 'vehicle.parked')
P = np.array([[700.0, 0, 320, 0], [0, 700, 180, 0], [0, 0, 1, 0]])


def moving_car():
    return box('Car', 200, velocity_mps=[3.0, 0.0, 4.0], attribute='vehicle.parked', num_points=7)


def test_columns_that_may_be_left_out_become_unknown():
    labels = frame(box('Car', 100), box('Pedestrian', 300))
    assert np.isnan(labels.velocity_mps).all()
    assert labels.velocity_mps.shape == (2, 3)
    assert labels.attribute.tolist() == ['', '']
    assert labels.num_points.tolist() == [-1, -1]
    assert len(Labels.empty().velocity_mps) == 0
    with pytest.raises(ValueError, match='velocity_mps must have shape'):
        frame(box('Car', 100, velocity_mps=[1.0, 2.0]))


def test_joined_labels_keep_every_column_and_long_names():
    joined = Labels.concatenate([Labels.empty(), frame(box('Car', 100)), frame(moving_car())])
    assert joined.attribute.tolist() == ['', 'vehicle.parked']
    assert np.isnan(joined.velocity_mps[0]).all()
    assert joined.velocity_mps[1].tolist() == [3, 0, 4]
    assert len(Labels.concatenate([])) == 0


def test_velocity_and_attribute_survive_projection_and_mirror_with_the_image():
    objects = frame(moving_car()).to_objects(CLASSES, ATTRIBUTES)
    assert objects.attribute_id.tolist() == [1]
    assert frame(moving_car()).to_objects(CLASSES).attribute_id.tolist() == [-1]
    again = lift(project_objects(objects, P), P)
    assert again.velocity_mps.tolist() == [[3, 0, 4]]
    assert again.attribute_id.tolist() == [1]
    mirrored = flip_objects(objects, 640)
    assert mirrored.velocity_mps.tolist() == [[-3, 0, 4]]
    assert mirrored.center_m[0, 0] == -objects.center_m[0, 0]


def test_vehicle_labels_become_objects_of_the_listed_classes():
    labels = VehicleLabels(
        name=['truck', 'animal', 'car'],
        center_m=np.arange(9.0).reshape(3, 3),
        size_hwl_m=np.ones((3, 3)),
        yaw=[0.1, 0.2, 0.3],
        velocity_mps=[[1, 2], [0, 0], [np.nan, np.nan]],
        attribute=['vehicle.moving', '', 'unheard'],
    )
    objects = labels.to_objects(('car', 'truck'), ATTRIBUTES)
    assert objects.class_id.tolist() == [1, 0]
    assert objects.yaw.tolist() == [0.1, 0.3]
    assert objects.attribute_id.tolist() == [0, -1]
    assert objects.score.tolist() == [1, 1]
    assert objects.velocity_mps[0].tolist() == [1, 2]
    assert np.isnan(objects.velocity_mps[1]).all()
    assert objects.range_sigma_m.tolist() == [0, 0]

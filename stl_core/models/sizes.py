"""How large things are: what a detector starts from when it learns sizes."""

from __future__ import annotations

#: Mean height, width and length of the labelled objects of KITTI's train split. Car, Pedestrian
#: and Cyclist are as published detectors have them.
MEAN_SIZE_HWL_M = {
    'Car': (1.526, 1.629, 3.884),
    'Pedestrian': (1.761, 0.660, 0.842),
    'Cyclist': (1.737, 0.597, 1.763),
    'Van': (2.187, 1.913, 5.147),
    'Truck': (3.362, 2.609, 9.205),
    'Tram': (3.529, 2.360, 15.558),
    'Person_sitting': (1.279, 0.544, 1.064),
    'Misc': (1.617, 1.242, 2.501),
}

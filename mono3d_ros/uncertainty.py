"""What the depth_sigma_m of an object says of its centre in three dimensions."""

from __future__ import annotations

import numpy as np

from stl_core.types import Array, Objects3D


def depth_covariance(objects: Objects3D) -> Array:
    """
    Tell what depth_sigma_m makes uncertain of the centres: they may lie elsewhere on their rays.

    :param objects: N objects, camera frame.
    :return: (N, 3, 3) covariance in the camera frame, square metres; sigma squared at z, z.
    """
    # a network may say infinity; beyond the depth itself sigma says no more
    depth_m = np.maximum(np.abs(objects.center_m[:, 2]), 1e-6)
    share = np.minimum(objects.depth_sigma_m / depth_m, 1.0)
    along = objects.center_m * share[:, None]
    return along[:, :, None] * along[:, None, :]

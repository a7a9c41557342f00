"""Random raw heads of MonoDETR's queries, reproducible in any program without a file."""

import numpy as np

BATCH, LAYERS, GROUPS, QUERIES, CLASSES, HEADING_BINS, DEPTH_BINS = 2, 3, 11, 50, 3, 12, 80


def random_heads(height=24, width=80):
    """
    Draw raw heads of a training batch, with the shapes of stl_core.models.monodetr.

    :param height: height of the depth map, cells.
    :param width: width of the depth map, cells.
    :return: {name: float32 array}.
    """
    rng = np.random.default_rng(7)

    def normal(*dims, mean=0.0, std=1.0):
        return mean + std * rng.standard_normal(dims)

    shape = (BATCH, LAYERS, GROUPS * QUERIES)
    box = np.concatenate([normal(*shape, 2), normal(*shape, 4, mean=-2.5, std=0.7)], -1)
    depth = np.concatenate(
        [normal(*shape, 1, mean=25.0, std=10.0), normal(*shape, 1, mean=0.5, std=0.5)], -1
    )
    heads = {
        'class': normal(*shape, CLASSES, mean=-3.0, std=1.5),
        'box': box,
        'size_3d': normal(*shape, 3, mean=2.0, std=0.5),
        'heading': normal(*shape, 2 * HEADING_BINS),
        'depth': depth,
        'depth_map': normal(BATCH, DEPTH_BINS + 1, height, width),
    }
    return {name: value.astype(np.float32) for name, value in heads.items()}

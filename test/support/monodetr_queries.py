"""Answers of MonoDETR's queries that no network gave: the same in any program, without a file."""

import numpy as np

BATCH, LAYERS, GROUPS, QUERIES, CLASSES, HEADING_BINS, DEPTH_BINS = 2, 3, 11, 50, 3, 12, 80


def answers(height=24, width=80):
    """
    Draw the heads of a batch in training, raw, with the shapes of stl_core.models.monodetr.

    :param height: of the depth map.
    :param width: of the depth map.
    :return: {name: float32 array}.
    """
    rng = np.random.default_rng(7)

    def normal(*shape, mean=0.0, std=1.0):
        return mean + std * rng.standard_normal(shape)

    each = (BATCH, LAYERS, GROUPS * QUERIES)
    box = np.concatenate([normal(*each, 2), normal(*each, 4, mean=-2.5, std=0.7)], -1)
    depth = np.concatenate(
        [normal(*each, 1, mean=25.0, std=10.0), normal(*each, 1, mean=0.5, std=0.5)], -1
    )
    drawn = {
        'class': normal(*each, CLASSES, mean=-3.0, std=1.5),
        'box': box,
        'size_3d': normal(*each, 3, mean=2.0, std=0.5),
        'heading': normal(*each, 2 * HEADING_BINS),
        'depth': depth,
        'depth_map': normal(BATCH, DEPTH_BINS + 1, height, width),
    }
    return {name: value.astype(np.float32) for name, value in drawn.items()}

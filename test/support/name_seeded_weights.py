"""Random weights seeded by parameter names, reproducible in any program without a file."""

import zlib

import numpy as np


def fill(name, shape):
    """
    Draw the values of one parameter or buffer.

    Convolutions and matrices preserve the magnitude of activations in a ReLU network (He); norms
    are near the identity. num_batches_tracked is 0.

    :param name: key in the state dict of the published program.
    :param shape: shape of the parameter.
    :return: float32 array of that shape (int64 for num_batches_tracked).
    """
    if name.endswith('num_batches_tracked'):
        return np.zeros(shape, np.int64)
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith('running_var'):
        values = 1 + 0.1 * np.abs(values)
    elif name.endswith('running_mean'):
        values = 0.05 * values
    elif len(shape) > 1:
        values = values * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith('weight'):
        values = 1 + 0.05 * values
    else:
        values = 0.02 * values
    return values.astype(np.float32)


def fill_all(shapes):
    """Return {name: array} for {name: shape}."""
    return {name: fill(name, tuple(shape)) for name, shape in shapes.items()}

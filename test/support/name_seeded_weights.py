"""Weights that depend on a parameter's name alone: the same in any program, without a file."""

import zlib

import numpy as np


def fill(name, shape):
    """
    Draw the values of one parameter or buffer.

    Convolutions and matrices keep the size of what flows through a ReLU network; norms stay near
    the identity. num_batches_tracked is 0.

    :param name: its key in the state dict of the published program.
    :param shape: its shape.
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
    """{name: shape} -> {name: array}."""
    return {name: fill(name, tuple(shape)) for name, shape in shapes.items()}

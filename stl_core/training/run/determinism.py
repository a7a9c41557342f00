"""Deterministic algorithms of a run, so that a GPU repeats it bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stl_core.training.config_builder import ConfigError

#: Workspaces with which cuBLAS sums in a fixed order; it reads the variable when it starts.
_CUBLAS_VARIABLE, _CUBLAS_WORKSPACES = 'CUBLAS_WORKSPACE_CONFIG', (':4096:8', ':16:8')


@contextmanager
def deterministic_algorithms(enabled: bool, device: torch.device) -> Iterator[None]:
    """
    Let torch use deterministic algorithms only, within a `with` block.

    :param enabled: False changes nothing.
    :param device: device of the run.
    :raises ConfigError: on a GPU without the environment variable that cuBLAS needs for it, and
        for an operation without a deterministic algorithm on the device, naming it.
    """
    if not enabled:
        yield
        return
    if device.type == 'cuda' and os.environ.get(_CUBLAS_VARIABLE) not in _CUBLAS_WORKSPACES:
        raise ConfigError(
            f'deterministic: needs the environment variable {_CUBLAS_VARIABLE}=:4096:8 on a GPU'
        )
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as err:
        if 'does not have a deterministic implementation' not in str(err):
            raise
        raise ConfigError(f'deterministic: {str(err).splitlines()[0]}') from err
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark

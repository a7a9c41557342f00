"""
Distributed training: process groups, DistributedDataParallel and synchronised BatchNorm.

    torchrun --nproc-per-node 4 -m stl_core train config.yaml

Each process uses its own GPU. All processes need access to the output folder of the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stl_core.inference.runtimes.torch_runner import choose_device
from stl_core.tensors.reductions import world_size

T = TypeVar('T')

#: Timeout of collectives; the other processes wait in one while rank 0 validates.
GROUP_TIMEOUT = timedelta(hours=2)


@contextmanager
def process_group(device: str) -> Iterator[torch.device]:
    """
    Join the process group of torchrun within a `with` block; without torchrun, do nothing.

    Callers of several runs in a row wrap all of them in one outer block: inner blocks then reuse
    the group. Leaving and re-joining a group could receive messages of the previous one.

    :param device: 'auto', 'cpu' or 'cuda:N'; with several processes on GPUs, each process uses
        GPU LOCAL_RANK.
    :return: context manager that yields the device of this process.
    :raises ModelFileError: for a device that this machine lacks.
    """
    process_device = choose_device(device)
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        yield process_device
        return
    if process_device.type == 'cuda':
        process_device = choose_device(f'cuda:{os.environ["LOCAL_RANK"]}')
        torch.cuda.set_device(process_device)
    if dist.is_initialized():
        yield process_device
        return
    dist.init_process_group(
        'nccl' if process_device.type == 'cuda' else 'gloo', timeout=GROUP_TIMEOUT
    )
    try:
        yield process_device
    finally:
        dist.destroy_process_group()


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Convert BatchNorm to SyncBatchNorm if several processes train on GPUs."""
    if world_size() == 1 or device.type != 'cuda':
        return model
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def wrap_ddp(model: nn.Module) -> nn.Module:
    """Wrap a model in DistributedDataParallel, without buffer broadcast, if processes > 1."""
    return DistributedDataParallel(model, broadcast_buffers=False) if world_size() > 1 else model


def unwrap_ddp(model: nn.Module) -> nn.Module:
    """Return the model that wrap_ddp wrapped, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def no_gradient_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Return a context manager in which backward does not synchronise gradients."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def broadcast_scalar(value: float, device: torch.device) -> float:
    """Return the value of rank 0 in every process."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(tensor, src=0)
    return tensor.item()


def gather_objects(value: T) -> list[T]:
    """Return the values of all processes, by rank; every process calls it."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values

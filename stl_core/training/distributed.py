"""
Several processes, one run: what torchrun starts, joined by DistributedDataParallel.

    torchrun --nproc-per-node 4 -m stl_core train config.yaml

With more than one process each has its own card. The folder of the run must be one that all see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stl_core.inference import predictor
from stl_core.tensors.reductions import world_size

#: The others wait this long for the first process to judge.
GROUP_TIMEOUT = timedelta(hours=2)


@contextmanager
def process_group(device: str) -> Iterator[torch.device]:
    """
    Join the processes that torchrun started, for as long as this lasts.

    Whoever runs several runs in turn joins them around all: within, they stay joined. A group that
    is left and joined anew may meet what is left of the one before.

    :param device: 'auto', 'cpu' or 'cuda:N'; of several processes each takes card LOCAL_RANK.
    :return: the device of this process.
    :raises StudentError: for a device that is not there.
    """
    process_device = predictor.choose_device(device)
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        yield process_device
        return
    if process_device.type == 'cuda':
        process_device = predictor.choose_device(f'cuda:{os.environ["LOCAL_RANK"]}')
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
    """Let BatchNorm see the batches of all processes; torch can on GPUs only."""
    if world_size() == 1 or device.type != 'cuda':
        return model
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def wrap_ddp(model: nn.Module) -> nn.Module:
    """Let backward average the gradients of all processes; each keeps its own buffers."""
    return DistributedDataParallel(model, broadcast_buffers=False) if world_size() > 1 else model


def no_gradient_sync(model: nn.Module) -> AbstractContextManager[None]:
    """While it lasts, backward keeps the gradients of this process to itself."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def broadcast_scalar(value: float, device: torch.device) -> float:
    """Return the number that the first process has."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(tensor, src=0)
    return tensor.item()

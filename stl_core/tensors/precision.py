"""
What a network computes in: float32, or a half type where torch's autocast finds it safe.

Losses, gradients and weights are float32 in any case.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from stl_core.tensors.batch import Outputs

#: None is float32 throughout. The range of fp16 is so small that its gradients need scaling.
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def autocast_to(precision: str, device: torch.device) -> torch.autocast:
    """Return the `with` under which a network's forward computes in this precision."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def is_bf16_emulated(
    precision: str, device: torch.device, cpuinfo: Path = Path('/proc/cpuinfo')
) -> bool:
    """
    Tell whether a processor computes bf16 in software, many times slower than fp32.

    :param precision: key of PRECISIONS.
    :param device: what computes.
    :param cpuinfo: where Linux says what the processor has; elsewhere nothing is known, and False.
    """
    if precision != 'bf16' or device.type != 'cpu' or not cpuinfo.exists():
        return False
    return 'bf16' not in cpuinfo.read_text()


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """
    Compute a layer in float32 under any autocast: bfloat16 tells depths only 1.6 % apart.

    :param layer: of float32 weights.
    :param x: its input, of any float type.
    :return: its output, float32.
    """
    with autocast_to('fp32', x.device):
        found: Tensor = layer(x.float())
    return found


def outputs_to_float32(outputs: Outputs) -> Outputs:
    """Turn a network's half outputs into float32, for its losses."""

    def wide(value: Tensor) -> Tensor:
        return value.float() if value.is_floating_point() else value

    heads = {name: wide(value) for name, value in outputs.heads.items()}
    return replace(outputs, features=tuple(map(wide, outputs.features)), heads=heads)

"""
Compute precision of networks: float32, or half precision where torch's autocast considers it safe.

Losses, gradients and weights are always float32.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stl_core.tensors.detector import H, Outputs

#: None is float32 throughout. fp16 has so small a range that its gradients need scaling.
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def autocast_to(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context in which a network's forward computes in this precision."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def is_bf16_emulated(
    precision: str, device: torch.device, cpuinfo: Path = Path('/proc/cpuinfo')
) -> bool:
    """
    Return whether a CPU computes bf16 in software, many times slower than fp32.

    :param precision: key of PRECISIONS.
    :param device: device of the computation.
    :param cpuinfo: CPU flags, on Linux; False where the file does not exist.
    """
    if precision != 'bf16' or device.type != 'cpu' or not cpuinfo.exists():
        return False
    return 'bf16' not in cpuinfo.read_text()


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """
    Compute a layer in float32 under any autocast: bfloat16 resolves depths only to 1.6 %.

    :param layer: with float32 weights.
    :param x: its input, of any float type.
    :return: its output, float32.
    """
    with autocast_to('fp32', x.device):
        output: Tensor = layer(x.float())
    return output


def outputs_to_float32(outputs: Outputs[H]) -> Outputs[H]:
    """Return a network's outputs converted to float32, for its losses."""

    def to_float32(value: Tensor) -> Tensor:
        return value.float() if value.is_floating_point() else value

    computed = {name: v for name, v in vars(outputs.heads).items() if v is not None}
    heads = replace(
        cast(Any, outputs.heads), **{name: to_float32(v) for name, v in computed.items()}
    )
    added, visual_m = outputs.given_depth_added, outputs.visual_depth_m
    return replace(
        outputs,
        features=tuple(map(to_float32, outputs.features)),
        heads=heads,
        given_depth_added=None if added is None else to_float32(added),
        visual_depth_m=None if visual_m is None else to_float32(visual_m),
    )

"""
Runtime of .safetensors model files: torch.

The parts that need torch are in torch_runner.py and model_file.py, imported when a file is used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from stl_core.inference.runtimes.interface import RigRunner, Runner, Runtime

if TYPE_CHECKING:
    from stl_core.inference.model_spec import ModelSpec


def load_spec(path: Path) -> ModelSpec:
    """Read the header of a model file; see model_file.read_model_spec."""
    from stl_core.inference.model_file import read_model_spec

    return read_model_spec(path)


def load_runner(path: Path, device: str, precision: str) -> Runner:
    """Load the network of a model file onto a device; see torch_runner.load_torch_runner."""
    from stl_core.inference.runtimes.torch_runner import load_torch_runner

    return load_torch_runner(path, device, precision)


def load_rig_runner(path: Path, device: str, precision: str) -> RigRunner:
    """Load the network of a multi-view model file; see torch_rig_runner."""
    from stl_core.inference.runtimes.torch_rig_runner import load_torch_rig_runner

    return load_torch_rig_runner(path, device, precision)


def convert_to_half(path: Path, out: Path) -> None:
    """Copy a model file with weights in half precision; see model_file.convert_to_half."""
    from stl_core.inference import model_file

    model_file.convert_to_half(path, out)


def file_fault(path: Path) -> str:
    """Return the fault of a model file, or ''; its first 8 bytes give the length of the header."""
    try:
        size = path.stat().st_size
        with path.open('rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            header = json.loads(file.read(min(length, size)))
        ends = [each['data_offsets'][1] for name, each in header.items() if name != '__metadata__']
        missing = 8 + length + max(ends, default=0) - size
    except OSError as err:
        return f'not readable: {err}'
    except (ValueError, TypeError, AttributeError, LookupError):
        return f'not a model file ({size} bytes)'
    return f'truncated: {missing} bytes are missing' if missing > 0 else ''


RUNTIME = Runtime(
    *(load_spec, load_runner, file_fault, convert_to_half),
    takes_given_depth=True,
    load_rig_runner=load_rig_runner,
)

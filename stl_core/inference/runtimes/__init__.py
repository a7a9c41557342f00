"""
Runtimes by the suffix of the model files that they run; importing RUNTIMES needs only Python.

To add a runtime: a module here with load_spec and load_runner, and one line in RUNTIMES.
"""

from __future__ import annotations

from pathlib import Path

from stl_core.inference.runtimes import torch_runtime
from stl_core.inference.runtimes.interface import ModelFileError, Runtime

#: Suffix of a model file -> its runtime.
RUNTIMES: dict[str, Runtime] = {'.safetensors': torch_runtime.RUNTIME}


def find_runtime(path: str | Path) -> Runtime:
    """
    Return the runtime of a model file by its suffix, without reading the file.

    :raises ModelFileError: for an unknown suffix; the message lists the known ones.
    """
    suffix = Path(path).suffix
    if suffix not in RUNTIMES:
        raise ModelFileError(f'{path}: expected a file ending in {", ".join(RUNTIMES)}')
    return RUNTIMES[suffix]

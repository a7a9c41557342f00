"""
Read the state dict of a published checkpoint without executing pickled code.

Programs save objects next to the weights, such as their data set or configuration, and
torch.load(weights_only=True) rejects a file with unknown classes. The reader then loads the file
again with an unpickler that replaces every unknown class by an inert placeholder.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch import Tensor

from stl_core.inference.converters.key_mapping import WeightsError

#: Keys under which programs store the model's state dict, outermost first.
STATE_DICT_KEYS = ('state_dict', 'model_state', 'model_state_dict', 'model')
#: Prefix that DataParallel adds to every key.
DATA_PARALLEL_PREFIX = 'module.'
#: Exceptions that pickle or torch raises for a file that is not a checkpoint.
_UNREADABLE_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError,
    AttributeError,
)  # fmt: skip
#: Classes and functions that a state dict needs; torch itself resolves the storages.
_ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('torch', 'Size'): torch.Size,
    ('torch', 'device'): torch.device,
    ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
    ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """
    Read the state dict of a checkpoint's model.

    :param path: file of torch.save: a state dict, or dicts that nest it under STATE_DICT_KEYS.
    :return: {key without DATA_PARALLEL_PREFIX: tensor}, on the CPU.
    :raises WeightsError: for a file that is missing, unreadable or without a state dict.
    """
    if not Path(path).is_file():
        raise WeightsError(f'{path}: no such file; expected a checkpoint saved by torch.save')
    content = _load_checkpoint(path)
    while isinstance(content, dict) and any(name in content for name in STATE_DICT_KEYS):
        content = next(content[name] for name in STATE_DICT_KEYS if name in content)
    if not isinstance(content, dict):
        raise WeightsError(f'{path}: expected a state dict, got {type(content).__name__}')
    state = {
        str(key).removeprefix(DATA_PARALLEL_PREFIX): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }
    if not state:
        keys = ', '.join(map(str, list(content)[:5])) or 'nothing'
        raise WeightsError(
            f'{path}: no tensors, only {keys}; expected tensors in {", ".join(STATE_DICT_KEYS)}'
        )
    return state


def _load_checkpoint(path: str | Path) -> Any:
    """Load a checkpoint with torch.load; placeholders replace unknown classes."""
    try:
        try:
            return torch.load(path, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError:
            module = SimpleNamespace(Unpickler=_Unpickler, load=_unpickle, __name__=__name__)
            return torch.load(path, map_location='cpu', weights_only=False, pickle_module=module)
    except _UNREADABLE_ERRORS as err:
        reason = (str(err).strip() or repr(err)).splitlines()[0]
        raise WeightsError(f'{path}: not a readable checkpoint ({reason})') from err


class _Placeholder:
    """Inert replacement for an unknown class or function: it accepts any call or state."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Placeholder:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    append = extend = add = __setstate__


class _Unpickler(pickle.Unpickler):
    """An unpickler that resolves _ALLOWED_GLOBALS only and imports nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED_GLOBALS.get((module, name), _Placeholder)


def _unpickle(file: IO[bytes], **options: Any) -> Any:
    """Load a pickle with the restricted unpickler; replaces pickle.load."""
    return _Unpickler(file, **options).load()

"""
Read the weights out of a published checkpoint, without running any code that it names.

Programs save more than weights: their data set, their configuration. torch refuses a file that
names classes it does not know; such a file is read once more with something empty in their place.
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

#: Where programs put the model's state dict, outermost first.
STATE_DICT_KEYS = ('state_dict', 'model_state', 'model_state_dict', 'model')
#: What DataParallel puts before every key.
DATA_PARALLEL_PREFIX = 'module.'
#: What a file that is no checkpoint can make pickle raise.
_UNREADABLE_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError,
    AttributeError,
)  # fmt: skip
#: All that a state dict is made of besides storages, which torch itself knows.
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

    :param path: what torch.save wrote: a state dict, or one within WRAPPERS.
    :return: {key: tensor}, on the CPU, keys without PARALLEL.
    :raises WeightsError: for a file that is missing, unreadable or holds no state dict.
    """
    if not Path(path).is_file():
        raise WeightsError(f'{path}: no such file; expected a checkpoint of torch.save')
    found = _load_checkpoint(path)
    while isinstance(found, dict) and any(name in found for name in STATE_DICT_KEYS):
        found = next(found[name] for name in STATE_DICT_KEYS if name in found)
    if not isinstance(found, dict):
        raise WeightsError(f'{path}: expected a state dict, got {type(found).__name__}')
    state = {
        str(key).removeprefix(DATA_PARALLEL_PREFIX): value
        for key, value in found.items()
        if isinstance(value, Tensor)
    }
    if not state:
        keys = ', '.join(map(str, list(found)[:5])) or 'nothing'
        raise WeightsError(
            f'{path}: no tensors here, but {keys}; expected them in {", ".join(STATE_DICT_KEYS)}'
        )
    return state


def _load_checkpoint(path: str | Path) -> Any:
    """torch.load for weights alone; see the module for what names other classes."""
    try:
        try:
            return torch.load(path, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError:
            module = SimpleNamespace(Unpickler=_Unpickler, load=_unpickle, __name__=__name__)
            return torch.load(path, map_location='cpu', weights_only=False, pickle_module=module)
    except _UNREADABLE_ERRORS as err:
        reason = (str(err).strip() or repr(err)).splitlines()[0]
        raise WeightsError(f'{path}: not a checkpoint that can be read ({reason})') from err


class _Placeholder:
    """Takes whatever an unknown class or function is given, and does nothing."""

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
    """Finds what is trusted; anything else is a stand-in, and is not even imported."""

    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED_GLOBALS.get((module, name), _Placeholder)


def _unpickle(file: IO[bytes], **options: Any) -> Any:
    """pickle.load, with our unpickler."""
    return _Unpickler(file, **options).load()

"""
Read the state dict of a published checkpoint without executing pickled code.

Programs save objects next to the weights, such as their data set or configuration, and
torch.load(weights_only=True) rejects a file with unknown classes. The reader then loads the file
again with an unpickler that replaces every unknown class by an inert placeholder.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch import Tensor

from stl_core.files import foreign_content
from stl_core.inference.converters.key_mapping import WeightsError
from stl_core.tensors.finite import not_finite

log = logging.getLogger(__name__)

#: Keys under which programs store the model's state dict, preferred first; averaged weights last.
STATE_DICT_KEYS = (
    *('state_dict', 'model_state', 'model_state_dict', 'model', 'net', 'weights'),
    *('state_dict_ema', 'ema_state_dict', 'model_ema', 'ema'),
)
#: Prefix that DataParallel adds to every key.
DATA_PARALLEL_PREFIX = 'module.'
#: Part that torch.compile adds to the keys of what it compiles.
COMPILED_PART = '_orig_mod.'
#: Prefixes of all keys where a trainer, such as Lightning's, holds the model as an attribute.
ATTRIBUTE_PREFIXES = ('model.', 'net.')
#: Exceptions that pickle or torch raises for a file that is not a checkpoint.
_UNREADABLE_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError,
    AttributeError, AssertionError,
)  # fmt: skip
#: Classes and functions that a state dict needs; torch itself resolves the storages.
_ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('builtins', 'set'): set,
    ('__builtin__', 'set'): set,
    ('torch', 'Size'): torch.Size,
    ('torch', 'device'): torch.device,
    ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
    ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """
    Read the state dict of a checkpoint's model.

    :param path: file of torch.save: a state dict, a whole model, or dicts that nest one of these
        under STATE_DICT_KEYS.
    :return: {key: tensor}, on the CPU, without what DataParallel, torch.compile or a trainer add
        to every key.
    :raises WeightsError: for a file that is missing, unreadable or without a state dict, or with
        values that are not finite.
    """
    if not Path(path).is_file():
        raise WeightsError(f'{path}: no such file; expected a checkpoint saved by torch.save')
    content = _load_checkpoint(path)
    while names := _nested_keys(content):
        if len(names) > 1:
            log.info('%s: %s is read; not used: %s', path, names[0], ', '.join(names[1:]))
        content = content[names[0]]
    if isinstance(content, _Placeholder) and content.is_module:
        content = content.module_state()
    if not isinstance(content, dict):
        kind = 'an object of unknown class' if isinstance(content, _Placeholder) else ''
        raise WeightsError(
            f'{path}: expected a state dict, got {kind or type(content).__name__};'
            ' save model.state_dict()'
        )
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        keys = ', '.join(map(str, list(content)[:5])) or 'nothing'
        raise WeightsError(
            f'{path}: no tensors, only {keys}; expected tensors in {", ".join(STATE_DICT_KEYS)}'
        )
    if odd := not_finite(state):
        raise WeightsError(
            f'{path}: {len(odd)} of {len(state)} tensors are not finite, first {odd[0]}'
        )
    return _without_prefixes(state)


def _nested_keys(content: Any) -> list[str]:
    """Return the STATE_DICT_KEYS of a dict that hold a dict or a whole model."""
    if not isinstance(content, dict):
        return []
    return [
        name
        for name in STATE_DICT_KEYS
        if isinstance(content.get(name), dict)
        or (isinstance(content.get(name), _Placeholder) and content[name].is_module)
    ]


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove what wrappers of a model add to its keys; see read_state_dict."""
    state = {
        key.replace(COMPILED_PART, '').removeprefix(DATA_PARALLEL_PREFIX): value
        for key, value in state.items()
    }
    for prefix in ATTRIBUTE_PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {key.removeprefix(DATA_PARALLEL_PREFIX): value for key, value in state.items()}


def _load_checkpoint(path: str | Path) -> Any:
    """Load a checkpoint with torch.load; placeholders replace unknown classes."""
    try:
        if content := foreign_content(Path(path)):
            raise WeightsError(f'{path}: not a readable checkpoint: {content}')
        try:
            return torch.load(path, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError:
            module = SimpleNamespace(Unpickler=_Unpickler, load=_unpickle, __name__=__name__)
            with warnings.catch_warnings():  # that the source of a placeholder is another
                warnings.simplefilter('ignore', torch.serialization.SourceChangeWarning)
                return torch.load(path, 'cpu', weights_only=False, pickle_module=module)
    except WeightsError:
        raise
    except _UNREADABLE_ERRORS as err:
        reason = (str(err).strip() or repr(err)).splitlines()[0]
        raise WeightsError(f'{path}: not a readable checkpoint ({reason})') from err


class _Placeholder:
    """
    Inert replacement for an unknown class or function: it accepts any call or state.

    The state of a torch module is kept, as plain data: its parameters and buffers by name.
    """

    dump_patches = False  # torch.load asks the class of a module whether to write its source

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    @property
    def is_module(self) -> bool:
        """Whether it replaces a torch module."""
        return {'_modules', '_parameters', '_buffers'} <= vars(self).keys()

    def module_state(self, prefix: str = '') -> dict[str, Any]:
        """Return what state_dict() of the module would return."""
        parts = vars(self)
        unsaved = parts.get('_non_persistent_buffers_set') or ()
        state = {prefix + name: each for name, each in parts['_parameters'].items()}
        buffers = parts['_buffers'].items()
        state |= {prefix + name: each for name, each in buffers if name not in unsaved}
        for name, each in parts['_modules'].items():
            if isinstance(each, _Placeholder) and each.is_module:
                state |= each.module_state(f'{prefix}{name}.')
        return state

    def __call__(self, *_: Any, **__: Any) -> _Placeholder:
        return self

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict) and '_modules' in state:
            vars(self).update(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, *_: Any) -> None:
        pass

    extend = add = append


class _Unpickler(pickle.Unpickler):
    """An unpickler that resolves _ALLOWED_GLOBALS only and imports nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED_GLOBALS.get((module, name), _Placeholder)


def _unpickle(file: IO[bytes], **options: Any) -> Any:
    """Load a pickle with the restricted unpickler; replaces pickle.load."""
    return _Unpickler(file, **options).load()

"""Read the files of a run's folder; one that is torn or foreign is an error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stl_core.files import foreign_content

#: Keys of a checkpoint and their types; others depend on the configuration.
_CHECKPOINT_KEYS: dict[str, type] = {
    'model': dict,
    'optimizer': dict,
    'config': dict,
    'epoch': int,
}


class CheckpointError(RuntimeError):
    """A file of a run's folder that cannot be used; the message names it and says what to do."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """
    Read a checkpoint of checkpoint.save_checkpoint, on the CPU, without executing pickled code.

    :raises CheckpointError: for a file that is torn, foreign or not readable.
    """
    advice = 'restore a copy, or remove it to train from the start'
    if content := foreign_content(path):
        raise CheckpointError(f'{path}: {content}, not a checkpoint of a run; {advice}')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as err:  # torch documents none; torn files raise at least five kinds
        reason = (str(err).strip() or repr(err)).splitlines()[0].split('. ')[0][:120]
        raise CheckpointError(f'{path}: torn or not a checkpoint ({reason}); {advice}') from err
    missing = [
        key
        for key, kind in _CHECKPOINT_KEYS.items()
        if not isinstance(state, dict) or not isinstance(state.get(key), kind)
    ]
    if missing:
        raise CheckpointError(
            f'{path}: not a checkpoint of a run, it has no {", ".join(missing)}; {advice}'
        )
    return dict(state)


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that a finished run has written; CheckpointError for anything else."""
    advice = 'remove it and run again: last.pt has the weights'
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as err:
        raise CheckpointError(f'{path}: torn or not JSON ({err}); {advice}') from err
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f'{path}: expected a JSON object, got a {kind}; {advice}')
    return content

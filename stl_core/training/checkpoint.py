"""
Checkpoints: save and resume a training run, and detect finished runs.

Files are written atomically, so a crash at any moment leaves a complete checkpoint. With the
weights they hold a fingerprint of the data and the extensions of the run.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stl_core.files import atomic_file, sha256_of, write_atomically
from stl_core.inference import model_file
from stl_core.training import validation
from stl_core.training.config import build_train_config
from stl_core.training.config_builder import ConfigError
from stl_core.training.optim import Optimizer
from stl_core.training.resolved_config import ResolvedConfig
from stl_core.training.run import data_fingerprint, extension
from stl_core.training.run.data_fingerprint import RunData
from stl_core.training.run.extension import Extension
from stl_core.training.run.run_files import CheckpointError, read_checkpoint, read_json_object

log = logging.getLogger(__name__)

#: Keys that may change when a run is resumed, because they do not affect the weights. The start
#: model, the backbone's weights and the teacher are compared by SHA-256, not by path.
NOT_COMPARED = (
    'out',
    'start',
    'backbone_weights',
    'distill.teacher',
    'device',
    'deterministic',
    'workers',
    'save_every',
    'eval_every',
    'patience',
    'train.keep_images',
    'val.keep_images',
)
#: Key of done.json for the epochs and metric values with which the run ended.
ENDED_KEY = 'ended'
#: Key of done.json for the RunRecord and the digests of files.
RECORD_KEY = 'record'
#: Keys of the record and the files whose SHA-256 they hold.
_DIGESTS = (('model_sha256', 'student.safetensors'), ('metrics_sha256', 'metrics.json'))


@dataclass(frozen=True)
class ResumeOptions:
    """
    What a resumed run may do that is refused otherwise.

    :param extend: continue to more epochs than the run was planned for, see extension.Extension.
    :param extend_lr: learning rate at the start of the added epochs; None for a tenth of optim.lr.
    :param accept_data: continue with other data than before.
    """

    extend: bool = False
    extend_lr: float | None = None
    accept_data: bool = False


#: Options of a run that resumes only what it can resume without a change.
RESUME_ONLY = ResumeOptions()


@dataclass(frozen=True)
class RunRecord:
    """
    What the files of a run hold besides weights and configuration.

    :param data: fingerprints of its frames.
    :param extensions: epochs that were added to it.
    """

    data: RunData
    extensions: tuple[Extension, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            'data': data_fingerprint.to_json(self.data),
            'extensions': extension.to_json(self.extensions),
        }


@dataclass(frozen=True)
class SavedRun:
    """A checkpoint that fits a run: its path, its content, and the extensions of the run."""

    path: Path
    state: dict[str, Any]
    extensions: tuple[Extension, ...]

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return int(self.state['epoch'])


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    resolved: ResolvedConfig,
    epoch: int,
    record: RunRecord,
) -> None:
    """
    Write a checkpoint atomically: after a crash the file is either the old or the new one.

    :raises OutputError: if the disk is full; the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        'model': model.state_dict(),
        **optimizer.state_dict(),
        'config': dataclasses.asdict(resolved.config),
        'epoch': epoch,
        **record.to_json(),
    }
    with atomic_file(path) as part, part.open('wb') as file:  # with a path, torch hides the reason
        torch.save(state, file)


def find_saved_run(
    resolved: ResolvedConfig, data: RunData, options: ResumeOptions
) -> SavedRun | None:
    """
    Read the last checkpoint of a run, if it exists, and check that the run can resume from it.

    :param resolved: configuration of the run.
    :param data: fingerprints of the run's data.
    :param options: changes that are allowed.
    :return: the checkpoint, None without one.
    :raises CheckpointError: for a torn or foreign file, or a checkpoint of another configuration
        or of other data, naming what differs.
    """
    config = resolved.config
    path = Path(config.out) / 'last.pt'
    if not path.exists():
        _refuse_other_results(resolved)
        if options.extend:
            log.info('%s: no run to extend: it is trained from the start', config.out)
        return None
    state = read_checkpoint(path)
    try:
        extensions = extension.from_json(state.get('extensions'))
        has_data = data_fingerprint.from_json(state.get('data')) is not None
        differ = config_differences(resolved, state['config'], compare_paths=not has_data)
    except (ConfigError, TypeError) as err:
        raise CheckpointError(f'{path}: made by another version ({err})') from err
    epochs_before = int(state['config']['epochs'])
    if differ == ['epochs'] and epochs_before < config.epochs:
        if not options.extend:
            raise CheckpointError(
                f'{path}: made with another epochs; choose another out= or remove it, or give'
                f' --extend for {config.epochs} epochs, {config.epochs - epochs_before} more'
            )
        first = state['epoch'] if _ended_at(path.parent, state['epoch']) else epochs_before
        try:
            added = extension.make_extension(
                first, config.epochs, epochs_before, extensions, options.extend_lr, config.optim
            )
        except ValueError as err:
            raise CheckpointError(f'--extend-lr: {err}') from err
        extensions = (*extensions, added)
        differ = []
    _refuse_differences(path, differ, state.get('data'), data, options)
    return SavedRun(path, state, extensions)


def restore(saved: SavedRun, model: nn.Module, optimizer: Optimizer) -> None:
    """
    Restore model and optimiser from a checkpoint.

    Random numbers depend on (seed, epoch, frame) only and schedules on the epoch only, so the
    checkpoint is the complete state: on the same device and number of threads, a resumed run is
    bit-identical to an uninterrupted one.

    :param saved: from find_saved_run.
    :param model: module to restore.
    :param optimizer: optimiser to restore.
    :raises CheckpointError: for a state that does not fit them.
    """
    try:
        optimizer.require_same_groups(saved.state)
        model.load_state_dict(saved.state['model'])
        optimizer.load_state_dict(saved.state)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as err:
        reason = ' '.join(str(err).split())[:200]
        raise CheckpointError(
            f'{saved.path}: its state does not fit this run ({reason}); restore a copy, or remove'
            ' it to train from the start'
        ) from err


def _ended_at(out: Path, epoch: int) -> bool:
    """Return whether the run of a folder ended with this epoch, perhaps by early stopping."""
    path = out / 'done.json'
    ended = _read_done(path)[1] if path.exists() else None
    return isinstance(ended, dict) and ended.get('epochs') == epoch


def _refuse_other_results(resolved: ResolvedConfig) -> None:
    """Raise CheckpointError if the folder holds results of another run, without a checkpoint."""
    path = Path(resolved.config.out) / 'done.json'
    if not path.exists():
        return
    config, _, record = _read_done(path)
    try:
        differ = config_differences(resolved, config, compare_paths='data' not in record)
    except ConfigError as err:
        raise CheckpointError(f'{path}: of another version or program ({err})') from err
    _refuse_differences(path, differ, None, {}, RESUME_ONLY)


def _read_done(path: Path) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """
    Read done.json; CheckpointError for a torn or foreign file.

    :return: the configuration, the content of ENDED_KEY or None, that of RECORD_KEY or {}: older
        versions did not write these.
    """
    content = read_json_object(path)
    ended, record = content.pop(ENDED_KEY, None), content.pop(RECORD_KEY, None) or {}
    if 'epochs' not in content or not isinstance(record, dict):
        raise CheckpointError(
            f'{path}: not the record of a finished run; remove it and run again: last.pt has the'
            ' weights'
        )
    return content, ended, record


def _refuse_differences(
    path: Path, differ: Sequence[str], saved_data: Any, data: RunData, options: ResumeOptions
) -> None:
    """Raise CheckpointError for another configuration, or for other data unless accepted."""
    if differ:
        raise CheckpointError(
            f'{path}: made with another {", ".join(differ[:5])}; choose another out= or remove it'
        )
    then = data_fingerprint.from_json(saved_data)
    changes = data_fingerprint.differences(data, then) if then else []
    if changes and not options.accept_data:
        raise CheckpointError(
            f'{path}: made with other data: {", ".join(changes)}; choose another out=, or give'
            ' --accept-data to continue with the present data'
        )
    if changes:
        log.warning('%s: made with other data, accepted: %s', path, ', '.join(changes))


def config_differences(
    resolved: ResolvedConfig, other: dict[str, Any], compare_paths: bool = True
) -> list[str]:
    """
    List the dotted keys that differ between two configurations, except NOT_COMPARED.

    :param resolved: configuration of this run.
    :param other: plain data of another run's configuration; keys added since get their defaults.
    :param compare_paths: whether the paths of data sets must be equal; False where fingerprints of
        the data are compared, so that a data set can be moved.
    :return: sorted keys.
    :raises ConfigError: if `other` is no longer a valid configuration.
    """
    built = (build_train_config(dataclasses.asdict(resolved.config)), build_train_config(other))
    plain = [dataclasses.asdict(each) for each in built]
    here, there = (
        flatten_config(each if compare_paths else _without_data_paths(each)) for each in plain
    )
    differ = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
    return [key for key in differ if key not in NOT_COMPARED]


def _without_data_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with every path in its data sources replaced, without split files."""

    def replace_paths(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: replace_paths(each) for k, each in value.items() if k != 'split'}
        if isinstance(value, (list, tuple)):
            return [replace_paths(each) for each in value]
        return '<path>' if isinstance(value, str) and '/' in value.replace(os.sep, '/') else value

    return {**config, **{name: replace_paths(config[name]) for name in ('train', 'val')}}


def mark_done(
    resolved: ResolvedConfig, epochs: int, metric_values: Sequence[float], record: RunRecord
) -> None:
    """
    Write done.json, which marks a run as finished.

    :param resolved: configuration of the run.
    :param epochs: completed epochs; fewer than config.epochs after early stopping (patience).
    :param metric_values: metric of every evaluation since the last extension.
    :param record: data and extensions of the run.
    """
    out = Path(resolved.config.out)
    content = {
        **dataclasses.asdict(resolved.config),
        ENDED_KEY: {'epochs': epochs, 'values': list(metric_values)},
        RECORD_KEY: {**record.to_json(), **{key: sha256_of(out / name) for key, name in _DIGESTS}},
    }
    write_atomically(out / 'done.json', json.dumps(content, indent=1).encode())


def is_done(resolved: ResolvedConfig, options: ResumeOptions = RESUME_ONLY) -> bool:
    """
    Return whether a run of this configuration is finished, with model file and metrics written.

    A run that stopped early counts as finished only if config.patience would stop it there, too.

    :raises CheckpointError: for a finished run with a torn, foreign or exchanged file, or one that
        was trained on other data.
    :raises DataError: if the data of a finished run cannot be read.
    """
    config = resolved.config
    out = Path(config.out)
    model_path, done_path = out / 'student.safetensors', out / 'done.json'
    if not all(each.is_file() for each in (done_path, out / 'metrics.json', model_path)):
        return False
    done_config, ended, record = _read_done(done_path)
    try:
        if config_differences(resolved, done_config, compare_paths='data' not in record):
            return False
        if not ended or 'model_sha256' not in record:  # older versions wrote neither
            epoch = _read_finished_model(model_path, resolved)
            ended = ended or {'epochs': epoch, 'values': ()}
        complete = ended['epochs'] == config.epochs
        stalled = validation.is_stalled(ended['values'], config.patience)
    except (ConfigError, KeyError, TypeError) as err:
        raise CheckpointError(f'{done_path}: of another version or program ({err})') from err
    if not (complete or stalled):
        return False
    for key, name in _DIGESTS:
        if key in record and record[key] != sha256_of(out / name):
            raise CheckpointError(
                f'{out / name}: not the file that this run wrote; remove it and run again: last.pt'
                ' has the weights'
            )
    if 'data' in record and not options.accept_data:
        data = data_fingerprint.read_run_data(resolved)
        _refuse_differences(done_path, (), record['data'], data, options)
    return True


def _read_finished_model(path: Path, resolved: ResolvedConfig) -> int | None:
    """Return the epochs of a finished model file; CheckpointError if it is not the run's."""
    advice = 'remove it and run again: last.pt has the weights'
    try:
        spec = model_file.read_model_spec(path)
    except model_file.ModelFileError as err:
        raise CheckpointError(f'{err}; {advice}') from err
    expected = resolved.model_spec
    if (spec.detector, spec.classes) != (expected.detector, expected.classes):
        raise CheckpointError(f'{path}: not the file that this run wrote; {advice}')
    return spec.provenance.get('epoch')


def flatten_config(value: Any, path: str = '') -> dict[str, Any]:
    """Flatten nested dicts to {dotted path: JSON text}, equal for tuples and lists."""
    if isinstance(value, dict):
        parts = [
            flatten_config(item, f'{path}.{key}' if path else str(key))
            for key, item in value.items()
        ]
        return {key: item for part in parts for key, item in part.items()}
    return {path: json.dumps(value)}

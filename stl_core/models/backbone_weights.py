"""
ImageNet weights of a backbone: from a file, from the caches of timm, or over the network.

The caches are asked first, and the network only if it answers within seconds.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stl_core.files import foreign_content
from stl_core.tensors.finite import not_finite

#: Seconds in which a server must answer before a download is begun.
ANSWER_SECONDS = 3.0
#: Files of a repository of the hub that hold weights.
_HUB_FILES = ('model.safetensors', 'pytorch_model.bin')
#: Keys under which programs store a state dict.
_STATE_DICT_KEYS = ('state_dict', 'model')


def pretrained_weights(name: str) -> dict[str, Tensor]:
    """
    Return timm's ImageNet weights of a backbone, from its caches or over the network.

    :param name: a timm model.
    :raises ValueError: if there are none, or they are in no cache and cannot be downloaded; the
        message names what to do.
    """
    config = timm.get_pretrained_cfg(name)
    hub_id = config.hf_hub_id if config else None
    url = config.url if config else ''
    if not hub_id and not url:
        raise ValueError(f'pretrained: timm has no ImageNet weights of backbone {name!r}')
    cached = _cached_hub_file(hub_id, config.hf_hub_filename) or _cached_download(url)
    if cached is None:
        cached = _download(name, hub_id, config.hf_hub_filename, url)
    return read_weights(cached)


def read_weights(path: Path) -> dict[str, Tensor]:
    """
    Read a state dict: a .safetensors file or one of torch.save, without executing pickled code.

    :raises ValueError: for a file that is missing or holds no state dict, or values that are not
        finite; the message names it.
    """
    if not path.is_file():
        raise ValueError(f'{path}: no such file; expected weights (.safetensors, .pth or .bin)')
    if content := foreign_content(path):
        raise ValueError(f'{path}: {content}, not weights')
    try:
        if path.suffix == '.safetensors':
            state: object = load_file(path)
        else:
            state = torch.load(path, map_location='cpu', weights_only=True)
    except SafetensorError as err:
        raise ValueError(f'{path}: not readable weights ({err})') from err
    except Exception as err:  # torch documents none; torn files raise at least five kinds
        reason = (str(err).strip() or repr(err)).splitlines()[0][:120]
        raise ValueError(f'{path}: not readable weights ({reason})') from err
    while isinstance(state, Mapping) and any(key in state for key in _STATE_DICT_KEYS):
        state = next(state[key] for key in _STATE_DICT_KEYS if key in state)
    tensors = (
        {str(key).removeprefix('module.'): each for key, each in state.items()}
        if isinstance(state, Mapping)
        else {}
    )
    if not tensors or not all(isinstance(each, Tensor) for each in tensors.values()):
        raise ValueError(f'{path}: expected a state dict of tensors')
    if odd := not_finite(tensors):
        raise ValueError(
            f'{path}: {len(odd)} of {len(tensors)} tensors are not finite, first {odd[0]}'
        )
    return tensors


def require_fitting(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Return weights after comparing their keys and shapes with a timm model.

    :param name: a timm model.
    :param state: its weights, under the names of timm or of the program that timm converts; those
        of the classifier are not used and may be missing.
    :return: the weights with some classifier.
    :raises ValueError: for a missing or unknown key or another shape; the message names it.
    """
    model = timm.create_model(name)
    classifiers = model.pretrained_cfg.get('classifier') or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    unused = tuple(f'{each}.' for each in classifiers)
    fitting = {key: each for key, each in state.items() if not key.startswith(unused)}
    if not unused:
        fitting = dict(state)
    fitting |= {
        key: each for key, each in model.state_dict().items() if unused and key.startswith(unused)
    }
    try:
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay={'state_dict': fitting})
    except (RuntimeError, KeyError) as err:
        reason = ' '.join(str(err).replace('\t', ' ').split()).partition('state_dict for ')[2]
        reason = reason or ' '.join(str(err).split())
        raise ValueError(f'not the weights of backbone {name!r}: {reason[:160]}') from err
    return fitting


def _cached_hub_file(hub_id: str | None, filename: str | None) -> Path | None:
    """Return a file that the hub's cache holds; None without one."""
    if not hub_id:
        return None
    repository, _, revision = hub_id.partition('@')
    for each in (filename,) if filename else _HUB_FILES:
        path = huggingface_hub.try_to_load_from_cache(repository, each, revision=revision or None)
        if isinstance(path, str):
            return Path(path)
    return None


def _cached_download(url: str | None) -> Path | None:
    """Return the file of a URL that torch's cache holds; None without one."""
    path = _download_path(url) if url else None
    return path if path is not None and path.is_file() else None


def _download_path(url: str) -> Path:
    return Path(torch.hub.get_dir()) / 'checkpoints' / url.rpartition('/')[2]


def _download(name: str, hub_id: str | None, filename: str | None, url: str | None) -> Path:
    """Download weights from the hub, else from the URL; ValueError if neither answers."""
    reasons = []
    if hub_id:
        repository, _, revision = hub_id.partition('@')
        file = filename or _HUB_FILES[0]
        page = f'{constants.ENDPOINT}/{repository}/resolve/{revision or "main"}/{file}'
        reason = 'HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else _unreachable(page)
        if not reason:
            try:
                return Path(
                    huggingface_hub.hf_hub_download(repository, file, revision=revision or None)
                )
            except Exception as err:  # of the hub, of its HTTP client or of the disk
                reason = ' '.join(str(err).split())[:120]
        reasons.append(f'{page}: {reason}')
    if url:
        reason = _unreachable(url)
        if not reason:
            path = _download_path(url)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, str(path), progress=True)
                return path
            except OSError as err:
                reason = str(err)
        reasons.append(f'{url}: {reason}')
    raise ValueError(
        f'pretrained: no ImageNet weights of backbone {name!r} in the caches, and they cannot be'
        f' downloaded ({"; ".join(reasons)}); give backbone_weights=FILE with such a file, or'
        ' detector.options.pretrained=false'
    )


def _unreachable(url: str) -> str:
    """Return why a server does not answer within ANSWER_SECONDS, or ''; proxies are used."""
    answers: list[str] = []

    def ask() -> None:
        request = urllib.request.Request(url, method='HEAD')
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
                answers.append('')
        except (OSError, ValueError) as err:
            answers.append(str(getattr(err, 'reason', err)) or repr(err))

    # in a thread, because looking up a name knows no time limit
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answers[0] if answers else f'no answer within {ANSWER_SECONDS:g} s'

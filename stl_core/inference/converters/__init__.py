"""Checkpoints of published programs -> students of ours. A new one is one file and one line."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from stl_core.inference.converters import key_mapping, monocon, monodetr, monodistill, monodle
from stl_core.inference.converters.checkpoint_reader import read_state_dict
from stl_core.inference.converters.key_mapping import CheckpointLayout, StateDict, WeightsError
from stl_core.inference.model_file import ModelSpec, build_detector, save_model

LAYOUTS: dict[str, CheckpointLayout] = {
    'monodle': monodle.LAYOUT,
    'monodistill': monodistill.LAYOUT,
    'monocon': monocon.LAYOUT,
    'monodetr': monodetr.LAYOUT,
}


def convert_state_dict(name: str, state: StateDict) -> tuple[dict[str, Tensor], ModelSpec]:
    """
    Turn a published program's state dict into a student's.

    :param name: key of LAYOUTS.
    :param state: of the program's whole model.
    :return: weights that fit our detector exactly, and what is needed to use them.
    :raises WeightsError: for an unknown name or key, a missing key or a wrong shape.
    """
    if name not in LAYOUTS:
        raise WeightsError(f'{name!r}: not a program we know; known: {", ".join(LAYOUTS)}')
    found = LAYOUTS[name]
    spec = replace(found.spec, provenance={'program': found.program})
    return key_mapping.remap_state_dict(found, state), spec


def import_weights(name: str, path: str | Path, out: str | Path) -> ModelSpec:
    """
    Make a student file of a published checkpoint.

    :param name: key of LAYOUTS.
    :param path: what the program saved.
    :param out: .safetensors file to write.
    :return: what the student says of itself; its provenance tells program and file.
    :raises WeightsError: as translate, and for a file that cannot be read.
    """
    weights, spec = convert_state_dict(name, read_state_dict(path))
    detector = build_detector(spec)
    detector.load_state_dict(weights)
    source = {'file': Path(path).name, 'sha256': _sha256(path)}
    spec = replace(spec, provenance={**spec.provenance, **source})
    save_model(out, detector, spec)
    return spec


def _sha256(path: str | Path) -> str:
    with Path(path).open('rb') as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""
Import published checkpoints: convert MonoDLE, MonoDistill, MonoCon and MonoDETR to model files.

A new program needs a module with its LAYOUT and an entry in LAYOUTS.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from stl_core.files import sha256_of
from stl_core.inference.converters import key_mapping, monocon, monodetr, monodistill, monodle
from stl_core.inference.converters.checkpoint_reader import read_state_dict
from stl_core.inference.converters.key_mapping import CheckpointLayout, StateDict, WeightsError
from stl_core.inference.model_file import build_detector, save_model
from stl_core.inference.model_spec import ModelSpec

#: Name of a program -> layout of its checkpoints.
LAYOUTS: dict[str, CheckpointLayout] = {
    'monodle': monodle.LAYOUT,
    'monodistill': monodistill.LAYOUT,
    'monocon': monocon.LAYOUT,
    'monodetr': monodetr.LAYOUT,
}


def convert_state_dict(
    name: str, state: StateDict, classes: tuple[str, ...] = ()
) -> tuple[dict[str, Tensor], ModelSpec]:
    """
    Convert a published program's state dict to a state dict of our detector.

    :param name: key of LAYOUTS.
    :param state: state dict of the program's whole model.
    :param classes: names of its classes, in its order; empty for those of the published ones.
    :return: weights that fit our detector exactly, and the model specification.
    :raises WeightsError: for an unknown program or key, a missing key or a wrong shape.
    """
    if name not in LAYOUTS:
        raise WeightsError(f'{name!r}: unknown program; known: {", ".join(LAYOUTS)}')
    layout = LAYOUTS[name]
    if classes:
        layout = replace(layout, spec=key_mapping.with_classes(layout.spec, classes))
    spec = replace(layout.spec, provenance={'program': layout.program})
    return key_mapping.remap_state_dict(layout, state), spec


def import_weights(
    name: str, path: str | Path, out: str | Path, classes: tuple[str, ...] = ()
) -> ModelSpec:
    """
    Convert a published checkpoint to a model file.

    :param name: key of LAYOUTS.
    :param path: checkpoint of the program.
    :param out: .safetensors file to write.
    :param classes: as convert_state_dict.
    :return: header of the model file; its provenance names the program and the checkpoint.
    :raises WeightsError: as convert_state_dict, and for a file that cannot be read.
    """
    weights, spec = convert_state_dict(name, read_state_dict(path), classes)
    detector = build_detector(spec)
    detector.load_state_dict(weights)
    source = {'file': Path(path).name, 'sha256': sha256_of(path)}
    spec = replace(spec, provenance={**spec.provenance, **source})
    save_model(out, detector, spec)
    return spec

"""
Read and write model files: detector weights plus the header needed to use them.

A model file (.safetensors) stores in its header the detector's name and options, the class names,
the input specification and the provenance (training configuration, seed, metrics).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stl_core.files import atomic_file, foreign_content
from stl_core.inference.model_spec import ModelSpec, lists_to_tuples
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.models import DETECTORS
from stl_core.tensors.detector import Detector, as_detector
from stl_core.tensors.finite import not_finite

#: Key of the safetensors metadata that holds the header, as JSON.
METADATA_KEY = 'mono3d'


def build_detector(spec: ModelSpec) -> Detector:
    """
    Build the detector of a spec, with initial weights.

    :raises ModelFileError: for an unknown detector, option or option value, or given depth for a
        detector that takes none.
    :raises TypeError: for a class in DETECTORS that does not fulfil the contract.
    """
    config = _detector_config(spec)
    entry, given = DETECTORS[spec.detector], {}
    if spec.input.given_depth:
        if not entry.takes_given_depth:
            takers = ', '.join(name for name, each in DETECTORS.items() if each.takes_given_depth)
            raise ModelFileError(
                f'input.given_depth: detector {spec.detector!r} takes no given depth; {takers} do'
            )
        given = {'given_depth': True}
    try:
        return as_detector(
            entry.detector(
                config,
                in_channels=spec.input.channels,
                num_classes=len(spec.classes),
                **given,
            )
        )
    except ValueError as err:
        raise ModelFileError(f'detector.options: {err}') from err


def save_model(
    path: str | Path,
    detector: Detector,
    spec: ModelSpec,
    weight_dtype: torch.dtype = torch.float32,
) -> None:
    """
    Write a model file atomically: a reader sees either the old file or the new one.

    :param path: output file; missing folders are created.
    :param detector: its parameters and buffers are written.
    :param spec: the header; the detector's defaults complete its options.
    :param weight_dtype: storage type of weights with two or more dimensions. Vectors keep their
        type, because the variances of norms do not fit half precision. A loaded model computes in
        float32 regardless.
    :raises ModelFileError: for an unknown detector or option in the spec.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach()
        .cpu()
        .to(weight_dtype if value.dim() > 1 else value.dtype)
        .contiguous()
        for name, value in detector.state_dict().items()
    }
    spec = replace(
        spec,
        options=asdict(_detector_config(spec)),
        multi_view=DETECTORS[spec.detector].multi_view,
    )
    metadata = {METADATA_KEY: json.dumps(asdict(spec), sort_keys=True)}
    with atomic_file(path) as part:
        save_file(tensors, part, metadata=metadata)
        part.chmod(0o644)  # safetensors creates private files, but model files are shared


def read_model_spec(path: str | Path) -> ModelSpec:
    """
    Read the header of a model file.

    :raises ModelFileError: for a file that is missing, not safetensors, or without a valid header.
    """
    if not Path(path).is_file():
        raise ModelFileError(f'{path}: no such file; expected a model file (.safetensors)')
    if content := foreign_content(Path(path)):
        raise ModelFileError(f'{path}: {content}, not a model file (.safetensors)')
    try:
        with safe_open(path, 'np') as file:
            header = json.loads((file.metadata() or {}).get(METADATA_KEY, 'null'))
    except (SafetensorError, json.JSONDecodeError, OSError) as err:
        raise ModelFileError(f'{path}: not a readable model file ({err})') from err
    if not isinstance(header, dict):
        raise ModelFileError(f'{path}: a safetensors file without the header of a model file')
    try:
        return ModelSpec.from_header(header)
    except (KeyError, TypeError, ValueError) as err:
        raise ModelFileError(f'{path}: invalid header of a model file ({err})') from err


def load_detector(path: str | Path, spec: ModelSpec) -> Detector:
    """
    Load the detector of a .safetensors model file, on the CPU, in float32.

    :param path: model file.
    :param spec: its header; fields may differ from those in the file.
    :return: the detector with the weights of the file, in train mode.
    :raises ModelFileError: for weights that do not fit the detector, or a file that predates an
        option that is not training_only, because the option's present default might change the
        meaning of the weights.
    """
    try:
        missing = asdict(_detector_config(spec)).keys() - spec.options.keys()
        detector = build_detector(without_pretrained_weights(spec))
    except ModelFileError as err:
        raise ModelFileError(f'{path}: {err}') from err
    missing -= set(DETECTORS[spec.detector].training_only)
    if missing:
        raise ModelFileError(
            f'{path}: made by an older version, without {", ".join(sorted(missing))}; '
            'train or import it again'
        )
    with safe_open(path, 'pt') as file:
        state = {name: file.get_tensor(name) for name in file.keys()}
    expected = detector.state_dict()
    for name in expected.keys() & state.keys():
        if expected[name].is_floating_point() != state[name].is_floating_point():
            raise ModelFileError(
                f'{path}: {name} is {state[name].dtype}, not {expected[name].dtype}'
            )
    try:
        detector.load_state_dict(state)
    except RuntimeError as err:
        raise ModelFileError(
            f'{path}: weights do not fit detector {spec.detector!r}:'
            f' {_first_mismatch(expected, state)}'
        ) from err
    require_finite(state, path)
    return detector


def require_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    """
    Check that all weights are finite, since a network with one NaN detects nothing anywhere.

    :param state: state dict.
    :param path: file of the weights, for the message.
    :raises ModelFileError: for NaN or infinite weights, naming the first tensor that has some.
    """
    if broken := not_finite(state):
        raise ModelFileError(
            f'{path}: {len(broken)} of {len(state)} tensors hold NaN or infinite weights, first'
            f' {broken[0]}; expected finite weights, so train, export or import it again'
        )


def without_pretrained_weights(spec: ModelSpec) -> ModelSpec:
    """
    Return the spec of a detector whose backbone loads no ImageNet weights when it is built.

    The defaults complete the options first: those that follow `pretrained`, such as
    freeze_beginning, keep the value that they have with the spec's `pretrained`.

    :raises ModelFileError: for an unknown detector or option.
    """
    spec = replace(spec, options=asdict(_detector_config(spec)))
    has_option = 'pretrained' in spec.options
    return replace(spec, options={**spec.options, 'pretrained': False}) if has_option else spec


def convert_to_half(path: str | Path, out: str | Path) -> None:
    """
    Copy a model file with weight matrices and convolutions in half precision, to halve its size.

    :param path: model file to read.
    :param out: model file to write.
    :raises ModelFileError: for a file that cannot be used.
    """
    spec = read_model_spec(path)
    detector = load_detector(path, spec)
    halved = {
        name: value.to(torch.float16) if value.dim() > 1 else value
        for name, value in detector.state_dict().items()
    }
    require_finite(halved, f'{path} in half precision, whose largest number is 65504')
    save_model(out, detector, spec, torch.float16)


def _detector_config(spec: ModelSpec) -> Any:
    """Build the Config of a spec's detector; ModelFileError for an unknown name or option."""
    if spec.detector not in DETECTORS:
        raise ModelFileError(f'detector {spec.detector!r}: unknown; known: {", ".join(DETECTORS)}')
    try:
        return DETECTORS[spec.detector].config(
            **{key: lists_to_tuples(value) for key, value in spec.options.items()}
        )
    except TypeError as err:
        raise ModelFileError(f'options of detector {spec.detector!r}: {err}') from err


def _first_mismatch(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Describe, in one line, the first tensor whose shape differs between detector and file."""
    for name in [*expected, *(name for name in state if name not in expected)]:
        in_detector, in_file = (
            tuple(each[name].shape) if name in each else 'missing' for each in (expected, state)
        )
        if in_detector != in_file:
            return f'{name} is {in_file} in the file, {in_detector} in the detector'
    return 'they cannot be read'

"""
From images to 3D objects: the same Predictor on the desk, in a bag tool and on the vehicle.

A student file (.safetensors) carries in its header all that is needed to use it: detector,
options, classes, input and where it comes from. RUNNERS decides by suffix how a file is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stl_core.models import DETECTORS
from stl_core.preprocessing import DepthSpec, InputSpec

METADATA_KEY = 'mono3d'


class ModelFileError(ValueError):
    """A student file that is missing or unusable; the message names it."""


@dataclass(frozen=True)
class ModelSpec:
    """
    All that is needed to use a student besides its weights.

    :param classes: class names; class_id counts into them.
    :param input: the network's canvas and colour statistics.
    :param detector: key of DETECTORS.
    :param options: the detector's Config, as plain data.
    :param provenance: how it was made: config, seed, data, metrics.
    """

    classes: tuple[str, ...]
    input: InputSpec
    detector: str
    options: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def build_detector(spec: ModelSpec) -> nn.Module:
    """
    Build the detector that a spec describes, untrained.

    :raises StudentError: for an unknown detector, or an option or value that it does not know.
    """
    config = _detector_config(spec)
    build, channels = DETECTORS[spec.detector].detector, spec.input.channels
    try:
        return build(config, in_channels=channels, num_classes=len(spec.classes))
    except ValueError as err:
        raise ModelFileError(f'detector.options: {err}') from err


def save_model(
    path: str | Path,
    detector: nn.Module,
    spec: ModelSpec,
    weight_dtype: torch.dtype = torch.float32,
) -> None:
    """
    Write a student file, atomically: a reader sees the old file or the new one.

    :param path: where to.
    :param detector: its parameters and buffers are written.
    :param spec: goes into the header, its options completed by the detector's defaults.
    :param weight_dtype: type of the convolutions' weights; vectors stay as they are, since the
        variances of norms do not fit half precision. It computes in float32 in any case.
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
    spec = replace(spec, options=asdict(_detector_config(spec)))
    part = path.with_name(path.name + '.part')
    save_file(tensors, part, metadata={METADATA_KEY: json.dumps(asdict(spec), sort_keys=True)})
    part.chmod(0o644)  # safetensors makes files private, but students are shared
    part.replace(path)


def read_model_spec(path: str | Path) -> ModelSpec:
    """
    Read the header of a student file.

    :raises StudentError: for a file that is missing, not safetensors, or not a student.
    """
    if not Path(path).is_file():
        raise ModelFileError(f'{path}: no such file; expected a student (.safetensors)')
    try:
        with safe_open(path, 'np') as file:
            header = json.loads((file.metadata() or {}).get(METADATA_KEY, 'null'))
    except (SafetensorError, json.JSONDecodeError, OSError) as err:
        raise ModelFileError(f'{path}: not a readable student file ({err})') from err
    if not isinstance(header, dict):
        raise ModelFileError(f'{path}: a safetensors file, but without the header of a student')
    try:
        canvas = {key: _lists_to_tuples(value) for key, value in header['input'].items()}
        if canvas.get('depth'):
            # before the option was there, teachers were shown true metres
            canvas['depth'] = DepthSpec(**{'virtual_focal_px': 0.0, **canvas['depth']})
        return ModelSpec(
            **{**header, 'classes': tuple(header['classes']), 'input': InputSpec(**canvas)}
        )
    except (KeyError, TypeError, ValueError) as err:
        raise ModelFileError(
            f'{path}: the header of this student is not understood ({err})'
        ) from err


def load_detector(path: str | Path, spec: ModelSpec) -> nn.Module:
    """
    Build the detector of a .safetensors student with its weights, on the CPU, float32.

    :raises StudentError: for weights that do not fit, or a file from before an option existed,
        which today's default would misread.
    """
    missing = asdict(_detector_config(spec)).keys() - spec.options.keys()
    if missing:
        raise ModelFileError(
            f'{path}: made by an older version, without {", ".join(sorted(missing))}; '
            'train or import it again'
        )
    # the weights are in the file, so a backbone must not look for ImageNet's
    options = {**spec.options, 'pretrained': False}
    detector = build_detector(ModelSpec(**{**vars(spec), 'options': options}))
    with safe_open(path, 'pt') as file:
        state = {name: file.get_tensor(name) for name in file.keys()}
    try:
        detector.load_state_dict(state)
    except RuntimeError as err:
        raise ModelFileError(
            f'{path}: weights do not fit detector {spec.detector!r}:'
            f' {_first_mismatch(detector.state_dict(), state)}'
        ) from err
    return detector


def convert_to_half(path: str | Path, out: str | Path) -> None:
    """Rewrite a student file with its convolutions in half precision, for shipping."""
    spec = read_model_spec(path)
    save_model(out, load_detector(path, spec), spec, torch.float16)


def _detector_config(spec: ModelSpec) -> Any:
    """Build the Config of a spec's detector."""
    if spec.detector not in DETECTORS:
        raise ModelFileError(f'detector {spec.detector!r}: unknown; known: {", ".join(DETECTORS)}')
    try:
        return DETECTORS[spec.detector].config(
            **{key: _lists_to_tuples(value) for key, value in spec.options.items()}
        )
    except TypeError as err:
        raise ModelFileError(f'options of detector {spec.detector!r}: {err}') from err


def _first_mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Name the first tensor that is not as the detector's own, in one line."""
    for name in [*expected, *(name for name in found if name not in expected)]:
        ours, theirs = (
            tuple(each[name].shape) if name in each else 'missing' for each in (expected, found)
        )
        if ours != theirs:
            return f'{name} is {theirs} in the file, {ours} in the detector'
    return 'they cannot be read'


def _lists_to_tuples(value: Any) -> Any:
    """Turn JSON's lists back into the tuples that frozen dataclasses hold."""
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value

"""
From images to 3D objects: the same Predictor on the desk, in a bag tool and on the vehicle.

A student file (.safetensors) carries in its header all that is needed to use it: detector,
options, classes, input and where it comes from. RUNNERS decides by suffix how a file is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stl_core import sight
from stl_core.batch import as_image_objects
from stl_core.distinct import distinct
from stl_core.geometry import lift, warp_box
from stl_core.images import DepthSpec, InputSpec, fit_affine, prepare
from stl_core.models import DETECTORS
from stl_core.precision import PRECISIONS, as_float32, computing
from stl_core.types import Array, ImageObjects, Objects3D

HEADER = 'mono3d'


class StudentError(ValueError):
    """A student file that is missing or unusable; the message names it."""


@dataclass(frozen=True)
class StudentSpec:
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


#: B canvases, see images.prepare, and (B, 3, 4) projections -> B sets of image objects.
Run = Callable[[Array, Array], list[ImageObjects]]


class Predictor:
    """Images in, objects in the camera frame out."""

    def __init__(
        self, run: Run, spec: StudentSpec, min_score: float = 0.01, max_overlap: float = 0.2
    ) -> None:
        """
        Join a way to run the network with what it expects.

        :param run: the network on prepared canvases.
        :param spec: classes and input.
        :param min_score: objects below it are not worth passing on.
        :param max_overlap: see distinct; of KITTI's 17,298 training labels 3 overlap more than
            this. 1 passes on every peak, as the papers do.
        """
        self.run, self.spec = run, spec
        self.min_score, self.max_overlap = min_score, max_overlap

    def __call__(self, images: Sequence[Array], Ps: Sequence[Array]) -> list[Objects3D]:
        """
        Detect in B images, which may differ in size and camera, in one batch.

        :param images: B arrays (H, W, 3) uint8 RGB, rectified; (H, W) float32 depth in metres for
            a teacher.
        :param Ps: B projections (3, 4) of those images.
        :return: B sets of objects, camera frame; box_px in pixels of the given image.
        :raises ValueError: for an image that is not what the network sees, or numbers that differ.
        """
        if len(images) != len(Ps):
            raise ValueError(f'{len(images)} images but {len(Ps)} projections')
        if not images:
            return []
        pairs = [prepare(image, P, self.spec.input) for image, P in zip(images, Ps, strict=True)]
        canvases, projections = (np.stack(part) for part in zip(*pairs, strict=True))
        found = self.run(canvases, projections)
        return [
            self._place(each, P, image.shape[1], image.shape[0])
            for each, P, image in zip(found, projections, images, strict=True)
        ]

    def _place(self, found: ImageObjects, P: Array, width: int, height: int) -> Objects3D:
        """Lift canvas objects with the canvas's P; bring boxes back to the image's pixels."""
        objects = distinct(lift(found[found.score >= self.min_score], P), self.max_overlap)
        inverse = np.linalg.inv(fit_affine(width, height, self.spec.input))
        limit = np.array([width - 1.0, height - 1.0] * 2)
        box_px = np.clip(warp_box(objects.box_px, inverse), 0.0, limit)
        return replace(objects, box_px=box_px)


def choose_device(name: str) -> torch.device:
    """
    Resolve 'auto', 'cpu', 'cuda' or 'cuda:N'.

    :raises StudentError: for a CUDA device that is not there, or another word.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise StudentError(f'device {name!r}: expected auto, cpu or cuda:N') from err
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise StudentError(f'device {name!r}: {torch.cuda.device_count()} CUDA devices here')
    return device


class TorchRun:
    """Runs a detector in torch; `device` tells where."""

    def __init__(
        self, detector: nn.Module, spec: InputSpec, device: torch.device, precision: str = 'fp32'
    ) -> None:
        """Put the detector on the device; its train or eval state is the caller's."""
        self.detector = detector.to(device).to(memory_format=torch.channels_last)  # type: ignore
        self.spec, self.device, self.precision = spec, device, precision

    @torch.inference_mode()
    def __call__(self, canvases: Array, P: Array) -> list[ImageObjects]:
        """Canvases, see prepare, and (B, 3, 4) -> B sets of image objects, canvas pixels."""
        image = torch.from_numpy(canvases).to(self.device, non_blocking=True)
        projections = torch.from_numpy(P).to(self.device, torch.float32, non_blocking=True)
        detector: Any = self.detector
        with computing(self.precision, self.device):
            out = detector(sight.normalise(image, projections, self.spec), projections)
        read = {name: value.cpu() for name, value in detector.read(as_float32(out)).items()}
        return [as_image_objects(read, row) for row in range(len(canvases))]


def build_detector(spec: StudentSpec) -> nn.Module:
    """
    Build the detector that a spec describes, untrained.

    :raises StudentError: for an unknown detector, or an option or value that it does not know.
    """
    config = _config(spec)
    build, channels = DETECTORS[spec.detector].detector, spec.input.channels
    try:
        return build(config, in_channels=channels, num_classes=len(spec.classes))
    except ValueError as err:
        raise StudentError(f'detector.options: {err}') from err


def save_student(
    path: str | Path,
    detector: nn.Module,
    spec: StudentSpec,
    weights: torch.dtype = torch.float32,
) -> None:
    """
    Write a student file, atomically: a reader sees the old file or the new one.

    :param path: where to.
    :param detector: its parameters and buffers are written.
    :param spec: goes into the header, its options completed by the detector's defaults.
    :param weights: type of the convolutions' weights; vectors stay as they are, since the
        variances of norms do not fit half precision. It computes in float32 in any case.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().cpu().to(weights if value.dim() > 1 else value.dtype).contiguous()
        for name, value in detector.state_dict().items()
    }
    spec = replace(spec, options=asdict(_config(spec)))
    part = path.with_name(path.name + '.part')
    save_file(tensors, part, metadata={HEADER: json.dumps(asdict(spec), sort_keys=True)})
    part.chmod(0o644)  # safetensors makes files private, but students are shared
    part.replace(path)


def read_spec(path: str | Path) -> StudentSpec:
    """
    Read the header of a student file.

    :raises StudentError: for a file that is missing, not safetensors, or not a student.
    """
    if not Path(path).is_file():
        raise StudentError(f'{path}: no such file; expected a student (.safetensors)')
    try:
        with safe_open(path, 'np') as file:
            header = json.loads((file.metadata() or {}).get(HEADER, 'null'))
    except (SafetensorError, json.JSONDecodeError, OSError) as err:
        raise StudentError(f'{path}: not a readable student file ({err})') from err
    if not isinstance(header, dict):
        raise StudentError(f'{path}: a safetensors file, but without the header of a student')
    try:
        canvas = {key: _tuples(value) for key, value in header['input'].items()}
        if canvas.get('depth'):
            # before the option was there, teachers were shown true metres
            canvas['depth'] = DepthSpec(**{'virtual_focal_px': 0.0, **canvas['depth']})
        return StudentSpec(
            **{**header, 'classes': tuple(header['classes']), 'input': InputSpec(**canvas)}
        )
    except (KeyError, TypeError, ValueError) as err:
        raise StudentError(
            f'{path}: the header of this student is not understood ({err})'
        ) from err


def load_torch(path: str | Path, device: torch.device, precision: str) -> Run:
    """Load a .safetensors student to be run in torch, ready to predict."""
    spec = read_spec(path)
    return TorchRun(load_detector(path, spec).eval(), spec.input, device, precision)


def load_detector(path: str | Path, spec: StudentSpec) -> nn.Module:
    """
    Build the detector of a .safetensors student with its weights, on the CPU, float32.

    :raises StudentError: for weights that do not fit, or a file from before an option existed,
        which today's default would misread.
    """
    missing = asdict(_config(spec)).keys() - spec.options.keys()
    if missing:
        raise StudentError(
            f'{path}: made by an older version, without {", ".join(sorted(missing))}; '
            'train or import it again'
        )
    # the weights are in the file, so a backbone must not look for ImageNet's
    options = {**spec.options, 'pretrained': False}
    detector = build_detector(StudentSpec(**{**vars(spec), 'options': options}))
    with safe_open(path, 'pt') as file:
        state = {name: file.get_tensor(name) for name in file.keys()}
    try:
        detector.load_state_dict(state)
    except RuntimeError as err:
        raise StudentError(
            f'{path}: weights do not fit detector {spec.detector!r}:'
            f' {_misfit(detector.state_dict(), state)}'
        ) from err
    return detector


def halve(path: str | Path, out: str | Path) -> None:
    """Rewrite a student file with its convolutions in half precision, for shipping."""
    spec = read_spec(path)
    save_student(out, load_detector(path, spec), spec, torch.float16)


#: How a student file is run, by suffix: (path, device, key of PRECISIONS) -> Run.
RUNNERS: dict[str, Callable[[str | Path, torch.device, str], Run]] = {'.safetensors': load_torch}


def load(
    path: str | Path, device: str = 'auto', min_score: float = 0.01, precision: str = 'fp32'
) -> Predictor:
    """
    Load a student.

    :param path: a student file.
    :param device: 'auto', 'cpu' or 'cuda:N'.
    :param min_score: see Predictor.
    :param precision: what the network computes in, a key of PRECISIONS.
    :return: a Predictor ready to be called.
    :raises StudentError: for a file, device or precision that cannot be used.
    """
    suffix = Path(path).suffix
    if suffix not in RUNNERS:
        raise StudentError(f'{path}: expected a file ending in {", ".join(RUNNERS)}')
    if precision not in PRECISIONS:
        raise StudentError(f'precision {precision!r}: expected {", ".join(PRECISIONS)}')
    spec = read_spec(path)
    return Predictor(RUNNERS[suffix](path, choose_device(device), precision), spec, min_score)


def _config(spec: StudentSpec) -> Any:
    """Build the Config of a spec's detector."""
    if spec.detector not in DETECTORS:
        raise StudentError(f'detector {spec.detector!r}: unknown; known: {", ".join(DETECTORS)}')
    try:
        return DETECTORS[spec.detector].config(
            **{key: _tuples(value) for key, value in spec.options.items()}
        )
    except TypeError as err:
        raise StudentError(f'options of detector {spec.detector!r}: {err}') from err


def _misfit(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Name the first tensor that is not as the detector's own, in one line."""
    for name in [*own, *(name for name in found if name not in own)]:
        ours, theirs = (
            tuple(each[name].shape) if name in each else 'missing' for each in (own, found)
        )
        if ours != theirs:
            return f'{name} is {theirs} in the file, {ours} in the detector'
    return 'they cannot be read'


def _tuples(value: Any) -> Any:
    """Turn JSON's lists back into the tuples that frozen dataclasses hold."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value

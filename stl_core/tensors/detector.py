"""
Contract between a detector and the code that trains, distils, evaluates and runs it.

A detector is an nn.Module that maps images to Outputs and interprets its own outputs: losses,
decoded objects, predictions at targets. stl_core/models/__init__.py registers it.
A detector of single images learns batch.Targets; one of several cameras (DetectorEntry.multi_view)
reads NetworkInput.rig and learns rig.RigTargets: its maps after the lift, and all else that is
(B, ...) below, have a row for each sample.
Shapes: B batch, N object slots per image, K decoded objects, C channels, D numbers of a
prediction, H W image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Generic, Protocol, TypeVar, cast

from torch import Tensor

from stl_core.tensors.batch import NetworkInput
from stl_core.tensors.feature_level import LevelSpec
from stl_core.tensors.reductions import StepNormalizer

D = TypeVar('D', bound='Detector')
H = TypeVar('H', bound='Heads', covariant=True)


class Heads(Protocol):
    """
    Raw outputs of a detector's heads, before any sigmoid: a frozen dataclass of tensors.

    A field of a head that only training needs may be None.
    """

    def as_dict(self) -> dict[str, Tensor]:
        """Return the heads that were computed by name; distillation compares equal names."""


@dataclass(frozen=True)
class Outputs(Generic[H]):
    """
    Return value of a detector's forward.

    :param features: maps (B, C, h, w) for distillation, one for each of Detector.levels.
    :param heads: raw heads; each detector, or family of detectors, has its own dataclass.
    :param size_px: height and width of the images, network pixels.
    :param P: (B, 3, 4) projections of the images; None from detectors whose losses need none.
    :param assignment: which prediction is responsible for which target, for a detector that must
        solve for it: made by forward if it was given targets, so that losses and
        predictions_at_targets need not solve again. Only that detector reads it.
    :param given_depth_added: (B, C, h, w) what the given depth added to a map, from detectors that
        add it (models/depth_association.py); None without given depth.
    :param visual_depth_m: (B, h, w) depth that such a detector reads from its map without the
        given depth; None without given depth.
    """

    features: tuple[Tensor, ...]
    heads: H
    size_px: tuple[int, int]
    P: Tensor | None = None
    assignment: Any = None
    given_depth_added: Tensor | None = None
    visual_depth_m: Tensor | None = None


@dataclass(frozen=True)
class TargetPredictions:
    """
    A detector's raw predictions for each target of a batch.

    :param predictions: {name: (B, N, D)}; 'depth' is a logit, see depth_encoding, 'heading' holds
        bin logits, then residuals. Distillation compares predictions of equal names.
    :param depth_sigma_m: (B, N) predicted standard deviation of the depth, or of the range from
        the vehicle, metres.
    :param found: (B, N) bool, whether the detector has a prediction for the target; elsewhere the
        other values mean nothing, and nothing is learnt from them.
    :param tokens: (B, N, C) vector that represents each target, such as the query matched to it;
        None from detectors without. A detector that has them states C as `token_channels`.
    """

    predictions: dict[str, Tensor]
    depth_sigma_m: Tensor
    found: Tensor
    tokens: Tensor | None = None


class Detector(Protocol):
    """
    A camera-only 3D detector, built as detector(config, in_channels=..., num_classes=...).

    `targets` are of the kind that it learns. Its __init__ raises ValueError for options that it
    cannot use.
    """

    @property
    def levels(self) -> tuple[LevelSpec, ...]:
        """Names, channels and planes of Outputs.features, finest first."""

    @property
    def config(self) -> Any:
        """Frozen dataclass of the detector's options."""

    def forward(self, inputs: NetworkInput, targets: Any = None) -> Outputs:
        """
        Run the network; call the detector itself instead, which also runs torch's hooks.

        :param inputs: images with in_channels channels, and their projections.
        :param targets: given by training, for heads that only training needs.
        """

    def losses(
        self, outputs: Outputs, targets: Any, normalizer: StepNormalizer
    ) -> dict[str, Tensor]:
        """
        Compute the training losses.

        :param outputs: from forward, float32.
        :param targets: network pixels, or vehicle frame; metres.
        :param normalizer: normaliser of the step, for means over objects (see masked_mean).
        :return: unweighted scalars, keys 'det/<name>', the same for any data.
        """

    def decode(self, outputs: Outputs) -> dict[str, Tensor]:
        """Decode outputs into the fields of ImageObjects, or VehicleObjects, (B, K, ...)."""

    def predictions_at_targets(self, outputs: Outputs, targets: Any) -> TargetPredictions:
        """Return the raw predictions for each target; called once per network and step."""

    # methods of every nn.Module
    training: bool

    def __call__(self, inputs: NetworkInput, targets: Any = None) -> Outputs:
        """Run forward with the module's hooks."""

    def train(self: D, mode: bool = True) -> D:
        """Set train or eval mode; return the module."""

    def eval(self: D) -> D:
        """Set eval mode; return the module."""

    def requires_grad_(self: D, requires_grad: bool = True) -> D:
        """Set requires_grad of all parameters; return the module."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or convert parameters and buffers; return the module."""

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and buffers by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Copy parameters and buffers into the module; RuntimeError if they do not fit."""


#: What a detector has beyond an nn.Module.
CONTRACT = ('levels', 'config', 'losses', 'decode', 'predictions_at_targets')


def as_detector(module: object) -> Detector:
    """Return a module as a Detector; TypeError that lists what it lacks of the CONTRACT."""
    missing = [name for name in CONTRACT if not hasattr(module, name)]
    if missing:
        raise TypeError(
            f'{type(module).__name__} is no detector: it lacks {", ".join(missing)};'
            ' see stl_core/tensors/detector.py'
        )
    return cast(Detector, module)


def check_head_names(heads: type[Heads], names: Iterable[str]) -> None:
    """
    Check, when a detector is built, that its heads are the fields of their dataclass.

    :param heads: the dataclass.
    :param names: the heads that the detector has.
    :raises TypeError: for a name that is no field, or a required field that is no name.
    """
    known = {field.name: field.default is MISSING for field in fields(cast(Any, heads))}
    given = set(names)
    wrong = {*(given - known.keys()), *(n for n in known if known[n] and n not in given)}
    if wrong:
        raise TypeError(
            f'heads {", ".join(sorted(wrong))}: unknown or missing; {heads.__name__} has'
            f' {", ".join(known)}'
        )


def check_head_shapes(heads: Heads, expected: Mapping[str, tuple[int | str, ...]]) -> None:
    """
    Check the heads of a forward pass against the shapes that their dataclass documents.

    :param heads: outputs of one forward pass.
    :param expected: {name: shape}; a letter stands for a size that is the same in all heads.
    :raises ValueError: for a head that is unknown, missing or of another shape, naming all.
    """
    sizes: dict[str, int] = {}
    wrong = []
    found = {name: tuple(value.shape) for name, value in heads.as_dict().items()}
    for name in sorted(found.keys() | expected.keys()):
        shape, wanted = found.get(name), expected.get(name)
        fits = shape is not None and wanted is not None and len(shape) == len(wanted)
        if not fits or any(
            size != (sizes.setdefault(letter, size) if isinstance(letter, str) else letter)
            for size, letter in zip(shape or (), wanted or (), strict=True)
        ):
            wrong.append(f'{name} is {shape or "missing"}, expected {wanted or "no such head"}')
    if wrong:
        raise ValueError(f'{type(heads).__name__}: {"; ".join(wrong)}')

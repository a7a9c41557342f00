"""
Registry of the 3D detectors by name.

MonoDLE, MonoCon and MonoDETR detect in single images, lift-splat in all cameras of a vehicle.
To add a detector, write one module with a class that fulfils stl_core/tensors/detector.py, and add
one line to DETECTORS. Nothing else has to know about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from stl_core.models import monocon, monodetr, monodle
from stl_core.models.lift_splat import detector as lift_splat
from stl_core.models.published_protocol import PublishedProtocol
from stl_core.tensors.detector import Detector


class DetectorEntry(NamedTuple):
    """
    A detector and what the rest of the code has to know about it.

    :param detector: class of the detector: (config, in_channels=..., num_classes=...) -> Detector;
        if it takes given depth, also given_depth=....
    :param config: frozen dataclass of its options.
    :param loss_weights: default weight of each of its losses, such as those of the paper.
    :param head_semantics: options that determine the meaning of its head outputs: they must be
        equal in a start model, and in a teacher whose predictions are compared.
    :param training_only: options that change neither the names nor the meaning of the weights:
        model files of versions without such an option can still be loaded.
    :param published: how its public code scores and filters detections; None for a detector
        without a published protocol, which is evaluated by ours alone.
    :param center_within: where the projected centre of an object must be for the detector to
        learn the object: on the 'canvas', in its 'box' on the canvas, or 'anywhere'. A part of the
        box is on the canvas in any case.
    :param takes_given_depth: whether the detector can be a privileged teacher, which is given
        depth besides the image (InputSpec.given_depth). Its weights below `depth_association.` are
        those that its base lacks.
    :param multi_view: whether it sees the cameras of a vehicle together (NetworkInput.rig), learns
        RigTargets and decodes VehicleObjects.
    """

    detector: Callable[..., Detector]
    config: type[Any]
    loss_weights: Mapping[str, float]
    head_semantics: tuple[str, ...] = ()
    training_only: tuple[str, ...] = ()
    published: PublishedProtocol | None = None
    center_within: str = 'canvas'
    takes_given_depth: bool = False
    multi_view: bool = False


DETECTORS: dict[str, DetectorEntry] = {
    'monodle': DetectorEntry(
        monodle.MonoDLE,
        monodle.MonoDLEConfig,
        monodle.LOSS_WEIGHTS,
        ('virtual_focal_px', 'mean_size_hwl_m', 'heading_bins'),
        published=monodle.PUBLISHED,
        takes_given_depth=True,
    ),
    'monocon': DetectorEntry(
        monocon.MonoCon,
        monocon.MonoConConfig,
        monocon.LOSS_WEIGHTS,
        ('virtual_focal_px', 'heading_bins'),
        published=monocon.PUBLISHED,
        center_within='anywhere',
        takes_given_depth=True,
    ),
    'monodetr': DetectorEntry(
        monodetr.MonoDETR,
        monodetr.MonoDETRConfig,
        monodetr.LOSS_WEIGHTS,
        ('virtual_focal_px', 'heading_bins'),
        training_only=('freeze_beginning', 'checkpoint_activations', 'given_depth_in_output'),
        published=monodetr.PUBLISHED,
        center_within='box',
        takes_given_depth=True,
    ),
    'lift_splat': DetectorEntry(
        lift_splat.LiftSplat,
        lift_splat.LiftSplatConfig,
        lift_splat.LOSS_WEIGHTS,
        (
            *('depth_range_m', 'depth_step_m', 'x_range_m', 'y_range_m', 'z_range_m', 'cell_m'),
            'attributes',
        ),
        training_only=('depth_supervision', 'peak_ratio'),
        center_within='anywhere',
        takes_given_depth=True,
        multi_view=True,
    ),
}


def published_protocol(detector: str) -> PublishedProtocol | None:
    """Return the published protocol of a detector; None without one, or for an unknown name."""
    return DETECTORS[detector].published if detector in DETECTORS else None

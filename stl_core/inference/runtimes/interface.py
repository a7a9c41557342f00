"""Interface of the runtimes that run model files; importing it needs only Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stl_core.files import foreign_content

if TYPE_CHECKING:  # `doctor` lists the runtimes where NumPy and torch may be missing
    from stl_core.inference.model_spec import ModelSpec
    from stl_core.types import Array, ImageObjects
    from stl_core.vehicle_types import VehicleObjects


class ModelFileError(ValueError):
    """A model file that is missing or unusable; the message names the file."""


class Runner(Protocol):
    """A network on a device: canvases in, image objects out."""

    @property
    def device(self) -> str:
        """Return the device that the network runs on, such as 'cpu' or 'cuda:0'."""
        ...

    def __call__(
        self, canvases: Array, P: Array, given_m: Array | None = None
    ) -> list[ImageObjects]:
        """
        Normalise canvases with the constants of the header, run the network, decode its outputs.

        :param canvases: (B, H, W, 3) uint8 RGB; for a network with depth input (a teacher),
            (B, H, W) float32, metres, 0 where unknown. See preprocessing.preprocess_image.
        :param P: (B, 3, 4) projections of the canvases.
        :param given_m: (B, H, W) float32, metres, 0 where nothing is given: depth on the canvases
            that a privileged teacher is given. Only runners of a runtime with takes_given_depth
            need this argument.
        :return: B sets of image objects, in canvas pixels.
        """
        ...


class RigCanvases(NamedTuple):
    """
    Preprocessed input of a multi-view network: one set of V cameras.

    :param images: (V, H, W, 3) uint8 RGB; (V, H, W) float32 for a network with depth input.
    :param P: (V, 3, 4) projections of the canvases.
    :param vehicle_T_cam: (V, 4, 4) poses of the cameras.
    :param present: (V,) bool, False for a camera without picture.
    :param given_m: (V, H, W) float32, see Runner; None for a network that is given no depth.
    """

    images: Array
    P: Array
    vehicle_T_cam: Array
    present: Array
    given_m: Array | None = None


class RigRunner(Protocol):
    """A multi-view network on a device: the canvases of a set of cameras in, objects out."""

    @property
    def device(self) -> str:
        """Return the device that the network runs on, such as 'cpu' or 'cuda:0'."""
        ...

    def __call__(self, canvases: RigCanvases) -> VehicleObjects:
        """Normalise the canvases, run the network, decode its outputs: objects around them."""
        ...


def unreadable_file_fault(path: Path) -> str:
    """Return why a file of any format cannot be a model: empty, a Git LFS pointer ...; or ''."""
    try:
        content = foreign_content(path)
    except OSError as err:
        return f'not readable: {err}'
    if content:
        return f'not a model file ({path.stat().st_size} bytes)'
    return ''


@dataclass(frozen=True)
class Runtime:
    """
    Functions for the model files of one format; each imports what it needs when it is called.

    :param load_spec: path -> the header; ModelFileError for a file that cannot be used.
    :param load_runner: (path, device, precision) -> the network, ready to run. The device is
        'auto', 'cpu' or 'cuda:N', the precision 'fp32', 'bf16' or 'fp16'; ModelFileError for a
        file, device or precision that cannot be used.
    :param file_fault: path -> why the file is incomplete, or ''; needs only Python.
    :param convert_to_half: (path, out) -> None, writes a copy of the file with weights in half
        precision; None if the format has no such copy.
    :param takes_given_depth: whether its runners run privileged teachers, which exist for training
        and evaluation and never run on a vehicle: others refuse them.
    :param load_rig_runner: as load_runner, for a multi-view network; None if the runtime runs
        none.
    """

    load_spec: Callable[[Path], ModelSpec]
    load_runner: Callable[[Path, str, str], Runner]
    file_fault: Callable[[Path], str] = unreadable_file_fault
    convert_to_half: Callable[[Path, Path], None] | None = None
    takes_given_depth: bool = False
    load_rig_runner: Callable[[Path, str, str], RigRunner] | None = None

"""
How far a lens is from the one that the student has learnt to look through.

On the student's canvas a lens is one number, its focal length there: P[0, 0] after fit_affine.
The lens a student has learnt is told by its provenance (`focal_px`, pixels of its canvas); where
it is not, it is KITTI's, through which our configurations and the published checkpoints look.
A student of virtual depth was shown pictures zoomed by up to 40 % and stretches depth by the
rest, so that 0.6 to 1.4 times its lens look to it like what it has seen. One of plain depth errs
in depth by as much as the lens is longer or shorter: a tenth is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mono3d_ros.camera_frame import Frame
from stl_core.preprocessing import InputSpec, letterbox_affine

#: Width and height of KITTI's colour pictures and the focal length of P2, pixels.
KITTI_SIZE_PX, KITTI_FOCAL_PX = (1242, 375), 721.5377
#: How many times the lens that was learnt a lens may be long.
ZOOM_RANGE_VIRTUAL, ZOOM_RANGE_PLAIN = (0.6, 1.4), (0.9, 1.1)


@dataclass(frozen=True)
class TrainedLens:
    """
    What a student has learnt to look through.

    :param input_spec: its canvas.
    :param focal_px: focal length on the canvas.
    :param zoom_range: least and most times that a lens may be as long.
    """

    input_spec: InputSpec
    focal_px: float
    zoom_range: tuple[float, float]


def trained_lens(spec: Any) -> TrainedLens | None:
    """
    Read the lens off a student.

    :param spec: stl_core.inference.model_file.StudentSpec, or what a test or another runner has
        in its place.
    :return: None where spec tells no canvas.
    """
    canvas = getattr(spec, 'input', None)
    if not isinstance(canvas, InputSpec):
        return None
    options: Mapping[str, Any] = getattr(spec, 'options', {})
    provenance: Mapping[str, Any] = getattr(spec, 'provenance', {})
    kitti_px = KITTI_FOCAL_PX * float(letterbox_affine(*KITTI_SIZE_PX, canvas)[0, 0])
    zooms = ZOOM_RANGE_VIRTUAL if options.get('virtual_focal_px') else ZOOM_RANGE_PLAIN
    return TrainedLens(canvas, float(provenance.get('focal_px', kitti_px)), zooms)


def lens_mismatch(lens: TrainedLens | None, frame: Frame) -> str:
    """Say how far the lens of a frame is from the one learnt; empty where it is near enough."""
    if lens is None:
        return ''
    height, width = frame.image.shape[:2]
    focal_px = float(frame.P[0, 0] * letterbox_affine(width, height, lens.input_spec)[0, 0])
    zoom, (least, most) = focal_px / lens.focal_px, lens.zoom_range
    if least <= zoom <= most:
        return ''
    return (
        f'this lens is {zoom:.2f} times as long as the one the student has learnt ({focal_px:.0f} '
        f'to {lens.focal_px:.0f} px on its canvas), beyond {least:g} to {most:g}: distances may '
        'be wrong; check camera_info, or train with such a lens'
    )

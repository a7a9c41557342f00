"""
Check the focal length of a camera against that of the model's training camera.

Both are compared on the canvas of the model: P[0, 0] after letterbox_affine. The focal length of
the training camera is in the provenance of the model (`focal_px`, pixels of its canvas); without
it, KITTI's is assumed, on which our configurations and the published checkpoints were trained.

A model of virtual depth was trained with zooms of up to 40 % and scales its depth by the focal
length, so 0.6 to 1.4 times the training focal length are in range. The depth error of a model of
plain depth is proportional to the deviation of the focal length: 10 % is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mono3d_ros.camera_frame import Frame
from stl_core.preprocessing import InputSpec, letterbox_affine

#: Width and height of KITTI's colour images and the focal length of P2, pixels.
KITTI_SIZE_PX, KITTI_FOCAL_PX = (1242, 375), 721.5377
#: Allowed ratio of the focal length to that of the training camera: lowest and highest.
ZOOM_RANGE_VIRTUAL, ZOOM_RANGE_PLAIN = (0.6, 1.4), (0.9, 1.1)


@dataclass(frozen=True)
class TrainedLens:
    """
    The training camera of a model.

    :param input_spec: canvas of the model.
    :param focal_px: focal length on the canvas.
    :param zoom_range: lowest and highest allowed ratio of a focal length to focal_px.
    """

    input_spec: InputSpec
    focal_px: float
    zoom_range: tuple[float, float]


def trained_lens(spec: Any) -> TrainedLens | None:
    """
    Return the training camera of a model.

    :param spec: stl_core.inference.model_spec.ModelSpec, or the substitute of a test.
    :return: None if spec has no canvas.
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
    """Return a warning if the focal length of a frame is out of range, else an empty string."""
    if lens is None:
        return ''
    height, width = frame.image.shape[:2]
    focal_px = float(frame.P[0, 0] * letterbox_affine(width, height, lens.input_spec)[0, 0])
    zoom, (low, high) = focal_px / lens.focal_px, lens.zoom_range
    if low <= zoom <= high:
        return ''
    return (
        f'the focal length is {zoom:.2f} times that of the training camera ({focal_px:.0f} and '
        f'{lens.focal_px:.0f} px on the canvas of the model), outside {low:g} to {high:g}: '
        'distances may be wrong; check camera_info, or train a model for this focal length'
    )

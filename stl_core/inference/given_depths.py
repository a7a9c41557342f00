"""Depth that a privileged teacher is given in evaluation: its frame's, none, or another's."""

from __future__ import annotations

from collections.abc import Sequence

from stl_core.data.frame_source import DataError, LazyArray, SourceImage
from stl_core.data.given_depth import (
    ABSENT,
    COMPLETE,
    OTHER,
    GivenLimits,
    lazy_given_depth,
    no_given_depth,
)
from stl_core.inference.model_spec import ModelSpec


def given_depths(
    spec: ModelSpec, frames: Sequence[SourceImage], given: str = COMPLETE
) -> list[LazyArray | None]:
    """
    Return the given depth of each frame of a data set.

    :param spec: header of the model.
    :param frames: labelled images.
    :param given: COMPLETE: that of the frame; ABSENT: none; OTHER: that of the next frame, of the
        last frame that of the first. A model that knows the picture loses little with ABSENT, one
        that reads the given depth off follows OTHER.
    :return: per frame, reads (H, W) float32 metres, perhaps in the size of another frame, see
        data.given_depth.fit_size; None for a model that is not given depth.
    :raises DataError: for OTHER with a single frame.
    """
    if not spec.input.given_depth:
        return [None] * len(frames)
    if given == ABSENT:
        return [LazyArray('no given depth', no_given_depth)] * len(frames)
    if given == OTHER:
        if len(frames) < 2:
            raise DataError('given depth of another frame: expected two frames or more, got one')
        frames = [*frames[1:], frames[0]]
    kind, limits = spec.input.given_depth, GivenLimits.from_provenance(spec.provenance)
    return [lazy_given_depth(frame, kind, spec.classes, limits) for frame in frames]

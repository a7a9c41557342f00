"""Learn, choose and judge: no frame of a study may be in two of these splits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from stl_core.data.dataset import DataConfig, list_frames
from stl_core.experiments.study_config import StudyConfig
from stl_core.experiments.study_plan import StudyRun
from stl_core.training.config_builder import ConfigError

#: Id and image file of some frames.
_Frames = frozenset[tuple[str, str]]


def check_disjoint_splits(study: StudyConfig, runs: Sequence[StudyRun]) -> None:
    """
    Raise ConfigError if two of a study's splits have frames in common, with their number.

    Learn are the training frames of every given run, earlier stages included: what a teacher has
    learnt, it passes on. Frames are the same if both their id and their image file are, since data
    sets that differ may use the same ids.

    :param study: names the choose and judge splits.
    :param runs: runs with stages, as planned; they are evaluated on either split.
    :raises DataError: for a missing or malformed file of a data set.
    """
    if not study.judge:
        return
    choose, judge = f'choose: {study.choose}', f'judge: {study.judge}'
    listed: dict[str, _Frames] = {}
    frames: dict[str, _Frames] = {choose: frozenset(), judge: frozenset()}
    for run in runs:
        val = run.config.val
        for name, config in (
            (choose, dataclasses.replace(val, split=study.choose)),
            (judge, dataclasses.replace(val, split=study.judge)),
            (f'the training frames of {run.method}', run.config.train),
        ):
            key = repr((config.sources, config.split))  # most runs have the same data
            listed[key] = listed[key] if key in listed else _frame_keys(config)
            frames[name] = frames.get(name, frozenset()) | listed[key]
    for split in (choose, judge):
        for name in frames:
            common = sorted(frames[split] & frames[name]) if name != split else []
            if common:
                raise ConfigError(
                    f'{split}: {len(common)} common ids with {name}, such as {common[0][0]};'
                    ' expected none'
                )


def _frame_keys(config: DataConfig) -> _Frames:
    """Return id and image file of every frame."""
    return frozenset(
        (image.id, os.path.realpath(image.pixels.location)) for image in list_frames(config)
    )

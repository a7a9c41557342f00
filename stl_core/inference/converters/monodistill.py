"""
Checkpoint layout of monster-ghost/MonoDistill: the RGB student, a MonoDLE.

A checkpoint also holds the teacher, whose input is depth, and the layers between the two networks.
"""

from __future__ import annotations

from dataclasses import replace

from stl_core.inference.converters import monodle
from stl_core.inference.converters.key_mapping import CheckpointLayout

_STUDENT, _TEACHER = r'centernet_rgb\.', r'centernet_depth\.'

LAYOUT = CheckpointLayout(
    program='monster-ghost/MonoDistill at 26ca8da, the student (centernet_rgb)',
    spec=monodle.LAYOUT.spec,
    rules=tuple(replace(each, pattern=_STUDENT + each.pattern) for each in monodle.LAYOUT.rules),
    ignored={
        **{_STUDENT + pattern: why for pattern, why in monodle.LAYOUT.ignored.items()},
        _TEACHER + '.+': 'the teacher, whose input is depth maps',
        r'(rgb_fs|adapt_layer\d+)\..+': 'layers between student and teacher, for training only',
    },
)

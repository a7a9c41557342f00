"""The level that a loss compares: downstream of where given depth enters, in both networks."""

from __future__ import annotations

from stl_core.tensors.detector import Detector
from stl_core.tensors.feature_level import LevelSpec, find_level


def compared_level(name: str, student: Detector, teacher: Detector) -> tuple[LevelSpec, LevelSpec]:
    """
    Find the level that a loss compares in both networks.

    :param name: the level's name; '' for the only one of the student that given depth reaches.
    :param student: the detector that learns.
    :param teacher: its teacher.
    :return: the student's and the teacher's specification; their channels may differ.
    :raises ValueError: for a level that a network lacks, that lies upstream of where given depth
        enters, or that lies in another plane in the teacher; for '' with none or several to choose
        from.
    """
    name = name or _only_level_after_depth(student)
    pair = []
    for role, net in (('student', student), ('teacher', teacher)):
        try:
            level = find_level(net.levels, name)
        except ValueError as err:
            raise ValueError(f'{role}: {err}') from err
        if not level.after_given_depth:
            after = ', '.join(each.name for each in net.levels if each.after_given_depth)
            raise ValueError(
                f'level {name!r} of the {role} lies upstream of where given depth enters,'
                f' so that the teacher knows no more there; choose from: {after or "none"}'
            )
        pair.append(level)
    if pair[0].plane != pair[1].plane:
        raise ValueError(
            f'level {name!r}: {pair[0].plane} in the student, {pair[1].plane} in the'
            ' teacher; expected the same grid'
        )
    return pair[0], pair[1]


def _only_level_after_depth(net: Detector) -> str:
    names = [each.name for each in net.levels if each.after_given_depth]
    if len(names) != 1:
        raise ValueError(
            f'level: {type(net).__name__} has {len(names)} levels that given depth'
            f' reaches ({", ".join(names) or "none"}); expected the name of one'
        )
    return names[0]

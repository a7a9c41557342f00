"""Result of a check of `doctor`."""

from __future__ import annotations

from dataclasses import dataclass

#: Levels of a result: the node cannot run; it runs with problems; something optional is missing.
MISSING, WARNING, NOTE = 'missing', 'warning', 'note'


@dataclass(frozen=True)
class CheckResult:
    """
    A problem that a check found.

    :param level: MISSING, WARNING or NOTE.
    :param what: description in one line.
    :param remedy: exact command or step that fixes it.
    """

    level: str
    what: str
    remedy: str

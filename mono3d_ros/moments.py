"""Images of several cameras that were taken at about one time, to be answered together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mono3d_ros.messages import stamp_ns
from mono3d_ros.playback import Sight


def moments(sights: Iterable[Sight], max_apart_s: float) -> Iterator[tuple[Sight, ...]]:
    """
    Gather neighbours, at most one a camera.

    :param sights: in order of recording.
    :param max_apart_s: how far apart, by their stamps, images of one moment may be.
    :return: the same sights, in the same order.
    """
    gathered: list[Sight] = []
    for sight in sights:
        if gathered and not _belongs(sight, gathered, max_apart_s):
            yield tuple(gathered)
            gathered = []
        gathered.append(sight)
    if gathered:
        yield tuple(gathered)


def _belongs(sight: Sight, gathered: list[Sight], max_apart_s: float) -> bool:
    if any(sight.camera.name == other.camera.name for other in gathered):
        return False
    stamps = [stamp_ns(each.image.header) for each in (*gathered, sight)]
    return max(stamps) - min(stamps) <= max_apart_s * 1e9

"""
Match label messages with images.

A label message is a String, which has no stamp. In a bag that this package wrote, the message is
recorded at the stamp of its image; in one that ROS recorded anew, at the time of its arrival.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar('T')


def match_labels(
    labels: Sequence[tuple[int, T]], array_ns: Sequence[int], image_ns: Sequence[int]
) -> dict[int, T]:
    """
    Return the stamp of an image, ns -> its labels.

    :param labels: time of recording, ns, and message of each label message, in order of recording.
    :param array_ns: stamps of the messages of the same labels on NAMESPACE/ground_truth, which are
        published one by one with them, in order of recording.
    :param image_ns: stamps of the images, in order of recording.
    :raises ValueError: if labels were recorded anew and some of these messages were lost.
    """
    known = set(image_ns)
    if not labels or any(recorded_ns in known for recorded_ns, _ in labels):
        return dict(labels)
    for stamps in (array_ns, image_ns):
        if len(stamps) == len(labels):
            return {ns: each for ns, (_, each) in zip(stamps, labels, strict=True)}
    raise ValueError(
        f'{len(labels)} label messages without a stamp, recorded anew, cannot be assigned to '
        f'{len(image_ns)} images: expected as many of ground_truth (got {len(array_ns)}) or as '
        'many images; convert the data set again, or give the labels as a folder'
    )

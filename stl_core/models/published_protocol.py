"""
The published protocol of a detector: how its public code scores, filters and keeps detections.

Our protocol divides the height of a peak by 1 + sigma, keeps nearly all peaks and drops boxes that
overlap in bird's-eye view. The AP of papers is measured with another score, a threshold and no
suppression of boxes, so the same network has another AP there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from stl_core.types import ImageObjects


@dataclass(frozen=True)
class PublishedProtocol:
    """
    A detector's published protocol.

    :param select: all decoded objects of an image, with the scores of our protocol -> those that
        the public code writes into result files, with its scores. A score may exceed 1.
    :param description: score and threshold in a few words, with the public code that has them.
    """

    select: Callable[[ImageObjects], ImageObjects]
    description: str


def protocol_by_height(min_height: float, program: str) -> PublishedProtocol:
    """Return a protocol with a threshold on the peak or class probability, before the sigma."""
    return PublishedProtocol(
        partial(rescore_by_sigma, min_height=min_height),
        f'height * exp(-log sigma), for heights of at least {min_height:g} ({program})',
    )


def protocol_by_score(min_score: float, program: str) -> PublishedProtocol:
    """Return a protocol with a threshold on the published score itself."""
    return PublishedProtocol(
        partial(rescore_by_sigma, min_score=min_score),
        f'height * exp(-log sigma), of at least {min_score:g} ({program})',
    )


def rescore_by_sigma(
    objects: ImageObjects, min_height: float = 0.0, min_score: float = 0.0
) -> ImageObjects:
    """
    Score objects by the height of their peak times exp(-log sigma), and apply thresholds.

    :param objects: N objects whose score is height / (1 + sigma), sigma in metres, as the decoders
        of this package compute it.
    :param min_height: objects with a lower peak or class probability are dropped.
    :param min_score: objects with a lower new score are dropped.
    :return: the remaining objects, in their order, with the new scores.
    """
    with np.errstate(over='ignore', invalid='ignore'):
        height = objects.score * (1 + np.exp(objects.depth_log_sigma))
        score = height * np.exp(-objects.depth_log_sigma)
    keep = (height >= min_height) & (score >= min_score)
    return replace(objects, score=score)[keep]

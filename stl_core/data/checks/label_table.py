"""The labels of many images in one table, so that checks of a whole set run over arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stl_core.data.frame_source import SourceImage
from stl_core.types import Array, Labels


@dataclass(frozen=True)
class LabelTable:
    """
    The labels of M images.

    :param labels: N objects, in the order of the images.
    :param image: (N,) index of the image of each object, ascending.
    :param count: (M,) number of objects of each image.
    """

    labels: Labels
    image: Array
    count: Array

    def split(self, values: Array) -> list[Array]:
        """Return the (N, ...) values of all objects as one array for each of the M images."""
        return np.split(values, np.cumsum(self.count)[:-1]) if len(self.count) else []

    def location(self, images: Sequence[SourceImage], index: int) -> str:
        """Return where an object of the table is, for a message; `images` are those of stack."""
        image = int(self.image[index])
        return images[image].label_location(index - int(self.count[:image].sum()))


def stack_labels(images: Sequence[SourceImage]) -> LabelTable:
    """Return the table of the labels of images; images without labels have no objects."""
    parts = [Labels.empty() if image.labels is None else image.labels for image in images]
    count = np.array([len(labels) for labels in parts], np.int64)
    return LabelTable(Labels.concatenate(parts), np.repeat(np.arange(len(parts)), count), count)

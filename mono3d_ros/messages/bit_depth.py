"""
Bit depth of 16-bit images: sensors of 10, 12 or 14 bits often leave the high bits empty.

The depth belongs to a stream, not to an image: it is the smallest of DEPTHS that holds the largest
value so far, so it only grows, and the brightness does not flicker between images.
"""

from __future__ import annotations

import numpy as np

from stl_core.types import Array

#: Bit depths of sensors, from which the depth of a stream is chosen.
DEPTHS = (8, 10, 12, 14, 16)


class BitDepth:
    """Converts the 16-bit images of one stream to 8 bits."""

    def __init__(self, given_bits: int = 0) -> None:
        """
        Start without an image.

        :param given_bits: significant bits of each value, 8 to 16; 0 finds them from the values.
        """
        self._given_bits = given_bits
        self.bits = given_bits  #: significant bits so far; 0 before the first image

    def to_8bit(self, values: Array) -> Array:
        """
        Scale the values of an image.

        :param values: (H, W, C) uint16; a fourth channel is alpha and does not count.
        :return: (H, W, C) uint8: the 8 highest of the significant bits.
        :raises ValueError: for a value that exceeds the given bits.
        """
        if self.bits < DEPTHS[-1]:
            by_column = values.max(axis=0, initial=0)  # of whole rows: fast with alpha, too
            self._grow(int(by_column[:, :3].max(initial=0)))
        return (values >> (self.bits - 8)).astype(np.uint8)

    def _grow(self, largest: int) -> None:
        """Increase the depth to the smallest one that holds a value."""
        needed = largest.bit_length()
        if not self._given_bits:
            self.bits = max(self.bits, next(each for each in DEPTHS if each >= needed))
        elif needed > self._given_bits:
            raise ValueError(f'value {largest} exceeds the given {self._given_bits} bits')

"""Atomic file writing: a crash at any moment leaves a complete file."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write data to a file atomically: after a crash the path holds the old or the new content."""
    part = path.with_name(path.name + '.part')
    with part.open('wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

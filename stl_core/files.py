"""
The state of a run on disk: checkpoints that a crash at any moment leaves whole.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: after a crash it is the old one or the new one."""
    part = path.with_name(path.name + '.part')
    with part.open('wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

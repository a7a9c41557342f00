"""A folder of results that appears when complete, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mono3d_ros.bags.bag_io import require_absent


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """
    Make a folder: it grows hidden beside its place and is moved there at the end.

    :param path: its place; parents are made too.
    :return: the growing folder; an error or Ctrl-C removes it.
    :raises BagError: where something is there already.
    """
    require_absent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    growing = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
    try:
        growing.chmod(0o755)  # mkdtemp makes it private, but results are shared
        yield growing
        growing.replace(path)
    finally:
        shutil.rmtree(growing, ignore_errors=True)

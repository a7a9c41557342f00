"""Create an output folder atomically: it appears when complete, or not at all."""

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
    Create a hidden folder next to the path and move it there at the end of the with statement.

    :param path: final path of the folder; its parents are created too.
    :return: the hidden folder to fill; an error or Ctrl-C removes it.
    :raises BagError: if the path exists.
    """
    require_absent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_dir = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
    try:
        temp_dir.chmod(0o755)  # mkdtemp creates it private, but others should read the results
        yield temp_dir
        temp_dir.replace(path)
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)

"""
The numbers of a run, one row an epoch: CSV files and, where it is installed, TensorBoard.

The CSV files are the truth: a resumed run drops the rows that it will write again, and reads off
them which evaluation was the best.
"""

from __future__ import annotations

import csv
import logging
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from stl_core.files import write_atomically

log = logging.getLogger(__name__)

#: Losses and learning rate of every epoch; figures of every evaluation.
TABLES = ('curves', 'val')


class MetricLogger:
    """
    Writes the tables of a run; to be used in a `with`.

    :param out: folder of the run.
    :param epochs_done: epochs that the run has behind it; rows of later ones are forgotten.
    """

    def __init__(self, out: Path, epochs_done: int) -> None:
        """Forget what will be written again; nothing is made before the first row."""
        self.out, self.epochs_done = out, epochs_done
        for table in TABLES:
            _drop_rows_after(self.table_path(table), epochs_done)

    def __enter__(self) -> MetricLogger:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close what is open."""
        board = vars(self).get('_board')
        if board:
            board.close()

    def table_path(self, table: str) -> Path:
        """Return where a table lies."""
        return self.out / f'{table}.csv'

    def add_row(self, table: str, epoch: int, row: dict[str, float]) -> None:
        """Add one row; every row of a table has the same names."""
        path = self.table_path(table)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists() or not path.stat().st_size
        with path.open('a', newline='') as file:
            writer = csv.DictWriter(file, ['epoch', *row])
            if fresh:
                writer.writeheader()
            writer.writerow({'epoch': epoch, **{k: f'{v:.6g}' for k, v in row.items()}})
        if self._board:
            for name, value in row.items():
                self._board.add_scalar(f'{table}/{name}', value, epoch)
            self._board.flush()

    def column(self, table: str, name: str) -> list[float]:
        """Return one number of every row so far."""
        if not self.table_path(table).exists():
            return []
        with self.table_path(table).open(newline='') as file:
            return [float(row[name]) for row in csv.DictReader(file)]

    @cached_property
    def _board(self) -> Any:
        """Open TensorBoard's writer; its readers forget steps still to come. None without it."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.info(
                "no TensorBoard curves: pip install tensorboard, or this package's extra 'train'"
            )
            return None
        return SummaryWriter(str(self.out / 'tensorboard'), purge_step=self.epochs_done + 1)


def _drop_rows_after(path: Path, epoch: int) -> None:
    """Keep the header and the rows of epochs up to this one; a crash may have torn the last."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines(True) if line.endswith('\n')]
        kept = [line for line in lines[1:] if int(line.split(',')[0]) <= epoch]
        write_atomically(path, ''.join([*lines[:1], *kept]).encode())

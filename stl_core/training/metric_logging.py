"""
Metric logging of a training run: CSV files and, if installed, TensorBoard.

A resumed run drops the CSV rows that it will write again, and reads the metrics of earlier
evaluations from the remaining ones.
"""

from __future__ import annotations

import csv
import io
import logging
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from stl_core.files import write_atomically
from stl_core.training.run.run_files import CheckpointError

log = logging.getLogger(__name__)

#: Names of the tables: losses and learning rate of every epoch; AP of every evaluation.
TABLES = ('curves', 'val')


class MetricLogger:
    """
    Context manager that appends rows to the tables of a run.

    :param out: output folder of the run.
    :param epochs_done: completed epochs of a resumed run; rows of later epochs are dropped.
    """

    def __init__(self, out: Path, epochs_done: int) -> None:
        """Drop rows of epochs after epochs_done; files are created with the first row."""
        self.out, self.epochs_done = out, epochs_done
        for table in TABLES:
            _drop_rows_after(self.table_path(table), epochs_done)

    def __enter__(self) -> MetricLogger:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the TensorBoard writer."""
        board = vars(self).get('_board')
        if board:
            board.close()

    def table_path(self, table: str) -> Path:
        """Return the path of a table's CSV file."""
        return self.out / f'{table}.csv'

    def add_row(self, table: str, epoch: int, row: dict[str, float]) -> None:
        """
        Append a row {column: value} to a table; values that a row lacks are nan.

        The columns of a version may differ from those of the version that began the run.
        """
        path = self.table_path(table)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = _complete_header(path, ['epoch', *row])
        with path.open('a', newline='') as file:
            writer = csv.DictWriter(file, header, restval='nan')
            writer.writerow({'epoch': epoch, **{k: f'{v:.6g}' for k, v in row.items()}})
        if self._board:
            for name, value in row.items():
                self._board.add_scalar(f'{table}/{name}', value, epoch)
            self._board.flush()

    def column(self, table: str, name: str, after: int = 0) -> list[float]:
        """
        Return a column of a table, one value per row; [] without the table.

        :param table: one of TABLES.
        :param name: the column.
        :param after: rows of this epoch and earlier ones are left out.
        :raises CheckpointError: for a table without that column, or with text in it.
        """
        path = self.table_path(table)
        if not path.exists():
            return []
        with path.open(newline='') as file:
            rows = list(csv.DictReader(file))
        try:
            return [float(row[name]) for row in rows if int(row['epoch']) > after]
        except (KeyError, TypeError, ValueError) as err:
            raise _foreign_table_error(path, f'no numbers in epoch and {name}') from err

    @cached_property
    def _board(self) -> Any:
        """
        Create the TensorBoard writer; None if TensorBoard is not installed.

        purge_step makes TensorBoard discard points of epochs that a resumed run repeats.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.info(
                "no TensorBoard curves: pip install tensorboard, or this package's extra 'train'"
            )
            return None
        return SummaryWriter(str(self.out / 'tensorboard'), purge_step=self.epochs_done + 1)


def _complete_header(path: Path, columns: list[str]) -> list[str]:
    """
    Return the columns of a table, after adding those that it lacks, with NaN in its rows.

    A run that an older version began may lack columns that this version writes.
    """
    if not path.exists() or not path.stat().st_size:
        write_atomically(path, (','.join(columns) + '\r\n').encode())
        return columns
    with path.open(newline='') as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or ())
        missing = [name for name in columns if name not in header]
        if not missing:
            return header
        rows = list(reader)
    header += missing
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, header, restval='nan')
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
    return header


def _drop_rows_after(path: Path, epoch: int) -> None:
    """Drop rows of later epochs, and an incomplete last line that a crash left."""
    if not path.exists():
        return
    try:
        if not path.read_text().startswith(('epoch,', 'epoch\n')) and path.stat().st_size:
            raise _foreign_table_error(path, 'its first column is not epoch')
        lines = [line for line in path.read_text().splitlines(True) if line.endswith('\n')]
        kept = [line for line in lines[1:] if int(line.split(',')[0]) <= epoch]
    except (ValueError, IsADirectoryError) as err:
        raise _foreign_table_error(path, 'a row has no epoch') from err
    write_atomically(path, ''.join([*lines[:1], *kept]).encode())


def _foreign_table_error(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f'{path}: not the table of this run ({reason}); move it away')

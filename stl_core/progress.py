"""The progress bar of long work."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar() -> Progress:
    """Make the progress bar of long work: bar, count, time so far, time to go, a note."""
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('eta'),
        TimeRemainingColumn(),
        TextColumn('{task.fields[note]}'),
    )

"""Progress bars with an estimate, fed by the tasks themselves wherever they run.

A running task writes its fraction into the folder it is filling; whoever shows the bar reads it
there. This needs no channel between processes and works on any machine that sees the folder.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

FILE = "progress"
_PERIOD = 0.5  # seconds between two looks


def write_fraction(folder: Path, fraction: float) -> None:
    """Say how much of the task that fills `folder` is done, from 0 to 1."""
    (folder / FILE).write_text(f"{fraction:.4f}")


def read_fraction(folder: Path) -> float:
    """How much of the task that fills `folder` is done; 0 if it has not said so."""
    try:
        return min(1.0, float((folder / FILE).read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # not begun, done, or being written
        return 0.0


@contextmanager
def bar(label: str, total: int, done: Callable[[], float]) -> Iterator[None]:
    """Show how many of `total` tasks are done, asking `done()` until the block ends."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    ended = Event()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total)

        def watch() -> None:
            while not ended.wait(_PERIOD):
                progress.update(task, completed=done())

        thread = Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            progress.update(task, completed=done())

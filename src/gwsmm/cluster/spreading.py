"""Tasks spread over workers that may stand on other machines, whatever engine leads them.

The engines are asked directly and not through joblib, whose call never returns when Dask's
scheduler is lost, and which shows no progress under Ray.
"""

import os
import socket
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Generic, Protocol

from gwsmm.disk import locate, writing
from gwsmm.progress import bar
from gwsmm.task import Result, Task, numbered, out_of_memory, run_again
from gwsmm.types import InputError


class Engine(Protocol):
    """What is needed of a cluster."""

    def room(self) -> int:
        """How many tasks to have there at once."""

    def submit(self, call: Callable[[], Any]) -> Hashable:
        """Have it called there."""

    def wait(self, calls: Sequence[Any]) -> Hashable:
        """One of the calls that has ended."""

    def result(self, call: Any, label: str, task: object) -> Any:
        """What it returned, or raises what it raised."""

    def cancel(self, calls: Sequence[Any]) -> None:
        """Stop calls that nobody waits for any more."""


@dataclass(frozen=True)
class Visit(Generic[Task, Result]):
    """A task on a worker that may stand anywhere: it must see what this process sees.

    Attributes:
        function: of the task.
        threads: of the task.
        store: the folder of finished results.
    """

    function: Callable[[Task], Result]
    threads: int
    store: str

    def from_here(self, mark: str) -> Callable[[int, Task], tuple[int, Result]]:
        """The same from this folder; `mark` is a file that there is in the store for now."""
        return partial(self._call, str(Path.cwd()), mark)

    def _call(self, folder: str, mark: str, i: int, task: Task) -> tuple[int, Result]:
        with suppress(OSError):  # where it is not there, an absolute path to the store may be
            os.chdir(folder)
        if not (locate(self.store, "store") / mark).exists():
            raise InputError(
                f"store={self.store}: the worker on {socket.gethostname()} does not see this "
                "folder; put it on a file system that all workers share, under the same path"
            )
        return numbered(self.function, self.threads, i, task)


def spread(
    engine: Engine,
    visit: Visit[Task, Result],
    tasks: Sequence[Task],
    label: str,
    inside: Callable[[Task], float] | None,
) -> list[Result]:
    """The results in the order of the tasks; no more are handed over than there is room for."""
    with _marked(locate(visit.store, "store")) as mark:
        spreading = _Spreading(engine, visit.from_here(mark), tasks, label)
        with bar(label, len(tasks), partial(spreading.done, inside)):
            try:
                spreading.run()
            finally:
                engine.cancel([*spreading.running])
    return [spreading.results[i] for i in range(len(tasks))]


@dataclass(frozen=True)
class _Spreading(Generic[Task, Result]):
    engine: Engine
    call: Callable[[int, Task], tuple[int, Result]]
    tasks: Sequence[Task]
    label: str
    running: dict[Hashable, int] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)

    def run(self) -> None:
        """All tasks; those that ran out of memory come last, one at a time."""
        todo, lacking = iter(range(len(self.tasks))), list[int]()
        while len(self.results) + len(lacking) < len(self.tasks):
            for i in islice(todo, max(0, self.engine.room() - len(self.running))):
                self._submit(i)
            ended = self.engine.wait([*self.running])
            i = self.running.pop(ended)
            try:
                self.results[i] = self._result(ended, i)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                lacking.append(i)
        for i in lacking:
            self.results[i] = run_again(partial(self._alone, i), self.label, self.tasks[i])

    def done(self, inside: Callable[[Task], float] | None) -> float:
        there = [self.tasks[i] for i in [*self.running.values()]]
        return len(self.results) + (sum(map(inside, there)) if inside else 0.0)

    def _submit(self, i: int) -> None:
        self.running[self.engine.submit(partial(self.call, i, self.tasks[i]))] = i

    def _result(self, ended: Hashable, i: int) -> Result:
        found: tuple[int, Result] = self.engine.result(ended, self.label, self.tasks[i])
        return found[1]

    def _alone(self, i: int) -> Result:
        self._submit(i)
        ended = self.engine.wait([*self.running])
        self.running.pop(ended)
        return self._result(ended, i)


@contextmanager
def _marked(store: Path) -> Iterator[str]:
    """The name of a file that there is in the store within the block.

    Raises:
        InputError: the store cannot be written.
    """
    with ExitStack() as stack:
        with writing(store, "store"):
            store.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(NamedTemporaryFile(dir=store, prefix=".seen-"))
        yield Path(file.name).name


def check_installed(module: str, extra: str) -> None:
    """Refuse, before any work, an engine that is not installed.

    Raises:
        InputError: says how to install it.
    """
    if find_spec(module) is None:
        raise InputError(f"execute={extra} needs {module}: pip install 'gwsmm[{extra}]'")

"""Where independent tasks run: in this process, or in several."""

import gc
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Protocol, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.progress import bar
from gwsmm.types import STRICT

Task = TypeVar("Task")
Result = TypeVar("Result")


class Execute(Protocol):
    """A way to apply one function to many tasks; results come back in the order of the tasks."""

    @property
    def workers(self) -> int:
        """How many tasks run at the same time."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        label: str,
        inside: Callable[[Task], float] | None = None,
    ) -> list[Result]:
        """Apply `function` to every task.

        Args:
            function: picklable.
            tasks: picklable.
            label: what the progress bar says.
            inside: the fraction done of a task that is running, from 0 to 1.
        """


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Serial:
    """One task after the other, in this process, on `threads` threads."""

    threads: Annotated[int, Field(ge=1)]

    @property
    def workers(self) -> int:
        """One; see `Execute`."""
        return 1

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        label: str,
        inside: Callable[[Task], float] | None = None,
    ) -> list[Result]:
        """Apply `function` to every task; see `Execute`."""
        results: list[Result] = []

        def done() -> float:
            at = len(results)
            return at + (inside(tasks[at]) if inside and at < len(tasks) else 0.0)

        with bar(label, len(tasks), done):
            for task in tasks:
                with limited_threads(self.threads):
                    results.append(function(task))
        return results


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Processes:
    """Tasks spread over worker processes of this machine, by joblib.

    Two processes of one thread have more throughput than one process of two threads, and with the
    same number of threads the results are the same, bit for bit, as those of `Serial`.

    Attributes:
        jobs: worker processes; None: one for every `threads` cores of this machine.
        threads: threads of each worker.
    """

    jobs: Annotated[int, Field(ge=1)] | None
    threads: Annotated[int, Field(ge=1)]

    @property
    def workers(self) -> int:
        """The worker processes; see `Execute`."""
        return self.jobs or max(1, _cores() // self.threads)

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        label: str,
        inside: Callable[[Task], float] | None = None,
    ) -> list[Result]:
        """Apply `function` to every task; see `Execute`."""
        jobs = min(self.workers, len(tasks))
        if jobs <= 1:
            return Serial(threads=self.threads).map(function, tasks, label=label, inside=inside)
        from joblib import Parallel, delayed, parallel_config

        results: dict[int, Result] = {}

        def done() -> float:
            running = [task for i, task in enumerate(tasks) if i not in results]
            return len(results) + (sum(map(inside, running)) if inside else 0.0)

        call = delayed(_numbered)
        with (
            warnings.catch_warnings(),
            bar(label, len(tasks), done),
            parallel_config(backend="loky", inner_max_num_threads=self.threads),
        ):
            # Where psutil is installed, a worker that grew by loading a model is replaced.
            warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
            parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
            for i, result in parallel(
                call(function, self.threads, i, task) for i, task in enumerate(tasks)
            ):
                results[i] = result
        return [results[i] for i in range(len(tasks))]


def _numbered(
    function: Callable[[Task], Result], threads: int, i: int, task: Task
) -> tuple[int, Result]:
    with limited_threads(threads):
        result = function(task)
    _freeze_libraries()
    return i, result


@cache
def _freeze_libraries() -> None:
    """Take what a worker has loaded by its first task out of the garbage collector's sight.

    Joblib's workers collect all garbage every second, which with torch loaded takes a tenth of it.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Run the block with this many threads in torch and in the linear algebra libraries."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

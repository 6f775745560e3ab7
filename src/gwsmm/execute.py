"""Where independent tasks run: in this process, or in several."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread
from typing import Annotated, Protocol

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.progress import bar
from gwsmm.task import (
    Result,
    Task,
    limited_threads,
    named,
    numbered,
    out_of_memory,
    run_again,
    unfinished,
)
from gwsmm.types import STRICT

log = logging.getLogger(__name__)

_GLANCE = 1.0  # seconds between two looks of a worker at whether its parent lives


class Execute(Protocol):
    """A way to apply one function to many tasks; results come back in the order of the tasks.

    A task that ran out of memory is tried once more, with no other task beside it.
    """

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

        Raises:
            UnfinishedError: a task ran out of memory twice, or the workers are lost.
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
                results.append(self._result(partial(function, task), label, task))
        return results

    def _result(self, call: Callable[[], Result], label: str, task: object) -> Result:
        with limited_threads(self.threads):
            try:
                return call()
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            # Here nothing holds the error any more, nor what the first attempt had in memory.
            return run_again(call, label, task)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Processes:
    """Tasks spread over worker processes of this machine, by joblib.

    Two processes of one thread have more throughput than one process of two threads, and with the
    same number of threads the results are the same, bit for bit, as those of `Serial`. If a worker
    dies or lacks memory, what is not done is tried again, one task at a time in a worker alone.

    Attributes:
        jobs: worker processes; None: one for every `threads` cores of this machine.
        threads: threads of each worker.
    """

    jobs: Annotated[int, Field(ge=1)] | None
    threads: Annotated[int, Field(ge=1)]

    @property
    def workers(self) -> int:
        """The worker processes; see `Execute`."""
        return self.jobs or max(1, cores() // self.threads)

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
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        results: dict[int, Result] = {}

        def done() -> float:
            running = [task for i, task in enumerate(tasks) if i not in results]
            return len(results) + (sum(map(inside, running)) if inside else 0.0)

        with bar(label, len(tasks), done):
            try:
                self._together(function, tasks, jobs, results)
            except (TerminatedWorkerError, MemoryError, RuntimeError) as error:
                if not (isinstance(error, TerminatedWorkerError) or out_of_memory(error)):
                    raise
                log.warning(
                    "%s: a worker died or ran out of memory; the %d tasks that are left are tried "
                    "again, one at a time",
                    label,
                    len(tasks) - len(results),
                )
                self._one_by_one(function, tasks, label, results)
        return [results[i] for i in range(len(tasks))]

    def _together(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        jobs: int,
        results: dict[int, Result],
    ) -> None:
        from joblib import Parallel, delayed, parallel_config

        call = delayed(numbered)
        with (
            warnings.catch_warnings(),
            parallel_config(backend="loky", inner_max_num_threads=self.threads),
        ):
            # Where psutil is installed, a worker that grew by loading a model is replaced.
            warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
            parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
            for i, result in parallel(
                call(function, self.threads, i, task) for i, task in enumerate(tasks)
            ):
                results[i] = result

    def _one_by_one(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        label: str,
        results: dict[int, Result],
    ) -> None:
        """What is not done yet, in a process of its own: this one must not be the next to die."""
        from joblib.externals.loky import ProcessPoolExecutor
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        with ProcessPoolExecutor(1, initializer=_end_with, initargs=(os.getpid(),)) as worker:
            for i in [i for i in range(len(tasks)) if i not in results]:
                try:
                    call = worker.submit(numbered, function, self.threads, i, tasks[i])
                    with named(label, tasks[i]):
                        _, results[i] = call.result()
                except TerminatedWorkerError as error:
                    what = "its worker was killed, most likely for want of memory"
                    raise unfinished(label, tasks[i], what) from error


def at_once(function: Callable[[int], Result], n: int) -> list[Result]:
    """`function` of 0 to n - 1, each in a process of its own, as they may wait for one another."""
    from concurrent.futures import FIRST_EXCEPTION, wait

    from joblib.externals.loky import ProcessPoolExecutor

    # the one that is kept is joblib's
    executor = ProcessPoolExecutor(n, initializer=_end_with, initargs=(os.getpid(),))
    try:
        calls = [executor.submit(function, i) for i in range(n)]
        wait(calls, return_when=FIRST_EXCEPTION)
        return [call.result() for call in calls if call.done()]
    finally:  # after a failure or Ctrl-C others may wait for ever
        executor.shutdown(kill_workers=True)


def _end_with(parent: int) -> None:
    """End this worker soon after its parent: who was killed cannot tell it to."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_GLANCE)
        os._exit(1)  # the task that is running may wait for ever

    if os.name == "posix":  # elsewhere the number of a parent says nothing
        Thread(target=watch, daemon=True).start()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

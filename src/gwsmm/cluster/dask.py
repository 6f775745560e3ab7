"""Tasks on the workers of a Dask cluster."""

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import cache
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.cluster.spreading import Visit, check_installed, spread
from gwsmm.execute import cores
from gwsmm.task import Result, Task, unfinished
from gwsmm.types import STRICT, InputError, UnfinishedError

log = logging.getLogger(__name__)

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dask:
    """Tasks spread over the workers of a Dask cluster, each a process of one thread.

    Attributes:
        address: of its scheduler, e.g. `tcp://node1:8786`; None: a cluster of this machine alone.
        jobs: worker processes of that cluster; None: one for every `threads` cores of this machine.
        threads: of a task.
        store: the folder of finished results, which every worker must see.
    """

    address: str | None
    jobs: Count | None
    threads: Count
    store: str

    def __post_init__(self) -> None:
        check_installed("distributed", "dask")

    @property
    def workers(self) -> int:
        """How many tasks run at the same time, as far as it is known here; see `Execute`."""
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
        if not tasks:
            return []
        engine = _Dask(_dask_client(self.address, self.workers), self.address)
        return spread(engine, Visit(function, self.threads, self.store), tasks, label, inside)


class _Dask:
    def __init__(self, client: Any, address: str | None) -> None:
        self.client, self.address = client, address

    def room(self) -> int:
        try:
            workers = len(self.client.nthreads())
        except OSError as error:
            raise self._lost() from error
        if not workers:
            log.warning("execute.address=%s: waiting for workers", self.address)
        return 2 * max(1, workers)

    def submit(self, call: Callable[[], Any]) -> Hashable:
        future: Hashable = self.client.submit(_in_one_thread, call, pure=False)
        return future

    def wait(self, calls: Sequence[Any]) -> Hashable:
        from distributed import CancelledError, wait

        try:
            ended: Hashable = next(iter(wait(calls, return_when="FIRST_COMPLETED").done))
        except CancelledError as error:
            raise self._lost() from error
        return ended

    def result(self, call: Any, label: str, task: object) -> Any:
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        try:
            return call.result()
        except CancelledError as error:
            raise self._lost() from error
        except KilledWorker as error:
            raise unfinished(label, task, "the workers that tried it died") from error

    def cancel(self, calls: Sequence[Any]) -> None:
        if self.client.status == "running":
            self.client.cancel(calls)

    def _lost(self) -> UnfinishedError:
        _dask_client.cache_clear()
        with suppress(OSError):
            self.client.close()
        return UnfinishedError(
            f"execute.address={self.address}: the Dask scheduler is gone; what is finished is "
            "kept: the same command goes on from there"
        )


def _in_one_thread(call: Callable[[], Any]) -> Any:
    from distributed import get_worker

    worker = get_worker()
    if worker.state.nthreads > 1:
        raise InputError(
            f"the Dask worker {worker.address} runs {worker.state.nthreads} tasks at once in one "
            "process, which would mix their random numbers; start it with --nthreads 1"
        )
    return call()


@cache
def _dask_client(address: str | None, workers: int) -> Any:
    """One cluster for all stages, as its workers load torch but once."""
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # lost workers are its own business
    if address is None:
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        return Client(cluster)
    try:
        return Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise InputError(f"execute.address={address}: no Dask scheduler answers there") from error

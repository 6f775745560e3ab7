"""Tasks on a Ray cluster."""

import logging
import os
from collections.abc import Callable, Hashable, Sequence
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.cluster.spreading import Visit, check_installed, spread
from gwsmm.execute import cores
from gwsmm.task import Result, Task, unfinished
from gwsmm.types import STRICT, InputError

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Ray:
    """Tasks spread over a Ray cluster.

    Attributes:
        address: of its head, e.g. `node1:6379`, or `auto`; None: a cluster of this machine alone.
        jobs: tasks at a time on that cluster; None: one for every `threads` cores.
        threads: of a task, which is given as many cores.
        gpus: that a task is given; a fraction lets several share one.
        store: the folder of finished results, which every worker must see.
    """

    address: str | None
    jobs: Count | None
    threads: Count
    gpus: Annotated[float, Field(ge=0)]
    store: str

    def __post_init__(self) -> None:
        check_installed("ray", "ray")

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
        _join_ray(self.address, self.workers * self.threads)
        engine = _Ray(self.threads, self.gpus)
        return spread(engine, Visit(function, self.threads, self.store), tasks, label, inside)


class _Ray:
    def __init__(self, threads: int, gpus: float) -> None:
        import ray

        self.call = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=3)(_called)
        self.threads = threads

    def room(self) -> int:
        import ray

        return 2 * max(1, int(ray.cluster_resources().get("CPU", 1) // self.threads))

    def submit(self, call: Callable[[], Any]) -> Hashable:
        reference: Hashable = self.call.remote(call)
        return reference

    def wait(self, calls: Sequence[Any]) -> Hashable:
        import ray

        ended: Hashable = ray.wait(calls)[0][0]
        return ended

    def result(self, call: Any, label: str, task: object) -> Any:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(call)
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise unfinished(label, task, "the workers that tried it died") from error

    def cancel(self, calls: Sequence[Any]) -> None:
        import ray

        for call in calls:
            ray.cancel(call)


def _called(call: Callable[[], Any]) -> Any:
    return call()


def _join_ray(address: str | None, cpus: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        return
    here = {"num_cpus": cpus, "include_dashboard": False} if address is None else {}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    try:
        ray.init(address=address or "local", **here, **quiet)
    except (ConnectionError, ValueError) as error:
        raise InputError(
            f"execute.address={address}: no Ray cluster answers there; if it is up, it may ask for "
            "a token: copy ~/.ray/auth_token from its head"
        ) from error
    except RayError as error:  # such as a token that is asked for and is not there
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"execute.address={address}: Ray refuses ({reason})") from error

"""One of many tasks: how it runs on its threads, what it is called, and what it dies of."""

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from gwsmm.types import UnfinishedError

log = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

_NAMED_BY = ("name", "item", "member", "own", "before")  # what tasks call the item they are about


def numbered(
    function: Callable[[Task], Result], threads: int, i: int, task: Task
) -> tuple[int, Result]:
    """The task's number with its result, in a worker process."""
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


def name_of(task: object) -> str:
    """The items that a task is about, by name; empty if it does not say."""
    for part in _NAMED_BY:
        if (found := getattr(task, part, None)) is not None:
            return found if isinstance(found, str) else name_of(found)
    parts = getattr(task, "members", task)
    if isinstance(parts, Mapping):
        parts = list(parts.values())
    if isinstance(parts, tuple | list):
        return ", ".join(dict.fromkeys(filter(None, map(name_of, parts))))
    return ""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was wanting, of the machine or of its accelerator."""
    said = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or "allocate memory" in said or "out of memory" in said


def run_again(call: Callable[[], Result], label: str, task: object) -> Result:
    """What a task returns whose first attempt ran out of memory, with nothing beside it now.

    It is the same call: in smaller batches it could give other last digits, which would then be
    kept under the same key.

    Args:
        call: of the task.
        label: of the tasks.
        task: the one that is tried again.

    Raises:
        UnfinishedError: it ran out of memory again.
    """
    log.warning("%s: it ran out of memory; it is tried once more, alone", _called(label, task))
    gc.collect()  # of the first attempt
    with named(label, task):
        return call()


@contextmanager
def named(label: str, task: object) -> Iterator[None]:
    """Say in one line which task runs out of memory within the block, for good.

    Raises:
        UnfinishedError: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise unfinished(label, task, "it ran out of memory") from error


def unfinished(label: str, task: object, what: str) -> UnfinishedError:
    """The line that names the task that could not be done.

    Args:
        label: of the tasks.
        task: one of them.
        what: became of it, e.g. `its worker died`.
    """
    return UnfinishedError(
        f"{_called(label, task)}: {what}; give it more memory: execute.jobs=1, a smaller "
        "finetune.batch_size or encoder, or a larger machine. What is finished is kept: the same "
        "command goes on from there"
    )


def _called(label: str, task: object) -> str:
    name = name_of(task)
    return f"{label} of {name}" if name else label

"""One model trained on several devices of this machine: processes that train it together.

Lightning would start them by running the whole command again, which the locks of the store forbid.
"""

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from gwsmm.execute import at_once

Found = TypeVar("Found")


class _Group(NamedTuple):
    """What the processes have in common."""

    port: int
    seed: int
    threads: int


def in_several_processes(fit: Callable[[LightningEnvironment], Found], n: int) -> Found:
    """What `fit` finds in the first of n processes, which it tells Lightning to stand among.

    Args:
        fit: picklable; each process draws from another seed, made of the one that torch has here.
        n: one for each device.
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    group = _Group(port, torch.initial_seed(), torch.get_num_threads())
    first = at_once(partial(_fit, fit, group), n)[0]
    assert first is not None
    return first


def _fit(fit: Callable[[LightningEnvironment], Found], group: _Group, rank: int) -> Found | None:
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": group.port, "NODE_RANK": 0}
    os.environ.update({k: str(v) for k, v in (here | {"LOCAL_RANK": rank}).items()})
    torch.set_num_threads(group.threads)
    torch.manual_seed(group.seed + rank)
    try:
        found = fit(LightningEnvironment())
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return found if rank == 0 else None

"""Where tasks run: the same results in the same order, whichever choice of conf/execute it is."""

import gc
import hashlib
import time
from os import getpid
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from little import CONF
from omegaconf import OmegaConf

from gwsmm.execute import Execute, Processes, Serial
from gwsmm.types import InputError


def choice(path: Path) -> Execute:
    """The strategy, with two workers where it has workers, also on a machine of one core."""
    config = OmegaConf.load(path)
    return instantiate(config, **({"jobs": 2} if "jobs" in config else {}), threads=1)


@pytest.fixture(params=sorted((CONF / "execute").glob("*.yaml")), ids=lambda path: path.stem)
def execute(request) -> Execute:
    return choice(request.param)


def sleeper(task: tuple[int, float]) -> int:
    number, seconds = task
    time.sleep(seconds)
    return number


def trained(seed: int) -> str:
    """The hash of a small network after some steps of training."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 3))
    for _ in range(5):
        net(torch.randn(200, 64)).softmax(1).square().sum().backward()
        with torch.no_grad():
            for weight in net.parameters():
                weight -= 1e-2 * weight.grad
    state = b"".join(tensor.detach().numpy().tobytes() for tensor in net.state_dict().values())
    return hashlib.sha256(state).hexdigest()


def threads(_: int) -> int:
    return torch.get_num_threads()


def refuse(task: int) -> int:
    if task == 1:
        raise InputError("item 'x': cannot be used")
    return task


def process(_: int) -> int:
    return getpid()


def test_results_come_in_the_order_of_the_tasks(execute):
    tasks = [(0, 0.3), (1, 0.0), (2, 0.1), (3, 0.0)]
    assert execute.map(sleeper, tasks, label="sleep") == [0, 1, 2, 3]


def test_no_tasks_have_no_results(execute):
    assert execute.map(sleeper, [], label="nothing", inside=lambda task: 0.5) == []


def test_results_are_those_of_one_process_bit_for_bit(execute):
    here = Serial(threads=1).map(trained, [1, 2, 3], label="here")
    assert len(set(here)) == 3
    assert execute.map(trained, [1, 2, 3], label="there", inside=lambda seed: 0.1) == here


def test_a_task_has_as_many_threads_as_were_given_and_the_caller_keeps_its_own(execute):
    before = torch.get_num_threads()
    assert execute.map(threads, [0, 1, 2], label="threads") == [1, 1, 1]
    assert torch.get_num_threads() == before


def test_there_are_workers_only_where_there_is_work_for_two():
    processes = choice(CONF / "execute" / "processes.yaml")
    assert processes.map(process, [0], label="one") == [getpid()]
    there = processes.map(process, [0, 1, 2, 3], label="four")
    assert getpid() not in there
    assert 1 <= len(set(there)) <= 2


def test_an_error_of_the_user_arrives_as_one_and_the_next_call_works(execute):
    with pytest.raises(InputError) as error:
        execute.map(refuse, [0, 1, 2], label="refuse")
    assert str(error.value) == "item 'x': cannot be used"
    assert execute.map(refuse, [2, 3], label="accept") == [2, 3]


def frozen(task):
    return gc.get_freeze_count()


def test_what_a_worker_loads_is_not_searched_for_garbage_and_this_process_is_as_before():
    before = gc.get_freeze_count()
    counts = Processes(jobs=2, threads=1).map(frozen, range(8), label="x")
    assert sum(count > 10_000 for count in counts) >= 6  # all but the first task of each worker
    assert gc.get_freeze_count() == before

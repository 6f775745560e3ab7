"""Where tasks run: the same results in the same order, whichever choice of conf/execute it is."""

import gc
import hashlib
import multiprocessing
import os
import re
import signal
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import getpid
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from little import CONF
from omegaconf import OmegaConf

from gwsmm.execute import Execute, Processes, Serial, at_once
from gwsmm.task import name_of
from gwsmm.types import InputError, UnfinishedError

PATIENCE = 120  # seconds


def choice(path: Path, store: Path) -> Execute:
    """The strategy, with two workers where it has workers, also on a machine of one core."""
    config = OmegaConf.load(path)
    settings = {"jobs": 2, "threads": 1, "store": str(store)}
    return instantiate(config, **{name: settings[name] for name in settings if name in config})


@pytest.fixture(params=sorted((CONF / "execute").glob("*.yaml")), ids=lambda path: path.stem)
def execute(request, tmp_path, monkeypatch) -> Execute:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for what a worker is to call
    return choice(request.param, tmp_path / "store")


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
    processes = Processes(jobs=2, threads=1)
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


# Workers and memory that are lost


@dataclass(frozen=True)
class Question:
    """A subject as the stages have it."""

    name: str
    flag: str  # there once it was tried; empty: it fails each time
    way: str


def frail(task: Question) -> str:
    if task.way and not (task.flag and Path(task.flag).exists()):
        if task.flag:
            Path(task.flag).touch()
        if task.way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if task.way == "memory":
            raise MemoryError
        torch.empty(1 << 60)  # more than there is
    return task.name


@pytest.mark.parametrize("way", ["killed", "torch"])
def test_what_a_lost_worker_had_not_done_is_done_again_one_by_one(tmp_path, caplog, way):
    tasks = [Question(n, str(tmp_path / n), way if n == "b" else "") for n in "abcd"]
    assert Processes(jobs=2, threads=1).map(frail, tasks, label="frail") == list("abcd")
    assert "one at a time" in caplog.text


@pytest.mark.parametrize("way", ["killed", "memory"])
def test_a_task_that_is_lost_again_is_named_in_one_line_that_says_what_to_do(way):
    tasks = [Question(n, "", way if n == "b" else "") for n in "abcd"]
    with pytest.raises(UnfinishedError, match=r"^frail of b: .*execute\.jobs=1") as error:
        Processes(jobs=2, threads=1).map(frail, tasks, label="frail")
    assert error.value.code == 3
    assert "\n" not in str(error.value)


def stay(folder: str, _: int) -> int:
    """Say which process this is, and do not end."""
    (Path(folder) / str(getpid())).touch()
    time.sleep(PATIENCE)
    return 0


def both(folder: str) -> None:
    at_once(partial(stay, folder), 2)


def alone(folder: str) -> None:
    Processes(jobs=2, threads=1)._one_by_one(partial(stay, folder), [0], "stay", {})


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # nobody may have asked how it ended
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE / 2
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(os.name == "nt", reason="Windows tells nobody that its parent is gone")
@pytest.mark.parametrize(("way", "workers"), [(both, 2), (alone, 1)])
def test_workers_end_soon_after_a_parent_that_was_killed(way, workers, tmp_path):
    parent = multiprocessing.get_context("spawn").Process(target=way, args=(str(tmp_path),))
    parent.start()
    pids: list[int] = []
    try:
        wait(lambda: len(list(tmp_path.iterdir())) == workers)
        pids = [int(path.name) for path in tmp_path.iterdir()]
        assert all(map(lives, pids))
        parent.kill()
        parent.join()
        wait(lambda: not any(map(lives, pids)))
    finally:
        parent.kill()
        for pid in filter(lives, pids):
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Hungry:
    """A task that runs out of memory so many times, and notes every attempt in a file."""

    name: str
    notes: str
    times: int
    way: str = "memory"

    def attempts(self) -> list[list[float]]:
        """When each began and ended, by the clock of this machine."""
        lines = Path(self.notes, self.name).read_text().splitlines()
        return [[float(time) for time in line.split()] for line in lines]


def hungry(task: Hungry) -> str:
    begun, notes = time.monotonic(), Path(task.notes, task.name)
    before = len(task.attempts()) if notes.exists() else 0
    if before >= task.times:
        time.sleep(0.2)
    with notes.open("a") as file:
        file.write(f"{begun} {time.monotonic()}\n")
    if before < task.times:
        if task.way == "torch":
            torch.empty(1 << 60)  # more than there is
        raise MemoryError
    return task.name


@pytest.mark.parametrize("names", ["b", "abcd"])
def test_a_task_that_ran_out_of_memory_is_tried_once_more_with_none_beside_it(
    execute, tmp_path, names, caplog
):
    tasks = [Hungry(name, str(tmp_path), int(name == "b")) for name in names]
    assert execute.map(hungry, tasks, label="hungry") == list(names)
    (_, (begun, ended)) = tasks[names.index("b")].attempts()
    beside = [time for task in tasks if task.name != "b" for time in task.attempts()]
    assert not [(start, end) for start, end in beside if start < ended and begun < end]
    assert re.search("of b: it ran out of memory; it is tried|one at a time", caplog.text)


@pytest.mark.parametrize(("names", "way"), [("b", "torch"), ("abcd", "memory")])
def test_a_task_that_runs_out_of_memory_twice_is_named_in_one_line(execute, tmp_path, names, way):
    tasks = [Hungry(name, str(tmp_path), 9 * (name == "b"), way) for name in names]
    with pytest.raises(UnfinishedError, match=r"^hungry of b: it ran out of memory;") as error:
        execute.map(hungry, tasks, label="hungry")
    assert len(tasks[names.index("b")].attempts()) == 2
    assert "\n" not in str(error.value)


def test_a_second_attempt_does_not_lack_what_the_first_one_held():
    held: list[weakref.ref] = []

    def function(task: None) -> bool:
        if held:
            return held[0]() is None
        tensor = torch.zeros(1)
        held.append(weakref.ref(tensor))
        raise MemoryError

    assert Serial(threads=1).map(function, [None], label="x") == [True]


def test_a_task_is_called_by_the_items_it_is_about(make_item):
    item, other = make_item("boats"), make_item("apples")
    member = SimpleNamespace(item=item)
    assert name_of(item) == name_of(member) == name_of(SimpleNamespace(member=member)) == "boats"
    assert (
        name_of(SimpleNamespace(members=(member, SimpleNamespace(item=other)))) == "boats, apples"
    )
    assert name_of((("digest", [{"type": "x"}]), item)) == "boats"
    assert name_of(([(0, 1)], {0: item, 1: other})) == "boats, apples"
    assert name_of(SimpleNamespace(member=None, texts=("a", "b"))) == name_of(None) == ""

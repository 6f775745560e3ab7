"""Dask and Ray: the results of one process, also where workers die, and one line where all is lost.

What every choice of `execute` promises is in test_execute.py.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from little import TINY, TWO, gwsmm, write_items

from gwsmm.cluster import spreading
from gwsmm.cluster.dask import Dask
from gwsmm.cluster.ray import Ray
from gwsmm.types import InputError, UnfinishedError

PATIENCE = 60  # seconds


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_items(tmp_path_factory.mktemp("items"), items=3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data) -> bytes:
    return results(tmp_path_factory.mktemp("serial"), data)


@pytest.fixture(autouse=True, scope="module")
def importable() -> Iterator[None]:
    """Workers find this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


@pytest.fixture(params=["dask", "ray"])
def engine(request) -> str:
    pytest.importorskip({"dask": "distributed"}.get(request.param, request.param))
    return request.param


def of(engine: str, store: Path) -> Dask | Ray:
    """Two workers of this machine, the same for all tests."""
    common = {"address": None, "workers": 2, "threads": 1, "store": str(store)}
    return Dask(**common) if engine == "dask" else Ray(**common, gpus=0)


def results(folder: Path, data: Path, *more: str) -> bytes:
    """`results.json` of the tiny experiment."""
    where = [f"store={folder / 'store'}", f"hydra.run.dir={folder / 'run'}"]
    ended = gwsmm("run", *TINY, TWO, "items=pasta", f"items.path={data}", *where, *more)
    assert ended.code == 0, ended.err
    return (folder / "run" / "results.json").read_bytes()


def killed_once(task: tuple[str, str]) -> tuple[str, int]:
    """The second task kills its worker, the first time that it is tried."""
    name, flag = task
    if name == "b" and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return name, os.getpid()


def killed(task: str) -> str:
    if task == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def hungry(task: object) -> object:
    raise MemoryError


def test_a_run_gives_the_results_of_one_process(engine, undisturbed, data, tmp_path):
    where = [f"execute={engine}", "execute.workers=2"]
    assert results(tmp_path, data, *where) == undisturbed


def test_a_run_of_which_a_worker_is_killed_gives_the_same(engine, undisturbed, data, tmp_path):
    """Killed from outside, in the middle of the fine-tuning."""
    store, victims = tmp_path / "store", []

    def kill() -> None:
        end = time.monotonic() + PATIENCE
        while not victims and time.monotonic() < end:
            log = store / "log.jsonl"
            for line in log.read_text().splitlines() if log.exists() else []:
                if '"begun"' in line and '"finetune"' in line and not victims:
                    victims.append(int(line.rpartition(":")[2].strip('"}')))
                    os.kill(victims[0], signal.SIGKILL)
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    found = results(tmp_path, data, f"execute={engine}", "execute.workers=2")
    thread.join()
    assert victims
    assert victims[0] != os.getpid()
    assert found == undisturbed


def test_a_lost_workers_task_is_tried_again_by_another(engine, tmp_path):
    tasks = [(name, str(tmp_path / "flag")) for name in "abcdef"]
    found = of(engine, tmp_path).map(killed_once, tasks, label="frail")
    assert [name for name, _ in found] == list("abcdef")
    assert os.getpid() not in {process for _, process in found}


class Named(str):
    """A task with the name of an item."""

    @property
    def name(self) -> str:
        return str(self)


def test_a_task_that_kills_every_worker_is_named(engine, tmp_path):
    with pytest.raises(UnfinishedError, match=r"^frail of b: the workers that tried it died"):
        of(engine, tmp_path).map(killed, [Named(name) for name in "abc"], label="frail")
    assert of(engine, tmp_path).map(killed, ["x", "y"], label="next") == ["x", "y"]


def test_memory_that_is_wanting_on_a_worker_is_told_by_the_item(engine, tmp_path):
    with pytest.raises(UnfinishedError, match=r"^frail of b: it ran out of memory"):
        of(engine, tmp_path).map(hungry, [Named("b")], label="frail")


def test_a_worker_that_does_not_see_the_store_says_so(engine, tmp_path, monkeypatch):
    """As if on another machine: the file that the worker looks for is not where it stands."""
    elsewhere = spreading.NamedTemporaryFile
    monkeypatch.setattr(
        spreading, "NamedTemporaryFile", lambda dir, prefix: elsewhere(prefix=prefix)
    )
    with pytest.raises(InputError, match=r"^store=.*the worker on .* does not see this folder"):
        of(engine, tmp_path / "store").map(killed, ["a"], label="x")


def test_nothing_is_left_in_the_store(engine, tmp_path):
    of(engine, tmp_path).map(killed, ["a"], label="x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_an_engine_that_is_not_installed_is_one_line(engine, monkeypatch, tmp_path):
    monkeypatch.setattr(spreading, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"pip install 'gwsmm\[{engine}\]'"):
        of(engine, tmp_path)
    ended = gwsmm("run", *TINY, f"execute={engine}")
    assert ended.code == 2
    assert f"pip install 'gwsmm[{engine}]'" in ended.err
    assert ended.err.count("\n") == 1


# A cluster that somebody else started


@pytest.fixture
def scheduler(tmp_path) -> Iterator[tuple[str, Callable[..., subprocess.Popen]]]:
    """A Dask scheduler with no workers yet, and how to start one."""
    pytest.importorskip("distributed")
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", *arguments, "--no-dashboard"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
        started.append(subprocess.Popen(command, start_new_session=True, **quiet))
        return started[-1]

    file = tmp_path / "scheduler.json"
    scheduler_at = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
    start("distributed.cli.dask_scheduler", *scheduler_at)
    end = time.monotonic() + PATIENCE
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    import json

    address = json.loads(file.read_text())["address"]
    yield address, lambda *more: start("distributed.cli.dask_worker", address, *more)
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_cluster_of_somebody_else(scheduler, tmp_path):
    """Its workers stand in another folder; a relative path is one of this process's folder."""
    address, worker = scheduler
    worker("--nthreads", "1", "--death-timeout", "20")
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        execute = replace(of("dask", Path("store")), address=address)
        assert execute.map(killed, ["x", "y", "z"], label="x") == ["x", "y", "z"]
    finally:
        os.chdir(here)


def test_a_worker_of_several_threads_is_refused(scheduler, tmp_path):
    address, worker = scheduler
    worker("--nthreads", "2", "--death-timeout", "20")
    with pytest.raises(InputError, match="--nthreads 1"):
        replace(of("dask", tmp_path), address=address).map(killed, ["x"], label="x")

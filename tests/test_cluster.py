"""Dask and Ray: the results of one process, also where workers die, and one line where all is lost.

What every choice of `execute` promises is in test_execute.py.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from little import HALVES, TINY, TWO, gwsmm, write_items

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
    common = {"address": None, "jobs": 2, "threads": 1, "store": str(store)}
    return Dask(**common) if engine == "dask" else Ray(**common, gpus=0)


def results(folder: Path, data: Path, *more: str) -> bytes:
    """`results.json` of the tiny experiment."""
    where = [f"store={folder / 'store'}", f"hydra.run.dir={folder / 'run'}"]
    ended = gwsmm("run", *TINY, TWO, HALVES, "items=pasta", f"items.path={data}", *where, *more)
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


def test_a_store_that_cannot_be_written_is_named(engine, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^store=\S+ cannot be written \(Not a directory\)"):
        of(engine, tmp_path / "file" / "store").map(killed, ["a"], label="x")


def test_a_run_gives_the_results_of_one_process_although_a_worker_is_killed(
    engine, undisturbed, data, tmp_path
):
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
    found = results(tmp_path, data, f"execute={engine}", "execute.jobs=2")
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


class Cluster:
    """A Dask scheduler in a process of its own, and workers."""

    def __init__(
        self, folder: Path, host: str = "127.0.0.1", *, inside: Sequence[str] = ()
    ) -> None:
        self.folder, self.started = folder, []
        file = folder / "scheduler.json"
        at = ["--host", host, "--port", "0", "--scheduler-file", str(file)]
        self.start("distributed.cli.dask_scheduler", *at, inside=inside)
        wait(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        self.address = json.loads(file.read_text())["address"]

    def worker(self, *arguments: str, inside: Sequence[str] = ()) -> None:
        """In another folder than this process."""
        common = [self.address, "--death-timeout", "30"]
        self.start("distributed.cli.dask_worker", *common, *arguments, inside=inside)

    def start(self, *arguments: str, inside: Sequence[str]) -> None:
        command = [*inside, sys.executable, "-m", *arguments, "--no-dashboard"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": self.folder}
        self.started.append(subprocess.Popen(command, start_new_session=True, **quiet))

    def kill(self) -> None:
        """The scheduler, and then the workers."""
        while self.started:
            process = self.started.pop(0)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    made = Cluster(tmp_path)
    yield made
    made.kill()


def test_workers_of_a_cluster_understand_a_path_as_this_process_does(
    cluster, tmp_path, monkeypatch
):
    cluster.worker("--nthreads", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    execute = replace(of("dask", Path("store")), address=cluster.address)
    assert execute.map(killed, ["x", "y", "z"], label="x") == ["x", "y", "z"]
    assert (tmp_path / "here" / "store").is_dir()


def test_workers_look_for_a_store_in_the_home_folder(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    cluster.worker("--nthreads", "1")
    execute = replace(of("dask", Path("~/store")), address=cluster.address)
    assert execute.map(killed, ["x", "y"], label="x") == ["x", "y"]
    assert (tmp_path / "home" / "store").is_dir()
    assert not (tmp_path / "~").exists()


def test_a_worker_of_several_threads_is_refused(cluster, tmp_path):
    cluster.worker("--nthreads", "2")
    with pytest.raises(InputError, match="--nthreads 1"):
        replace(of("dask", tmp_path), address=cluster.address).map(killed, ["x"], label="x")


def test_a_scheduler_that_is_lost_ends_in_one_line_and_the_next_one_goes_on(cluster, tmp_path):
    cluster.worker("--nthreads", "1")
    execute = replace(of("dask", tmp_path / "store"), address=cluster.address)
    assert execute.map(killed, ["x"], label="x") == ["x"]
    threading.Timer(0.5, cluster.kill).start()
    with pytest.raises(UnfinishedError, match=r"scheduler is gone; what is finished is kept"):
        execute.map(time.sleep, [3600], label="x")
    with pytest.raises(InputError, match="no Dask scheduler answers there"):
        execute.map(killed, ["x"], label="x")
    after = Cluster(tmp_path / "store")
    after.worker("--nthreads", "1")
    try:
        assert replace(execute, address=after.address).map(killed, ["x"], label="x") == ["x"]
    finally:
        after.kill()


# Another network


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@pytest.fixture
def networks() -> Iterator[list[list[str]]]:
    """How to run something in each of two network namespaces that a cable connects."""
    names = [f"gwsmm-{os.getpid()}-{i}" for i in (1, 2)]
    ends = [f"gw{os.getpid() % 10**6}v{i}" for i in (1, 2)]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1],
               "netns", names[1])  # fmt: skip
            for i, (name, end) in enumerate(zip(names, ends, strict=True), 1):
                ip("-n", name, "addr", "add", f"10.123.77.{i}/24", "dev", end)
                ip("-n", name, "link", "set", end, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no network namespaces here ({type(error).__name__})")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            with suppress(OSError, subprocess.SubprocessError):
                ip("netns", "del", name)


def network(_: int) -> int:
    return os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 - of the link's target


CLIENT = """
import sys
from test_cluster import network
from gwsmm.cluster.dask import Dask
execute = Dask(address=sys.argv[1], jobs=None, threads=1, store=sys.argv[2])
print(network(0), *execute.map(network, [1, 2, 3], label="x"))
"""


def test_workers_on_a_machine_of_another_network_share_files_alone(networks, tmp_path):
    pytest.importorskip("distributed")
    here, there = networks
    made = Cluster(tmp_path, "10.123.77.1", inside=here)
    try:
        made.worker("--nthreads", "1", inside=there)
        command = [*here, sys.executable, "-c", CLIENT, made.address, str(tmp_path / "store")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    finally:
        made.kill()
    mine, *theirs = done.stdout.split()
    assert set(theirs) == {theirs[0]} != {mine}
    assert str(network(0)) not in (mine, *theirs)

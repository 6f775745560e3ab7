"""Kill -9 at any moment: the next run goes on from there and ends as if nothing had happened."""

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from little import COMMAND, HALVES, TINY, TWO, counts, write_items

from gwsmm.cli.main import main
from gwsmm.logbook import standing

PATIENCE = 120  # seconds


def command(arguments: list[str], said: Path = Path(os.devnull)) -> None:
    """`gwsmm run …` in a process group of its own, which writes there what it says."""
    os.setsid()
    # as in a terminal, wherever the tests themselves were started
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    main(["run", *arguments])
    os._exit(0)  # multiprocessing would wait for joblib's workers, which the interpreter ends


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Processes that have done their imports when they start; otherwise as any other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        context = multiprocessing.get_context("forkserver")
        heavy = ["gwsmm.pipeline", "gwsmm.scoring", "gwsmm.report.run", "transformers", "ot.gromov"]
        context.set_forkserver_preload([*heavy, "sklearn.linear_model", "torchmetrics", __name__])
        yield context


class Place:
    """One store, and the runs that share it."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data, self.store = root, data, root / "store"

    def arguments(self, name: str, *more: str) -> list[str]:
        where = [f"store={self.store}", f"hydra.run.dir={self.root / name}"]
        # small batches: enough steps to be killed in the middle of them
        items = ["items=pasta", f"items.path={self.data}", "finetune.batch_size=4"]
        return [*TINY, TWO, HALVES, *items, *where, *more]

    def finished(self, stage: str = "*") -> dict[Path, int]:
        """The results that are there, with what would change if one were written again."""
        return {path: path.stat().st_ino for path in self.store.glob(f"{stage}/*/manifest.json")
                if path.parent.suffix == ""}  # fmt: skip

    def begun(self, stage: str) -> bool:
        return any(path.suffix != ".lock" for path in self.store.glob(f"{stage}/*"))

    def results(self, name: str) -> bytes:
        return (self.root / name / "results.json").read_bytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_items(tmp_path_factory.mktemp("items"), items=3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Place:
    """The installed command in a fresh process, from an empty store to its end."""
    place = Place(tmp_path_factory.mktemp("undisturbed"), data)
    subprocess.run(
        [COMMAND, "run", *place.arguments("run")], check=True, capture_output=True, timeout=PATIENCE
    )
    return place


def started(context: ForkServerContext, arguments: list[str], *said: Path) -> BaseProcess:
    process = context.Process(target=command, args=(arguments, *said))
    process.start()
    return process


def wait(until: Callable[[], bool], process: BaseProcess) -> None:
    """Return at the first look at which it is true."""
    end = time.monotonic() + PATIENCE
    while not until():
        assert process.is_alive(), f"ended by itself with {process.exitcode}"
        assert time.monotonic() < end
        time.sleep(0.001)


def test_killed_in_every_stage_it_ends_as_if_undisturbed(processes, undisturbed, data, tmp_path):
    place, expected = Place(tmp_path, data), counts(undisturbed.root / "run")
    when = [
        ("finetune", lambda: place.begun("finetune")),
        ("finetune", lambda: len(place.finished("finetune")) == 1),
        ("finetune", lambda: any(place.store.glob("finetune/*.part/progress"))),
        ("features", lambda: bool(place.finished("features"))),
        ("distances", lambda: place.begun("distances")),
        ("merge", lambda: place.begun("merge")),
        ("heads", lambda: bool(place.finished("heads"))),
        ("evaluate", lambda: bool(place.finished("evaluate"))),
        ("report", lambda: (place.root / "8" / "heatmap.png").exists()),
    ]
    seen: dict[Path, int] = {}
    for number, (stage, until) in enumerate([*when, ("end", None)]):
        before = place.finished()
        assert {path: before[path] for path in seen} == seen  # nothing was written again
        seen = before
        process = started(processes, place.arguments(str(number)))
        if until is None:
            process.join(PATIENCE)
            assert process.exitcode == 0
        else:
            wait(until, process)
            os.killpg(process.pid, signal.SIGKILL)
            process.join(PATIENCE)
            assert process.exitcode == -signal.SIGKILL, stage
            if stage == "report":  # all that it shows is there already
                assert place.results(str(number)) == undisturbed.results("run")
            else:
                assert not (place.root / str(number) / "results.json").exists()
        found = counts(place.root / str(number))
        assert list(found) == list(expected)[: len(found)]
        for name, (computed, reused) in found.items():
            assert reused == sum(path.parents[1].name == name for path in before)
            assert computed + reused == expected[name][0]
        if stage in expected:
            assert list(found)[-1] == stage
    assert {path: place.finished()[path] for path in seen} == seen
    assert place.results(str(number)) == undisturbed.results("run")
    assert not list(place.store.glob("*/*.part"))
    assert {stage: len(place.finished(stage)) for stage in expected} == {
        stage: computed for stage, (computed, _) in expected.items()
    }


def test_workers_that_outlive_their_process_do_no_harm(processes, undisturbed, data, tmp_path):
    """Only the first process is killed, as by a system short of memory; its workers go on."""
    place = Place(tmp_path, data)
    two = ["execute=processes", "execute.jobs=2"]
    process = started(processes, place.arguments("killed", *two))
    try:
        wait(lambda: any(place.store.glob("finetune/*.part/progress")), process)
        os.kill(process.pid, signal.SIGKILL)
        process.join(PATIENCE)
        seen = place.finished()
        after = started(processes, place.arguments("after"))  # serial: the results are the same
        after.join(PATIENCE)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert after.exitcode == 0
    assert {path: place.finished()[path] for path in seen} == seen  # nothing was written again
    assert sum(counts(tmp_path / "after")["finetune"]) == 3
    assert place.results("after") == undisturbed.results("run")
    assert not list(place.store.glob("*/*.part"))


@pytest.mark.parametrize(
    "how", [["execute=serial"], ["execute=processes", "execute.jobs=2"]], ids=lambda how: how[0]
)
def test_ctrl_c_ends_the_run_in_one_line_and_leaves_no_process(processes, data, tmp_path, how):
    """A terminal sends it to the command and to its workers."""
    place, said = Place(tmp_path, data), tmp_path / "said"
    process = started(processes, place.arguments("stopped", *how), said)
    try:
        wait(lambda: any(place.store.glob("finetune/*.part/progress")), process)
        os.killpg(process.pid, signal.SIGINT)
        process.join(PATIENCE)
        assert process.exitcode == 130, said.read_text()
        assert said.read_text().splitlines()[-1] == (
            "gwsmm: stopped; what was finished is kept: the same command goes on from there"
        )
        assert "Traceback" not in said.read_text()
        end = time.monotonic() + 10
        while is_there(process.pid):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        if is_there(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    found = standing(place.root / "stopped")
    assert (found.state, found.stage) == ("stopped", "finetune")


def is_there(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True

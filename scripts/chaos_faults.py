"""What can happen to a run. Each fault leaves a store in which the same command is given again."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from datetime import tzinfo as Zone
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

from chaos_watch import Reader, finished, log_size

from gwsmm.cli.main import main
from gwsmm.report import figures

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from little import TINY, TWO, write_items  # noqa: E402

SMALL = ("finetune.epochs=1", "features.size=12", "stability.repeats=0")
PATIENCE = 300  # seconds
DAY = 86400


class Skipped(Exception):
    """This machine does not allow the fault; the message says why."""


@dataclass
class Trial:
    """One run that is disturbed, in a folder of its own.

    Attributes:
        root: holds the store and the runs.
        data: the items.
        undisturbed: a store in which everything is computed.
        seconds: that an undisturbed run takes.
        random: decides what happens when.
        context: makes processes that have done their imports.
        reader: reads along.
        lived: see `chaos_watch.duplicates`.
        ends: exit code and standard error of every run that ended by itself before the last.
        names: of the runs to be begun again in the end.
        undo: what of the fault outlasts it, to be undone when all was looked at.
    """

    root: Path
    data: Path
    undisturbed: Path
    seconds: float
    random: Random
    context: ForkServerContext
    reader: Reader
    lived: dict[int, int] = field(default_factory=dict)
    ends: list[tuple[int, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=lambda: ["run"])
    undo: ExitStack = field(default_factory=ExitStack)

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def copied(self) -> Path:
        """Where a store is made ready, unseen by the reader."""
        return self.root / "copied"

    def arguments(self, name: str) -> list[str]:
        where = [f"store={self.store}", f"hydra.run.dir={self.root / name}"]
        return [*TINY, TWO, *SMALL, "items=pasta", f"items.path={self.data}", *where]

    def start(self, name: str = "run", *more: str, **conditions: int) -> BaseProcess:
        given = ([*self.arguments(name), *more], self.said(name), conditions)
        process = self.context.Process(target=command, args=given)
        process.start()
        return process

    def said(self, name: str) -> Path:
        """Its standard error, which no fault reaches."""
        return self.root.with_suffix(f".{name}")

    def wait(self, process: BaseProcess, name: str = "run") -> int:
        """The exit code; a process that does not end is killed, which is a failure."""
        process.join(PATIENCE)
        if process.is_alive():
            stop(process)
        code = process.exitcode or 0
        self.ends.append((code, self.said(name).read_text()))
        return code

    def sometime(self, share: float = 1.05) -> None:
        """Wait for a random part of an undisturbed run."""
        time.sleep(self.random.uniform(0, share) * self.seconds)

    def kill(self, process: BaseProcess) -> None:
        """Kill -9 the process and all its workers."""
        if process.is_alive():
            self.lived[process.pid or 0] = log_size(self.store)
        stop(process)


def command(arguments: list[str], err: Path, conditions: dict[str, int]) -> None:
    """`gwsmm run …` in a process group of its own."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    figures.svg = lambda draw, size: ""  # they take half of a little run, and are written nowhere
    if size := conditions.get("largest"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    if seconds := conditions.get("back"):
        set_back(seconds)
    code = 1
    try:
        main(["run", *arguments])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except Exception:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)  # multiprocessing would wait for joblib's workers, which the system ends


def set_back(seconds: int) -> None:
    """Every clock but the monotonic ones, in this process."""
    import gwsmm.store

    now, now_ns = time.time, time.time_ns

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Zone | None = None) -> "Earlier":
            return super().now(tz) - timedelta(seconds=seconds)

    time.time = lambda: now() - seconds
    time.time_ns = lambda: now_ns() - seconds * 10**9
    gwsmm.store.datetime = Earlier


def stop(process: BaseProcess) -> None:
    try:
        os.killpg(process.pid or 0, signal.SIGKILL)
    except ProcessLookupError:  # it has no group yet, or has ended
        process.kill()
    process.join(PATIENCE)


# The faults.


def killed(trial: Trial) -> None:
    process = trial.start()
    trial.sometime()
    trial.kill(process)


def orphaned(trial: Trial) -> None:
    """The first process alone is killed, as by a system short of memory; its workers go on."""
    process = trial.start("run", "execute=processes", "execute.jobs=2")
    trial.sometime(1.5)
    try:
        process.kill()
        process.join(PATIENCE)
        after = trial.start("after")
        trial.wait(after, "after")
    finally:
        stop(process)


def full(trial: Trial) -> None:
    """The disk of the store, or of the store and the run's folder, has too little space."""
    folder = trial.store if trial.random.random() < 0.5 else trial.root
    folder.mkdir(exist_ok=True)
    whole = sum(path.stat().st_blocks * 512 for path in trial.undisturbed.rglob("*"))
    size = int(trial.random.uniform(0.02, 1.0) * whole)
    trial.undo.enter_context(mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"))
    trial.wait(trial.start())
    mount("-o", f"remount,size={20 * whole}", str(folder))


def file_too_large(trial: Trial) -> None:
    """No file may be larger than some size, as under a quota."""
    sizes = sorted(path.stat().st_size for path in trial.undisturbed.glob("*/*/*"))
    trial.wait(trial.start(largest=trial.random.randint(1, sizes[-1])))


def read_only(trial: Trial) -> None:
    """Somebody else's store: what it has can be used, and nothing is written into it."""
    if trial.random.random() < 0.5:
        shutil.copytree(trial.undisturbed, trial.copied).rename(trial.store)
    else:
        killed(trial)
    trial.store.mkdir(exist_ok=True)
    before = sorted(trial.store.rglob("*"))
    with unwritable(trial.store):
        trial.wait(trial.start())
    if sorted(trial.store.rglob("*")) != before:
        raise AssertionError("something was written into a store that is read-only")


def truncated(trial: Trial) -> None:
    _damaged(trial, lambda content: content[: trial.random.randrange(len(content))])


def flipped(trial: Trial) -> None:
    def flip(content: bytes) -> bytes:
        spoilt = bytearray(content)
        spoilt[trial.random.randrange(len(spoilt))] ^= 1 << trial.random.randrange(8)
        return bytes(spoilt)

    _damaged(trial, flip)


def _damaged(trial: Trial, spoil: Callable[[bytes], bytes]) -> None:
    shutil.copytree(trial.undisturbed, trial.copied)
    folder = trial.random.choice(sorted(finished(trial.copied)))
    path = trial.random.choice([p for p in sorted(folder.iterdir()) if p.stat().st_size])
    path.write_bytes(spoil(path.read_bytes()))
    trial.reader.spoilt.add(trial.store / folder.relative_to(trial.copied))
    trial.copied.rename(trial.store)


def clock_set_back(trial: Trial) -> None:
    """Whatever is there is of a future day."""
    killed(trial)
    back = trial.random.randint(1, 1000 * DAY)
    for path in trial.root.rglob("*"):
        os.utime(path, (time.time() + back,) * 2)
    trial.wait(trial.start(back=back))


def two_at_once(trial: Trial) -> None:
    _crowd(trial, 2)


def four_at_once(trial: Trial) -> None:
    _crowd(trial, 4)


def _crowd(trial: Trial, number: int) -> None:
    """Processes that share a store; one of them is killed, and the others do its work too."""
    trial.names = [str(i) for i in range(number)]
    trial.reader.results += [trial.root / name / "results.json" for name in trial.names]
    crowd = [trial.start(name) for name in trial.names]
    trial.sometime(number)
    trial.kill(crowd[0])
    for process, name in zip(crowd[1:], trial.names[1:], strict=True):
        trial.wait(process, name)


FAULTS: dict[str, Callable[[Trial], None]] = {
    "killed": killed,
    "killed, its workers go on": orphaned,
    "disk full": full,
    "file too large": file_too_large,
    "store read-only": read_only,
    "file truncated": truncated,
    "bit flipped": flipped,
    "clock set back": clock_set_back,
    "two at once, one killed": two_at_once,
    "four at once, one killed": four_at_once,
}
MAY_REFUSE = ("disk full", "file too large", "store read-only")


# What they need of the system.


def mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Skipped(f"mount: {error.strerror}") from error
    if done.returncode:
        raise Skipped(" ".join(done.stderr.split()) or "mount failed")


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    mount(*arguments, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # the reader may be in it


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """As nobody but root is held back by a mode, root mounts the folder read-only."""
    if os.geteuid() == 0:
        with mounted(folder, "--bind", "-o", "ro", str(folder)):
            yield
        return
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for place in places:
        place.chmod(0o555)
    try:
        yield
    finally:
        for place in places:
            place.chmod(0o755)


__all__ = ["FAULTS", "MAY_REFUSE", "Skipped", "Trial", "write_items"]

"""Results kept on disk: load if it is there, else compute, write, rename.

The key of a result is the hash of everything that made it, so a changed setting, label or
response can never return an old result. A result is a folder; it is written under a temporary name,
its files are checksummed and the folder is renamed, so a killed program leaves either the whole
result or none. Beside its files a result says what it was made of and how long that took, and
`log.jsonl` in the store has a line whenever somebody begins and ends to compute one. The time of a
result's folder is that of its last use. `runs.jsonl` holds the folders of the runs that use it.
`passing` holds stores within the store, each for a while.
"""

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar
from uuid import uuid4

from filelock import FileLock, Timeout

from gwsmm import progress
from gwsmm.artefact import MANIFEST, Artefact, checksum
from gwsmm.disk import writing
from gwsmm.execute import Execute
from gwsmm.remote import Remote

log = logging.getLogger(__name__)

LOG = "log.jsonl"
NOTED = "runs.jsonl"
PASSING = "passing"
ORIGIN = "origin.json"
PART = ".part"
LOCK = ".lock"
_DOWNLOADS = 8  # at once

Subject = TypeVar("Subject")
Subject_contra = TypeVar("Subject_contra", contravariant=True)


class Stage(Protocol[Subject_contra]):
    """One step of the pipeline for one subject: a frozen dataclass whose fields are its choices."""

    stage: ClassVar[str]
    version: ClassVar[int]

    def __call__(self, subject: Subject_contra, folder: Path) -> None:
        """Compute the result for `subject` and write its files into `folder`."""


class JointStage(Protocol[Subject_contra]):
    """One step of the pipeline for all subjects at once, which spreads its own work."""

    stage: ClassVar[str]
    version: ClassVar[int]

    def __call__(
        self, subject: Subject_contra, folder: Path, pieces: "Store", execute: Execute
    ) -> None:
        """Compute the result for `subject` and write its files into `folder`.

        Args:
            subject: one for all.
            folder: of the result.
            pieces: keeps what must not be lost if we are killed, on this machine; no run needs it
                when the result is there.
            execute: where the work is done.
        """


def identity(value: object) -> object:
    """What `value` contributes to a key, as JSON: its `digest`, or its type, version and fields.

    Raises:
        TypeError: the value has no content that a key could be made of, e.g. a path.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if (digest := getattr(value, "digest", None)) is not None:
        return {"digest": digest}
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        parts = {field.name: identity(getattr(value, field.name)) for field in fields(value)}
        name = f"{kind.__module__}.{kind.__qualname__}"
        return {"type": name, "version": getattr(kind, "version", 1), "fields": parts}
    if isinstance(value, Mapping):
        return {str(name): identity(part) for name, part in value.items()}
    if isinstance(value, Sequence):
        return [identity(part) for part in value]
    raise TypeError(f"no store key can be made of a {type(value).__name__}")


class Key(NamedTuple):
    """What a result is found by, and what that was made of.

    Attributes:
        digest: hash of `made_of`.
        made_of: the identities of the stage and of its subject; None: the caller alone knows.
    """

    digest: str
    made_of: object = None


def key_of(stage: Stage[Subject] | JointStage[Subject], subject: Subject) -> Key:
    """The key of what a stage makes of its subject."""
    made_of = [identity(stage), identity(subject)]
    text = json.dumps(made_of, sort_keys=True)
    return Key(sha256(text.encode()).hexdigest()[:32], made_of)


@contextmanager
def claimed(lock: Path) -> Iterator[bool]:
    """Hold this lock within the block; False: somebody else holds it."""
    try:
        held = FileLock(lock).acquire(blocking=False)
    except Timeout:
        yield False
        return
    with held:
        yield True


@dataclass(frozen=True)
class Store:
    """A folder of results, shared by any number of runs and processes.

    Attributes:
        root: the folder.
        remote: where machines that do not see the folder find its results; None: nowhere.
        used: by stage the keys of what was asked for through this object.
    """

    root: Path
    remote: Remote | None = None
    used: dict[str, set[str]] = field(default_factory=dict, compare=False, repr=False)

    def each(
        self, stage: Stage[Subject], subjects: Sequence[Subject], execute: Execute
    ) -> list[Artefact]:
        """The results of `stage` for every subject, computing those that are not there."""
        keys = [key_of(stage, subject) for subject in subjects]
        todo = {key.digest: (key, subject) for key, subject in zip(keys, subjects, strict=True)}
        self._bring(stage.stage, list(todo))
        missing = [task for digest, task in todo.items() if not self._use(stage.stage, digest)]
        log.info("%s: %d computed, %d reused", stage.stage, len(missing), len(todo) - len(missing))
        remote = None if self.remote and self.remote.given_up else self.remote
        store = replace(self, remote=remote, used={})
        for patient in (False, True):  # what another run is computing is waited for at the end
            if missing:
                done = execute.map(
                    _Compute(store, stage, patient),
                    missing,
                    label=stage.stage,
                    inside=lambda at: progress.read_fraction(self._part(stage.stage, at[0].digest)),
                )
                missing = [task for task, it_is in zip(missing, done, strict=True) if not it_is]
        return [Artefact(self._folder(stage.stage, key.digest), key.digest) for key in keys]

    def once(self, stage: JointStage[Subject], subject: Subject, execute: Execute) -> Artefact:
        """The result of a stage that spreads its work itself."""
        key = key_of(stage, subject)
        self._bring(stage.stage, [key.digest])
        there = self._use(stage.stage, key.digest)
        log.info("%s: %d computed, %d reused", stage.stage, not there, there)
        pieces = replace(self, remote=None, used={})
        return self.fetch(stage.stage, key, lambda folder: stage(subject, folder, pieces, execute))

    def fetch(
        self, stage: str, key: Key, compute: Callable[[Path], None], *, patient: bool = True
    ) -> Artefact:
        """The result with this key; computed under its lock if it is not there.

        Raises:
            InputError: the store cannot be written.
            TimeoutError: somebody else is computing it, and we are not patient.
        """
        folder = self._folder(stage, key.digest)
        if not self._use(stage, key.digest):
            with writing(self.root, "store"):
                folder.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(folder.with_suffix(LOCK), blocking=patient):
                    if not folder.exists():
                        self._obtain(stage, key, compute, patient)
        return Artefact(folder, key.digest)

    @contextmanager
    def passing(self) -> Iterator["Store"]:
        """A store that is gone after the block, for results that are not worth their bytes.

        With a remote it is this one: machines that share no folder find there what others made.

        Raises:
            InputError: the store cannot be written.
        """
        if self.remote is not None:
            yield self
            return
        place = self.root / PASSING / f"{uuid4().hex}{PART}"
        lock = FileLock(place.with_suffix(LOCK))
        with writing(self.root, "store"):
            place.parent.mkdir(parents=True, exist_ok=True)
            for left in place.parent.glob(f"*{PART}"):
                with claimed(left.with_suffix(LOCK)) as free:
                    if free:  # its owner was killed
                        shutil.rmtree(left, ignore_errors=True)
            lock.acquire()
        try:
            yield Store(place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
            lock.release()
            place.with_suffix(LOCK).unlink(missing_ok=True)

    def _obtain(self, stage: str, key: Key, compute: Callable[[Path], None], patient: bool) -> None:
        """Download the result, or compute it; we hold its lock."""
        if self.remote is None:
            self._write(stage, key, compute)
            return
        self.remote.obtain(
            f"{stage}/{key.digest}",
            self._part(stage, key.digest),
            self._folder(stage, key.digest),
            lambda: self._write(stage, key, compute),
            patient=patient,
        )

    def note_run(self, folder: Path) -> None:
        """Write down that the run in this folder uses the store, for whoever cleans it.

        Where that cannot be written, e.g. in somebody else's store, the run goes on all the same.
        """
        line = json.dumps(str(folder.resolve())).encode()
        with suppress(OSError):
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / NOTED).open("a+b", buffering=0) as file:
                file.seek(0)
                if line not in file.read().splitlines():
                    file.write(b"\n" + line + b"\n")  # what stands before may be half a line

    def noted_runs(self) -> list[Path]:
        """The folders of all runs that were noted, there or not."""
        try:
            said = (self.root / NOTED).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # of an earlier version
            return []
        return [Path(folder) for line in said.splitlines() if (folder := _text(line))]

    def holds(self, stage: str, digest: str) -> bool:
        """Whether the result with this key is there; that is no use of it."""
        return self._folder(stage, digest).exists()

    def _bring(self, stage: str, digests: Sequence[str]) -> None:
        """Download what the remote has of these results, and this folder lacks."""
        if self.remote is None:
            return
        with writing(self.root, "store"):
            (self.root / stage).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            for _ in pool.map(lambda digest: self._download(stage, digest), digests):
                pass

    def _download(self, stage: str, digest: str) -> None:
        folder = self._folder(stage, digest)
        if self.remote is None or folder.exists():
            return
        with claimed(folder.with_suffix(LOCK)) as ours:
            if ours and not folder.exists():
                self.remote.download(f"{stage}/{digest}", self._part(stage, digest), folder)

    def _use(self, stage: str, digest: str) -> bool:
        """Whether the result is there, which from now on was used last at this moment."""
        self.used.setdefault(stage, set()).add(digest)
        try:
            os.utime(self._folder(stage, digest))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # it is there, in a store that others may only read
            return True
        return True

    def _write(self, stage: str, key: Key, compute: Callable[[Path], None]) -> None:
        part, started = self._part(stage, key.digest), time.monotonic()
        self._note("begun", stage, key)
        # Whoever left it was killed: we hold the lock of this key.
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            compute(part)
            (part / progress.FILE).unlink(missing_ok=True)
            seconds = round(time.monotonic() - started, 3)
            (part / ORIGIN).write_text(json.dumps({"seconds": seconds, "made_of": key.made_of}))
            files = sorted(part.iterdir())
            manifest = {
                "stage": stage,
                "key": key.digest,
                "bytes": {path.name: path.stat().st_size for path in files},
                "sha256": {path.name: checksum(path) for path in files},
            }
            (part / MANIFEST).write_text(json.dumps(manifest))
            part.rename(self._folder(stage, key.digest))
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self._note("done", stage, key)

    def _note(self, event: str, stage: str, key: Key) -> None:
        """One line of the log, written at once, so that processes do not mix theirs.

        It is for people: where it cannot be written, what the results need fails by itself.
        """
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event,
            "stage": stage,
            "key": key.digest,
            "process": f"{socket.gethostname()}:{os.getpid()}",
        }
        with suppress(OSError), (self.root / LOG).open("ab", buffering=0) as file:
            file.write(f"{json.dumps(line)}\n".encode())

    def _folder(self, stage: str, digest: str) -> Path:
        return self.root / stage / digest

    def _part(self, stage: str, digest: str) -> Path:
        return self.root / stage / f"{digest}{PART}"


def _text(line: str) -> str:
    """The text that a line of JSON holds; empty: it is something else, or half of one."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""


@dataclass(frozen=True)
class _Compute(Generic[Subject]):
    """`fetch` for one (key, subject), as a picklable function."""

    store: Store
    stage: Stage[Subject]
    patient: bool

    def __call__(self, task: tuple[Key, Subject]) -> bool:
        """Whether the result is there now; it is not if somebody else is at it."""
        key, subject = task
        made = False

        def compute(folder: Path) -> None:
            nonlocal made
            made = True
            self.stage(subject, folder)

        try:
            self.store.fetch(self.stage.stage, key, compute, patient=self.patient)
        except TimeoutError:
            if made:  # it is the stage's own
                raise
            return False
        return True

"""Results kept on disk: load if it is there, else compute, write, rename.

The key of a result is the hash of everything that made it, so a changed setting, label or
response can never return an old result. A result is a folder; it is written under a temporary name,
its files are checksummed and the folder is renamed, so a killed program leaves either the whole
result or none.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from filelock import FileLock

from gwsmm import progress
from gwsmm.artefact import MANIFEST, Artefact, checksum
from gwsmm.execute import Execute

log = logging.getLogger(__name__)


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

    def __call__(self, subject: Subject_contra, folder: Path, execute: Execute) -> None:
        """Compute the result for `subject` and write its files into `folder`."""


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


@dataclass(frozen=True)
class Store:
    """A folder of results, shared by any number of runs and processes."""

    root: Path

    def each(
        self, stage: Stage[Subject], subjects: Sequence[Subject], execute: Execute
    ) -> list[Artefact]:
        """The results of `stage` for every subject, computing those that are not there."""
        digests = [self._digest(stage, subject) for subject in subjects]
        todo = dict(zip(digests, subjects, strict=True))
        missing = {d: s for d, s in todo.items() if not self._folder(stage.stage, d).exists()}
        log.info("%s: %d computed, %d reused", stage.stage, len(missing), len(todo) - len(missing))
        if missing:
            execute.map(
                _Compute(self, stage),
                list(missing.items()),
                label=stage.stage,
                inside=lambda task: progress.read_fraction(self._part(stage.stage, task[0])),
            )
        return [Artefact(self._folder(stage.stage, digest), digest) for digest in digests]

    def once(self, stage: JointStage[Subject], subject: Subject, execute: Execute) -> Artefact:
        """The result of a stage that spreads its work itself."""
        digest = self._digest(stage, subject)
        there = self._folder(stage.stage, digest).exists()
        log.info("%s: %d computed, %d reused", stage.stage, not there, there)
        return self.fetch(stage.stage, digest, lambda folder: stage(subject, folder, execute))

    def fetch(self, stage: str, digest: str, compute: Callable[[Path], None]) -> Artefact:
        """The result with this key; computed under its lock if it is not there."""
        folder = self._folder(stage, digest)
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                if not folder.exists():
                    self._write(stage, digest, compute)
        return Artefact(folder, digest)

    def _write(self, stage: str, digest: str, compute: Callable[[Path], None]) -> None:
        part = self._part(stage, digest)
        # Whoever left it was killed: we hold the lock of this key.
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            compute(part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        (part / progress.FILE).unlink(missing_ok=True)
        sums = {path.name: checksum(path) for path in sorted(part.iterdir())}
        (part / MANIFEST).write_text(json.dumps({"stage": stage, "key": digest, "sha256": sums}))
        part.rename(self._folder(stage, digest))

    def _digest(self, stage: Stage[Subject] | JointStage[Subject], subject: Subject) -> str:
        made_of = json.dumps([identity(stage), identity(subject)], sort_keys=True)
        return sha256(made_of.encode()).hexdigest()[:32]

    def _folder(self, stage: str, digest: str) -> Path:
        return self.root / stage / digest

    def _part(self, stage: str, digest: str) -> Path:
        return self.root / stage / f"{digest}.part"


@dataclass(frozen=True)
class _Compute(Generic[Subject]):
    """`fetch` for one (digest, subject), as a picklable function."""

    store: Store
    stage: Stage[Subject]

    def __call__(self, task: tuple[str, Subject]) -> None:
        digest, subject = task
        self.store.fetch(self.stage.stage, digest, lambda folder: self.stage(subject, folder))

"""What is kept on disk, and the models that are made of it."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from filelock import FileLock

from gwsmm.types import InputError, Item

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
PRIVATE = "private.safetensors"
DECISION = "decision.json"
DAMAGED = ".damaged"


class Absent(InputError):
    """A result is read that is not there.

    Attributes:
        stage: that makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.stage = path, path.parent.name
        super().__init__(
            f"{path}: this result is not there any more; run the command again to compute it anew"
        )

    def __reduce__(self) -> tuple[type["Absent"], tuple[Path]]:
        """As it was made, for it comes from workers too."""
        return Absent, (self.path,)


@dataclass(frozen=True)
class Artefact:
    """A finished result: a folder of files that never change again."""

    path: Path
    digest: str

    def file(self, name: str) -> Path:
        """The path of one file, after its checksum was verified.

        Raises:
            Absent: there is no such result.
            Damaged: the file is not what was written.
        """
        path = self.path / name
        if self._sums.get(name) == checksum(path):
            return path
        raise self._set_aside(path)

    def has(self, name: str) -> bool:
        """Whether the result holds a file of this name.

        Raises:
            Damaged: files are missing; see `file`.
        """
        return name in self._sums

    @cached_property
    def _sums(self) -> Mapping[str, str]:
        if not self.path.exists():
            raise Absent(self.path)
        if (sums := self._written()) is None:
            raise self._set_aside(self.path)
        return sums

    def _written(self) -> Mapping[str, str] | None:
        """The checksums of the files; None if they cannot be had, or a file lacks or is cut."""
        try:
            content = json.loads((self.path / MANIFEST).read_text())
            sums: dict[str, str] = dict(content["sha256"])
            sizes = dict.fromkeys(sums) | content.get("bytes", {})  # which old stores do not have
            there = {path.name: path.stat().st_size for path in self.path.iterdir()}
            whole = all(size in (None, there[name]) for name, size in sizes.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return sums if whole else None

    def _set_aside(self, path: Path) -> InputError:
        """Move the result away, unless another process did that or has computed it anew."""
        aside = self.path.with_suffix(DAMAGED)
        what = f"{path}: this is not what was written there (disk fault or edited by hand)"
        try:
            with FileLock(self.path.with_suffix(".lock")):
                if self.path.exists() and not self._is_whole(path):
                    shutil.rmtree(aside, ignore_errors=True)
                    self.path.rename(aside)
        except OSError as error:
            return InputError(f"{what}, and cannot be moved away ({error.strerror}): remove it")
        return Damaged(
            f"{what}; the result was moved to {aside.name}: run the command again to compute it "
            "anew"
        )

    def _is_whole(self, wanted: Path) -> bool:
        """Whether all that is there now is what was written, the wanted path among it."""
        sums = self._written()
        return (
            sums is not None
            and wanted in {self.path, *(self.path / name for name in sums)}
            and all(checksum(self.path / name) == said for name, said in sums.items())
        )


class Damaged(InputError):
    """A kept result is not what was written; it was set aside, and the next run computes it."""


def checksum(path: Path) -> str:
    """The sha256 of a file; `missing` if there is none.

    A file is read once in a process, as long as nothing about it changes.
    """
    try:
        now = path.stat()
        if time.time() - now.st_mtime < _SETTLED:
            return _sha256(path)
        return _sha256_of(str(path), now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
    except FileNotFoundError:
        return "missing"


_SETTLED = 2.0  # seconds; a later change of a younger file might leave its time as it is


@lru_cache(maxsize=1 << 14)
def _sha256_of(path: str, *_: int) -> str:
    return _sha256(Path(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


State = Mapping[str, "Tensor"]
"""A model's tensors by name; the parts are `trunk.…`, `pooler.…` and `head.…`."""


@dataclass(frozen=True)
class Member:
    """One item with the encoder and head that were fine-tuned for it.

    Attributes:
        item: without its test split.
        made: holds `trunk.safetensors`, `head.safetensors`, where the encoder has one
            `pooler.safetensors`, and `training.json` with the curves.
    """

    item: Item
    made: Artefact

    @property
    def digest(self) -> str:
        """The identity of the fine-tuned model."""
        return self.made.digest

    def state(self, part: str) -> State:
        """The tensors of `trunk`, `pooler` or `head`; of no tensors where the encoder lacks it."""
        return load_state(self.made, part)


class Codec(Protocol):
    """What makes an item's tensors of shared ones and of its private part."""

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The item's tensors of one part of the model.

        Args:
            code: the item's private tensors of this part.
            bases: the shared tensors of this part.
        """


@dataclass(frozen=True)
class Coded:
    """An item's own trunk, and pooler, as they are kept: shared ones and a private part.

    Attributes:
        private: holds `private.safetensors`.
        bases: the shared encoders that it stands on.
        codec: puts them together.
    """

    private: Artefact
    bases: tuple[Artefact, ...]
    codec: Codec

    @property
    def digest(self) -> str:
        """The identity of the private part, which is made of that of the bases and the codec."""
        return self.private.digest

    def state(self, part: str) -> State:
        """The item's tensors of `trunk` or `pooler`."""
        from safetensors.torch import load_file

        code = part_of(load_file(self.private.file(PRIVATE)), part)
        return self.codec.decode(code, [load_state(base, part) for base in self.bases])


Kept = Artefact | Coded
"""Where the tensors of a part are: in a file of their own, or coded over shared ones."""


def load_state(made: Kept, part: str) -> State:
    """The tensors of one part of a model: `trunk`, `pooler` or `head`; empty if it has none."""
    from safetensors.torch import load_file

    if isinstance(made, Coded):
        return made.state(part)
    name = f"{part}.safetensors"
    return load_file(made.file(name)) if made.has(name) else {}


def part_of(state: State, part: str) -> State:
    """The tensors of one part, of a state of several, under the names that they have in it."""
    prefix = f"{part}."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def first_not_finite(state: State) -> str | None:
    """The name of the first tensor that holds NaN or infinity; None: there is none."""
    return next((name for name, tensor in state.items() if not tensor.isfinite().all()), None)


@dataclass(frozen=True)
class Scorer:
    """The three parts that score one item, each where it is kept.

    A merged trunk is shared by its group; the pooler is shared or the item's own. `decision` holds
    the rule that was fitted to what these parts say; None: thresholds of one half.
    """

    trunk: Kept
    pooler: Kept
    head: Artefact
    decision: Artefact | None = None

    def files(self) -> set[Path]:
        """The files that this item needs."""
        where = {"trunk": self.trunk, "pooler": self.pooler, "head": self.head}
        rule = _there(self.decision, DECISION) if self.decision else set()
        return rule | {path for part, made in where.items() for path in _files(made, part)}


def _files(made: Kept, part: str) -> set[Path]:
    if isinstance(made, Coded):
        shared = {path for base in made.bases for path in _files(base, part)}
        return _there(made.private, PRIVATE) | shared
    return _there(made, f"{part}.safetensors")


def _there(made: Artefact, name: str) -> set[Path]:
    return {made.path / name} if made.has(name) else set()

"""What is kept on disk, and the models that are made of it."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from gwsmm.types import InputError, Item

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artefact:
    """A finished result: a folder of files that never change again."""

    path: Path
    digest: str

    def file(self, name: str) -> Path:
        """The path of one file, after its checksum was verified.

        Raises:
            InputError: the file is not what was written; the result is set aside, so that the next
                run computes it again.
        """
        path = self.path / name
        if self._sums.get(name) == checksum(path):
            return path
        raise self._set_aside(path)

    def has(self, name: str) -> bool:
        """Whether the result holds a file of this name.

        Raises:
            InputError: files are missing; see `file`.
        """
        return name in self._sums

    @cached_property
    def _sums(self) -> Mapping[str, str]:
        try:
            sums: dict[str, str] = json.loads((self.path / MANIFEST).read_text())["sha256"]
            if set(sums) <= {path.name for path in self.path.iterdir()}:
                return sums
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise self._set_aside(self.path)

    def _set_aside(self, path: Path) -> InputError:
        aside = self.path.with_suffix(".damaged")
        if self.path.exists():
            shutil.rmtree(aside, ignore_errors=True)
            with suppress(OSError):  # another process that reads it was faster
                self.path.rename(aside)
        return InputError(
            f"{path}: this is not what was written there (disk fault or edited by hand); the "
            f"result was moved to {aside.name}: run the command again to compute it anew"
        )


def checksum(path: Path) -> str:
    """The sha256 of a file; `missing` if there is none."""
    try:
        with path.open("rb") as file:
            seen = sha256()
            while block := file.read(1 << 20):
                seen.update(block)
    except FileNotFoundError:
        return "missing"
    return seen.hexdigest()


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


def load_state(made: Artefact, part: str) -> State:
    """The tensors of one part of a model: `trunk`, `pooler` or `head`; empty if it has none."""
    from safetensors.torch import load_file

    name = f"{part}.safetensors"
    return load_file(made.file(name)) if made.has(name) else {}


@dataclass(frozen=True)
class Scorer:
    """The three parts that score one item, each where it is kept.

    A merged trunk is shared by its group; the pooler is shared or the item's own.
    """

    trunk: Artefact
    pooler: Artefact
    head: Artefact

    def parts(self) -> dict[str, Path]:
        """The files that this item needs, by part."""
        where = {"trunk": self.trunk, "pooler": self.pooler, "head": self.head}
        return {
            part: made.path / f"{part}.safetensors"
            for part, made in where.items()
            if made.has(f"{part}.safetensors")
        }

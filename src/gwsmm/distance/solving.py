"""Pairs of items, solved side by side in blocks."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from hashlib import sha256
from itertools import chain
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gwsmm.artefact import Artefact
from gwsmm.distance.distance import Distance, SolvesTogether
from gwsmm.distance.prepared import OnDisk, put_on_disk
from gwsmm.distance.subjects import Subject
from gwsmm.execute import Execute
from gwsmm.store import Store
from gwsmm.task import name_of
from gwsmm.types import Pair

_BLOCKS = 512  # tasks, or up to twice as many: cheap pairs must not drown in handing them over
Index = tuple[int, int]  # of a pair of items
Timed = tuple[Pair, float]  # with the seconds that it took
Solved = dict[Index, Timed]
_FIELDS = [field.name for field in fields(Pair)]


@dataclass(frozen=True)
class Block:
    """Some pairs of items.

    Attributes:
        pairs: by the items' numbers.
        members: these items, prepared.
        digest: the identity of both items of every pair.
    """

    pairs: Sequence[Index]
    members: Mapping[int, OnDisk]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Solving:
    """The stage: a block of pairs → `pairs.safetensors`, one number for each by field of `Pair`."""

    stage: ClassVar[str] = "pairs"
    version: ClassVar[int] = 1

    distance: Distance[Any, Any]

    def __call__(self, subject: Block, folder: Path) -> None:
        """Solve the pairs, and write what was found, with `seconds`."""
        from safetensors.numpy import save_file

        pairs, seconds = zip(*self._solve(subject), strict=True)
        columns = {name: np.array([getattr(pair, name) for pair in pairs]) for name in _FIELDS}
        save_file(columns | {"seconds": np.array(seconds)}, folder / "pairs.safetensors")

    def _solve(self, block: Block) -> list[Timed]:
        loaded = {i: item.load() for i, item in block.members.items()}
        pairs = [(loaded[i], loaded[j]) for i, j in block.pairs]
        if isinstance(self.distance, SolvesTogether):
            started = time.perf_counter()
            solved = self.distance.solve(pairs)
            each = (time.perf_counter() - started) / len(pairs)
            return [(pair, each) for pair in solved]
        return [self._timed(a, b) for a, b in pairs]

    def _timed(self, a: object, b: object) -> Timed:
        started = time.perf_counter()
        pair = self.distance(a, b)
        return pair, time.perf_counter() - started


def load_pairs(made: Artefact) -> list[Timed]:
    """What `Solving` wrote."""
    from safetensors.numpy import load_file

    columns = load_file(made.file("pairs.safetensors"))
    found = zip(*(columns[name].tolist() for name in (*_FIELDS, "seconds")), strict=True)
    return [(Pair(*values), seconds) for *values, seconds in found]


@contextmanager
def prepared(
    distance: Distance[Any, Any],
    subjects: Sequence[Subject],
    folder: Path,
    execute: Execute,
    label: str,
) -> Iterator[list[OnDisk]]:
    """The items prepared side by side, on disk within the block.

    They are computed once, as that can take longer than a pair, and read wherever pairs are solved.

    Args:
        distance: prepares them.
        subjects: the items.
        folder: of the result, which every worker sees.
        execute: where it is done.
        label: what the progress bar says.
    """
    disk = folder / "prepared"
    disk.mkdir()
    yield execute.map(_Prepare(distance, disk), subjects, label=label)
    shutil.rmtree(disk)  # after an error the store removes all that there is of the result


@dataclass(frozen=True)
class Solver:
    """Solves pairs in blocks side by side; what was solved before, e.g. by a killed run, is kept.

    Attributes:
        distance: that they are solved for.
        subjects: the items.
        items: the same, prepared.
        pieces: keeps the blocks.
        execute: where they are solved.
    """

    distance: Distance[Any, Any]
    subjects: Sequence[Subject]
    items: Sequence[OnDisk]
    pieces: Store
    execute: Execute

    def __call__(self, pairs: Sequence[Index]) -> Solved:
        """These pairs."""
        blocks = self._blocks(pairs)
        made = self.pieces.each(Solving(distance=self.distance), blocks, self.execute)
        every = chain.from_iterable(block.pairs for block in blocks)
        return dict(zip(every, chain.from_iterable(map(load_pairs, made)), strict=True))

    def _blocks(self, pairs: Sequence[Index]) -> list[Block]:
        size = max(1, len(pairs) // _BLOCKS)
        if isinstance(self.distance, SolvesTogether):
            size = max(self.distance.together, size)
        else:  # those of few items, in squares of the matrix and not in its rows
            side = isqrt(size)
            pairs = sorted(pairs, key=lambda pair: (pair[0] // side, pair[1] // side))
        return [self._block(pairs[at : at + size]) for at in range(0, len(pairs), size)]

    def _block(self, pairs: Sequence[Index]) -> Block:
        ends = [(self.subjects[i].digest, self.subjects[j].digest) for i, j in pairs]
        members = {i: self.items[i] for pair in pairs for i in pair}
        return Block(pairs, members, sha256(json.dumps(ends).encode()).hexdigest())


class _Prepare:
    """One item, as a picklable function."""

    def __init__(self, distance: Distance[Any, Any], disk: Path) -> None:
        self.distance, self.disk = distance, disk

    def __call__(self, subject: Subject) -> OnDisk:
        return put_on_disk(name_of(subject), self.distance.prepare(subject.load()), self.disk)

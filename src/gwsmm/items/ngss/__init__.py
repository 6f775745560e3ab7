"""Nine generated science items: no student wrote these responses, and nothing is downloaded."""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.items.ngss.bank import Bank, load_bank, load_common
from gwsmm.items.ngss.grammar import Dice
from gwsmm.items.ngss.student import write
from gwsmm.items.split import Split, assemble
from gwsmm.types import STRICT, Item, Label, Responses

FAMILIES: Mapping[str, str] = {
    "anna_vs_carla": "particles",
    "breaking_down_hydrogen_peroxide": "reactions",
    "carlos_javier_atomic_model": "reactions",
    "dry_ice_model": "particles",
    "gas_filled_balloons": "properties",
    "layers_in_test_tube": "density",
    "model_for_making_water": "reactions",
    "namis_careful_experiment": "conservation",
    "natural_sugar": "properties",
}
"""Item name → family, in the paper's order: items of a family share ideas and ways to say them."""

RATER_ERROR = 0.05  # share of the rarer value of a label that is rated wrongly, each way
ABILITY, CHANCE = 3, 4  # weights of what a student knows in general and of one element: r = .36


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Ngss:
    """Nine items with the names, labels, sizes and label shares of the paper's PASTA items.

    Each response is composed from hand-written banks of statements (`banks/`): those of the rubric
    elements that the student shows, wrong and partial ones for some of the others, and talk that
    earns nothing; then misspelled, and rated with a few errors. The items form the known
    `FAMILIES`, so that a grouping can be checked. The PASTA responses themselves are not public.

    Attributes:
        seed: the same seed gives the same bytes on every platform.
        limit: at most this many training responses per item, those for validation included, and a
            quarter as many test responses, which is the paper's proportion; the first of the whole
            set, in its order. None: as many as in the paper.
    """

    seed: Annotated[int, Field(ge=0)]
    limit: Annotated[int, Field(ge=20)] | None

    def __call__(self, split: Split) -> tuple[Item, ...]:
        """The nine items in the paper's order; validation is divided from training by `split`."""
        return _items(self, split)  # type: ignore[arg-type]  # a frozen dataclass

    def item(self, bank: Bank, split: Split) -> Item:
        """The item of a bank; see `__call__`."""
        return assemble(
            bank.name,
            [Label(idea.name, idea.description) for idea in bank.ideas],
            "multilabel",
            train=self._responses(bank, "train", bank.train, self.limit),
            test=self._responses(bank, "test", bank.test, self.limit and self.limit // 4),
            validation=None,
            split=split,
            prompt=bank.prompt,
            synthetic=True,
            notes=(
                "generated responses, not written by students",
                f"mirrors the item {bank.title!r}; family of items: {FAMILIES[bank.name]}",
            ),
        )

    def _responses(self, bank: Bank, part: str, size: int, limit: int | None) -> Responses:
        key = int.from_bytes(sha256(f"{bank.name}/{part}".encode()).digest()[:8], "big")
        generator = np.random.Generator(np.random.PCG64([self.seed, key]))
        shares = np.array([idea.positives / bank.test for idea in bank.ideas])
        shown = _shown(shares, size, generator)
        labels = _rated(shown, generator)
        dice, common = Dice(generator), load_common()
        names = [idea.name for idea in bank.ideas]
        students = (dict(zip(names, row, strict=True)) for row in shown.tolist())
        texts = tuple(write(bank, common, truth, dice) for truth in islice(students, limit))
        return Responses(texts, labels[: len(texts)])


@lru_cache(maxsize=4)  # the jobs of a sweep share them
def _items(source: Ngss, split: Split) -> tuple[Item, ...]:
    return tuple(source.item(load_bank(*pair), split) for pair in FAMILIES.items())


def _shown(
    shares: NDArray[np.float64], size: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """[size, L]: which elements each student shows; exactly this share of students for each.

    Elements hang together by the student's ability. Sums of integers stand in for normal numbers,
    since they are the same on every platform.
    """
    draws = generator.integers(0, 1 << 16, (size, len(shares) + 1, 12)).sum(axis=2)
    ability = ABILITY * draws[:, :1] + CHANCE * draws[:, 1:]
    rank = np.argsort(np.argsort(-ability, axis=0, kind="stable"), axis=0, kind="stable")
    return (rank < np.rint(shares * size)).astype(np.uint8)


def _rated(shown: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """The ratings: as many elements overlooked as credited in error, so that shares stay."""
    labels = shown.copy()
    for column in labels.T:
        ones, zeros = np.flatnonzero(column == 1), np.flatnonzero(column == 0)
        errors = round(RATER_ERROR * min(len(ones), len(zeros)))
        column[generator.permutation(ones)[:errors]] = 0
        column[generator.permutation(zeros)[:errors]] = 1
    return labels

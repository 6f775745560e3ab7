"""One choice of everything: the root of the configuration."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, get_args

from gwsmm.decision.rule import Decision
from gwsmm.disk import locate
from gwsmm.distance.distance import Distance
from gwsmm.distance.stability import Stability
from gwsmm.encoder import Encoder
from gwsmm.evidence.control import Control
from gwsmm.execute import Execute
from gwsmm.features import Features
from gwsmm.grouping.candidates import Grouping
from gwsmm.heads.fitting import Heads
from gwsmm.items.split import Split
from gwsmm.merge.learning import LearnedMerge
from gwsmm.merge.merging import Merge
from gwsmm.objective.objective import Objective
from gwsmm.private.private import Private
from gwsmm.recipe import Finetune, Trainer
from gwsmm.remote import Remote
from gwsmm.rounding import Numbers
from gwsmm.store import Store
from gwsmm.tracking import Tracker
from gwsmm.types import InputError, Item


class ItemSource(Protocol):
    """Where items come from."""

    def __call__(self, split: Split) -> tuple[Item, ...]:
        """The items, each split into training, validation and test responses."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One choice of everything; the root of the configuration.

    Attributes:
        name: part of the run's folder name.
        seed: of everything that draws; strategies that draw take it from the configuration.
        store: folder of finished results, shared by all runs; `~` is the home folder.
        remote: an address where other machines find them, too; None: none.
        published: whether a report shows the paper's own figures beside those of the run.
        numbers: in which every encoder is kept and scored, those of one item too; what is compared
            and merged is not rounded before.
    """

    name: str
    seed: int
    store: str
    remote: str | None
    published: bool
    numbers: Numbers
    encoder: Encoder
    items: ItemSource
    split: Split
    finetune: Finetune
    features: Features
    distance: Distance[object, object]
    stability: Stability
    grouping: Grouping
    merge: Merge | LearnedMerge
    private: Private
    heads: Heads
    decision: Decision
    evidence: Control
    objective: Objective
    trainer: Trainer
    execute: Execute
    tracker: Tracker

    def __post_init__(self) -> None:
        texts = {"name": self.name, "store": self.store, "remote": self.remote}
        for name, value in texts.items():
            if not (name == "remote" and value is None):
                _check_text(name, value)
        if type(self.published) is not bool:
            raise InputError(f"published={self.published!r}: give true or false")
        if self.numbers not in get_args(Numbers):
            raise InputError(
                f"numbers={self.numbers!r}: give one of {', '.join(get_args(Numbers))}"
            )
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed!r}: give a whole number from 0 to 2**32 - 1")

    @cached_property
    def kept(self) -> Store:
        """The finished results; one store for all that this experiment does."""
        remote = None if self.remote is None else Remote(self.remote)
        return Store(locate(self.store, "store"), remote)


def _check_text(setting: str, value: object) -> None:
    if not isinstance(value, str):
        raise InputError(f"{setting}={value!r}: give a text")
    if setting != "name" and not value.strip():  # as a variable of the shell that is not set
        raise InputError(f"{setting}={value}: it is empty; give a place, or leave it out")

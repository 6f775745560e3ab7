"""The stage that finds the rule by which one model of one item decides."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from gwsmm.artefact import Scorer
from gwsmm.decision.rule import Decision, Validated
from gwsmm.encoder import Encoder
from gwsmm.progress import write_fraction
from gwsmm.recipe import Trainer
from gwsmm.types import Item


@dataclass(frozen=True)
class Undecided:
    """An item without its test responses, and what scores it."""

    item: Item
    scorer: Scorer


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """The stage: item and scorer → `decision.json`."""

    stage: ClassVar[str] = "decision"
    version: ClassVar[int] = 3

    encoder: Encoder
    decision: Decision
    trainer: Trainer

    def __call__(self, subject: Undecided, folder: Path) -> None:
        """Score the validation responses, and fit the rule to them."""
        from gwsmm.network import infer

        item = subject.item
        network = self.encoder.unfilled(len(item.labels))
        network.load_scorer(subject.scorer)
        network.to(self.trainer.device).eval()
        ids = self.encoder.tokenize(item.validation.texts)
        tick = partial(write_fraction, folder)
        logits = infer(network, ids, self.encoder.padding, network, tick).numpy()
        self.decision(Validated(item.kind, logits, item.validation.labels)).write(folder)

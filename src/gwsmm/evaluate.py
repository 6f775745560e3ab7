"""What the models do on the test responses; nothing else in the program opens them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Artefact, Scorer, load_state
from gwsmm.encoder import Encoder
from gwsmm.items.ordinal import decode, encode
from gwsmm.metrics import Scores
from gwsmm.progress import write_fraction
from gwsmm.recipe import Trainer
from gwsmm.types import Item

THRESHOLD = 0.5  # as published


@dataclass(frozen=True)
class Tested:
    """An item with its test responses, and what scores it."""

    item: Item
    scorer: Scorer


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The stage: item and scorer → `probabilities.safetensors` [n, L] and `scores.json`.

    The scores, of the model and of the majority baseline beside it, are kept too: a run that finds
    them in the store needs none of the libraries that compute them.
    """

    stage: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 1

    encoder: Encoder
    trainer: Trainer

    def __call__(self, subject: Tested, folder: Path) -> None:
        """Score every test response of the item."""
        from safetensors.torch import save_file

        from gwsmm.metrics import score
        from gwsmm.network import infer

        item, scorer = subject.item, subject.scorer
        network = self.encoder.network(len(item.labels))
        network.load_part("trunk", load_state(scorer.trunk, "trunk"))
        network.load_part("pooler", load_state(scorer.pooler, "pooler"))
        network.load_part("head", load_state(scorer.head, "head"))
        network.to(self.trainer.device).eval()
        logits = infer(
            network,
            self.encoder.tokenize(item.test.texts),
            self.encoder.padding,
            network,
            lambda done: write_fraction(folder, done),
        )
        probabilities = logits.sigmoid()
        save_file({"probabilities": probabilities}, folder / "probabilities.safetensors")
        said = {"model": _predictions(item, probabilities.numpy()), "majority": majority(item)}
        scores = {by: asdict(score(item.test.labels, what.decisions)) for by, what in said.items()}
        (folder / "scores.json").write_text(json.dumps(scores))


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model says of an item's test responses.

    Attributes:
        probabilities: [n, L].
        decisions: [n, L] of 0 and 1; for an ordinal item consistent steps of one score.
    """

    probabilities: NDArray[np.float32]
    decisions: NDArray[np.uint8]


def load_predictions(item: Item, made: Artefact) -> Predictions:
    """The probabilities that `Evaluation` wrote, and the decisions they lead to."""
    from safetensors.numpy import load_file

    probabilities = load_file(made.file("probabilities.safetensors"))["probabilities"]
    return _predictions(item, probabilities)


def deviation(
    item: Item,
    recorded: Predictions,
    scored: Callable[[Sequence[str]], NDArray[np.float32]],
) -> float:
    """How far at most `scored` is from what the evaluation recorded of the test responses.

    Args:
        item: with its test responses.
        recorded: what `Evaluation` wrote of them.
        scored: makes probabilities [n, L] of n texts.
    """
    return float(np.abs(scored(item.test.texts) - recorded.probabilities).max())


def load_scores(made: Artefact) -> dict[str, Scores]:
    """The scores of the `model` and of the `majority` baseline that `Evaluation` wrote."""
    content = json.loads(made.file("scores.json").read_text())
    return {by: Scores(**values) for by, values in content.items()}


def majority(item: Item) -> Predictions:
    """The baseline that knows only how often each label is given in training."""
    shares = item.train.labels.mean(axis=0, dtype=np.float64).astype(np.float32)
    return _predictions(item, np.tile(shares, (len(item.test), 1)))


def _predictions(item: Item, probabilities: NDArray[np.float32]) -> Predictions:
    decisions = decide(probabilities, THRESHOLD)
    if item.kind == "ordinal":
        decisions = encode(decode(decisions), len(item.labels))
    return Predictions(probabilities, decisions)


def decide(
    probabilities: NDArray[np.float32], thresholds: Sequence[float] | float
) -> NDArray[np.uint8]:
    """[n, L]: 1 where a probability is above the threshold, or the one of its label."""
    return (probabilities > np.asarray(thresholds, np.float32)).astype(np.uint8)

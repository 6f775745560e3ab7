"""What the models do on the test responses; nothing else in the program opens them."""

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Artefact, Scorer
from gwsmm.decision.rule import half, load_rule, sigmoid
from gwsmm.encoder import Encoder
from gwsmm.metrics import Calibration, Scores
from gwsmm.progress import write_fraction
from gwsmm.recipe import Trainer
from gwsmm.types import Item


@dataclass(frozen=True)
class Tested:
    """An item with its test responses, and what scores it."""

    item: Item
    scorer: Scorer


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The stage: item and scorer → `probabilities.safetensors` and `scores.json`.

    The scores, of the model and of the majority baseline beside it, are kept too: a run that finds
    them in the store needs none of the libraries that compute them. Where a rule was fitted,
    `calibration.json` holds how good the probabilities are without it and with it. `cost.json`
    holds what it took.
    """

    stage: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 4

    encoder: Encoder
    trainer: Trainer

    def __call__(self, subject: Tested, folder: Path) -> None:
        """Score every test response of the item."""
        from safetensors.numpy import save_file

        from gwsmm.metrics import calibration, score
        from gwsmm.network import infer

        item, scorer = subject.item, subject.scorer
        network = self.encoder.unfilled(len(item.labels))
        network.load_scorer(scorer)
        network.to(self.trainer.device).eval()
        forget_peak_memory()
        started = time.perf_counter()
        logits = infer(
            network,
            self.encoder.tokenize(item.test.texts),
            self.encoder.padding,
            network,
            lambda done: write_fraction(folder, done),
        ).numpy()
        cost = Cost(time.perf_counter() - started, len(item.test), peak_memory())
        (folder / "cost.json").write_text(json.dumps(asdict(cost)))
        rule = load_rule(scorer.decision) if scorer.decision else half(len(item.labels))
        decisions = rule.decide(item.kind, sigmoid(logits))
        model = Predictions(rule.probabilities(logits), decisions)
        save_file(
            {"probabilities": model.probabilities, "decisions": model.decisions},
            folder / "probabilities.safetensors",
        )
        said = {"model": model, "majority": majority(item)}
        scores = {by: asdict(score(item.test.labels, what.decisions)) for by, what in said.items()}
        (folder / "scores.json").write_text(json.dumps(scores))
        if scorer.decision:
            by_rule = {"before": half(len(item.labels)), "after": rule}
            quality = {
                when: asdict(calibration(item.test.labels, each.scaled(logits)))
                for when, each in by_rule.items()
            }
            (folder / "calibration.json").write_text(json.dumps(quality))


@dataclass(frozen=True)
class Cost:
    """What it took to score an item's test responses.

    Attributes:
        seconds: of tokens and encoder passes, without loading.
        responses: that were scored.
        peak_memory: bytes that the process held at most meanwhile, its libraries included; where
            the system keeps only one peak (not Linux), at most ever.
    """

    seconds: float
    responses: int
    peak_memory: int


def forget_peak_memory() -> None:
    """Let `peak_memory` look from now on; what else this process did before is of other stages."""
    with suppress(OSError):  # not Linux
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Bytes that this process held at most."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model says of an item's test responses.

    Attributes:
        probabilities: [n, L], at the model's temperature.
        decisions: [n, L] of 0 and 1; for an ordinal item consistent steps of one score.
    """

    probabilities: NDArray[np.float32]
    decisions: NDArray[np.uint8]


def load_predictions(made: Artefact) -> Predictions:
    """The probabilities and decisions that `Evaluation` wrote."""
    from safetensors.numpy import load_file

    return Predictions(**load_file(made.file("probabilities.safetensors")))


def deviation(
    item: Item,
    recorded: Predictions,
    scored: Callable[[Sequence[str]], tuple[NDArray[np.float32], NDArray[np.uint8]]],
) -> float:
    """How far `scored` is from what the evaluation recorded of the test responses.

    Args:
        item: with its test responses.
        recorded: what `Evaluation` wrote of them.
        scored: makes probabilities and decisions, both [n, L], of n texts.

    Returns:
        The largest difference of a probability; infinite where a decision is another one.
    """
    probabilities, decisions = scored(item.test.texts)
    if not np.array_equal(decisions, recorded.decisions):
        return math.inf
    return float(np.abs(probabilities - recorded.probabilities).max())


def validated(item: Item) -> Item:
    """The item with its validation responses to evaluate, and its test responses out of sight."""
    return replace(item, test=item.validation)


def cross_entropy(item: Item, said: Predictions) -> float:
    """Of what was evaluated, mean over responses and labels; a sure mistake counts as p = 1e-7."""
    p, truth = said.probabilities.astype(np.float64), item.test.labels
    return float(-np.log(np.clip(np.where(truth == 1, p, 1 - p), 1e-7, 1)).mean())


def load_scores(made: Artefact) -> dict[str, Scores]:
    """The scores of the `model` and of the `majority` baseline that `Evaluation` wrote."""
    content = json.loads(made.file("scores.json").read_text())
    return {by: Scores(**values) for by, values in content.items()}


def load_cost(made: Artefact) -> Cost | None:
    """What `Evaluation` took; None: an earlier version did not say."""
    if not made.has("cost.json"):
        return None
    return Cost(**json.loads(made.file("cost.json").read_text()))


def load_calibration(made: Artefact) -> dict[str, Calibration]:
    """How good the probabilities are `before` and `after` the rule, where one was fitted."""
    if not made.has("calibration.json"):
        return {}
    content = json.loads(made.file("calibration.json").read_text())
    return {when: Calibration(**values) for when, values in content.items()}


def majority(item: Item) -> Predictions:
    """The baseline that knows only how often each label is given in training."""
    shares = item.train.labels.mean(axis=0, dtype=np.float64).astype(np.float32)
    probabilities = np.tile(shares, (len(item.test), 1))
    return Predictions(probabilities, half(len(shares)).decide(item.kind, probabilities))

"""One item → a Member: the stage that fine-tunes."""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from gwsmm.artefact import first_not_finite
from gwsmm.encoder import Encoder
from gwsmm.progress import write_fraction
from gwsmm.recipe import Finetune, Trainer
from gwsmm.types import InputError, Item


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """The stage: an item without its test split → `trunk`, `pooler`, `head` and `training.json`.

    Source of the `paper` recipe: `offical_pretrain_and_test.ipynb` of the authors.
    """

    stage: ClassVar[str] = "finetune"
    version: ClassVar[int] = 2

    encoder: Encoder
    recipe: Finetune
    trainer: Trainer
    seed: int

    def __call__(self, subject: Item, folder: Path) -> None:
        """Train the item's model and keep the state of lowest validation loss.

        Raises:
            InputError: the training diverged.
        """
        import torch
        from safetensors.torch import save_file

        from gwsmm.scoring import Data, label_loss, train

        recipe = self.recipe.training
        torch.manual_seed(self.seed)
        network = self.encoder.network(len(subject.labels)).train()
        network.trunk.train(recipe.trunk_dropout)  # Lightning keeps the mode of every module
        self.recipe.begin(network)
        data = Data(
            self.encoder.tokenize(subject.train.texts),
            torch.from_numpy(subject.train.labels.astype(np.float32)),
            self.encoder.tokenize(subject.validation.texts),
            torch.from_numpy(subject.validation.labels.astype(np.float32)),
            filler=self.encoder.padding,
            batch_size=recipe.batch_size,
            by_length=recipe.by_length,
            seed=self.seed,
        )

        loss, tick = partial(label_loss, network), partial(write_fraction, folder)
        curves = train(network, loss, data, recipe, self.trainer, tick)
        self.recipe.end(network)
        best = min(curves, key=lambda epoch: epoch["validation_loss"])
        for part in ("trunk", "pooler", "head"):
            if state := network.part_state(part):
                if name := first_not_finite(state):
                    raise self._diverged(subject.name, f"the tensor {part}.{name}")
                save_file(dict(state), folder / f"{part}.safetensors")
        if not math.isfinite(best["validation_loss"]):
            raise self._diverged(subject.name, "its validation loss")
        text = json.dumps({"best_epoch": best["epoch"], "epochs": curves}, indent=1)
        (folder / "training.json").write_text(text)

    def _diverged(self, item: str, what: str) -> InputError:
        precise = self.recipe.training.precision == "fp32"
        return InputError(
            f"item {item!r}: its fine-tuning diverged, {what} is not finite; give finetune a lower "
            f"learning_rate{'' if precise else ' or precision=fp32'}. Nothing of it is kept"
        )

"""The Lightning module of what is trained, by a loss of its own, and its data module."""

import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset, Sampler

from gwsmm.devices import in_several_processes
from gwsmm.network import pad
from gwsmm.recipe import Precision, Recipe, Trainer

Row = tuple[list[int], Tensor]
Batch = tuple[Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of token ids [b, t], their attention mask [b, t] and targets [b, …]: a scalar, mean over rows."""

Fitted = tuple[list[dict[str, float]], dict[str, Tensor]]
"""The curves, and the network's state of lowest validation loss."""

_POOL = 20  # batches that are sorted by length together: long enough to fill, short enough to mix


class ScoringModel(pl.LightningModule):
    """Trains a network by a `Recipe`, and keeps its curves and its best state.

    Args:
        network: trained in place; `best` is its state of lowest validation loss. What is named
            `head.…` learns at the head's rate.
        loss: looks at a batch through the network.
        recipe: the settings.
        steps: optimiser steps in all if no epoch is saved by early stopping.
    """

    def __init__(self, network: nn.Module, loss: Loss, recipe: Recipe, steps: int) -> None:
        super().__init__()
        self.network, self.loss, self.recipe, self.steps = network, loss, recipe, steps
        self.curves: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self._train_loss = self._train_rows = 0.0

    def training_step(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        loss = self.loss(*batch)
        self._train_loss += float(loss.detach()) * len(batch[0])
        self._train_rows += len(batch[0])
        return loss

    def validation_step(self, batch: Batch) -> None:
        """The same loss on validation responses, averaged over them."""
        self.log("validation_loss", self.loss(*batch), on_epoch=True, batch_size=len(batch[0]))

    def on_validation_epoch_end(self) -> None:
        """Note the epoch's losses, and copy the weights if they are the best so far."""
        train_loss, train_rows = self._trained()
        loss = float(self.trainer.callback_metrics["validation_loss"])
        if not self.curves or loss < min(epoch["validation_loss"] for epoch in self.curves):
            self.best = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        self.curves.append(
            {
                "epoch": len(self.curves) + 1,
                "train_loss": train_loss / max(1.0, train_rows),
                "validation_loss": loss,
            }
        )
        self._train_loss = self._train_rows = 0.0

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with the recipe's groups, and its schedule step by step."""
        recipe = self.recipe
        alike: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, weight in self.network.named_parameters():
            if weight.requires_grad:
                head = name.startswith("head.")
                rate = recipe.head_learning_rate if head else recipe.learning_rate
                free = any(part in name for part in recipe.no_decay)
                alike[rate, 0.0 if free else recipe.weight_decay].append(weight)
        groups = [
            {"params": weights, "lr": rate, "weight_decay": decay}
            for (rate, decay), weights in alike.items()
        ]
        optimizer = AdamW(groups, eps=recipe.epsilon, fused=True)
        schedule = LambdaLR(optimizer, self._rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip here: Lightning refuses to clip under bf16 with a fused optimiser."""
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)

    def _trained(self) -> tuple[float, float]:
        """The sum of the losses of this epoch's rows, and their number, on all devices."""
        if self.trainer.world_size == 1:
            return self._train_loss, self._train_rows
        here = torch.tensor([self._train_loss, self._train_rows], device=self.device)
        loss, rows = self.trainer.strategy.reduce(here, reduce_op="sum").tolist()
        return loss, rows

    def _rate(self, step: int) -> float:
        warm = self.recipe.warmup * self.steps
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.recipe.schedule == "constant":
            return 1.0
        return max(0.0, (self.steps - step) / max(1.0, self.steps - warm))


class Data(pl.LightningDataModule):
    """Tokenized training and validation responses, each with what its loss needs.

    Args:
        train_ids: token ids of each training response.
        train_targets: [n, …], e.g. labels.
        validation_ids: token ids of each validation response.
        validation_targets: [m, …].
        filler: token id that fills a batch.
        batch_size: responses.
        by_length: see `Recipe`.
        seed: of the shuffling; every epoch has another order.
    """

    def __init__(  # noqa: PLR0913 - two splits of ids and targets, each named at the call
        self,
        train_ids: Sequence[list[int]],
        train_targets: Tensor,
        validation_ids: Sequence[list[int]],
        validation_targets: Tensor,
        *,
        filler: int,
        batch_size: int,
        by_length: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.train_rows = _Rows(train_ids, train_targets)
        self.validation_rows = _Rows(validation_ids, validation_targets)
        self.filler = filler
        self.batches = _Batches(
            [len(row) for row in train_ids], batch_size, by_length=by_length, seed=seed
        )

    def train_dataloader(self) -> DataLoader[Row]:
        """Shuffled batches of (ids [b, t], mask [b, t], targets [b, …]).

        Several devices see together the batches that one would see alone.
        """
        batches: Sampler[list[int]] = self.batches
        if self.trainer is not None and self.trainer.world_size > 1:
            batches = _Share(self.batches, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(self.train_rows, batch_sampler=batches, collate_fn=self._collate)

    def val_dataloader(self) -> DataLoader[Row]:
        """Validation batches, in order."""
        size = self.batches.batch_size
        return DataLoader(self.validation_rows, batch_size=size, collate_fn=self._collate)

    def _collate(self, rows: list[Row]) -> Batch:
        ids, mask = pad([row for row, _ in rows], self.filler)
        return ids, mask, torch.stack([targets for _, targets in rows])


class _Rows(Dataset[Row]):
    def __init__(self, ids: Sequence[list[int]], targets: Tensor) -> None:
        self.ids, self.targets = ids, targets

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Row:
        return self.ids[index], self.targets[index]


class _Batches(Sampler[list[int]]):
    def __init__(self, lengths: list[int], batch_size: int, *, by_length: bool, seed: int) -> None:
        self.lengths, self.batch_size, self.by_length = lengths, batch_size, by_length
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._shuffled(range(len(self.lengths)))
        if not self.by_length:
            return iter(_cut(order, self.batch_size))
        pools = _cut(order, self.batch_size * _POOL)
        batches = [
            batch
            for block in pools
            for batch in _cut(sorted(block, key=self.lengths.__getitem__), self.batch_size)
        ]
        return (batches[i] for i in self._shuffled(range(len(batches))))

    def _shuffled(self, values: range) -> list[int]:
        return torch.randperm(len(values), generator=self.generator).tolist()


class _Share(Sampler[list[int]]):
    """The part of every batch that one of several devices takes; a row at least."""

    def __init__(self, batches: _Batches, rank: int, devices: int) -> None:
        self.batches, self.rank, self.devices = batches, rank, devices

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self.rank :: self.devices] or batch[:1] for batch in self.batches)


def _cut(values: list[int], size: int) -> list[list[int]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


class _Ticker(Callback):
    def __init__(self, steps: int, tick: Callable[[float], None]) -> None:
        self.steps, self.tick = steps, tick

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step % 5 == 0 and trainer.is_global_zero:
            self.tick(trainer.global_step / self.steps)


class _PreciseAttention(TorchFunctionMode):
    """Attention in fp32 whatever is around it: in bf16 a CPU takes several times as long."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        arguments: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> object:
        named = named or {}
        if function is not nn.functional.scaled_dot_product_attention:
            return function(*arguments, **named)
        with torch.autocast("cpu", enabled=False):
            return function(*map(_precise, arguments), **{k: _precise(v) for k, v in named.items()})


def _precise(value: object) -> object:
    """A tensor of numbers in fp32, anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _attention(precision: Precision, trainer: Trainer) -> AbstractContextManager[object]:
    """How attention is computed while a network is trained."""
    slow = precision == "bf16" and trainer.device == "cpu"
    return _PreciseAttention() if slow else nullcontext()


@contextmanager
def computing(precision: Precision, trainer: Trainer) -> Iterator[None]:
    """Let networks compute in this precision, as they do in `train`."""
    reduced = torch.autocast(trainer.device, torch.bfloat16, enabled=precision == "bf16")
    with reduced, _attention(precision, trainer):
        yield


@torch.no_grad()
def mean_loss(loss: Loss, data: Data, recipe: Recipe, trainer: Trainer) -> float:
    """The mean over the validation responses, as `train` finds it at the end of every epoch."""
    total = rows = 0.0
    for batch in data.val_dataloader():
        ids, mask, targets = (part.to(trainer.device) for part in batch)
        with computing(recipe.precision, trainer):
            total += float(loss(ids, mask, targets)) * len(ids)
        rows += len(ids)
    return total / rows


def label_loss(network: nn.Module, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Of a network's logits, the mean over responses and labels: a `Loss` once it has a network."""
    return binary_cross_entropy_with_logits(network(ids, mask).float(), labels)


def train(
    network: nn.Module,
    loss: Loss,
    data: Data,
    recipe: Recipe,
    trainer: Trainer,
    tick: Callable[[float], None],
) -> list[dict[str, float]]:
    """Train `network` in place to its best epoch.

    Returns:
        For each epoch `epoch`, `train_loss` and `validation_loss`.
    """
    fit = partial(_fit, network, loss, data, recipe, trainer, tick)
    n = trainer.processes
    curves, best = fit(None) if n == 1 else in_several_processes(fit, n)
    network.load_state_dict(best)
    return curves


def _fit(  # noqa: PLR0913 - those of `train`
    network: nn.Module,
    loss: Loss,
    data: Data,
    recipe: Recipe,
    trainer: Trainer,
    tick: Callable[[float], None],
    among: LightningEnvironment | None,
) -> Fitted:
    """Train in this process, alone or `among` others."""
    for talkative in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    steps = recipe.epochs * len(data.batches)
    model = ScoringModel(network, loss, recipe, steps)
    with warnings.catch_warnings(), _attention(recipe.precision, trainer):
        # Lightning's advice on worker processes and torch's own deprecations are not for our users.
        warnings.simplefilter("ignore")
        lightning = pl.Trainer(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            strategy=trainer.strategy,
            precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
            max_epochs=recipe.epochs,
            callbacks=[
                EarlyStopping("validation_loss", patience=recipe.patience),
                _Ticker(steps, tick),
            ],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # `Data` shares the batches
            plugins=among,
        )
        try:
            lightning.fit(model, data)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    return model.curves, model.best

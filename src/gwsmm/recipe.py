"""The settings of fine-tuning: what is done, and where."""

import logging
import re
import sys
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from gwsmm.encoder import Encoder
from gwsmm.types import STRICT, InputError

if TYPE_CHECKING:
    from gwsmm.network import Network

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Precision = Literal["fp32", "bf16", "auto"]

_DEV = Path("/dev")
_GPUS = ("nvidia*", "nvhost*", "nvgpu*", "kfd", "dxg")
"""What the drivers of NVIDIA and AMD, and Windows for its Linux, call the devices they make."""


class Finetune(Protocol):
    """A way to train one scoring model."""

    @property
    def training(self) -> "Recipe":
        """The settings of its training."""

    def on_this_machine(self) -> "Finetune":
        """The same with the precision that `auto` means here, which is part of a result's key."""

    def begin(self, network: "Network") -> None:
        """Make a network, as the encoder builds it, ready to be trained."""

    def end(self, network: "Network") -> None:
        """Make it, trained, a network as the encoder builds it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """How one scoring model is trained: AdamW on the binary cross-entropy, mean over labels.

    Attributes:
        frozen_layers: the embeddings and this many of the lowest layers stay as pretrained, which
            saves most of the backward pass; 0: everything is trained.
        trunk_dropout: whether there is dropout inside the trunk, at the rates of its configuration;
            that before the head always is.
        learning_rate: of trunk and pooler.
        head_learning_rate: of the head, which starts from nothing.
        epsilon: of AdamW.
        weight_decay: on every weight but those whose name holds one of `no_decay`.
        no_decay: parts of parameter names.
        schedule: `constant`, or `linear`: down to zero over `epochs`.
        warmup: share of all steps over which the learning rate rises from zero.
        clip: largest norm of the gradient; None: no clipping.
        batch_size: responses.
        by_length: batches of like length, which need little padding; else plain shuffling.
        epochs: at most.
        patience: epochs without a lower validation loss after which training ends.
        precision: `fp32`, `bf16` (autocast), or `auto`: bf16 where the hardware computes in it.
    """

    frozen_layers: Annotated[int, Field(ge=0)]
    trunk_dropout: bool
    learning_rate: Positive
    head_learning_rate: Positive
    epsilon: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    no_decay: list[str]
    schedule: Literal["constant", "linear"]
    warmup: Share
    clip: Positive | None
    batch_size: Annotated[int, Field(ge=1)]
    by_length: bool
    epochs: Annotated[int, Field(ge=1)]
    patience: Annotated[int, Field(ge=1)]
    precision: Precision

    def on_this_machine(self) -> "Recipe":
        """The recipe with the precision that `auto` means here; see `Finetune`."""
        return replace(self, precision=_settled(self.precision))

    @property
    def training(self) -> "Recipe":
        """All of it; see `Finetune`."""
        return self

    def begin(self, network: "Network") -> None:
        """Freeze the lowest layers; see `Finetune`."""
        network.freeze(self.frozen_layers)

    def end(self, network: "Network") -> None:
        """Leave it as it is; see `Finetune`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Trainer:
    """Where a model is trained, in Lightning's words.

    Attributes:
        accelerator: `cpu`, `gpu`, `auto`, ….
        devices: how many of this machine share the batches of one model, or `auto`.
        strategy: `auto`, `ddp`, …; `ddp` is what `auto` means where there are several devices.
    """

    accelerator: str
    devices: Annotated[int, Field(ge=1)] | Literal["auto"]
    strategy: str

    def __post_init__(self) -> None:
        if self.devices != 1 and not self.strategy.startswith(("auto", "ddp")):
            raise ValueError(f"strategy={self.strategy} is for one device; give ddp for several")

    def check(self) -> None:
        """Refuse, before any work, what Lightning does not know or this machine does not have.

        Raises:
            InputError: nothing can be trained so.
        """
        anywhere = self.accelerator == "cpu" or (self.accelerator, self.devices) == ("auto", 1)
        if anywhere and self.strategy == "auto":  # Lightning takes seconds to load
            return
        from lightning_fabric import Fabric  # which chooses as its trainer does
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.utilities.exceptions import MisconfigurationException

        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings(action="ignore"):
                Fabric(
                    accelerator=self.accelerator,
                    devices=self.devices,
                    strategy=self.strategy,
                    plugins=LightningEnvironment() if self.processes > 1 else None,
                )
        except (ValueError, ImportError, RuntimeError, MisconfigurationException) as error:
            raise InputError(
                f"trainer.accelerator={self.accelerator} trainer.devices={self.devices} "
                f"trainer.strategy={self.strategy}: nothing can be trained so on this machine "
                f"({error}); trainer.accelerator=auto trainer.devices=1 trainer.strategy=auto can "
                "be used anywhere"
            ) from error

    @property
    def processes(self) -> int:
        """How many train one model, each on a device of its own."""
        import torch

        if isinstance(self.devices, int):
            return self.devices
        return torch.cuda.device_count() if self.device == "cuda" else 1

    @property
    def device(self) -> str:
        """Where stages that only infer run: `cuda` if it is there and asked for, else `cpu`."""
        return "cuda" if self.accelerator != "cpu" and _has_gpu() else "cpu"


@cache
def _has_gpu() -> bool:
    """Whether torch finds one; Linux without any is told by its devices, without loading torch."""
    if sys.platform == "linux" and not any(path for name in _GPUS for path in _DEV.glob(name)):
        return False
    import torch

    return bool(torch.cuda.is_available())


@cache
def _computes_in_bf16() -> bool:
    if _has_gpu():
        import torch

        return bool(torch.cuda.is_bf16_supported())
    processor = Path("/proc/cpuinfo")  # where there is none, fp32 is right
    return processor.exists() and bool(re.search(r"avx512_bf16|amx_bf16", processor.read_text()))


def _settled(precision: Precision) -> Precision:
    if precision != "auto":
        return precision
    return "bf16" if _computes_in_bf16() else "fp32"


SettledPrecision = Annotated[Precision, AfterValidator(_settled)]
"""A precision that is a field of a strategy: what `auto` means is part of its identity."""

Settled = Annotated[Recipe, AfterValidator(Recipe.on_this_machine)]
"""A recipe that is a field of a strategy: what `auto` means is part of the strategy's identity."""


def check_frozen(recipe: Recipe, encoder: Encoder, setting: str) -> None:
    """Refuse, before any work, to freeze more layers than the encoder has.

    Args:
        recipe: to be used.
        encoder: that is to be trained.
        setting: where the recipe stands in the configuration.

    Raises:
        InputError: there are fewer layers.
    """
    if recipe.frozen_layers and recipe.frozen_layers > encoder.layers:
        raise InputError(
            f"{setting}.frozen_layers={recipe.frozen_layers}: the encoder has {encoder.layers} "
            "layers; give at most that, or 0 to train everything"
        )

"""Fine-tuning by low-rank adapters; the only door for PEFT."""

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.recipe import Recipe, Share
from gwsmm.types import STRICT, InputError

if TYPE_CHECKING:
    from gwsmm.network import Network


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Lora:
    """Of the trunk only θ = θ_pretrained + alpha / rank · B A is trained.

    B and A are factors for the weight of every linear layer of the trunk; pooler and head are
    trained as they are. What an item then is beyond the pretrained trunk has exactly this rank, so
    that `private=svd private.base=pretrained private.rank=RANK` keeps it whole: one shared encoder
    and an adapter per item. Training keeps no optimiser state for the trunk, and takes about as
    long. A reference for what merging reaches: it shares the encoder from the start.

    Attributes:
        rank: of the adapters.
        alpha: their scale is alpha / rank.
        dropout: of what goes into them, in training.
        recipe: of the training, with `frozen_layers: 0`: the trunk is frozen anyway.

    Source: Hu et al. (2022), "LoRA: low-rank adaptation of large language models"; for scoring
    items with one backbone Latif and Zhai (2024), rank 8 and alpha 16.
    """

    rank: Annotated[int, Field(ge=1)]
    alpha: Annotated[int, Field(ge=1)]
    dropout: Share
    recipe: Recipe

    def __post_init__(self) -> None:
        if self.recipe.frozen_layers:
            raise InputError(
                f"finetune.recipe.frozen_layers={self.recipe.frozen_layers}: adapters are on every "
                "layer, and the trunk is frozen anyway; give 0"
            )
        if find_spec("peft") is None:
            raise InputError(
                "finetune=lora: the adapters are made by PEFT, which is not installed; install it "
                "with pip install 'gwsmm[lora]', or give finetune=default"
            )

    @property
    def training(self) -> Recipe:
        """How the adapters are trained; see `Finetune`."""
        return self.recipe

    def on_this_machine(self) -> "Lora":
        """The same with the precision that `auto` means here; see `Finetune`."""
        return replace(self, recipe=self.recipe.on_this_machine())

    def begin(self, network: "Network") -> None:
        """Put adapters, drawn from torch's global generator, on the trunk; see `Finetune`."""
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules="all-linear",
        )
        network.trunk = get_peft_model(network.trunk, settings)

    def end(self, network: "Network") -> None:
        """Add the adapters to the weights, and leave the trunk as it was built; see `Finetune`."""
        from peft import PeftModel

        assert isinstance(network.trunk, PeftModel), "begin() has made it one"
        network.trunk = network.trunk.merge_and_unload()

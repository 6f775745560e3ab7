"""Reads a bundle and scores responses with it; nothing in a bundle is executed.

The encoder runs once per trunk over the responses to all items that share it, in batches of like
length and once for equal texts. One trunk is in memory at a time: a plain one is mapped from its
file, a coded one is decoded tensor by tensor.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import MANIFEST, Codec
from gwsmm.bundle.manifest import Bundled, Manifest, Part, checked, read_manifest
from gwsmm.bundle.tensors import read_part
from gwsmm.decision.rule import Rule, sigmoid
from gwsmm.encoder import Encoder
from gwsmm.types import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from gwsmm.network import Most, Network

ENCODER = "encoder"  # folder of configuration and tokenizer
_TOKENIZED = 256  # texts at once


@dataclass(frozen=True, eq=False)
class Scored:
    """What the model of one item says of its responses.

    Attributes:
        rows: [m] positions of these responses among all that were given.
        probabilities: [m, L], at the model's temperature.
        decisions: [m, L] of 0 and 1; for an ordinal item consistent steps of one score.
    """

    rows: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    decisions: NDArray[np.uint8]


@dataclass(frozen=True)
class Bundle:
    """A bundle that `open_bundle` opened.

    Attributes:
        folder: where it is.
        manifest: its content.
        device: where to compute, in torch's words.
        encoder: tokenizes, and makes networks without weights.
        codec: decodes private parts; None where no item has any.
    """

    folder: Path
    manifest: Manifest
    device: str
    encoder: Encoder
    codec: Codec | None

    @cached_property
    def items(self) -> Mapping[str, Bundled]:
        """The items by name."""
        return {item.name: item for item in self.manifest.items}

    def score(
        self,
        names: Sequence[str],
        texts: Sequence[str],
        *,
        batch: int,
        tokens: float = math.inf,
        tick: Callable[[float], None] = lambda fraction: None,
    ) -> dict[str, Scored]:
        """What the models say of responses that may mix items.

        Args:
            names: the item of each response.
            texts: the responses.
            batch: most responses in a batch.
            tokens: most tokens in a batch; without a limit batches are those of the evaluation.
            tick: takes the fraction of the responses that is done.

        Returns:
            By item, for those that have responses.

        Raises:
            InputError: a file of the bundle is damaged.
        """
        import torch

        from gwsmm.network import Most

        rows = defaultdict[str, list[int]](list)
        for row, name in enumerate(names):
            rows[name].append(row)
        self._verify([self.items[name] for name in rows])
        passes = defaultdict[Part, dict[str, list[str]]](dict)
        for name, own in rows.items():
            passes[self.items[name].trunk][name] = [texts[row] for row in own]
        found, done = dict[str, Scored](), 0
        with torch.inference_mode():
            for trunk, said in passes.items():
                share = sum(map(len, said.values())) / len(texts)
                part = _within(tick, done / len(texts), share)
                for name, logits in self._pass(trunk, said, Most(batch, tokens), part):
                    item = self.items[name]
                    rule = Rule(item.temperature, item.thresholds)
                    decisions = rule.decide(item.kind, sigmoid(logits))
                    places = np.array(rows[name])
                    found[name] = Scored(places, rule.probabilities(logits), decisions)
                    done += len(logits)
        return found

    def _pass(
        self,
        trunk: Part,
        said: Mapping[str, Sequence[str]],
        most: "Most",
        tick: Callable[[float], None],
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Logits [m, L] of the responses to every item of one trunk."""
        from torch.nn.functional import linear

        from gwsmm.network import infer

        network = self._network(trunk)
        different = dict.fromkeys(text for texts in said.values() for text in texts)
        place = {text: i for i, text in enumerate(different)}
        ids = self._tokenized(list(different))
        vectors = infer(network, ids, self.encoder.padding, network.vector, tick, most)
        for name, texts in said.items():
            weight, bias = self._upper(network, self.items[name])
            own = vectors[[place[text] for text in texts]].to(self.device)
            yield name, linear(network.pooled(own), weight, bias).cpu().numpy()

    def _tokenized(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; what a tokenizer notes of many texts at once takes memory."""
        return [
            ids
            for start in range(0, len(texts), _TOKENIZED)
            for ids in self.encoder.tokenize(texts[start : start + _TOKENIZED])
        ]

    def _network(self, trunk: Part) -> "Network":
        """A network with this trunk, the rest of it still to be loaded."""
        import torch

        with self._readable_errors():
            network = self.encoder.unfilled(labels=1)
            state = read_part(self.folder, trunk, "trunk", self.codec)
            network.load_part("trunk", dict(state), copy=False)
        return network.to(self.device, torch.float32).eval()

    def _upper(self, network: "Network", item: Bundled) -> "tuple[Tensor, Tensor]":
        """Load the item's pooler; return its head: weight [L, d] and bias [L]."""
        import torch
        from safetensors.torch import load_file

        with self._readable_errors():
            if item.pooler is not None:
                state = read_part(self.folder, item.pooler, "pooler", self.codec)
                network.load_part("pooler", dict(state), copy=False)
            head = load_file(self.folder / item.head)
            weight, bias = (
                head[name].to(self.device, torch.float32) for name in ("weight", "bias")
            )
            if len(weight) != len(item.labels):
                raise ValueError(f"{item.head} has {len(weight)} outputs")
        network.to(self.device, torch.float32)
        return weight, bias

    def _verify(self, items: Sequence[Bundled]) -> None:
        """Refuse a file that is not what was written, before any work."""
        needed = dict.fromkeys(name for item in items for name in item.files)
        encoder = [name for name in self.manifest.files if name.startswith(f"{ENCODER}/")]
        for name in (*encoder, *needed):
            checked(self.folder, self.manifest, name)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        from safetensors import SafetensorError

        try:
            yield
        except (ValueError, KeyError, IndexError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"{self.folder}: the files do not fit together ({type(error).__name__}: {reason}); "
                "write the bundle again"
            ) from error


def open_bundle(folder: Path, device: str) -> Bundle:
    """The bundle in this folder; its weights are read when they are needed.

    Args:
        folder: that `gwsmm bundle` wrote.
        device: where to compute, in torch's words.

    Raises:
        InputError: the folder is no bundle, of another format, or its manifest is damaged.
    """
    manifest = read_manifest(folder)
    about, codec = manifest.encoder, manifest.codec
    try:
        encoder = Encoder(
            model=str((folder / ENCODER).resolve()),
            revision=None,
            random={},  # the architecture alone: weights come from the bundle's own files
            pooling=about.pooling,
            pooler=about.pooler,
            max_length=about.max_length,
        )
        built = None if codec is None else codec.build()
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{folder / MANIFEST}: {reason}; write the bundle again") from error
    return Bundle(folder, manifest, device, encoder, built)


def _within(tick: Callable[[float], None], start: float, share: float) -> Callable[[float], None]:
    return lambda fraction: tick(start + share * fraction)

"""Reads a bundle and scores responses with it; nothing in a bundle is executed.

The encoder runs once per trunk over the responses to all items that share it, in batches of like
length and once for equal texts. One trunk is in memory at a time: a plain one is mapped from its
file, a coded one is decoded tensor by tensor. See `running` for what runs it.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import MANIFEST, Codec
from gwsmm.batching import Most
from gwsmm.bundle.manifest import (
    Architecture,
    Bundled,
    Manifest,
    Part,
    checked,
    read_manifest,
)
from gwsmm.bundle.running import ENCODER, GRAPH, Graph, Runner, Tick, Torch
from gwsmm.bundle.tensors import mapped, read_arrays
from gwsmm.decision.rule import Rule, sigmoid
from gwsmm.encoder import Encoder
from gwsmm.task import out_of_memory
from gwsmm.types import InputError


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
        runner: runs the encoder.
        codec: decodes private parts; None where no item has any.
    """

    folder: Path
    manifest: Manifest
    runner: Runner
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
        tick: Tick = lambda fraction: None,
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
        rows = defaultdict[str, list[int]](list)
        for row, name in enumerate(names):
            rows[name].append(row)
        self._verify([self.items[name] for name in rows])
        passes = defaultdict[Part, dict[str, list[str]]](dict)
        for name, own in rows.items():
            passes[self.items[name].trunk][name] = [texts[row] for row in own]
        found, done = dict[str, Scored](), 0
        for trunk, said in passes.items():
            share = sum(map(len, said.values())) / len(texts)
            part = _within(tick, done / len(texts), share)
            for name, logits in self._pass(trunk, said, Most(batch, tokens), part):
                item = self.items[name]
                rule = Rule(item.temperature, item.thresholds)
                decisions = rule.decide(item.kind, sigmoid(logits))
                found[name] = Scored(np.array(rows[name]), rule.probabilities(logits), decisions)
                done += len(logits)
        return found

    def _pass(
        self, trunk: Part, said: Mapping[str, Sequence[str]], most: Most, tick: Tick
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Logits [m, L] of the responses to every item of one trunk."""
        different = dict.fromkeys(text for texts in said.values() for text in texts)
        place = {text: i for i, text in enumerate(different)}
        with readable_errors(self.folder):
            ids = self.runner.tokenize(list(different))
            vectors = self.runner.vectors(trunk, ids, most, tick)
        for name, texts in said.items():
            with readable_errors(self.folder):
                own = vectors[[place[text] for text in texts]]
                logits = self._upper(self.items[name], own)
            yield name, logits

    def _upper(self, item: Bundled, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [m, L] of vectors [m, d], by the item's pooler and head."""
        if item.pooler is not None:
            dense = dict(read_arrays(self.folder, item.pooler, "pooler", self.codec))
            vectors = np.tanh(_linear(dense, vectors))
        logits = _linear(dict(mapped(self.folder / item.head)), vectors)
        if logits.shape[1] != len(item.labels):
            raise ValueError(f"{item.head} has {logits.shape[1]} outputs")
        return logits

    def _verify(self, items: Sequence[Bundled]) -> None:
        """Refuse a file that is not what was written, before any work."""
        needed = dict.fromkeys(name for item in items for name in item.files)
        encoder = [name for name in self.manifest.files if name.startswith(f"{ENCODER}/")]
        for name in (*encoder, *needed):
            checked(self.folder, self.manifest, name)


@contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Run a block that reads tensors of a bundle.

    Raises:
        InputError: the files are no tensors, or not those of this encoder; or memory is wanting.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (
        ValueError, KeyError, IndexError, RuntimeError, MemoryError, SafetensorError
    ) as error:  # fmt: skip
        if out_of_memory(error):
            raise InputError(
                f"{folder}: there is not enough memory for so many responses at a time: lower "
                "--batch-size, or free memory"
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{folder}: the files do not fit together ({type(error).__name__}: {reason}); write "
            "the bundle again"
        ) from error


def open_bundle(folder: Path, device: str) -> Bundle:
    """The bundle in this folder; its weights are read when they are needed.

    Args:
        folder: that `gwsmm bundle` wrote.
        device: where to compute, in torch's words; on `cpu` a bundle that has the graph of its
            encoder needs no torch.

    Raises:
        InputError: the folder is no bundle, of another format, or its manifest is damaged.
    """
    manifest = read_manifest(folder)
    try:
        codec = None if manifest.codec is None else manifest.codec.build()
        encoder = bare_encoder(folder, manifest.encoder)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{folder / MANIFEST}: {reason}; write the bundle again") from error
    runner: Runner = (
        Graph(folder, encoder.max_length, codec)
        if GRAPH in manifest.files and device == "cpu"
        else Torch(folder, encoder, device, codec)
    )
    return Bundle(folder, manifest, runner, codec)


def bare_encoder(folder: Path, about: Architecture) -> Encoder:
    """The encoder of a bundle without weights, which come from the bundle's own files."""
    return Encoder(
        model=str((folder / ENCODER).resolve()),
        revision=None,
        random={},  # the architecture alone
        pooling=about.pooling,
        pooler=about.pooler,
        max_length=about.max_length,
    )


def _linear(
    dense: Mapping[str, NDArray[np.float32]], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    found: NDArray[np.float32] = vectors @ dense["weight"].T + dense["bias"]
    return found


def _within(tick: Tick, start: float, share: float) -> Tick:
    return lambda fraction: tick(start + share * fraction)

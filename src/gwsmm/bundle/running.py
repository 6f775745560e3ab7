"""What runs the encoder of a bundle: its graph by onnxruntime, or the network by torch.

The graph needs neither torch nor transformers, which take more memory than most encoders.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import Codec
from gwsmm.batching import Most, batches, padded
from gwsmm.bundle.manifest import Part
from gwsmm.bundle.tensors import read_arrays, read_part
from gwsmm.encoder import Encoder

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

ENCODER = "encoder"  # folder of configuration and tokenizer
GRAPH = f"{ENCODER}/graph.onnx"
IDS, MASK = "ids", "mask"  # inputs of the graph beside the tensors `trunk.…`
_TOKENIZED = 256  # texts at once; what a tokenizer notes of many takes memory

Tick = Callable[[float], None]


class Runner(Protocol):
    """A way to run the encoder."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the special tokens, cut at the encoder's length."""

    def vectors(
        self, trunk: Part, ids: Sequence[Sequence[int]], most: Most, tick: Tick
    ) -> NDArray[np.float32]:
        """[n, d]: what comes before the pooler, of n responses.

        Args:
            trunk: files of the trunk.
            ids: token ids of each response.
            most: how large a batch may be.
            tick: takes the fraction of the responses that is done.

        Raises:
            ValueError, KeyError, RuntimeError: the files do not fit together.
        """


@dataclass(frozen=True)
class Graph:
    """The graph of the encoder, run on the CPU by onnxruntime.

    Attributes:
        folder: of the bundle.
        max_length: tokens of a response; longer ones are cut.
        codec: decodes private parts, by torch.
    """

    folder: Path
    max_length: int
    codec: Codec | None

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Runner`."""
        return [
            found.ids
            for start in range(0, len(texts), _TOKENIZED)
            for found in self._tokenizer.encode_batch_fast(list(texts[start : start + _TOKENIZED]))
        ]

    def vectors(
        self, trunk: Part, ids: Sequence[Sequence[int]], most: Most, tick: Tick
    ) -> NDArray[np.float32]:
        """See `Runner`."""
        read = read_arrays(self.folder, trunk, "trunk", self.codec)
        weights = self._checked({f"trunk.{name}": array for name, array in read})
        order, rows = list[int](), list[NDArray[np.float32]]()
        for batch in batches(ids, most):
            tokens, mask = padded([ids[i] for i in batch], self._padding)
            with _runtime_errors():
                rows += self._session.run(None, {IDS: tokens, MASK: mask, **weights})
            order += batch
            tick(len(order) / len(ids))
        return np.concatenate(rows)[np.argsort(order)]

    def _checked(self, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, object]:
        """Those that the graph takes, which must be all of their kind in the right shape."""
        wanted = {each.name: each.shape for each in self._session.get_inputs()}
        wanted = {name: shape for name, shape in wanted.items() if name not in (IDS, MASK)}
        found = {name: list(weights[name].shape) for name in wanted if name in weights}
        if found != wanted:
            wrong = [name for name in wanted if found.get(name) != wanted[name]]
            raise ValueError(f"{GRAPH} takes {wrong[0]} of shape {wanted[wrong[0]]}")
        return {name: weights[name] for name in wanted}

    @cached_property
    def _session(self) -> "InferenceSession":
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = _cores()
        options.enable_mem_pattern = False  # every batch has another shape
        options.log_severity_level = 4  # what it logs it raises, too
        # Spinning threads slow a busy machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with _runtime_errors():
            path = str(self.folder / GRAPH)
            return InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        path = self.folder / ENCODER / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # it raises no other kind
            raise ValueError(f"{path.name}: {error}") from error
        tokenizer.no_padding()
        side = self._settings.get("truncation_side", "right")
        tokenizer.enable_truncation(self.max_length, direction=side)
        return tokenizer

    @cached_property
    def _padding(self) -> int:
        """The token id that fills a batch."""
        token = self._settings.get("pad_token")
        said = token.get("content") if isinstance(token, dict) else token
        return int(self._tokenizer.token_to_id(said) or 0) if isinstance(said, str) else 0

    @cached_property
    def _settings(self) -> dict[str, object]:
        path = self.folder / ENCODER / "tokenizer_config.json"
        found: object = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{path.name} holds no settings")
        return found


@dataclass(frozen=True)
class Torch:
    """The network of the encoder, built by transformers and run by torch.

    Attributes:
        folder: of the bundle.
        encoder: tokenizes, and makes networks without weights.
        device: where to compute, in torch's words.
        codec: decodes private parts.
    """

    folder: Path
    encoder: Encoder
    device: str
    codec: Codec | None

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Runner`."""
        return [
            ids
            for start in range(0, len(texts), _TOKENIZED)
            for ids in self.encoder.tokenize(texts[start : start + _TOKENIZED])
        ]

    def vectors(
        self, trunk: Part, ids: Sequence[Sequence[int]], most: Most, tick: Tick
    ) -> NDArray[np.float32]:
        """See `Runner`."""
        import torch

        from gwsmm.network import infer

        with torch.inference_mode():
            network = self.encoder.unfilled(labels=1)
            state = read_part(self.folder, trunk, "trunk", self.codec)
            network.load_part("trunk", dict(state), copy=False)
            network.to(self.device, torch.float32).eval()
            found = infer(network, ids, self.encoder.padding, network.vector, tick, most)
        vectors: NDArray[np.float32] = found.numpy()
        return vectors


@contextmanager
def _runtime_errors() -> Iterator[None]:
    """Run a block that calls onnxruntime, whose many errors have no base of their own.

    Raises:
        RuntimeError: for any of them.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime."):
            raise
        raise RuntimeError(f"{GRAPH}: {error}") from error


def _cores() -> int:
    """As torch counts: what the user says, else all that this process may use."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

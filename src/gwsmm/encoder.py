"""The only door for transformers: find a model, load it, tokenize, and part trunk from pooler.

Every encoder takes the same path: `AutoModel` without its pooling layer is the *trunk* (embeddings
and layers, what merging shares), a dense layer with tanh is the *pooler* (what an item may keep for
itself), and a linear layer per item is the *head*.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, runtime_checkable

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State, checksum
from gwsmm.disk import locate
from gwsmm.types import STRICT, InputError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from gwsmm.network import Network

_PACKAGED = "package:"
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")  # no pickled weights, no code
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_FRESH_SEED = (
    0  # a pooler that the checkpoint lacks must be the same for every item, to be mergeable
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Encoder:
    """A pretrained encoder and how one vector is made of its tokens.

    Attributes:
        model: a folder in the hub's format, a name on the hub, or `package:NAME/FOLDER` for a model
            that an installed Python package carries.
        revision: branch, tag or commit on the hub; None: the newest.
        random: settings of a randomly initialised model of this architecture; None: the weights.
        pooling: the vector of the first token, or the mean over the tokens.
        pooler: whether a dense layer with tanh follows; taken from the checkpoint where it has one.
        max_length: tokens of a response; longer ones are cut.
    """

    model: str
    revision: str | None
    random: Mapping[str, int] | None
    pooling: Literal["cls", "mean"]
    pooler: bool
    max_length: Annotated[int, Field(ge=8)]

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the model.

        Raises:
            InputError: there is none, it holds no model, or the hub cannot be reached.
        """
        folder = self._packaged() or self._local() or self._download()
        if not (folder / "config.json").is_file():
            raise InputError(
                f"encoder.model={self.model}: {folder} holds no config.json, so it is no model; "
                "give a folder that save_pretrained() wrote, or the name of a model on the hub"
            )
        if self.random is None and not list(folder.glob("*.safetensors")):
            raise InputError(
                f"encoder.model={self.model}: {folder} holds no *.safetensors; pickled weights "
                "are never read: load it where you trust it, save it with save_pretrained(), "
                "give that folder, or name a revision that has safetensors by encoder.revision"
            )
        # Without one, transformers makes a tokenizer to which every word is unknown.
        if not any(list(folder.glob(pattern)) for pattern in _VOCABULARIES):
            raise InputError(
                f"encoder.model={self.model}: {folder} holds no tokenizer "
                f"({', '.join(_VOCABULARIES)}); save the model's tokenizer there with "
                "save_pretrained()"
            )
        self._check_length(folder)
        return folder

    def _check_length(self, folder: Path) -> None:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            positions = int(config.get("max_position_embeddings", self.max_length))
            kind = str(config.get("model_type"))
        except (ValueError, TypeError, AttributeError):
            return  # no configuration at all: loading the model says what is wrong with it
        if "roberta" in kind:  # its first positions are those of the padding
            positions -= 2
        if self.max_length > positions:
            raise InputError(
                f"encoder.max_length={self.max_length}: this encoder reads at most {positions} "
                "tokens; give at most that"
            )

    @cached_property
    def digest(self) -> str:
        """Hash of the model's files and of the settings: the encoder's identity in the store."""
        files = [path for pattern in _FILES for path in self.folder.glob(pattern)]
        settings = [self.random and dict(self.random), self.pooling, self.pooler, self.max_length]
        seen = sha256(json.dumps(settings, sort_keys=True).encode())
        for path in sorted(files):
            if self.random is None or path.suffix != ".safetensors":
                seen.update(f"{path.name}:{checksum(path)}\n".encode())
        return seen.hexdigest()

    def pretrained(self) -> State:
        """The tensors that fine-tuning starts from, named `trunk.…` and `pooler.…`."""
        return self.network(labels=1).shared_state()  # the head does not matter

    def network(self, labels: int) -> "Network":
        """A network with the pretrained weights and a fresh head of this many labels.

        The head is drawn from torch's global generator; everything else is the same at every call.
        """
        return self._network(self._trunk(), labels)

    def unfilled(self, labels: int) -> "Network":
        """As `network`, but no weight is read or drawn: every tensor is still to be loaded.

        Memory for weights is asked for and not touched, so that it takes none.
        """
        from transformers.initialization import no_init_weights

        with no_init_weights():
            return self._network(self._architecture(), labels)

    def _network(self, trunk: "PreTrainedModel", labels: int) -> "Network":
        from torch import nn

        from gwsmm.network import Network

        width = int(trunk.config.hidden_size)
        pooler = self._pooler(trunk, width) if self.pooler else None
        if getattr(trunk, "pooler", None) is not None:
            setattr(trunk, "pooler", None)  # noqa: B010 - a module's attribute, unknown to types
        dropout = float(getattr(trunk.config, "hidden_dropout_prob", 0.1))
        head = nn.Linear(width, labels)
        nn.init.normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return Network(trunk, pooler, head, pooling=self.pooling, dropout=dropout)

    def write_architecture(self, folder: Path) -> None:
        """Write configuration and tokenizer: all of an encoder but its weights."""
        from transformers import AutoTokenizer

        with self._readable_errors():
            self._config().save_pretrained(folder)
            # A tokenizer that was used may carry the settings of its last call into the files.
            fresh = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
            fresh.save_pretrained(folder)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the special tokens, cut at `max_length`."""
        ids: list[list[int]] = self._tokenizer(
            list(texts), truncation=True, max_length=self.max_length, return_attention_mask=False
        )["input_ids"]
        return ids

    @property
    def layers(self) -> int:
        """How many layers the trunk has above the embeddings."""
        with self._readable_errors():
            config = self._config()
        return int(config.num_hidden_layers)

    @property
    def padding(self) -> int:
        """The token id that fills a batch."""
        return int(self._tokenizer.pad_token_id or 0)

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from transformers import AutoTokenizer

        with self._readable_errors():
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)

    def _config(self) -> "PretrainedConfig":
        from transformers import AutoConfig

        config: PretrainedConfig = AutoConfig.from_pretrained(
            self.folder, trust_remote_code=False, **(self.random or {})
        )
        return config

    def _trunk(self) -> "PreTrainedModel":
        import torch

        with torch.random.fork_rng(devices=[]):
            # Seeded for checkpoints too: what one lacks, such as RoBERTa's pooler, is drawn.
            torch.manual_seed(_FRESH_SEED)
            return self._checkpoint() if self.random is None else self._architecture()

    def _checkpoint(self) -> "PreTrainedModel":
        import torch
        from transformers import AutoModel

        with self._readable_errors():
            trunk: PreTrainedModel = AutoModel.from_pretrained(
                self.folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
        return trunk

    def _architecture(self) -> "PreTrainedModel":
        import torch
        from transformers import AutoModel

        with self._readable_errors():
            trunk: PreTrainedModel = AutoModel.from_config(  # type: ignore[no-untyped-call]
                self._config(), trust_remote_code=False, dtype=torch.float32
            )
        return trunk

    def _pooler(self, trunk: "PreTrainedModel", width: int) -> "nn.Linear":
        import torch
        from torch import nn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_FRESH_SEED)
            pooler = nn.Linear(width, width)
        trained = getattr(getattr(trunk, "pooler", None), "dense", None)
        if isinstance(trained, nn.Linear):
            pooler.load_state_dict(trained.state_dict())
        return pooler

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        from transformers.utils import logging as talk

        talk.set_verbosity_error()  # type: ignore[no-untyped-call]
        talk.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # their readers check little: a damaged file raises anything
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"encoder.model={self.model}: {self.folder} holds no model that can be read "
                f"({type(error).__name__}: {reason})"
            ) from error

    def _packaged(self) -> Path | None:
        if not self.model.startswith(_PACKAGED):
            return None
        package, _, inside = self.model.removeprefix(_PACKAGED).partition("/")
        spec = find_spec(package) if package.isidentifier() else None
        if spec is None or spec.origin is None:
            raise InputError(
                f"encoder.model={self.model}: the Python package {package} is not installed; "
                f"install it with pip, or give a folder or a name on the hub"
            )
        return Path(spec.origin).parent / inside

    def _local(self) -> Path | None:
        folder = locate(self.model, "encoder.model")
        try:
            if folder.is_dir():
                return folder
        except OSError as error:
            raise InputError(
                f"encoder.model={self.model}: cannot be read ({error.strerror}): check the path"
            ) from error
        if folder.is_absolute() or self.model.startswith(("~", ".")):
            raise InputError(f"encoder.model={self.model}: there is no such folder")
        return None

    def _download(self) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

        try:
            return Path(
                snapshot_download(self.model, revision=self.revision, allow_patterns=list(_FILES))
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise InputError(
                f"encoder.model={self.model}: this is no folder here, and the hub did not give it "
                f"({type(error).__name__}); check the name and the connection, or fetch the model "
                "where there is a network and give its folder: encoder.model=/path/to/folder; "
                "encoder=minilm needs no network"
            ) from error


@runtime_checkable
class Layered(Protocol):
    """A strategy that asks for so many layers."""

    def check(self, encoder: Encoder) -> None:
        """Refuse, before any work, an encoder that has too few.

        Raises:
            InputError: it has.
        """

"""`manifest.json`: what a bundle holds, how its files make up models, and their checksums."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gwsmm.artefact import MANIFEST, Codec, checksum
from gwsmm.items.sheet import show
from gwsmm.private.private import Private, PrivateTrunk
from gwsmm.types import STRICT, InputError, Label

FORMAT = 1
_LONGEST = 64  # characters of an item's name that a message shows; no response is one
_CODEC = re.compile(r"(gwsmm\.private\.[a-z_]+)\.([A-Za-z]+)")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FileSum:
    """What a file of the bundle must be.

    Attributes:
        bytes: its size.
        sha256: of its content, in hexadecimal.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Part:
    """The files that one part of an item's model is made of.

    Attributes:
        shared: tensors as they are, or what a private part stands on.
        private: what the item keeps beside the shared tensors, coded; None: nothing.
    """

    shared: tuple[str, ...]
    private: str | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Bundled:
    """One item.

    Attributes:
        name: as in the column of a table that names the item.
        kind: `multilabel`, or `ordinal`: the labels are the steps of one score.
        labels: in the order of the head's outputs.
        temperature: divides the logits that the reported probabilities are made of.
        thresholds: a label is given where its probability at temperature 1 is above its threshold.
        trunk: items of the same trunk are scored in one pass.
        pooler: None where the encoder has none.
        head: file of the head.
    """

    name: str
    kind: Literal["multilabel", "ordinal"]
    labels: tuple[Label, ...]
    temperature: Annotated[float, Field(gt=0)]
    thresholds: tuple[float, ...]
    trunk: Part
    pooler: Part | None
    head: str

    @property
    def files(self) -> Iterator[str]:
        """Every file that the item needs."""
        for part in (self.trunk, self.pooler):
            if part is not None:
                yield from part.shared
                yield from () if part.private is None else (part.private,)
        yield self.head


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Architecture:
    """What the encoder is beside the configuration and the tokenizer in the folder `encoder`.

    Attributes:
        model: where the encoder came from; nothing is read from there.
        random: whether its weights were drawn and not read; earlier versions did not say.
        pooling: the vector of the first token, or the mean over the tokens.
        pooler: whether a dense layer with tanh follows.
        max_length: tokens of a response; longer ones are cut.
    """

    model: str
    random: bool = False
    pooling: Literal["cls", "mean"]
    pooler: bool
    max_length: int


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CodecChoice:
    """The strategy that decodes the private parts.

    Attributes:
        strategy: its class in `gwsmm.private`.
        settings: its fields.
    """

    strategy: str
    settings: Mapping[str, Any]

    def build(self) -> Codec:
        """The strategy; nothing outside `gwsmm.private` is ever looked up.

        Raises:
            ValueError: there is no such strategy, or the settings are not its own.
        """
        if not (found := _CODEC.fullmatch(self.strategy)):
            raise ValueError(f"{self.strategy} is no strategy of gwsmm.private")
        try:
            kind = getattr(import_module(found[1]), found[2])
        except (ImportError, AttributeError) as error:
            raise ValueError(f"there is no {self.strategy} in this gwsmm") from error
        built = kind(**self.settings) if isinstance(kind, type) else None
        if not isinstance(built, PrivateTrunk):
            raise ValueError(f"{self.strategy} decodes no private parts")
        return built


def choice_of(private: Private) -> CodecChoice | None:
    """How a manifest names what decodes private parts; None where items have no coded ones."""
    if not isinstance(private, PrivateTrunk):
        return None
    kind = type(private)
    settings = asdict(private)  # type: ignore[call-overload]
    return CodecChoice(strategy=f"{kind.__module__}.{kind.__qualname__}", settings=settings)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        format: `FORMAT` of the program that wrote it.
        versions: of gwsmm, torch and transformers that measured the scores.
        encoder: what all items have in common.
        codec: None where no item keeps a coded part of an encoder.
        items: in the order of the item set.
        files: every file beside the manifest, by its path in the bundle.
    """

    format: int
    versions: Mapping[str, str]
    encoder: Architecture
    codec: CodecChoice | None
    items: tuple[Bundled, ...]
    files: Mapping[str, FileSum]

    def to_json(self) -> str:
        """Readable JSON with a fixed order of keys."""
        content = TypeAdapter(Manifest).dump_python(self, mode="json")
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, every path in it inside the folder and with a checksum.

    Raises:
        InputError: the folder is no bundle, of another format, or its manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder} is no bundle: it holds no {MANIFEST} that can be read; give a folder that "
            "gwsmm bundle wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged, it is no JSON: copy the bundle again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is not int or "items" not in content:
        raise InputError(f"{folder} is no bundle: its {MANIFEST} is something else's")
    if found != FORMAT:
        raise InputError(
            f"{folder} is a bundle of format {found} and this gwsmm reads format {FORMAT}: use the "
            f"gwsmm that wrote it ({_written_by(content)}), or write the bundle again"
        )
    try:
        manifest = TypeAdapter(Manifest).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is damaged: {where}: {first['msg']}; copy it again") from error
    _check_paths(folder, manifest)
    return manifest


def meant(name: str, items: Sequence[str]) -> str:
    """What to say to a user who gave the name of no item."""
    near = get_close_matches(name, items, n=1)
    return f"did you mean {near[0]!r}?" if near else f"its items are {show(items, _LONGEST)}"


def checked(folder: Path, manifest: Manifest, name: str) -> Path:
    """The path of a file of the bundle, after its checksum was verified.

    Raises:
        InputError: it is not what was written.
    """
    said = manifest.files.get(name)
    if said is None or checksum(folder / name) != said.sha256:
        raise InputError(
            f"{folder / name} is missing or damaged: its checksum is not that of the manifest; "
            "copy the bundle again"
        )
    return folder / name


def _written_by(content: Mapping[str, Any]) -> str:
    versions = content.get("versions")
    return f"version {versions.get('gwsmm')}" if isinstance(versions, dict) else "unknown version"


def _stays(folder: Path, name: str) -> bool:
    """Whether a path stays in the folder, wherever that is copied to and by whichever system."""
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or set("\0\\:") & set(name):
        return False
    try:  # a symbolic link may lead away too
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def _check_paths(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if not _stays(folder, name):
            raise InputError(f"{folder / MANIFEST}: {name} leaves the bundle, which is refused")
    for item in manifest.items:
        if unknown := [name for name in item.files if name not in manifest.files]:
            raise InputError(
                f"{folder / MANIFEST} is damaged: {unknown[0]} of item {item.name!r} has no "
                "checksum; copy the bundle again"
            )
        if not len(item.labels) == len(item.thresholds) > 0:
            raise InputError(
                f"{folder / MANIFEST} is damaged: item {item.name!r} has {len(item.labels)} labels "
                f"and {len(item.thresholds)} thresholds"
            )

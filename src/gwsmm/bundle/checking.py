"""Refuses an item that cannot come into a bundle, before any work."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gwsmm.artefact import checksum
from gwsmm.assembly import Assembly
from gwsmm.bundle.changing import Old
from gwsmm.bundle.manifest import Bundled, choice_of, meant
from gwsmm.bundle.running import ENCODER, GRAPH
from gwsmm.bundle.writing import architecture
from gwsmm.encoder import Encoder
from gwsmm.experiment import Experiment
from gwsmm.private.private import PrivateTrunk
from gwsmm.types import InputError, Item

_WRITER = "transformers_version"  # in a configuration; says nothing of the encoder


def check_names(old: Old, items: Sequence[Item], name: str) -> None:
    """Refuse an item that the bundle has, and a run that lacks an item or has another one.

    Args:
        old: the bundle.
        items: of the run.
        name: of the item that is to be added.

    Raises:
        InputError: see above.
    """
    if name in old.names:
        raise InputError(
            f"{old.folder} has the item {name!r} already: give the name of a new one, or take the "
            "old one out by gwsmm remove"
        )
    there = {item.name: item for item in items}
    if name not in there:
        raise InputError(f"the run has no item {name!r}; {meant(name, list(there))}")
    for own in old.manifest.items:
        if own.name not in there:
            raise InputError(
                f"the run has no item {own.name!r}, to which {name!r} is to be compared: give a "
                f"run of all {len(old.names)} items of {old.folder} and {name!r}, e.g. with "
                "grouping=none"
            )
        _check_same(old, own, there[own.name])


def _check_same(old: Old, own: Bundled, item: Item) -> None:
    said = (own.kind, [label.name for label in own.labels])
    if said != (item.kind, [label.name for label in item.labels]):
        raise InputError(
            f"item {own.name!r} has other labels in the run than in {old.folder}: give a run of "
            "the bundle's own items"
        )


def check_encoder(old: Old, x: Experiment) -> None:
    """Refuse a run whose encoder, tokenizer or private parts the bundle cannot hold.

    Raises:
        InputError: they are others than the bundle's.
    """
    given = asdict(architecture(x.encoder))
    for field, value in asdict(old.manifest.encoder).items():
        if given[field] != value:
            raise InputError(
                f"encoder.{field}: the run has {given[field]!r} and {old.folder} has {value!r}: "
                "give a run with the bundle's encoder"
            )
    if different := _different(old, x.encoder):
        config = json.loads(old.file(f"{ENCODER}/config.json").read_bytes())
        wrote = config.get(_WRITER) if isinstance(config, dict) else "?"
        raise InputError(
            f"{old.folder / different[0]} is not that of the run's encoder {x.encoder.model}: give "
            "a run with the bundle's encoder, here with transformers "
            f"{wrote} that wrote it"
        )
    _check_private(old, x)


def _different(old: Old, encoder: Encoder) -> list[str]:
    """The files of configuration and tokenizer that differ."""
    with TemporaryDirectory() as place:
        encoder.write_architecture(Path(place))
        written = {f"{ENCODER}/{path.name}": path for path in Path(place).iterdir()}
        there = [name for name in old.manifest.files if name.startswith(f"{ENCODER}/")]
        there = [name for name in there if name != GRAPH]
        return [
            name
            for name in sorted({*there, *written})
            if name not in there
            or name not in written
            or _read(old.file(name)) != _read(written[name])
        ]


def _read(path: Path) -> Any:
    content = path.read_bytes()
    if path.suffix != ".json":
        return content
    read = json.loads(content)
    return {**read, _WRITER: None} if isinstance(read, dict) else read


def _check_private(old: Old, x: Experiment) -> None:
    codec, private = old.manifest.codec, x.private
    if not isinstance(private, PrivateTrunk):
        return
    if codec != choice_of(private) and not (codec is None and "merged" in private.bases):
        raise InputError(
            f"private: the run codes what an item keeps of an encoder otherwise than {old.folder}, "
            "whose items must all be decoded by one strategy with one set of settings: give a run "
            "with the bundle's, or with private=pooler"
        )
    for made in Assembly(x=x, members=[]).pretrained:
        for file in ("trunk.safetensors", "pooler.safetensors"):
            said = old.manifest.files.get(f"pretrained/{file}")
            if said and made.has(file) and checksum(made.file(file)) != said.sha256:
                raise InputError(
                    f"{old.folder}/pretrained/{file} is not the run's pretrained encoder: give a "
                    "run with the encoder.revision and the numbers of the bundle"
                )

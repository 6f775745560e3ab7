"""The folder of a bundle: written whole or not at all, and checked before it stands."""

import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gwsmm import __version__
from gwsmm.artefact import MANIFEST, checksum, load_state
from gwsmm.batching import INFERENCE_BATCH
from gwsmm.bundle.card import card
from gwsmm.bundle.manifest import (
    FORMAT,
    Architecture,
    Bundled,
    CodecChoice,
    FileSum,
    Manifest,
)
from gwsmm.bundle.reading import Bundle, open_bundle
from gwsmm.bundle.running import GRAPH
from gwsmm.evaluate import deviation
from gwsmm.results import Outcome, write_json
from gwsmm.types import InputError

log = logging.getLogger(__name__)

TOLERANCE = 1e-6  # of a probability, times the largest weight of a head
GRAPH_TOLERANCE = 1e-5  # by a library that adds in another order; no decision may differ
RESULTS, PLAN, ADDED = "results.json", "plan.json", "added.json"


@dataclass(frozen=True, eq=False)
class Content:
    """What a bundle holds beside the files of the models.

    Attributes:
        items: in the order of the item set, those that were added at the end.
        encoder: what all items have in common.
        codec: of private parts; dropped where no item has any.
        results: how well the items are scored, and their plan.
        added: how each item that was added found its place.
    """

    items: tuple[Bundled, ...]
    encoder: Architecture
    codec: CodecChoice | None
    results: Mapping[str, Any]
    added: Sequence[Mapping[str, Any]]


def check_free(out: Path) -> None:
    """Refuse to write where something stands already.

    Raises:
        InputError: something does.
    """
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already: give another folder, or remove it")


@contextmanager
def making(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` in the end, or vanishes if that is not reached.

    Raises:
        InputError: there is something at `out`, or no folder can be made there.
    """
    check_free(out)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}): give another folder") from error
    try:
        yield part
        try:
            part.rename(out)
        except OSError as error:
            raise InputError(f"{out} cannot be made ({error.strerror})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def seal(folder: Path, content: Content) -> None:
    """Write what a bundle says of the models that are in the folder, and every file's checksum."""
    write_json(folder / RESULTS, content.results)
    write_json(folder / PLAN, content.results["plan"])
    if content.added:
        write_json(folder / ADDED, content.added)
    text = card(content.results, content.items, content.encoder, content.added)
    (folder / "README.md").write_text(text, encoding="utf-8")
    manifest_file = folder / MANIFEST
    manifest_file.unlink(missing_ok=True)  # of an earlier sealing; it cannot hold its own checksum
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    libraries = ("torch", "transformers")
    manifest = Manifest(
        format=FORMAT,
        versions={"gwsmm": __version__, **{name: version(name) for name in libraries}},
        encoder=content.encoder,
        codec=content.codec if any(item.trunk.private for item in content.items) else None,
        items=content.items,
        files={
            path.relative_to(folder).as_posix(): FileSum(
                bytes=path.stat().st_size, sha256=checksum(path)
            )
            for path in files
        },
    )
    manifest_file.write_text(manifest.to_json(), encoding="utf-8")


def checked_seal(
    folder: Path, content: Content, outcomes: Sequence[Outcome], device: str, out: Path
) -> float:
    """Seal the folder, and refuse it if it scores otherwise than it was evaluated.

    A graph of the encoder by which that would be so, or that does not run, is left out; torch
    scores then. A graph is run on the CPU, wherever the run has computed.

    Args:
        folder: that is to become `out`.
        content: see `seal`.
        outcomes: of the items to check, on all their test responses.
        device: where to compute.
        out: what the bundle is to be.

    Returns:
        By how much at most its probabilities differ from those that the evaluation recorded.

    Raises:
        InputError: it is more than rounding.
    """
    seal(folder, content)
    steepness, by_graph = steepest(outcomes), 0.0
    if (folder / GRAPH).exists():
        try:
            by_graph = _deviation(folder, outcomes, "cpu")
            wrong = f"deviates by {by_graph:.1e}"
        except InputError as error:  # what is not the graph's fault is told below
            by_graph = math.inf
            wrong = "fails (" + " ".join(str(error.__cause__ or error).split())[:200] + ")"
        if not by_graph <= GRAPH_TOLERANCE * steepness:  # nor not-a-number
            log.warning("bundle: the encoder's ONNX graph %s: torch will score", wrong)
            (folder / GRAPH).unlink()
            seal(folder, content)
            by_graph = 0.0
        elif device == "cpu":
            return by_graph
    found = _deviation(folder, outcomes, device)
    if not found <= TOLERANCE * steepness:  # nor not-a-number
        raise InputError(
            f"{out}: the bundle was not written, as its probabilities differ from those of the "
            f"evaluation by {found:.1e}, more than {TOLERANCE * steepness:.0e}: run the experiment "
            "on this machine with a store of its own (store=FOLDER), and give that run"
        )
    return max(found, by_graph)


def steepest(outcomes: Sequence[Outcome]) -> float:
    """The largest weight of any head, 1 at least: by it a head enlarges the vectors' rounding."""
    weights = [load_state(each.after.head, "head")["weight"] for each in outcomes]
    return max(1.0, *(float(weight.abs().max()) for weight in weights))


def _deviation(folder: Path, outcomes: Sequence[Outcome], device: str) -> float:
    bundle = open_bundle(folder, device)
    return max(
        deviation(each.item, each.predictions["merged"], partial(_scored, bundle, each.item.name))
        for each in outcomes
    )


def _scored(
    bundle: Bundle, name: str, texts: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    found = bundle.score([name] * len(texts), texts, batch=INFERENCE_BATCH)[name]
    return found.probabilities, found.decisions

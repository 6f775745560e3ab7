"""Writes a bundle, and keeps it only if it scores as its run was evaluated."""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gwsmm import __version__
from gwsmm.artefact import MANIFEST, PRIVATE, Coded, Kept, checksum
from gwsmm.bundle.card import card
from gwsmm.bundle.manifest import (
    FORMAT,
    Architecture,
    Bundled,
    FileSum,
    Manifest,
    Part,
    choice_of,
)
from gwsmm.bundle.reading import ENCODER, Bundle, open_bundle
from gwsmm.decision.rule import half, load_rule
from gwsmm.encoder import Encoder
from gwsmm.evaluate import deviation
from gwsmm.private.private import Base, PrivateTrunk
from gwsmm.results import Outcome, Run, plan_content, write_json
from gwsmm.types import InputError, Plan

TOLERANCE = 1e-6  # of a probability; on the machine that evaluated it is zero but for alignment


def check_free(out: Path) -> None:
    """Refuse to write where something stands already.

    Raises:
        InputError: something does, or the folder it is to be in cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already: give another folder, or remove it")


def write_bundle(
    out: Path, run: Run, *, encoder: Encoder, private: object, device: str
) -> tuple[Bundle, float]:
    """Write what scores the items after the merge into a new folder.

    It is written under a temporary name beside `out` and renamed when it is whole and was checked.

    Args:
        out: the folder to make.
        run: whose models are written, and whose evaluation they are checked against.
        encoder: of the run.
        private: of the run: what decodes private parts if it is a `PrivateTrunk`.
        device: where to compute for the check.

    Returns:
        The bundle, and by how much at most its probabilities of the test responses differ from
        those that the evaluation recorded.

    Raises:
        InputError: the folder is there or cannot be made, or the bundle scores otherwise.
    """
    check_free(out)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}): give another folder") from error
    try:
        _fill(part, run, encoder, private)
        found = _deviation(open_bundle(part, device), run.outcomes)
        if not found <= TOLERANCE:  # nor not-a-number
            raise InputError(
                f"{out}: the bundle was not written, as its probabilities differ from those of the "
                f"evaluation by {found:.1e}, more than {TOLERANCE:.0e}: run the experiment on this "
                "machine with a store of its own (store=FOLDER), and bundle that run"
            )
        try:
            part.rename(out)
        except OSError as error:
            raise InputError(f"{out} cannot be made ({error.strerror})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return open_bundle(out, device), found


def _deviation(bundle: Bundle, outcomes: Sequence[Outcome]) -> float:
    """The largest difference from the evaluation's probabilities, over all test responses."""
    from gwsmm.network import INFERENCE_BATCH

    def scored(name: str, texts: Sequence[str]) -> NDArray[np.float32]:
        found = bundle.score([name] * len(texts), texts, batch=INFERENCE_BATCH)
        return found[name].probabilities

    return max(
        deviation(each.item, each.predictions["merged"], partial(scored, each.item.name))
        for each in outcomes
    )


def _fill(folder: Path, run: Run, encoder: Encoder, private: object) -> None:
    codec = private if isinstance(private, PrivateTrunk) else None
    sources = dict[str, Path]()
    bases = () if codec is None else codec.bases
    items = tuple(
        _bundled(outcome, run.plan, bases, encoder.pooler, sources) for outcome in run.outcomes
    )
    for name, source in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    (folder / ENCODER).mkdir()
    encoder.write_architecture(folder / ENCODER)
    write_json(folder / "plan.json", plan_content(run.plan))
    write_json(folder / "results.json", run.results)
    about = Architecture(
        model=encoder.model,
        pooling=encoder.pooling,
        pooler=encoder.pooler,
        max_length=encoder.max_length,
    )
    coded = codec is not None and any(item.trunk.private for item in items)
    versions = {"gwsmm": __version__}
    versions |= {library: version(library) for library in ("torch", "transformers")}
    (folder / "README.md").write_text(card(run.results, items, about), encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = Manifest(
        format=FORMAT,
        versions=versions,
        encoder=about,
        codec=choice_of(codec) if codec is not None and coded else None,
        items=items,
        files={
            path.relative_to(folder).as_posix(): FileSum(
                bytes=path.stat().st_size, sha256=checksum(path)
            )
            for path in files
        },
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _bundled(
    outcome: Outcome, plan: Plan, bases: Sequence[Base], pooler: bool, sources: dict[str, Path]
) -> Bundled:
    """The item's part of the manifest; where its files come from goes into `sources`."""
    item, scorer = outcome.item, outcome.after
    group = f"groups/{1 + plan.groups.index(plan.group_of(item.name))}"
    own = f"items/{item.name}"

    def file(name: str, source: Path) -> str:
        sources[name] = source
        return name

    def part(kept: Kept, which: str, place: str) -> Part:
        name = f"{which}.safetensors"
        if not isinstance(kept, Coded):
            return Part(shared=(file(f"{place}/{name}", kept.file(name)),), private=None)
        places = [group if base == "merged" else base for base in bases]
        shared = [
            file(f"{place}/{name}", base.file(name))
            for place, base in zip(places, kept.bases, strict=True)
        ]
        private = file(f"{own}/{PRIVATE}", kept.private.file(PRIVATE))
        return Part(shared=tuple(shared), private=private)

    rule = load_rule(scorer.decision) if scorer.decision else half(len(item.labels))
    shared_pooler = scorer.pooler == scorer.trunk
    return Bundled(
        name=item.name,
        kind=item.kind,
        labels=item.labels,
        temperature=rule.temperature,
        thresholds=tuple(rule.thresholds),
        trunk=part(scorer.trunk, "trunk", group),
        pooler=part(scorer.pooler, "pooler", group if shared_pooler else own) if pooler else None,
        head=file(f"{own}/head.safetensors", scorer.head.file("head.safetensors")),
    )

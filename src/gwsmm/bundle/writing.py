"""Writes the bundle of a run, and keeps it only if it scores as its run was evaluated."""

import logging
import shutil
from pathlib import Path

from gwsmm.artefact import PRIVATE, Coded, Kept
from gwsmm.bundle.manifest import Architecture, Bundled, Part, choice_of
from gwsmm.bundle.reading import Bundle, bare_encoder, open_bundle
from gwsmm.bundle.running import ENCODER, GRAPH
from gwsmm.bundle.sealing import Content, checked_seal, making
from gwsmm.decision.rule import half, load_rule
from gwsmm.encoder import Encoder
from gwsmm.private.private import Private, PrivateTrunk
from gwsmm.results import Outcome, Run

log = logging.getLogger(__name__)


def write_bundle(
    out: Path, run: Run, *, encoder: Encoder, private: Private, device: str
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
    with making(out) as part:
        content = _filled(part, run, encoder, private)
        found = checked_seal(part, content, run.outcomes, device, out)
    return open_bundle(out, device), found


def architecture(encoder: Encoder) -> Architecture:
    """What a manifest says of an encoder."""
    return Architecture(
        model=encoder.model,
        random=encoder.random is not None,
        pooling=encoder.pooling,
        pooler=encoder.pooler,
        max_length=encoder.max_length,
    )


def _filled(folder: Path, run: Run, encoder: Encoder, private: Private) -> Content:
    """Write the models into the folder; return what is to be said of them."""
    from gwsmm.bundle.tracing import write_graph

    sources, items = dict[str, Path](), list[Bundled]()
    for outcome in run.outcomes:
        place = group_place(1 + run.plan.groups.index(run.plan.group_of(outcome.item.name)))
        items.append(bundled(outcome, place, private, encoder.pooler, sources))
    copy_in(folder, sources)
    (folder / ENCODER).mkdir()
    encoder.write_architecture(folder / ENCODER)
    about = architecture(encoder)
    if failed := write_graph(bare_encoder(folder, about), folder / GRAPH):
        log.warning("bundle: no ONNX graph of this encoder, torch will score (%s)", failed)
    return Content(tuple(items), about, choice_of(private), run.results, [])


def group_place(number: int) -> str:
    """The folder of what the items of a group share."""
    return f"groups/{number}"


def copy_in(folder: Path, sources: dict[str, Path]) -> None:
    """Copy every source to its name in the folder."""
    for name, source in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)


def bundled(
    outcome: Outcome, place: str, private: Private, pooler: bool, sources: dict[str, Path]
) -> Bundled:
    """The item's part of the manifest.

    Args:
        outcome: whose `after` is what scores the item.
        place: folder of what its group shares.
        private: what coded its private part if it is a `PrivateTrunk`.
        pooler: whether the encoder has one.
        sources: takes where the item's files come from, by their names in the bundle.
    """
    item, scorer = outcome.item, outcome.after
    bases = private.bases if isinstance(private, PrivateTrunk) else ()
    own = f"items/{item.name}"

    def file(name: str, source: Path) -> str:
        sources[name] = source
        return name

    def part(kept: Kept, which: str, place: str) -> Part:
        name = f"{which}.safetensors"
        if not isinstance(kept, Coded):
            return Part(shared=(file(f"{place}/{name}", kept.file(name)),), private=None)
        places = [place if base == "merged" else base for base in bases]
        shared = [
            file(f"{place}/{name}", base.file(name))
            for place, base in zip(places, kept.bases, strict=True)
        ]
        code = file(f"{own}/{PRIVATE}", kept.private.file(PRIVATE))
        return Part(shared=tuple(shared), private=code)

    rule = load_rule(scorer.decision) if scorer.decision else half(len(item.labels))
    shares_pooler = scorer.pooler == scorer.trunk
    return Bundled(
        name=item.name,
        kind=item.kind,
        labels=item.labels,
        temperature=rule.temperature,
        thresholds=tuple(rule.thresholds),
        trunk=part(scorer.trunk, "trunk", place),
        pooler=part(scorer.pooler, "pooler", place if shares_pooler else own) if pooler else None,
        head=file(f"{own}/head.safetensors", scorer.head.file("head.safetensors")),
    )

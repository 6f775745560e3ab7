"""Writes a bundle with one item more; the files of the other items are those of the old one."""

from pathlib import Path
from typing import Any

from gwsmm.bundle.changing import Old, restated, storage_of
from gwsmm.bundle.joining import Placed
from gwsmm.bundle.manifest import Bundled, choice_of
from gwsmm.bundle.reading import Bundle, open_bundle
from gwsmm.bundle.sealing import Content, checked_seal, making
from gwsmm.bundle.writing import bundled, copy_in
from gwsmm.experiment import Experiment
from gwsmm.results import Run, results
from gwsmm.types import Plan


def write_added(
    old: Old, x: Experiment, run: Run, placed: Placed, out: Path
) -> tuple[Bundle, float]:
    """Write the bundle with the item at its place into a new folder.

    Args:
        old: the bundle, which stays as it is.
        x: the experiment of the run.
        run: that the item comes from.
        placed: the item.
        out: the folder to make.

    Returns:
        The bundle, and by how much at most the probabilities of the item's test responses differ
        from those that the evaluation recorded.

    Raises:
        InputError: `out` is there or cannot be made, a file of the old bundle is damaged, or the
            item is scored otherwise than it was evaluated.
    """
    with making(out) as part:
        old.keep(old.manifest.items, part)
        sources = dict[str, Path]()
        new = bundled(placed.outcome, placed.place, x.private, x.encoder.pooler, sources)
        copy_in(part, {name: path for name, path in sources.items() if not (part / name).exists()})
        items = (*old.manifest.items, new)
        sizes = {name: (part / name).stat().st_size for item in items for name in item.files}
        content = Content(
            items=items,
            encoder=old.manifest.encoder,
            codec=choice_of(x.private) or old.manifest.codec,
            results=_results(old, items, sizes, placed, run),
            added=[*old.added, placed.record],
        )
        found = checked_seal(part, content, [placed.outcome], x.trainer.device, out)
    return open_bundle(out, x.trainer.device), found


def _results(
    old: Old, items: tuple[Bundled, ...], sizes: dict[str, int], placed: Placed, run: Run
) -> dict[str, Any]:
    """`results.json` with the item, as a run of it alone would state it, at the end."""
    alone = Plan(((placed.outcome.item.name,),), "")
    own = results([placed.outcome], alone, run.distances, {})
    return restated(
        {**old.results, "synthetic": old.results["synthetic"] or own["synthetic"]},
        [*old.results["items"], *own["items"]],
        placed.plan,
        storage_of(old.results["storage"], old.manifest.items, items, sizes),
    )

"""What a tracker is told of a run, as plain JSON: numbers, names and digests, and no response."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwsmm.artefact import Member
from gwsmm.types import Item

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Finished:
    """A run that has ended; trackers send what `told` takes of it.

    Attributes:
        name: of the run.
        group: of the multirun it belongs to, if any.
        folder: the run's folder; pictures are read from it.
        config: the composed configuration.
        results: the content of `results.json`.
        tables: by name.
        items: in the order of the item set.
        members: the models that were fine-tuned for them.
        write_bundle: writes what the run would deploy into a new folder.
    """

    name: str
    group: str | None
    folder: Path
    config: Mapping[str, object]
    results: Mapping[str, Any]
    tables: Mapping[str, "pd.DataFrame"]
    items: Sequence[Item]
    members: Sequence[Member]
    write_bundle: Callable[[Path], object]


def told(run: Finished) -> dict[str, object]:
    """What can be said of a run; JSON can hold it.

    Raises:
        InputError: the training curves of a member are damaged.
    """
    training = {member.item.name: _training(member) for member in run.members}
    folder = run.folder.resolve()
    return {
        "name": run.name,
        "group": run.group,
        "folder": str(folder),
        "config": run.config,
        "summary": summary(run.results),
        "epochs": _epochs({name: each["epochs"] for name, each in training.items()}),
        "tables": {name: _rows(frame) for name, frame in run.tables.items()},
        "figures": {path.stem: str(path) for path in sorted(folder.glob("*.png"))},
        "items": [_item(*pair) for pair in zip(run.items, run.results["items"], strict=True)],
        "members": [
            {
                "item": member.item.name,
                "digest": member.digest,
                "best_epoch": training[member.item.name]["best_epoch"],
                "validation_loss": min(
                    epoch["validation_loss"] for epoch in training[member.item.name]["epochs"]
                ),
            }
            for member in run.members
        ],
    }


def summary(results: Mapping[str, Any]) -> dict[str, object]:
    """`results.json` with the list of items as a mapping by their names."""
    items = {
        item["name"]: {key: value for key, value in item.items() if key != "name"}
        for item in results["items"]
    }
    return {**results, "items": items}


def _training(member: Member) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(member.made.file("training.json").read_text())
    return content


def _epochs(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """One row per epoch with the losses of every item that was still trained then."""
    rows = dict[float, dict[str, float]]()
    for name, curve in curves.items():
        for row in curve:
            epoch = row["epoch"]
            losses = {f"{name}/{key}": value for key, value in row.items() if key != "epoch"}
            rows[epoch] = rows.get(epoch, {"epoch": epoch}) | losses
    return [rows[epoch] for epoch in sorted(rows)]


def _rows(frame: "pd.DataFrame") -> dict[str, object]:
    """Columns and rows of Python's own types, missing values as None."""
    cells = frame.astype(object).where(frame.notna(), None)
    return {"columns": list(frame.columns), "data": cells.to_numpy().tolist()}


def _item(item: Item, result: Mapping[str, Any]) -> dict[str, object]:
    kept = ("name", "kind", "labels", "train", "validation", "test")
    return {key: result[key] for key in kept} | {"digest": item.digest}

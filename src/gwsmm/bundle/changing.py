"""Another bundle made of one: whatever the items that stay need is copied byte for byte."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwsmm.bundle.manifest import Bundled, Manifest, checked, read_manifest
from gwsmm.bundle.running import ENCODER
from gwsmm.bundle.sealing import ADDED, RESULTS
from gwsmm.bundle.writing import copy_in
from gwsmm.metrics import Scores, overall
from gwsmm.results import MODELS, plan_content
from gwsmm.types import Plan


@dataclass(frozen=True, eq=False)
class Old:
    """A bundle that another one is made of; it is never written to.

    Attributes:
        folder: where it is.
        manifest: its content.
        results: the content of `results.json`.
        added: the content of `added.json`; empty where there is none.
    """

    folder: Path
    manifest: Manifest
    results: Mapping[str, Any]
    added: Sequence[Mapping[str, Any]]

    @property
    def names(self) -> list[str]:
        """Of the items."""
        return [item.name for item in self.manifest.items]

    @property
    def plan(self) -> Plan:
        """Its groups, and where they came from."""
        plan = self.results["plan"]
        return Plan(tuple(map(tuple, plan["groups"])), plan["source"])

    def file(self, name: str) -> Path:
        """The path of a file, verified; see `checked`."""
        return checked(self.folder, self.manifest, name)

    def keep(self, items: Sequence[Bundled], part: Path) -> None:
        """Copy all that these items need into a new folder."""
        encoder = [name for name in self.manifest.files if name.startswith(f"{ENCODER}/")]
        needed = dict.fromkeys([*encoder, *(name for item in items for name in item.files)])
        copy_in(part, {name: self.file(name) for name in needed})


def read_old(folder: Path) -> Old:
    """The bundle in this folder.

    Raises:
        InputError: the folder is no bundle, of another format, or damaged.
    """
    manifest = read_manifest(folder)

    def content(name: str) -> Any:
        return json.loads(checked(folder, manifest, name).read_text(encoding="utf-8"))

    added = content(ADDED) if ADDED in manifest.files else []
    return Old(folder, manifest, content(RESULTS), added)


def restated(
    results: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    plan: Plan,
    storage: Mapping[str, float],
) -> dict[str, Any]:
    """`results.json` of other items: what is said of all of them anew, the rest as it was.

    Args:
        results: of the bundle before.
        entries: as in `items` of `results.json`, one for every item.
        plan: of these items.
        storage: see `storage_of`.
    """
    scores = {
        entry["name"]: {model: Scores(**entry["scores"][model]) for model in MODELS}
        for entry in entries
    }

    def mean(names: Sequence[str]) -> dict[str, object]:
        every = {model: [scores[name][model] for name in names] for model in MODELS}
        return {model: overall(each).as_dict() for model, each in every.items()}

    return {
        **results,
        "plan": plan_content(plan),
        "overall": mean(list(scores)),
        "merged_only": mean(plan.merged_items) if plan.merged_items else None,
        "storage": dict(storage),
        "items": [
            {**entry, "group": plan.groups.index(plan.group_of(entry["name"]))} for entry in entries
        ],
    }


def storage_of(
    before: Mapping[str, float],
    old: Sequence[Bundled],
    new: Sequence[Bundled],
    sizes: Mapping[str, int],
) -> dict[str, float]:
    """`storage` of `results.json` once `old` items have become `new` ones.

    What an item would need alone is a trunk, a pooler and a head as large as those that it has.

    Args:
        before: the same of the old items.
        old: items.
        new: items.
        sizes: bytes of every file of both.
    """

    def alone(items: Sequence[Bundled]) -> int:
        parts = [part for item in items for part in (item.trunk, item.pooler) if part]
        files = [*(part.shared[-1] for part in parts), *(item.head for item in items)]
        return sum(sizes[name] for name in files)

    def together(items: Sequence[Bundled]) -> int:
        return sum(sizes[name] for name in {name for item in items for name in item.files})

    came = len(new) - len(old)
    trunks = {name for item in new for name in item.trunk.shared}
    bytes_before = before["bytes_before"] + alone(new) - alone(old)
    bytes_after = before["bytes_after"] + together(new) - together(old)
    return {
        "encoders_before": before["encoders_before"] + came,
        "passes_before": before["passes_before"] + came,
        "bytes_before": bytes_before,
        "encoders_after": len(trunks),
        "passes_after": len({item.trunk for item in new}),
        "bytes_after": bytes_after,
        "factor": bytes_before / bytes_after,
    }

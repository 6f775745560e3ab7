"""What a store holds, result by result: how large, how long it took, what it was made of."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gwsmm.artefact import MANIFEST
from gwsmm.store import ORIGIN


@dataclass(frozen=True)
class Kept:
    """A finished result, looked at from outside; that is no use of it."""

    path: Path

    @property
    def stage(self) -> str:
        """That made it."""
        return self.path.parent.name

    @property
    def digest(self) -> str:
        """Its key."""
        return self.path.name

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return size(self.path)

    @cached_property
    def seconds(self) -> float | None:
        """That it took; None: an earlier version did not say."""
        found = self._origin.get("seconds")
        return float(found) if isinstance(found, int | float) else None

    @property
    def settings(self) -> Any:
        """The identity of the stage that made it; None: unknown."""
        made_of = self._origin.get("made_of")
        return made_of[0] if isinstance(made_of, list) and made_of else None

    @cached_property
    def _origin(self) -> Mapping[str, Any]:
        try:
            content = json.loads((self.path / ORIGIN).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


def results_of(root: Path, stage: str) -> Iterator[Kept]:
    """Every finished result of a stage, in the order of the keys."""
    for path in sorted((root / stage).glob("*")):
        if (path / MANIFEST).is_file() and not path.suffix:
            yield Kept(path)


def size(folder: Path) -> int:
    """Bytes of the files in a folder, which may be going while they are counted."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total

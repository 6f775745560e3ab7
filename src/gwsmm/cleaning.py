"""Removes from a store what nobody needs.

A result is first renamed, under the lock of its key, to what a killed computation leaves, and then
removed. So whoever kills the cleaning finds whole results, and leftovers that the next one removes.
"""

import re
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gwsmm.artefact import DAMAGED
from gwsmm.inventory import size
from gwsmm.store import LOCK, PART, claimed

DAY = 24 * 3600.0

Fate = Literal["damaged", "left over", "unused", "used lately", "needed", "in work"]
"""What is found of a folder: set aside, left by a killed process, or a result and why it goes or
stays; `in work`: somebody holds the lock of its key, or we may not ask for it."""

GOES: tuple[Fate, ...] = ("damaged", "left over", "unused")

_NAME = re.compile(rf"[0-9a-f]{{32}}({PART}|{DAMAGED})?")


@dataclass(frozen=True)
class Found:
    """A folder in a store.

    Attributes:
        path: of the folder.
        fate: whether it goes, and why.
        bytes: of its files.
    """

    path: Path
    fate: Fate
    bytes: int

    @property
    def stage(self) -> str:
        """Whose result it is or was to be."""
        return self.path.parent.name


@dataclass(frozen=True)
class Broom:
    """What is to go.

    Attributes:
        needed: (stage, key) of every result that stays in any case.
        age: seconds for which a result was not used that goes if it is not needed; None: none goes.
    """

    needed: Collection[tuple[str, str]]
    age: float | None

    def found(self, root: Path) -> Iterator[Found]:
        """Every folder of results, whole or not, in a store."""
        for path in sorted(root.glob("*/*")):
            if _NAME.fullmatch(path.name) and path.is_dir():
                yield Found(path, self._fate(path), size(path))

    def remove(self, found: Found) -> bool:
        """Remove a folder; False: it stays, as somebody has begun to work on it or to use it."""
        path = found.path
        with claimed(path.with_suffix(LOCK)) as free:
            if not free or not path.exists() or self._of_idle(path) not in GOES:
                return False
            if found.fate == "unused":
                part = path.with_suffix(PART)
                shutil.rmtree(part, ignore_errors=True)
                path = path.rename(part)
            shutil.rmtree(path)
        return True

    def _fate(self, path: Path) -> Fate:
        lock = path.with_suffix(LOCK)
        try:
            if lock.exists():
                with claimed(lock) as free:
                    if not free:
                        return "in work"
        except OSError:  # somebody else's, who alone can tell
            return "in work"
        return self._of_idle(path)

    def _of_idle(self, path: Path) -> Fate:
        """The fate of a folder on which nobody works."""
        if path.suffix:
            return "damaged" if path.suffix == DAMAGED else "left over"
        if (path.parent.name, path.name) in self.needed:
            return "needed"
        unused = self.age is not None and time.time() - path.stat().st_mtime > self.age
        return "unused" if unused else "used lately"

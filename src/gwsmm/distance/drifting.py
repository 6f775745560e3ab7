"""The stage that measures how far an item's cloud is moved by another encoder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gwsmm.artefact import Artefact
from gwsmm.distance.distance import Distance
from gwsmm.distance.subjects import CloudOf

FILE = "drift.json"


@dataclass(frozen=True)
class Drifted:
    """The clouds of the same responses of one item, row by row, under two encoders."""

    before: CloudOf
    after: CloudOf


@dataclass(frozen=True, kw_only=True)
class Drifting:
    """The stage: two clouds → `drift.json` with their distance."""

    stage: ClassVar[str] = "drift"
    version: ClassVar[int] = 1

    distance: Distance[object, object]

    def __call__(self, subject: Drifted, folder: Path) -> None:
        """Measure the distance between the two."""
        both = [self.distance.prepare(each.load()) for each in (subject.before, subject.after)]
        (folder / FILE).write_text(json.dumps(self.distance(*both).value))

    def pairs(self, subject: Drifted) -> int:
        """One; see `Solves`."""
        return 1


def load_drift(made: Artefact) -> float:
    """What `Drifting` wrote."""
    return float(json.loads(made.file(FILE).read_text()))

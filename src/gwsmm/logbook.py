"""How a run stands, and what it used, by what it left in its folder."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from gwsmm.disk import locate
from gwsmm.inventory import Kept
from gwsmm.plain import read_yaml
from gwsmm.store import Store, claimed
from gwsmm.types import InputError

RUNS = (Path("outputs/runs"), Path("outputs/sweeps"))
"""Where runs and searches are if nothing else is said."""

LOG = "run.log"
KEYS = "keys.json"
"""Written when a run has all its results, and left where it is begun anew."""

LOCK = "run.lock"
"""Who runs holds it; it is gone when the run has ended, and left behind by one that was killed."""

State = Literal["finished", "running", "stopped", "failed", "killed", "running or killed"]

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d):\d\d,\d+ [A-Z]+ gwsmm\.(\S+): (.*)")
_STAGE = re.compile(r"(\w+): \d+ computed, \d+ reused")
_RESULT = re.compile(r"\w{1,50}/[0-9a-f]{32}")  # stage and key
_SAYS: dict[str, State] = {
    "begun": "killed",  # if nothing follows
    "finished": "finished",
    "stopped": "stopped",
    "failed:": "failed",
}


@dataclass(frozen=True)
class Standing:
    """How a run stands.

    Attributes:
        state: `stopped`: by the user; `killed`: it ended without a word; `running or killed`: we
            may not ask for its lock.
        at: day and minute of its last word.
        stage: that it began last; None: none yet.
        why: of a run that failed.
    """

    state: State
    at: str
    stage: str | None
    why: str = ""


def run_folders(folder: Path, *signs: str) -> list[Path]:
    """The runs in a folder, at any depth: the folders that hold one of these files.

    Raises:
        InputError: a folder in it cannot be read, so that nobody knows whether runs are there.
    """
    found, seen = [], set[str]()
    for place, inside, files in os.walk(folder, onerror=_unread, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            inside.clear()  # a link, perhaps to what it stands in
        elif not {*signs}.isdisjoint(files):
            found.append(Path(place))
        seen.add(real)
    return sorted(found, key=lambda path: [(len(part), part) if part.isdecimal() else (0, part)
                                           for part in path.parts])  # fmt: skip


def _unread(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):  # removed meanwhile, or never there
        return
    raise InputError(
        f"{error.filename} cannot be read ({error.strerror}): make it readable, or give folders "
        "beside it"
    ) from error


def standing(folder: Path) -> Standing:
    """How the run in a folder stands."""
    state, at, stage, why = _SAYS["begun"], "", None, ""
    for line in _log(folder / LOG).splitlines():
        if not (match := _LINE.fullmatch(line)):
            continue
        at, logger, said = match.groups()
        if logger == "store" and (begun := _STAGE.fullmatch(said)):
            stage = begun[1]
        word, _, rest = said.partition(" ")
        if logger in ("cli.run", "cli.conducting") and word in _SAYS:
            state, why = _SAYS[word], rest
            stage = None if word == "begun" else stage
    if state == "killed" and (folder / "results.json").exists():
        stage = "report"
    if state == "killed" and (folder / LOCK).exists():
        state = _unless_held(folder / LOCK)
    return Standing(state, at, stage, why if state == "failed" else "")


def _unless_held(lock: Path) -> State:
    """How the run stands that left its lock."""
    try:
        with claimed(lock) as free:
            return "killed" if free else "running"
    except OSError:  # it is somebody else's, who alone can tell
        return "running or killed"


def _log(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:  # under another name, or not copied with the rest
        return ""
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): make it readable") from error


@dataclass(frozen=True)
class Left:
    """The files of a run that say what it was made of.

    Each is empty where it cannot be read or is of another shape.

    Attributes:
        folder: of the run.
        resolved: puts in what a `${…}` of a setting stands for.
    """

    folder: Path
    resolved: Callable[[str], str] = str

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The content of `config.yaml`."""
        found = self._read("config.yaml", read_yaml)
        built = [found.get(group) for group in ("items", "split")]
        whole = isinstance(found.get("store"), str) and all(
            isinstance(each, dict) and "_target_" in each for each in built
        )
        return found if whole else {}

    @property
    def overrides(self) -> list[str] | None:
        """What was typed; None: that is not known."""
        found = self._read("run.json", json.loads).get("overrides")
        return found if isinstance(found, list) and _are_texts(found) else None

    @property
    def items(self) -> Mapping[str, str]:
        """By name the digests of the items."""
        found = self._keys.get("items")
        return found if isinstance(found, dict) and _are_texts(found.values()) else {}

    @property
    def stages(self) -> Mapping[str, Sequence[str]]:
        """By stage the keys of the results that it used; empty: that is not known."""
        found = self._keys.get("stages")
        if isinstance(found, dict) and all(_are_keys(*each) for each in found.items()):
            return found
        return {}

    @property
    def store(self) -> Store:
        """Where these are."""
        given = self.resolved(str(self.settings.get("store")))
        try:
            return Store(locate(given))
        except InputError:  # of somebody who has no home folder here
            return Store(Path(given))

    @cached_property
    def results(self) -> Sequence[Kept]:
        """Every result that it used, there or not."""
        root = self.store.root
        return [Kept(root / stage / key) for stage, keys in self.stages.items() for key in keys]

    @cached_property
    def _keys(self) -> Mapping[str, Any]:
        return self._read(KEYS, json.loads)

    def _read(self, name: str, parse: Callable[[str], Any]) -> Mapping[str, Any]:
        try:
            content = parse((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(each, str) for each in values)


def _are_keys(stage: str, found: object) -> bool:
    return isinstance(found, list) and all(_RESULT.fullmatch(f"{stage}/{key}") for key in found)

"""What a finished run left in its folder, read again."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from gwsmm.plain import read_yaml
from gwsmm.results import SCHEMA
from gwsmm.types import Distances, InputError, Plan, partition

if TYPE_CHECKING:
    import pandas as pd

Content = TypeVar("Content")
Decisions = NDArray[np.uint8]
# What parsing raises where a file is damaged: the types of what is in it are not known before.
_WRONG = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    yaml.YAMLError,
)
_NO_RUN = "give the folder of a finished run or multirun, e.g. outputs/runs/TIME_NAME"


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A finished run.

    Attributes:
        folder: where it is.
        results: the content of `results.json`.
        config: the composed configuration.
        about: the content of `run.json`.
    """

    folder: Path
    results: Mapping[str, Any]
    config: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the items."""
        return tuple(item["name"] for item in self.results["items"])

    @property
    def seed(self) -> int:
        """Of everything that the run drew."""
        return int(self.results["seed"])

    @property
    def plan(self) -> Plan:
        """That was carried out."""
        plan = self.results["plan"]
        return partition(plan["groups"], self.names, plan["source"])

    @cached_property
    def predictions(self) -> "pd.DataFrame":
        """The content of `predictions.parquet`."""
        return self._parquet("predictions.parquet")

    def decisions(self, item: str) -> Mapping[str, Decisions]:
        """[n, L] of an item by who says it: `truth`, and the models."""
        return self._decisions[item]

    def second(self, item: str) -> tuple[Decisions, Decisions] | None:
        """The first and the second rater [m, L] where both rated; None: nobody rated twice."""
        own = self._of_item[item]
        if "second" not in own:
            return None
        first = own[own["model"] == "individual"]
        both = first[first["second"].notna()]
        if both.empty:
            return None
        labels = own["label"].nunique()
        one, other = (
            both[name].to_numpy(np.uint8).reshape(-1, labels) for name in ("truth", "second")
        )
        return one, other

    def subgroups(self, item: str) -> tuple[str, ...] | None:
        """[n]: the subgroup of whoever gave each response, empty: unknown; None: none is known."""
        own = self._of_item[item]
        if "group" not in own:
            return None
        first = own[own["model"] == "individual"]
        return tuple(first["group"].fillna("")[:: own["label"].nunique()])

    @cached_property
    def _decisions(self) -> Mapping[str, Mapping[str, Decisions]]:
        return {name: _decided(own) for name, own in self._of_item.items()}

    @cached_property
    def _of_item(self) -> "Mapping[str, pd.DataFrame]":
        return {str(name): part for name, part in self.predictions.groupby("item")}

    @cached_property
    def attempts(self) -> "pd.DataFrame | None":
        """The content of `attempts.parquet`; None: nothing was tried beside the plan."""
        if not (self.folder / "attempts.parquet").exists():
            return None
        return self._parquet("attempts.parquet")

    @cached_property
    def controls(self) -> Mapping[str, Any]:
        """The content of `controls.json`, which numbers the groups of `attempts`."""
        return _read(self.folder / "controls.json", json.loads)

    @cached_property
    def distances(self) -> Distances:
        """The content of `distances.csv` and `pairs.csv`."""
        quantity, values = _read(self.folder / "distances.csv", self._square)
        details = _read(
            self.folder / "pairs.csv",
            lambda text: {
                name: self._matrix(_table(text), name, bool) for name in ("converged", "estimated")
            },
        )
        np.fill_diagonal(details["converged"], True)
        return Distances(self.names, values, quantity, details)

    @cached_property
    def half_samples(self) -> tuple[Distances, ...]:
        """The distances of half-samples of the responses; empty where none were drawn."""
        halves = _read(
            self.folder / "halves.csv",
            lambda text: [
                self._matrix(part, "value", float)
                for _, part in _table(text).groupby(["repetition", "half"])
            ],
        )
        return tuple(Distances(self.names, half, self.distances.quantity, {}) for half in halves)

    def keys(self, stage: str) -> tuple[str, ...]:
        """Of the results of a stage that the run used, as folders of the store; empty: of none."""
        return self._keys.get(stage, ())

    @cached_property
    def _keys(self) -> Mapping[str, tuple[str, ...]]:
        return _read(
            self.folder / "keys.json",
            lambda text: {
                stage: tuple(map(str, keys)) for stage, keys in json.loads(text)["stages"].items()
            },
        )

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """Of the items' content, by name."""
        return _read(
            self.folder / "keys.json",
            lambda text: {str(name): str(own) for name, own in json.loads(text)["items"].items()},
        )

    def _square(self, text: str) -> tuple[str, NDArray[np.float64]]:
        """The quantity and the values of `distances.csv`."""
        table = _table(text, [0])
        quantity, names = table.columns[0], list(self.names)
        return str(quantity), table.set_index(quantity).loc[names, names].to_numpy(float)

    def _matrix(self, pairs: "pd.DataFrame", column: str, kind: type) -> NDArray[Any]:
        """[N, N] of a column of a table with a row for every pair."""
        at = {name: i for i, name in enumerate(self.names)}
        found: NDArray[Any] = np.zeros((len(at), len(at)), dtype=kind)
        one, other = ([at[name] for name in pairs[side]] for side in ("item", "other"))
        found[one, other] = found[other, one] = pairs[column].to_numpy(kind)
        return found

    def _parquet(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        try:
            return pd.read_parquet(self.folder / name)
        except (OSError, ValueError) as error:
            raise InputError(_unreadable(self.folder / name, error)) from error


def _decided(own: "pd.DataFrame") -> Mapping[str, Decisions]:
    """See `RunFolder.decisions`, of the predictions of one item."""
    labels = own["label"].nunique()
    found = {
        str(model): part["decision"].to_numpy(np.uint8).reshape(-1, labels)
        for model, part in own.groupby("model")
    }
    first = own[own["model"] == "individual"]
    return {**found, "truth": first["truth"].to_numpy(np.uint8).reshape(-1, labels)}


class _Scores(TypedDict):
    micro_f1: float
    macro_f1: float
    exact_match: float
    label_accuracy: float
    responses: int


class _Item(TypedDict):
    name: str
    kind: Literal["multilabel", "ordinal"]
    labels: list[str]
    train: int
    validation: int
    test: int
    scores: dict[Literal["majority", "individual", "merged"], _Scores]


class _Plan(TypedDict):
    groups: list[list[str]]
    source: str


class _Results(TypedDict):
    """What a report needs of `results.json`."""

    name: str
    seed: int
    encoder: dict[str, str]
    synthetic: bool
    plan: _Plan
    overall: dict[str, _Scores]
    merged_only: dict[str, _Scores] | None
    storage: dict[str, float]
    items: list[_Item]


class _About(TypedDict):
    """What a report needs of `run.json`."""

    overrides: list[str]
    evaluations: list[dict[str, str]]
    scoring: dict[str, dict[str, float] | None]


def _table(text: str, words: Sequence[str | int] = ("item", "other")) -> "pd.DataFrame":
    """A CSV file; `words` are the columns that stay text, as the names of items may be numbers."""
    from io import StringIO

    import pandas as pd

    columns = pd.read_csv(StringIO(text), nrows=0).columns
    numbers = [name for at, name in enumerate(columns) if not {at, name} & {*words}]
    return pd.read_csv(
        StringIO(text),
        converters=dict.fromkeys(words, str),
        keep_default_na=False,
        na_values={name: ["", "nan"] for name in numbers},  # an item may be called nan
    )


def _read(path: Path, parse: Callable[[str], Content]) -> Content:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except _WRONG as error:
        raise InputError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} cannot be read ({type(error).__name__}): {_NO_RUN}"


def read_run(folder: Path) -> RunFolder:
    """The run that left this folder.

    Raises:
        InputError: it is no folder of a finished run, or of one that another version wrote.
    """
    results = _read(folder / "results.json", json.loads)
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{folder / 'results.json'}: schema {schema!r} and not {SCHEMA}: run it again with "
            "this version"
        )
    config: Any = _read(folder / "config.yaml", read_yaml)
    about = _read(folder / "run.json", json.loads)
    _check(_Results, results, folder / "results.json")
    _check(dict[str, Any], config, folder / "config.yaml")
    _check(_About, about, folder / "run.json")
    return RunFolder(folder, results, config, about)


def _check(kind: Any, content: object, path: Path) -> None:
    try:
        TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where}: {first['msg']}: {_NO_RUN}") from error


def endings(folders: Sequence[Path]) -> list[str]:
    """The ends of these paths: of each so many parts that no two folders have the same.

    Jobs of two multiruns are both called 0.
    """
    parts = {folder: folder.resolve().parts for folder in folders}
    alike, last = len({*parts.values()}), 1
    while len({own[-last:] for own in parts.values()}) < alike:
        last += 1
    return ["/".join(parts[folder][-last:]) for folder in folders]


def paths_from(report: Path, folders: Sequence[Path]) -> dict[Path, str]:
    """Where folders are, seen from that of a report; where not all are below it, their ends."""
    here = report.resolve()
    if all(here in folder.resolve().parents for folder in folders):
        return {each: each.resolve().relative_to(here).as_posix() for each in folders}
    return dict(zip(folders, endings(folders), strict=True))


def read_runs(folders: Iterable[Path]) -> list[RunFolder]:
    """The runs of these folders; one of a multirun stands for all its finished jobs.

    Raises:
        InputError: see `read_run`; or the runs are of different items.
    """
    runs = [read_run(job) for folder in folders for job in _jobs(folder)]
    for run in runs[1:]:
        if run.names != runs[0].names:
            raise InputError(
                f"{run.folder} has other items than {runs[0].folder}: report them one by one"
            )
    return runs


def _jobs(folder: Path) -> list[Path]:
    if (folder / "results.json").exists():
        return [folder]
    jobs = [path.parent for path in folder.glob("*/run.json")]
    if not jobs:
        raise InputError(f"{folder}: there is no results.json in it: {_NO_RUN}")
    # 2 before 10, and any names that the user gives the folders
    return sorted(jobs, key=lambda job: (len(job.name), job.name))

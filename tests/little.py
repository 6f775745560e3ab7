"""A little experiment: answers in the authors' layout, and the command in this process."""

import csv
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hydra.core.global_hydra import GlobalHydra

from gwsmm.cli.main import main

COMMAND = Path(sys.executable).with_name("gwsmm")
CONF = Path(__file__).parents[1] / "conf"
DOCS = Path(__file__).parents[1] / "docs" / "results.md"
MODELS = ("majority", "individual", "merged")
NAMES = ("apples", "boats", "clouds", "dunes")
WORDS = ("zebrafish", "quokkas", "axolotls", "wombats")  # one per item; in no other file of a run
# half-samples would take a third of a run's time: who looks at them asks for them
TINY = ("experiment=tiny", "execute=serial", "stability.repeats=0")
HALVES = "stability.repeats=1"
TWO = "grouping.encoders=2"


def answers(item: int, part: str, n: int) -> list[list[object]]:
    """n rows of a response and two labels that depend on its words; all texts differ."""
    random = np.random.default_rng([item, len(part)])
    rows = []
    for i in range(n):
        melts, floats = int(random.random() < 0.5), int(random.random() < 0.4)
        said = f"{'melting' if melts else 'frozen'} and {'floating' if floats else 'heavy'}"
        rows.append([f"the {WORDS[item]} of {part} {i} were {said}", melts, floats])
    return rows


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_items(folder: Path, *, items: int = 4, train: int = 30, test: int = 12) -> Path:
    """Items in the authors' layout."""
    folder.mkdir(parents=True, exist_ok=True)
    for item, name in enumerate(NAMES[:items]):
        for part, n in (("train", train), ("test", test)):
            rows = answers(item, part, n)
            write_table(folder / f"{name}_{part}.csv", ["response", "E1", "E2"], rows)
    return folder


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: object
    out: str
    err: str


def gwsmm(*arguments: str) -> Ended:
    """`gwsmm ARGUMENTS` in this process; what is no error of the user's is raised."""
    out, err, code = io.StringIO(), io.StringIO(), None
    with _as_before(), redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    return Ended(code or 0, out.getvalue(), err.getvalue())


@contextmanager
def _as_before() -> Iterator[None]:
    """Hydra sets the arguments, the loggers and itself up for a process of one command."""
    root, argv, environment = logging.getLogger(), sys.argv, dict(os.environ)
    handlers, level = list(root.handlers), root.level
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)


def counts(folder: Path) -> dict[str, tuple[int, int]]:
    """What the log of a run says of every stage but `pairs`: how many (computed, reused)."""
    found = re.findall(r"(\w+): (\d+) computed, (\d+) reused", (folder / "run.log").read_text())
    # pairs are pieces of distances and stability: nobody needs them when these are there
    return {stage: (int(a), int(b)) for stage, a, b in found if stage != "pairs"}


def read_json(path: Path) -> dict:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def paths(node: object, at: str = "") -> Iterator[str]:
    """Where values stand in a JSON document, in the words of docs/results.md."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from paths(value, f"{at}.{'<model>' if key in MODELS else key}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            yield from paths(value, f"{at}[]")
    else:
        yield at


def documented(heading: str) -> set[str]:
    """The first column of the tables under a heading."""
    section = DOCS.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    tables = section.split("Scores are")
    keys, scores = [re.findall(r"^\| `([^`]+)` \| (\w+)", part, re.M) for part in (*tables, "")[:2]]
    return {
        full
        for key, kind in keys
        for full in ([f"{key}.{name}" for name, _ in scores] if kind == "scores" else [key])
    }

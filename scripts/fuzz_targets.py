"""The readers, valid files for each, and what is done to these."""

import json
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from gwsmm.artefact import MANIFEST, Artefact
from gwsmm.bundle.manifest import checked, read_manifest
from gwsmm.bundle.reading import open_bundle
from gwsmm.cli.clean import clean_command
from gwsmm.cli.composing import CONF, build, check_choices, rebuild
from gwsmm.cli.explain import explain, is_users
from gwsmm.cli.status import status_command
from gwsmm.grouping.chat import Answer, Chat
from gwsmm.grouping.llm import LanguageModel
from gwsmm.grouping.record import read_record
from gwsmm.items.files import ENDINGS
from gwsmm.items.pasta import Pasta
from gwsmm.items.reading import read
from gwsmm.items.stratified import Stratified
from gwsmm.items.table import Table
from gwsmm.study.reading import read_run
from gwsmm.types import InputError, Item, Label, Responses

SLOWEST = 5.0  # seconds of one input

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: reads what is in a folder.
        valid: folders of files that it takes.
        documents: whole contents of a file, by its name: of the right shape, with other values.
        refuses: what else than `InputError` it says that it raises.
    """

    read: Callable[[Path], object]
    valid: Callable[[], list[Files]]
    documents: Mapping[str, st.SearchStrategy[bytes]]
    refuses: tuple[type[Exception], ...] = ()


# What can stand in a file.

NAMES = st.sampled_from(["item", "text", "E1", "E2", "score", "split", "", "=1+1", "\x1b[31m", "ü"])
WORDS = st.one_of(
    st.sampled_from(
        ["0", "1", "-1", "", " ", "nan", "inf", "1e400", "../x", "a/b", "\0", '"', "é"]
    ),
    st.text(max_size=12),
)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.just(10**400))
JSON = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | WORDS, inner, max_size=4),
    max_leaves=12,
)


def dumped(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=True).encode()


def swapped(content: Any, value: Any, choose: Callable[[int], int]) -> Any:
    """The document with something in it replaced by a value, removed, or said twice."""
    if isinstance(content, dict) and content and choose(4):
        name = list(content)[choose(len(content))]
        if not choose(6):
            return {key: part for key, part in content.items() if key != name}
        return {**content, name: swapped(content[name], value, choose)}
    if isinstance(content, list) and content and choose(4):
        at = choose(len(content))
        if not choose(6):
            return [*content, content[at]]
        return [*content[:at], swapped(content[at], value, choose), *content[at + 1 :]]
    return value


def variants(content: Any) -> st.SearchStrategy[bytes]:
    """A JSON document with one or two things in it replaced."""

    @st.composite
    def made(draw: st.DrawFn) -> bytes:
        found = content
        for _ in range(draw(st.integers(1, 2))):
            found = swapped(found, draw(JSON), lambda n: draw(st.integers(0, n - 1)))
        return dumped(found)

    return made()


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes, changed in a few places, cut, repeated, or with others put in."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found)))
        end = min(len(found), at + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "drop", "repeat", "insert"]))
        if kind == "flip" and at < len(found):
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and at < len(found):
            found[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del found[at:]
        elif kind == "drop":
            del found[at:end]
        elif kind == "repeat":
            found[at:at] = found[at:end] * draw(st.integers(1, 50))
        else:
            found[at:at] = draw(st.binary(max_size=12) | st.sampled_from(TRICKS))
    return bytes(found)


TRICKS = [
    *(
        b'"',
        b",",
        b"\n",
        b"\r",
        b"\0",
        b"{",
        b"[" * 2000,
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"9" * 5000,
    ),
    *(
        b"../../x",
        b"/etc/passwd",
        b"\x1b[31m",
        b"${oc.env:HOME}",
        b"!!python/object/new:os.system ",
    ),
    *(
        b"&a [*a]",
        b"1e999",
        b"-0",
        b"NaN",
        b"\\ud800",
        b"%s",
        b"_target_: os.system\n",
        b"\xc2\x85",
    ),
]


def inputs(target: Target) -> st.SearchStrategy[Files]:
    """Folders: a valid one with one file spoilt, or with a file that has the right shape."""
    ways = []
    for files in target.valid():
        for name, content in files.items():
            made = [spoilt(content)]
            if name in target.documents:
                made.append(target.documents[name])
            ways.append(st.one_of(made).map(lambda new, f=files, n=name: {**f, n: new}))
    return st.one_of(ways)


# The readers.


@cache
def rows(n: int = 40) -> pd.DataFrame:
    said = [f"the gas number {i} moves" for i in range(n)]
    labels = {f"E{j}": [(i * j) % 3 % 2 for i in range(n)] for j in (1, 2)}
    names = ["one" if i % 2 else "two" for i in range(n)]
    return pd.DataFrame({"item": names, "text": said, **labels})


def tables() -> list[Files]:
    frame, packed = rows(), BytesIO()
    frame.to_parquet(packed, index=False)
    lines = frame.to_json(orient="records", lines=True).encode()
    written = {
        ".csv": frame.to_csv(index=False).encode(),
        ".tsv": frame.to_csv(index=False, sep="\t").encode(),
        ".jsonl": lines,
        ".parquet": packed.getvalue(),
    }
    return [{f"table{ending}": content} for ending, content in written.items()]


@st.composite
def csv_text(draw: st.DrawFn, separator: str) -> bytes:
    lines = draw(st.lists(st.lists(NAMES | WORDS, max_size=5), max_size=8))
    return "\n".join(map(separator.join, lines)).encode("utf-8", "replace")


json_lines = st.lists(
    st.dictionaries(NAMES | WORDS, JSON, max_size=5).map(dumped) | JSON.map(dumped), max_size=6
).map(b"\n".join)


@st.composite
def parquet(draw: st.DrawFn) -> bytes:
    n = draw(st.integers(0, 5))
    cells = st.lists(st.one_of(st.integers(-2, 2), WORDS, st.none()), min_size=n, max_size=n)
    columns = draw(st.dictionaries(NAMES | WORDS, cells, max_size=4))
    packed = BytesIO()
    made = {name: pd.Series(list(map(str, each)), dtype=object) for name, each in columns.items()}
    try:
        pd.DataFrame(made).to_parquet(packed)
    except ValueError:  # half a surrogate pair, which parquet does not hold
        return b""
    return packed.getvalue()


SPLIT = Stratified(validation=0.2, test=0.2, seed=0)


def read_tables(folder: Path) -> object:
    for path in folder.iterdir():
        if path.suffix in ENDINGS:
            read(path)
            for item in (None, "item"):
                table = Table(
                    path=str(path), text="text", item=item, labels=("E1", "E2"), score=None,
                    second=None, group=None, split=None, prompt=None, delimiter=None, quoting=True,
                    limit=None,
                )  # fmt: skip
                table(SPLIT)
    return None


def pasta_folder() -> list[Files]:
    frame = rows().drop(columns="item").to_csv(index=False).encode()
    about = [{"item": "one", "question": "Why?", "labels": {"E1": "says it"}}]
    return [{"one_train.csv": frame, "one_test.csv": frame, "items.json": dumped(about)}]


def records() -> list[Files]:
    plan = {"source": "somebody", "groups": [["one"], ["two", "three"]]}
    matrix = {"source": "somebody", "items": ["one", "two"], "similarity": [[1, 0.5], [0.5, 1]]}
    return [
        {"plan.json": dumped(plan)},
        {"plan.json": dumped(matrix)},
        {"plan.yaml": yaml.safe_dump(plan).encode()},
        {"plan.csv": b"item,group\none,a\ntwo,b\nthree,b\n"},
        {"plan.csv": b",one,two\none,1,0.5\ntwo,0.5,1\n"},
    ]


def read_plan(folder: Path) -> object:
    return read_record(str(next(folder.glob("plan.*"))))


def answers() -> list[Files]:
    plan = {"groups": [["one"], ["two", "three"]]}
    names = ["one", "two", "three"]
    matrix = {"items": names, "similarity": np.eye(3).tolist()}
    return [{"plan": dumped(plan)}, {"similarity": dumped(matrix)}]


@cache
def three_items() -> tuple[Item, ...]:
    none = Responses(("a",), np.zeros((1, 1), np.uint8))
    return tuple(
        Item(name, (Label("E1"),), "multilabel", none, none, none)
        for name in ("one", "two", "three")
    )


def take_answer(folder: Path) -> object:
    """What is done with an answer, which comes as text whatever the service sent."""
    path = next(folder.iterdir())
    chat = Chat(base_url=None, model="m", key="K", timeout=1, retries=0)
    model = LanguageModel(
        record=None, answer=path.name, method="average", encoders=2, chat=chat, answers=str(folder)
    )
    text = path.read_bytes().decode("utf-8", "replace")
    names = [item.name for item in three_items()]
    origin = model._origin(Answer(text, None), "prompt")
    return model._taken(text, origin, names)


@cache
def weights() -> bytes:
    return save({"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)})


SIGN = {"scale": "row", "still": 0.01, "base": "merged", "pooler": "own"}


def bundles() -> list[Files]:
    part = {"shared": ["groups/1/trunk.safetensors"], "private": None}
    files = {"groups/1/trunk.safetensors": weights(), "items/one/head.safetensors": weights()}
    item = {
        "name": "one",
        "kind": "multilabel",
        "labels": [{"name": "E1", "description": ""}],
        "temperature": 1.0,
        "thresholds": [0.5],
        "trunk": part,
        "pooler": None,
        "head": "items/one/head.safetensors",
    }
    from hashlib import sha256

    manifest = {
        "format": 1,
        "versions": {"gwsmm": "0"},
        "encoder": {"model": "m", "pooling": "cls", "pooler": False, "max_length": 8},
        "codec": {"strategy": "gwsmm.private.sign.Sign", "settings": SIGN},
        "items": [item],
        "files": {
            name: {"bytes": len(content), "sha256": sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }
    return [{MANIFEST: dumped(manifest), **files}]


def read_bundle(folder: Path) -> object:
    manifest = read_manifest(folder)
    for name in manifest.files:
        path = checked(folder, manifest, name)
        assert path.resolve().is_relative_to(folder.resolve())
    return open_bundle(folder, "cpu")


def tensor_files() -> list[Files]:
    return [{"private.safetensors": weights()}]


def read_tensors(folder: Path) -> object:
    """Of a file whose checksum holds, as of a bundle that somebody else made."""
    from gwsmm.bundle.manifest import Part
    from gwsmm.bundle.reading import readable_errors
    from gwsmm.bundle.tensors import read_arrays, read_part

    name = "private.safetensors"
    with readable_errors(folder):
        part = Part(shared=(name,), private=None)
        return [dict(read(folder, part, "trunk", None)) for read in (read_arrays, read_part)]


def results_kept() -> list[Files]:
    from hashlib import sha256

    content = weights()
    sums = {"sha256": {"a": sha256(content).hexdigest()}, "bytes": {"a": len(content)}}
    return [{"kept/a": content, f"kept/{MANIFEST}": dumped(sums)}]


def read_result(folder: Path) -> object:
    """Whatever stands there, what is read is what was written."""
    made = Artefact(folder / "kept", "key")
    path = made.file("a")
    with safe_open(path, framework="np") as file:
        return list(file.keys())


def run_folders() -> list[Files]:
    scores = dict.fromkeys(("micro_f1", "macro_f1", "exact_match", "label_accuracy"), 0.5)
    models = {name: {**scores, "responses": 4} for name in ("majority", "individual", "merged")}
    sizes = {"train": 4, "validation": 2, "test": 4}
    items = [
        {"name": name, "kind": "multilabel", "labels": ["E1"], **sizes, "scores": models}
        for name in ("one", "two")
    ]
    from gwsmm.results import SCHEMA

    results = {
        "schema": SCHEMA,
        "name": "run",
        "seed": 0,
        "synthetic": False,
        "encoder": {"model": "m"},
        "plan": {"groups": [["one"], ["two"]], "source": "x"},
        "overall": models,
        "merged_only": None,
        "storage": {},
        "items": items,
    }
    packed = BytesIO()
    pd.DataFrame({"item": ["one"], "model": ["individual"], "label": ["E1"], "truth": [1],
                  "decision": [1]}).to_parquet(packed)  # fmt: skip
    return [
        {
            "results.json": dumped(results),
            "config.yaml": b"name: run\nseed: 0\n",
            "run.json": dumped({"overrides": [], "evaluations": [], "scoring": {}}),
            "distances.csv": b"GW loss,one,two\none,0.0,1.0\ntwo,1.0,0.0\n",
            "pairs.csv": b"item,other,converged,estimated\none,two,True,False\n",
            "halves.csv": b"repetition,half,item,other,value\n0,0,one,two,1.0\n0,1,one,two,1.0\n",
            "predictions.parquet": packed.getvalue(),
        }
    ]


def read_finished(folder: Path) -> object:
    run = read_run(folder)
    return run.plan, run.distances, run.half_samples, run.predictions, run.seed


def runs_left() -> list[Files]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    overrides = ["encoder=tiny", "items=pasta", "items.path=/nowhere"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_yaml(compose("config", overrides=overrides), resolve=True)
    keys = {"items": {"one": "0" * 32}, "stages": {"finetune": ["0" * 32]}}
    said = ["cli.run: begun", "store: finetune: 3 computed, 0 reused", "cli.conducting: finished x"]
    log = "".join(f"2026-01-02 03:04:05,678 INFO gwsmm.{each}\n" for each in said)
    return [
        {
            "run.log": log.encode(),
            "config.yaml": config.encode(),
            "run.json": dumped({"overrides": overrides}),
            "keys.json": dumped(keys),
        }
    ]


def ask_of_run(folder: Path) -> None:
    """What `gwsmm status` and `gwsmm clean` say of it."""
    place = str(folder)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        try:
            status_command([place])
            clean_command([place, "--unreachable", "--runs", place])
        except SystemExit as end:
            if end.code != 2:
                raise
            raise InputError(said.getvalue()) from None


def configurations() -> list[Files]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=["encoder=tiny", "tracker=off"])
    return [{"config.yaml": OmegaConf.to_yaml(config, resolve=True).encode()}]


def read_config(folder: Path) -> object:
    with explained():
        return rebuild(folder / "config.yaml")


OVERRIDES = b"encoder=tiny\ntracker=off\nseed=1\nmerge=ties\nmerge.scale=0.5\nfinetune.epochs=2\n"


def read_overrides(folder: Path) -> object:
    from hydra import compose, initialize_config_dir

    text = (folder / "overrides").read_bytes().decode("utf-8", "replace")
    overrides = [line for line in text.splitlines() if line]
    with explained(), initialize_config_dir(str(CONF), version_base="1.3"):
        check_choices(overrides)
        return build(compose("config", overrides=overrides))


@contextmanager
def explained() -> Iterator[None]:
    """What the command line does with an error: what is the user's has one line."""
    try:
        yield
    except Exception as error:
        if not is_users(error):
            raise
        said = explain(error, ["seed", "merge.scale"])
        raise InputError(said) from error


TARGETS: dict[str, Target] = {
    "tables": Target(
        read_tables,
        tables,
        {
            "table.csv": csv_text(","),
            "table.tsv": csv_text("\t"),
            "table.jsonl": json_lines,
            "table.parquet": parquet(),
        },
    ),
    "pasta": Target(
        lambda folder: Pasta(path=str(folder), limit=None)(SPLIT),
        pasta_folder,
        {"items.json": variants(json.loads(pasta_folder()[0]["items.json"]))},
    ),
    "plans": Target(
        read_plan,
        records,
        {
            "plan.json": st.one_of([variants(json.loads(r["plan.json"])) for r in records()[:2]]),
            "plan.csv": csv_text(","),
            "plan.yaml": variants(json.loads(records()[0]["plan.json"])),
        },
    ),
    "answers": Target(
        take_answer,
        answers,
        {name: variants(json.loads(c)) for files in answers() for name, c in files.items()},
        refuses=(ValueError,),
    ),
    "bundles": Target(
        read_bundle, bundles, {MANIFEST: variants(json.loads(bundles()[0][MANIFEST]))}
    ),
    "tensors": Target(read_tensors, tensor_files, {}),
    "kept results": Target(
        read_result,
        results_kept,
        {f"kept/{MANIFEST}": variants(json.loads(results_kept()[0][f"kept/{MANIFEST}"]))},
    ),
    "runs": Target(
        read_finished,
        run_folders,
        {
            name: variants(json.loads(run_folders()[0][name]))
            for name in ("results.json", "run.json")
        }
        | {name: csv_text(",") for name in ("distances.csv", "pairs.csv", "halves.csv")},
    ),
    "runs left": Target(
        ask_of_run,
        runs_left,
        {name: variants(json.loads(runs_left()[0][name])) for name in ("run.json", "keys.json")}
        | {"config.yaml": variants(yaml.safe_load(runs_left()[0]["config.yaml"]))},
    ),
    "configurations": Target(
        read_config,
        configurations,
        {"config.yaml": variants(yaml.safe_load(configurations()[0]["config.yaml"]))},
    ),
    "overrides": Target(read_overrides, lambda: [{"overrides": OVERRIDES}], {}),
}


def fuzz(name: str, number: int, place: str) -> str | None:
    """What went wrong with the smallest input that it went wrong with; None: nothing did.

    Args: as of `check`.
    """
    try:
        check(name, number, place)()
    except Exception as fault:  # noqa: BLE001 - whatever it is, it is what is looked for
        return "".join(traceback.format_exception(fault))
    return None


def check(name: str, number: int, place: str) -> Callable[..., None]:
    """The test that a target takes or refuses every input.

    Args:
        name: of a target.
        number: of inputs.
        place: an empty folder.
    """
    target, home = TARGETS[name], Path(place)
    folder = home / "in"

    for files in target.valid():
        _lay_out(files, folder)
        target.read(folder)  # what is spoilt below is not refused for another reason

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(files=inputs(target))
    def never_fails(files: Files) -> None:
        _lay_out(files, folder)
        with suppress(InputError, *target.refuses), in_time():
            target.read(folder)
        assert [path.name for path in home.iterdir()] == ["in"], "a file outside its folder"

    return never_fails


class TooSlow(Exception):
    """A reader took longer than an input of a few kilobytes can need."""


@contextmanager
def in_time() -> Iterator[None]:
    """Seconds of this process, as the machine may be busy with others."""

    def end(number: int, frame: object) -> None:
        raise TooSlow(f"more than {SLOWEST:.0f} s")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, SLOWEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _lay_out(files: Files, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

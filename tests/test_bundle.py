"""Bundles: they score as their run was evaluated, whole and in one piece, or say why not."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from little import (
    COMMAND,
    CONF,
    NAMES,
    TINY,
    WORDS,
    answers,
    gwsmm,
    read_json,
    write_items,
    write_table,
)
from onnxruntime import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from safetensors.torch import load_file

from gwsmm.artefact import MANIFEST
from gwsmm.bundle import sealing, tracing
from gwsmm.bundle.card import card
from gwsmm.bundle.reading import Bundle, open_bundle
from gwsmm.bundle.running import GRAPH, Graph, Torch
from gwsmm.bundle.sealing import GRAPH_TOLERANCE, steepest
from gwsmm.bundle.writing import write_bundle
from gwsmm.cli.run import build
from gwsmm.decision.rule import half, load_rule
from gwsmm.encoder import Encoder
from gwsmm.experiment import Experiment
from gwsmm.pipeline import prepare, run
from gwsmm.private.private import PrivateTrunk
from gwsmm.results import Run
from gwsmm.types import InputError

GROUPS = [[NAMES[0], NAMES[2]], [NAMES[1]], [NAMES[3]]]
LABELS = ["E1", "E2"]
TRUNK = "groups/1/trunk.safetensors"


@dataclass(frozen=True)
class World:
    """Items, a plan with one shared encoder, and one store for every run."""

    root: Path

    @property
    def where(self) -> list[str]:
        return [
            *TINY,
            "items=pasta",
            f"items.path={self.root / 'data'}",
            f"store={self.root / 'store'}",
        ]

    @property
    def plan(self) -> list[str]:
        return ["grouping=expert", f"grouping.record={self.root / 'plan.yaml'}"]

    def done(self, *overrides: str) -> tuple[Experiment, Run]:
        """A run, without its folder."""
        plan = [] if any(each.startswith("grouping") for each in overrides) else self.plan
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", overrides=[*self.where, *plan, *overrides])
        experiment = build(cfg)
        return experiment, run(experiment, prepare(experiment))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    write_items(made.root / "data")
    plan = yaml.safe_dump({"source": "two teachers", "groups": GROUPS})
    (made.root / "plan.yaml").write_text(plan)
    return made


def bundled(done: tuple[Experiment, Run], out: Path, device: str = "cpu") -> Bundle:
    experiment, found = done
    return write_bundle(
        out, found, encoder=experiment.encoder, private=experiment.private, device=device
    )[0]


def recorded_responses(found: Run) -> tuple[list[str], list[str], np.ndarray]:
    """Item, text and recorded probabilities of every test response, the items mixed."""
    names, texts, said = [], [], []
    for outcome in found.outcomes:
        names += [outcome.item.name] * len(outcome.item.test)
        texts += outcome.item.test.texts
        said.append(outcome.predictions["merged"].probabilities)
    order = np.random.default_rng(0).permutation(len(names))
    mixed = np.concatenate(said)[order]
    return [names[i] for i in order], [texts[i] for i in order], mixed


def scored(bundle: Bundle, names: list[str], texts: list[str], batch: int = 64) -> np.ndarray:
    """[n, 2]: the bundle's probabilities in the order of the responses."""
    values = np.full((len(names), len(LABELS)), np.nan, np.float32)
    for found in bundle.score(names, texts, batch=batch, tokens=8 * batch).values():
        values[found.rows] = found.probabilities
    return values


# It scores as it was evaluated


def agrees(world: World, tmp_path: Path, *overrides: str) -> tuple[Experiment, Bundle]:
    experiment, found = world.done(*overrides)
    bundle = bundled((experiment, found), tmp_path / "bundle")
    names, texts, recorded = recorded_responses(found)
    near = GRAPH_TOLERANCE * steepest(found.outcomes)
    np.testing.assert_allclose(scored(bundle, names, texts), recorded, rtol=0, atol=near)
    return experiment, bundle


@pytest.fixture(params=sorted(path.stem for path in CONF.glob("private/*.yaml")))
def private(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_private_strategy_scores_as_it_was_evaluated(world, tmp_path, private):
    experiment, bundle = agrees(world, tmp_path, f"private={private}")
    coded = isinstance(experiment.private, PrivateTrunk)
    assert bundle.codec == (experiment.private if coded else None)
    passes = {item.trunk for item in bundle.manifest.items}
    assert len(passes) == (len(NAMES) if coded else len(GROUPS))


def test_every_private_strategy_can_stand_on_weights_of_half_the_bytes(world, tmp_path, private):
    _, bundle = agrees(world, tmp_path, f"private={private}", "numbers=float16")
    trunks = [load_file(path) for path in bundle.folder.rglob("trunk.safetensors")]
    assert trunks
    assert {v.dtype for trunk in trunks for v in trunk.values()} == {torch.float16}


@pytest.mark.parametrize("decision", sorted(path.stem for path in CONF.glob("decision/*.yaml")))
def test_every_decision_strategy_decides_as_it_was_evaluated(world, tmp_path, decision):
    done = world.done(f"decision={decision}")
    bundle, found = bundled(done, tmp_path / "bundle"), done[1]
    for outcome in found.outcomes:
        texts, name = outcome.item.test.texts, outcome.item.name
        said, recorded = (
            bundle.score([name] * len(texts), texts, batch=64)[name],
            outcome.predictions,
        )
        np.testing.assert_allclose(
            said.probabilities, recorded["merged"].probabilities, rtol=0, atol=GRAPH_TOLERANCE
        )
        np.testing.assert_array_equal(said.decisions, recorded["merged"].decisions)
        fitted, item = outcome.after.decision, bundle.items[name]
        rule = load_rule(fitted) if fitted else half(len(LABELS))
        assert (item.temperature, list(item.thresholds)) == (rule.temperature, [*rule.thresholds])


@pytest.mark.parametrize(
    "overrides",
    [
        ("private=svd", "private.base=pretrained", "private.pooler=shared"),
        ("private=mask", "private.pooler=shared"),
        ("private=int", "private.pooler=shared"),
        ("private=last_layers", "encoder.pooler=false"),
        ("private=pooler", "encoder.pooling=cls", "encoder.pooler=false"),
        ("grouping=none",),
        ("grouping=all", "private=nothing", "heads=keep"),
    ],
    ids=" ".join,
)
def test_it_scores_as_evaluated_whatever_is_shared(world, tmp_path, overrides):
    agrees(world, tmp_path, *overrides)


def test_every_file_has_its_checksum_and_the_trunks_are_few(world, tmp_path):
    for private, trunks in (("pooler", len(GROUPS)), ("svd", len(GROUPS)), ("mask", 4)):
        bundle = bundled(world.done(f"private={private}"), tmp_path / private)
        files = {
            path.relative_to(bundle.folder).as_posix()
            for path in bundle.folder.rglob("*")
            if path.is_file()
        }
        assert files == {*bundle.manifest.files, "manifest.json"}
        assert len([name for name in files if name.endswith("trunk.safetensors")]) == trunks
        for name, file in bundle.manifest.files.items():
            assert (bundle.folder / name).stat().st_size == file.bytes


# One bundle for what follows


@pytest.fixture(scope="module")
def done(world: World) -> tuple[Experiment, Run]:
    return world.done()


@pytest.fixture(scope="module")
def made(done: tuple[Experiment, Run], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundled(done, tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def copied(made: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to be spoiled, in a working directory where only it and a table are."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made.folder, tmp_path / "bundle")
    write_table(tmp_path / "table.csv", ["id", "item", "text"], rows())
    return tmp_path / "bundle"


def rows() -> list[list[object]]:
    """Responses to all items in turn, some of them twice."""
    return [[f"r{i}", NAMES[i % 4], answers(i % 4, "test", 5)[i % 5][0]] for i in range(24)]


def score(*arguments: str) -> list[dict[str, str]]:
    """The rows that `gwsmm score bundle table.csv …` writes to the terminal."""
    ended = gwsmm("score", "bundle", "table.csv", *arguments)
    assert ended.code == 0, ended.err
    return list(csv.DictReader(io.StringIO(ended.out)))


def test_the_order_of_the_rows_and_the_batches_do_not_matter(done, made):
    names, texts, _ = recorded_responses(done[1])
    plain = scored(made, names, texts)
    for batch in (1, 3, 1000):
        np.testing.assert_allclose(
            scored(made, names, texts, batch), plain, rtol=0, atol=GRAPH_TOLERANCE
        )
    turned = scored(made, names[::-1], texts[::-1])[::-1]
    np.testing.assert_allclose(turned, plain, rtol=0, atol=GRAPH_TOLERANCE)


def test_a_mixed_table_is_scored_as_item_by_item(done, made):
    names, texts, _ = recorded_responses(done[1])
    mixed = scored(made, names, texts)
    for name in NAMES:
        mine = [i for i, each in enumerate(names) if each == name]
        alone = scored(made, [name] * len(mine), [texts[i] for i in mine])
        np.testing.assert_allclose(mixed[mine], alone, rtol=0, atol=GRAPH_TOLERANCE)


def test_an_encoder_runs_once_for_its_group_and_once_for_equal_texts(done, made, monkeypatch):
    seen: list[list[str]] = []
    tokenize = Graph.tokenize

    def counted(self: Graph, texts: list[str]) -> list[list[int]]:
        seen.append(list(texts))
        return tokenize(self, texts)

    monkeypatch.setattr(Graph, "tokenize", counted)
    names, _, _ = recorded_responses(done[1])
    scored(made, names, ["one text"] * (len(names) - 1) + ["another"])
    assert len(seen) == len(GROUPS)
    assert sum(map(len, seen)) == len(GROUPS) + 1


def test_the_same_run_gives_the_same_bytes(done, made, tmp_path):
    again = bundled(done, tmp_path / "again")
    for name in (*again.manifest.files, "manifest.json"):
        assert (again.folder / name).read_bytes() == (made.folder / name).read_bytes(), name


def test_no_file_holds_a_response_or_where_it_was_made(world, made):
    for path in made.folder.rglob("*"):
        if path.is_file() and path.name != "tokenizer.json":  # which holds many words
            content = path.read_bytes()
            assert not [word for word in WORDS if word.encode() in content], path
            assert str(world.root).encode() not in content, path


def test_the_card_says_what_it_is_and_how_well_it_scores(done, made):
    text = (made.folder / "README.md").read_text()
    scores = done[1].results["overall"]["merged"]
    for said in (*NAMES, *LABELS, f"{scores['micro_f1']:.4f}", "gwsmm score", "two teachers"):
        assert said in text
    assert "with random weights" in text
    assert "weights are derived from" not in text
    real = replace(made.manifest.encoder, random=False)
    text = card(read_json(made.folder / "results.json"), made.manifest.items, real, [])
    assert "random" not in text
    assert f"The weights are derived from `{real.model}`" in text
    results = read_json(made.folder / "results.json")
    assert results == json.loads(json.dumps(done[1].results))
    assert read_json(made.folder / "plan.json") == results["plan"]


# Without its graph, a bundle is scored by torch


def test_a_bundle_without_a_graph_is_scored_by_torch(done, made, copied):
    """As those that were written before there were graphs."""
    assert isinstance(made.runner, Graph)
    edit_manifest(lambda content: content["files"].pop(GRAPH))
    (copied / GRAPH).unlink()
    old = open_bundle(copied, "cpu")
    assert isinstance(old.runner, Torch)
    names, texts, recorded = recorded_responses(done[1])
    for bundle in (made, old):
        np.testing.assert_allclose(
            scored(bundle, names, texts), recorded, rtol=0, atol=GRAPH_TOLERANCE
        )
    assert len(score()) == len(rows())


@pytest.mark.parametrize(
    ("what", "device"),
    [
        ("fails", "cpu"),
        ("deviates", "cpu"),
        ("cannot be loaded", "cpu"),
        ("cannot be run", "cpu"),
        ("deviates", "cpu:0"),  # as on a GPU: torch scores there, and the graph elsewhere
    ],
)
def test_an_encoder_without_a_right_graph_is_bundled_without_one(
    done, made, tmp_path, monkeypatch, caplog, what, device
):
    def wrong(encoder: Encoder, path: Path) -> str | None:
        if what == "fails":
            return "no such operator"
        if what == "cannot be loaded":
            path.write_bytes(b"no graph")
            return None
        if what == "cannot be run":
            return write(encoder, path)
        other = replace(encoder, pooling="cls" if encoder.pooling == "mean" else "mean")
        return write(other, path)

    write = tracing.write_graph
    monkeypatch.setattr(tracing, "write_graph", wrong)
    if what == "cannot be run":
        monkeypatch.setattr(InferenceSession, "run", fails)
    bundle = bundled(done, tmp_path / "bundle", device)
    assert isinstance(bundle.runner, Torch)
    assert not (bundle.folder / GRAPH).exists()
    (line,) = [
        record.getMessage() for record in caplog.records if record.name.startswith("gwsmm.b")
    ]
    says = {"fails": "no such operator", "deviates": "deviates by"}
    assert says.get(what, "graph fails (encoder/graph.onnx: ") in line
    assert "torch will score" in line
    files = set(made.manifest.files) - {GRAPH}
    assert MANIFEST not in bundle.manifest.files
    assert {name: bundle.manifest.files[name] for name in files} == {
        name: made.manifest.files[name] for name in files
    }


def fails(*_: object) -> None:
    raise Fail("no kernel")


@pytest.mark.parametrize("error", [Fail, MemoryError, RuntimeError])
def test_what_memory_does_not_hold_is_told_in_one_line(copied, monkeypatch, error):
    def run(*_: object) -> None:
        raise error("Failed to allocate memory for requested buffer of size 271349504")

    monkeypatch.setattr(InferenceSession, "run", run)
    ended = gwsmm("score", "bundle", "table.csv")
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert "not enough memory" in line
    assert "lower --batch-size" in line


# The command


def test_rows_come_back_in_their_order_with_their_other_columns(copied):
    found = score("--probabilities")
    assert list(found[0]) == ["id", "item", *LABELS, *(f"{each} probability" for each in LABELS)]
    assert [[row["id"], row["item"]] for row in found] == [row[:2] for row in rows()]
    for row in found:
        for label in LABELS:
            assert row[label] == str(int(float(row[f"{label} probability"]) > 0.5))
    assert [{k: row[k] for k in ("id", "item", *LABELS)} for row in found] == score()


@pytest.mark.parametrize("ending", ["tsv", "jsonl", "parquet"])
def test_every_kind_of_table_is_read_and_both_are_written(copied, ending):
    expected = score("--probabilities")
    frame = pd.read_csv("table.csv").rename(columns={"item": "question", "text": "answer"})
    table, named = f"other.{ending}", ("--item", "question", "--text", "answer")
    if ending == "parquet":
        frame.to_parquet(table)
    elif ending == "jsonl":
        frame.to_json(table, orient="records", lines=True)
    else:
        frame.to_csv(table, sep="\t", index=False)
    for out in ("out.csv", "out.parquet"):
        ended = gwsmm("score", "bundle", table, *named, "--probabilities", "--out", out)
        assert (ended.code, ended.out, ended.err) == (0, "", "")
    written, kept = pd.read_csv("out.csv"), pd.read_parquet("out.parquet")
    assert list(kept.columns) == list(written.columns)
    assert list(kept["question"]) == [row["item"] for row in expected]
    for label in LABELS:
        assert list(kept[label]) == [int(row[label]) for row in expected]
        values = [np.float32(row[f"{label} probability"]) for row in expected]
        np.testing.assert_array_equal(kept[f"{label} probability"].to_numpy(), values)
        np.testing.assert_array_equal(written[f"{label} probability"].astype("f4"), values)
    assert not list(Path().glob(".*"))


@pytest.mark.parametrize("delimiter", [";", "\t", "é"])
def test_fields_are_told_apart_as_the_options_say(copied, delimiter):
    table = [("item", "text"), ("apples", '"said" one, "said'), ("boats", "5\" and '")]
    Path("own.csv").write_text("".join(f"{delimiter.join(row)}\n" for row in table))
    found = gwsmm("score", "bundle", "own.csv", "--delimiter", delimiter, "--no-quoting")
    frame = pd.DataFrame(table[1:], columns=table[0])
    frame.to_csv("usual.csv", index=False)
    usual = gwsmm("score", "bundle", "usual.csv")
    assert (found.code, found.err, found.out) == (0, "", usual.out)


def test_a_table_told_apart_otherwise_is_refused_with_the_option(copied):
    Path("own.csv").write_text("item;text\napples;x\n")
    refused("score", "bundle", "own.csv", says="separated by ';'.* gwsmm score --delimiter$")
    Path("own.csv").write_text('item,text\napples,"x" y\n')
    refused("score", "bundle", "own.csv", says="a quote opens here.* gwsmm score --no-quoting$")


@pytest.mark.parametrize("meta", [{}, [{}], {"a": [{}]}], ids=str)
def test_objects_without_a_field_are_text_in_parquet(copied, meta):
    table = [{"item": item, "text": text, "meta": meta} for _, item, text in rows()[:2]]
    Path("two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    ended = gwsmm("score", "bundle", "two.jsonl", "--out", "out.parquet")
    assert (ended.code, ended.err) == (0, "")
    assert list(pd.read_parquet("out.parquet")["meta"]) == [str(meta)] * 2


def edit_manifest(change: Callable[[dict], None]) -> None:
    path = Path("bundle/manifest.json")
    content = read_json(path)
    change(content)
    path.write_text(json.dumps(content))


def test_an_ordinal_item_gets_a_score_and_other_labels_stay_empty(copied):
    plain = score("--probabilities")

    def ordinal(content: dict) -> None:
        content["items"][0]["kind"] = "ordinal"
        for label, name in zip(
            content["items"][0]["labels"], ("score>=1", "score>=2"), strict=True
        ):
            label["name"] = name

    edit_manifest(ordinal)
    steps = ["score>=1 probability", "score>=2 probability"]
    found = score("--probabilities")
    assert {*LABELS, "score", *steps} < set(found[0])
    for row, before in zip(found, plain, strict=True):
        if row["item"] == NAMES[0]:
            assert int(row["score"]) == int(before["E1"]) + int(before["E2"])
            assert [row[step] for step in steps] == [before[f"{e} probability"] for e in LABELS]
            assert row["E1"] == row["E1 probability"] == ""
        else:
            assert [row[label] for label in LABELS] == [before[label] for label in LABELS]
            assert row["score"] == row[steps[0]] == ""


def test_a_label_has_a_threshold_of_its_own(copied):
    def never(content: dict) -> None:
        for item in content["items"]:
            item["thresholds"] = [1.0, 0.0]

    edit_manifest(never)
    assert {(row["E1"], row["E2"]) for row in score()} == {("0", "1")}


def test_a_column_with_the_name_of_a_label_is_replaced_and_that_is_said(copied):
    plain = score()
    write_table(Path("table.csv"), ["E1", "item", "text"], [["x", *row[1:]] for row in rows()])
    ended = gwsmm("score", "bundle", "table.csv")
    assert ended.err == "gwsmm: table.csv: its own E1 is replaced by what is scored\n"
    found = list(csv.DictReader(io.StringIO(ended.out)))
    assert [row["E1"] for row in found] == [row["E1"] for row in plain]


def test_a_kept_text_that_no_file_can_hold_is_refused(copied):
    kept = ["plain", "\ud800"]
    lines = [json.dumps({"item": NAMES[0], "text": "a", "note": note}) for note in kept]
    Path("table.jsonl").write_text("\n".join(lines))
    for out in ([], ["--out", "out.csv"], ["--out", "out.parquet"]):
        ended = gwsmm("score", "bundle", "table.jsonl", *out)
        assert (ended.code, ended.out) == (2, "")
        where = "table.jsonl line 2, column 'note'"
        assert ended.err.startswith(f"gwsmm: {where} holds half of a surrogate pair: ")
        assert ended.err.count("\n") == 1
    lines = [json.dumps({"item": NAMES[0], "text": "a", "note": [note]}) for note in kept]
    Path("table.jsonl").write_text("\n".join(lines))
    for out in ("out.csv", "out.parquet"):
        assert gwsmm("score", "bundle", "table.jsonl", "--out", out).code == 0


def test_scores_are_utf8_wherever_they_are_written_and_nobody_need_read_them(copied):
    write_table(Path("table.csv"), ["item", "text", "id"], [[NAMES[0], "x", "é"]] * 5000)
    command = [COMMAND, "score", "bundle", "table.csv"]
    ascii_only = dict(os.environ, PYTHONIOENCODING="ascii")
    ended = subprocess.run(command, env=ascii_only, check=True, capture_output=True)
    assert ended.stdout.decode("utf-8").splitlines()[-1].startswith(f"{NAMES[0]},é,")
    helped = subprocess.run([COMMAND, "--help"], env=ascii_only, check=True, capture_output=True)
    assert rb"[OPTION=VALUE \u2026]" in helped.stdout

    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_a_run_is_bundled_by_its_folder_and_scored_elsewhere(world, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    ended = gwsmm("run", *world.where, *world.plan, f"hydra.run.dir={folder}")
    assert ended.code == 0, ended.err
    ended = gwsmm("bundle", str(folder), str(tmp_path / "first"))
    assert ended.code == 0, ended.err
    assert float(re.search(r"at most (\S+)\.\n", ended.out)[1]) <= GRAPH_TOLERANCE
    moved = Path(shutil.move(tmp_path / "first", tmp_path / "second"))

    said = pd.read_parquet(folder / "predictions.parquet")
    said = said[said["model"] == "merged"].set_index(["item", "response", "label"])
    monkeypatch.chdir(tmp_path)
    table = []
    for name in NAMES:
        with (world.root / "data" / f"{name}_test.csv").open() as file:
            table += [[i, name, row["response"]] for i, row in enumerate(csv.DictReader(file))]
    write_table(tmp_path / "table.csv", ["response", "item", "text"], table)
    assert gwsmm("score", str(moved), "table.csv", "--probabilities", "--out", "o.csv").code == 0
    found = pd.read_csv("o.csv").set_index(["item", "response"])
    for label in LABELS:
        recorded = said.xs(label, level="label").loc[found.index]
        assert list(found[label]) == list(recorded["decision"])
        np.testing.assert_allclose(
            found[f"{label} probability"], recorded["probability"], rtol=0, atol=GRAPH_TOLERANCE
        )

    changed = read_json(folder / "results.json") | {"seed": 7}
    (folder / "results.json").write_text(json.dumps(changed))
    says = "results.json is not what .*config.yaml gives now"
    refused("bundle", "run", "other", says=says, warns=True)
    assert not Path("other").exists()


def test_scoring_loads_no_library_that_it_does_not_need(copied):
    code = (
        "import sys; from gwsmm.cli.main import main\n"
        "main(['score', 'bundle', 'table.csv'])\n"
        "heavy = {'hydra', 'omegaconf', 'pandas', 'sklearn', 'pyarrow', 'wandb', 'matplotlib',\n"
        "         'pytorch_lightning', 'torchmetrics', 'torch', 'transformers', 'scipy', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# What cannot be used


def refused(*arguments: str, says: str, warns: bool = False) -> None:
    """The command ends with 2 and one line that holds this, and leaves nothing.

    Only where `warns`, warnings of what it found until then stand before.
    """
    before = set(Path().rglob("*"))
    ended = gwsmm(*arguments)
    assert (ended.code, ended.out) == (2, ""), ended
    *warned, line = ended.err.splitlines()
    assert bool(warned) == warns
    assert all(each.startswith("WARNING: ") for each in warned)
    assert line.startswith("gwsmm: ")
    assert pd.Series([line]).str.contains(says, regex=True).all(), line
    assert len(line) < 600
    assert set(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("header", "row", "says"),
    [
        ("item,text", "aples,x", r"table\.csv line 3, column 'item': .*no item 'aples'.*'apples'"),
        ("item,text", "qqq,x", r"no item 'qqq'; its items are 'apples', 'boats'"),
        ("item,text", ",x", r"line 3, column 'item' names no item"),
        ("item,text", "apples,", r"line 3, column 'text': the response is empty"),
        ("item,text", "apples,  ", r"line 3, column 'text': the response is empty"),
        ("itme,text", "apples,x", r"no column 'item' \(did you mean 'itme'\?\): set --item"),
        ("item,response", "apples,x", r"no column 'text'.*set --text to one of 'item', 'response'"),
        ("item,text", "apples,x,y", r"line 3 has 3 fields"),
    ],
)
def test_a_table_that_cannot_be_scored_is_refused_in_one_line(copied, header, row, says):
    Path("table.csv").write_text(f"{header}\napples,a text\n{row}\n")
    refused("score", "bundle", "table.csv", says=says)


def test_the_items_are_named_to_who_names_none_of_them_and_a_response_is_not_said_again(copied):
    name = "the_" + 56 * "x"  # longer than what is shown of a cell

    def rename(manifest: dict) -> None:
        manifest["items"][1]["name"] = name

    edit_manifest(rename)
    Path("table.csv").write_text(f"item,text\n{'said by a student ' * 3},x\n")
    refused("score", "bundle", "table.csv", says=rf"no item \(a long name\); .*'apples', '{name}'")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["score", "nowhere", "table.csv"], "nowhere is no bundle: it holds no manifest.json"),
        (["score", "bundle", "nowhere.csv"], r"nowhere\.csv does not exist"),
        (["score", "bundle", "bundle/README.md"], r"README\.md is no table"),
        (["score", "bundle"], "required: table; see gwsmm score --help"),
        (["score", "bundle", "table.csv", "--probs"], "unrecognized arguments: --probs"),
        (["score", "bundle", "table.csv", "--batch-size", "0"], "'0' is no whole number above 0"),
        (["score", "bundle", "table.csv", "--delimiter", "::"], "'::' is no single character"),
        (["score", "bundle", "table.csv", "--delimiter", '"'], """'"' is no single character"""),
        (["score", "bundle", "table.csv", "--out", "x.xlsx"], r"end in one of \.csv, \.parquet"),
        (["score", "bundle", "table.csv", "--out", "no/x.csv"], "there is no folder no"),
        (["score", "bundle", "table.csv", "--out", "table.csv"], "this is the table itself"),
        (["bundle", "nowhere", "out"], r"nowhere/results\.json cannot be read: give the folder"),
        (["bundle", "bundle", "out"], r"config\.yaml cannot be read"),
        (["bundle", "bundle", "table.csv"], r"table\.csv exists already: give another"),
        (["bundle", "bundle"], "required: out"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(copied, arguments, says):
    refused(*arguments, says=says)


def cut(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def flip(path: str) -> None:
    content = bytearray(Path(path).read_bytes())
    content[-1] ^= 1
    Path(path).write_bytes(bytes(content))


def codec(strategy: str) -> Callable[[dict], None]:
    return lambda content: content.update(codec={"strategy": strategy, "settings": {}})


def leaves(path: str) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        content["files"][path] = content["files"].pop(TRUNK)
        content["items"][0]["trunk"]["shared"] = [path]

    return change


def forge(path: str, content: str) -> None:
    """Write another file, and its checksum."""
    Path("bundle", path).write_text(content)
    about = {"bytes": len(content), "sha256": sha256(content.encode()).hexdigest()}
    edit_manifest(lambda manifest: manifest["files"][path].update(about))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda: flip(f"bundle/{TRUNK}"),
            "groups/1/trunk.*is missing or damaged",
        ),
        (lambda: cut("bundle/items/apples/head.safetensors"), "head.*is missing or damaged"),
        (lambda: Path("bundle/encoder/config.json").unlink(), "config.json is missing or damaged"),
        (lambda: flip("bundle/encoder/tokenizer.json"), "tokenizer.json is missing or damaged"),
        (lambda: cut("bundle/manifest.json"), "manifest.json is damaged, it is no JSON"),
        (lambda: Path("bundle/manifest.json").unlink(), "bundle is no bundle: it holds no"),
        (lambda: Path("bundle/manifest.json").write_text("[]"), "is no bundle: its manifest.json"),
        (lambda: edit_manifest(lambda m: m.update(format=2)), "of format 2 .* reads format 1"),
        (lambda: edit_manifest(lambda m: m.pop("files")), r"damaged: files: .*required"),
        (
            lambda: edit_manifest(lambda m: m["files"].pop(TRUNK)),
            "trunk.* of item .* has no checksum",
        ),
        (lambda: edit_manifest(leaves("../trunk.safetensors")), r"\.\./trunk.* leaves the bundle"),
        (lambda: edit_manifest(leaves("/etc/passwd")), "/etc/passwd leaves the bundle"),
        (lambda: edit_manifest(codec("os.system")), "os.system is no strategy of gwsmm.private"),
        (lambda: edit_manifest(codec("gwsmm.private.no.No")), "there is no gwsmm.private.no.No"),
        (lambda: edit_manifest(codec("gwsmm.private.svd.factors")), "decodes no private parts"),
        (lambda: edit_manifest(codec("gwsmm.private.svd.Svd")), "rank.*Field required"),
        (
            lambda: edit_manifest(lambda m: m["items"][0].update(head=TRUNK)),
            "do not fit together",
        ),
        (lambda: forge("encoder/tokenizer.json", "{}"), "do not fit together"),
        (lambda: forge("encoder/tokenizer.json", "no"), "do not fit together"),
        (lambda: forge("encoder/tokenizer_config.json", "[]"), "do not fit together"),
        (lambda: forge("encoder/tokenizer_config.json", "[" * 20_000), "do not fit together"),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused_in_one_line(copied, spoil, says):
    spoil()
    refused("score", "bundle", "table.csv", "--out", "out.csv", says=says)


def test_a_link_out_of_the_bundle_is_refused(copied):
    head = Path("bundle/items/apples/head.safetensors")
    shutil.move(head, "head.safetensors")
    head.symlink_to(Path("head.safetensors").resolve())
    refused("score", "bundle", "table.csv", says="leaves the bundle")


def test_a_folder_that_is_there_is_never_written_to(done, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        bundled(done, tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize("what", ["check", "card", "stop"])
def test_a_failure_leaves_nothing(done, tmp_path, monkeypatch, what):
    def fail(*_: object) -> str:
        raise KeyboardInterrupt if what == "stop" else RuntimeError("no more")

    if what == "check":
        for name in ("TOLERANCE", "GRAPH_TOLERANCE"):
            monkeypatch.setattr(sealing, name, -1.0)
    else:
        monkeypatch.setattr(sealing, "card", fail)
    with pytest.raises((InputError, RuntimeError, KeyboardInterrupt)):
        bundled(done, tmp_path / "new" / "bundle")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list((tmp_path / "new").iterdir())


def test_a_bundle_that_would_score_otherwise_is_not_written(done, tmp_path):
    """The evaluation of one item and the head of another do not fit."""
    experiment, found = done
    first, second, *others = found.outcomes
    swapped = replace(first, after=replace(first.after, head=second.after.head))
    with pytest.raises(InputError, match="was not written, as its probabilities differ"):
        bundled((experiment, replace(found, outcomes=[swapped, second, *others])), tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_opened_without_its_weights(made):
    assert open_bundle(made.folder, "cpu").manifest == made.manifest

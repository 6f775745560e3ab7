"""The whole experiment on something tiny, as a user meets it."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from little import (
    COMMAND,
    HALVES,
    MODELS,
    NAMES,
    TINY,
    TWO,
    WORDS,
    answers,
    counts,
    documented,
    gwsmm,
    paths,
    read_json,
    write_items,
    write_table,
)
from matplotlib.image import imread
from sklearn.metrics import accuracy_score, f1_score

from gwsmm.logbook import standing
from gwsmm.report.evidence import PREDICTION

METRICS = ("micro_f1", "macro_f1", "exact_match", "label_accuracy")
FILES = {
    "config.yaml", "results.json", "predictions.parquet", "distances.csv", "pairs.csv",
    "halves.csv", "heatmap.png", "items.png", "plan.json", "diagnosis.json", "report.md",
    "report.html", "tables", "keys.json", "run.json", "run.log",
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """One folder of items, and one store for all the runs of this file."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def store(self) -> Path:
        return self.root / "store"

    def run(self, name: str, *overrides: str, data: Path | None = None) -> Path:
        """The folder of a run that ends well."""
        folder = self.root / "runs" / name
        if not any(each.startswith("grouping") for each in overrides):
            overrides = (TWO, *overrides)
        ended = gwsmm("run", *TINY, HALVES, *self.where(folder, data), *overrides)
        assert ended.code == 0, ended.err
        return folder

    def where(self, folder: Path, data: Path | None = None) -> list[str]:
        """Overrides that keep everything in this world."""
        items = ["items=pasta", f"items.path={data or self.data}"]
        return [*items, f"store={self.store}", f"hydra.run.dir={folder}"]

    def copy(self, name: str) -> Path:
        """The items once more, to be changed."""
        return Path(shutil.copytree(self.data, self.root / name))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    write_items(made.data)
    return made


@pytest.fixture(scope="module")
def first(world: World) -> Path:
    """The run that finds an empty store."""
    return world.run("first")


@pytest.fixture(scope="module")
def sizes(world: World, first: Path) -> dict[str, int]:
    """The size of every file that the first run kept, as it was then."""
    files = list(world.store.rglob("*.safetensors"))
    return {path.relative_to(world.store).as_posix(): path.stat().st_size for path in files}


# What comes out


def test_every_file_is_there_and_can_be_read(first):
    assert {path.name for path in first.iterdir()} == FILES
    assert imread(first / "heatmap.png").ndim == imread(first / "items.png").ndim == 3
    assert yaml.safe_load((first / "config.yaml").read_text())["grouping"]["encoders"] == 2
    assert "finished in" in (first / "run.log").read_text()
    assert read_json(first / "run.json")["overrides"][0] == TINY[0]
    plan, results = read_json(first / "plan.json"), read_json(first / "results.json")
    assert plan == results["plan"]
    assert sorted(name for group in plan["groups"] for name in group) == sorted(NAMES)
    assert len(plan["groups"]) == 2


def test_distances_are_a_symmetric_table_of_all_items(first):
    table = pd.read_csv(first / "distances.csv", index_col=0)
    assert table.index.name == read_json(first / "results.json")["distances"]["quantity"]
    assert list(table.index) == list(table.columns) == list(NAMES)
    values = table.to_numpy()
    np.testing.assert_array_equal(values, values.T)
    np.testing.assert_array_equal(np.diagonal(values), 0)
    assert (values[~np.eye(len(values), dtype=bool)] > 0).all()


def test_results_hold_what_the_documentation_says(first):
    found = read_json(first / "results.json")
    found["items"][0]["notes"].append("a note")  # there are none in this run
    assert set(paths(found)) == documented("results.json")
    assert found["schema"] == 1
    assert set(paths(read_json(first / "plan.json"))) == documented("plan.json")
    seen = read_json(first / "diagnosis.json")
    seen[0]["warnings"].append("a warning")
    keys = {re.sub(r"ranks\..*\[", "ranks.<tensor>[", path) for path in paths(seen)}
    assert keys == documented("diagnosis.json")
    assert set(paths(read_json(first / "run.json"))) == documented("run.json")
    used = read_json(first / "keys.json")
    assert set(used["items"]) == set(NAMES)
    assert {stage: len(keys) for stage, keys in used["stages"].items()} == {
        stage: computed for stage, (computed, _) in counts(first).items()
    }
    columns = pd.read_parquet(first / "predictions.parquet").columns
    assert set(columns) == documented("predictions.parquet")


def test_predictions_have_one_row_per_response_label_and_model(world, first):
    frame = pd.read_parquet(first / "predictions.parquet")
    key = ["item", "response", "label", "model"]
    assert not frame.duplicated(key).any()
    assert len(frame) == len(NAMES) * 12 * 2 * len(MODELS)
    for name in NAMES:
        given = pd.read_csv(world.data / f"{name}_test.csv")[["E1", "E2"]].to_numpy()
        for model in MODELS:
            part = frame[(frame["item"] == name) & (frame["model"] == model)]
            truth = part.pivot(index="response", columns="label", values="truth")
            np.testing.assert_array_equal(truth, given)
            np.testing.assert_array_equal(part["decision"], part["probability"] > 0.5)
            assert part[["score_truth", "score_decision"]].isna().all(axis=None)


def test_the_majority_knows_only_how_often_a_label_is_given_in_training(world, first):
    frame = pd.read_parquet(first / "predictions.parquet")
    said = frame[frame["model"] == "majority"].groupby(["item", "label"])["probability"]
    assert (said.nunique() == 1).all()
    for name in NAMES:
        shares = pd.read_csv(world.data / f"{name}_train.csv")[["E1", "E2"]].mean()
        # validation is a tenth of these responses and not counted
        np.testing.assert_allclose(said.first()[name], shares, atol=0.1)


def recomputed(frame: pd.DataFrame) -> dict[str, float]:
    """The metrics of one item and model, by scikit-learn."""
    truth, decision = (
        frame.pivot(index="response", columns="label", values=column).to_numpy()
        for column in ("truth", "decision")
    )
    return {
        "micro_f1": f1_score(truth, decision, average="micro", zero_division=0),
        "macro_f1": f1_score(truth, decision, average="macro", zero_division=0),
        "exact_match": accuracy_score(truth, decision),
        "label_accuracy": float((truth == decision).mean()),
        "responses": len(truth),
    }


def check_scores(folder: Path) -> None:
    """Every score in results.json follows from predictions.parquet."""
    results, frame = (
        read_json(folder / "results.json"),
        pd.read_parquet(folder / "predictions.parquet"),
    )
    scores = {key: recomputed(part) for key, part in frame.groupby(["item", "model"])}
    for item in results["items"]:
        for model in MODELS:
            assert item["scores"][model] == pytest.approx(scores[item["name"], model], abs=1e-6)
    names = [item["name"] for item in results["items"]]
    shared = [name for group in results["plan"]["groups"] for name in group if len(group) > 1]
    for key, those in (("overall", names), ("merged_only", shared)):
        for model in MODELS if those else ():
            part = [scores[name, model] for name in those]
            n = [each["responses"] for each in part]
            mean = {m: np.average([each[m] for each in part], weights=n) for m in METRICS}
            mean["responses"] = sum(n)
            assert results[key][model] == pytest.approx(mean, abs=1e-6)


def test_every_score_follows_from_the_predictions(first):
    check_scores(first)


def test_scores_are_weighted_by_the_responses_of_unequal_items(world):
    data = world.copy("unequal")
    path = data / f"{NAMES[0]}_test.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    folder = world.run("unequal", data=data)
    results = read_json(folder / "results.json")
    assert {item["test"] for item in results["items"]} == {3, 12}
    check_scores(folder)


def test_bytes_are_those_of_the_files(world, first, sizes):
    results = read_json(first / "results.json")
    of = lambda pattern: [size for name, size in sizes.items() if re.fullmatch(pattern, name)]  # noqa: E731
    models = of("finetune/.*/(trunk|pooler|head).safetensors")
    assert len(models) == len(NAMES) * 3
    (pooler,), (head,) = (set(of(f"finetune/.*/{part}.safetensors")) for part in ("pooler", "head"))
    trunks = of("merge/.*/trunk.safetensors")
    assert not of("merge/.*/pooler.safetensors")  # it is private
    alone = sum(len(group) == 1 for group in results["plan"]["groups"])
    shared = len(NAMES) - alone
    assert len(trunks) == len(results["plan"]["groups"]) - alone
    assert len(of("heads/.*/head.safetensors")) == shared
    after = sum(trunks) + shared * (pooler + head) + alone * sum(models) // len(NAMES)
    assert results["storage"] == {
        "encoders_before": len(NAMES),
        "encoders_after": 2,
        "passes_before": len(NAMES),
        "passes_after": 2,
        "bytes_before": sum(models),
        "bytes_after": after,
        "factor": sum(models) / after,
    }


def test_the_three_tables_say_the_same(first):
    results = read_json(first / "results.json")
    table = pd.read_csv(first / "tables" / "performance.csv")
    overall = table[table["scope"] == "all items"].set_index("model")
    assert list(overall.index) == list(MODELS)
    for model in MODELS:
        shown = overall.loc[model, ["micro F1", "macro F1", "exact match", "label accuracy"]]
        assert list(shown) == [results["overall"][model][metric] for metric in METRICS]
    kept = results["overall"]["merged"]["micro_f1"] / results["overall"]["individual"]["micro_f1"]
    assert overall.loc["merged", "micro F1 kept"] == pytest.approx(kept)
    assert list(overall["encoders"]) == [0, 4, 2]

    text = (first / "tables" / "performance.md").read_text()
    rows = [re.findall(r"[^|]+", line) for line in text.splitlines() if line.startswith("|")]
    shown = [[cell.strip() for cell in row] for row in rows]
    tex = [
        [cell.strip().replace(r"\%", "%") for cell in line.removesuffix(r"\\").split("&")]
        for line in (first / "tables" / "performance.tex").read_text().splitlines()
        if "&" in line
    ]
    assert tex == [row for row in shown[: len(tex) + 1] if not row[0].startswith(("-", ":"))]
    columns = [name for name in table.columns if not name.endswith((" low", " high"))]
    assert tex[0] == columns
    for row, values in zip(tex[1:], table.to_dict("records"), strict=True):
        for name, cell in zip(columns, row, strict=True):
            value = values[name]
            if isinstance(value, str):
                assert cell == value
            elif np.isnan(value):
                assert cell == "–"
            else:
                figures = re.findall(r"-?[\d.]+", cell)
                scale = 100 if "%" in cell else 1
                assert float(figures[0]) / scale == pytest.approx(
                    value, abs=0.05 if name == "MB" else 6e-4
                )
                ends = [values.get(f"{name} {end}", np.nan) for end in ("low", "high")]
                if not np.isnan(ends).any():
                    shown_ends = [float(each) / scale for each in figures[1:]]
                    assert shown_ends == pytest.approx(ends, abs=6e-4)


def test_the_summary_shows_the_table_the_plan_and_where_the_files_are(world, first):
    folder = world.root / "runs" / "shown"
    ended = gwsmm("run", *TINY, TWO, HALVES, *world.where(folder))
    results = read_json(first / "results.json")
    assert f"{results['overall']['merged']['micro_f1']:.4f}" in ended.out
    for group in results["plan"]["groups"]:
        assert "{" + ", ".join(group) + "}" in ended.out
    assert f"Files: {folder}" in ended.out
    assert "Next:" in ended.out


def test_a_run_whose_output_nobody_reads_has_finished(world, first):
    folder = world.root / "runs" / "unread"
    command = [COMMAND, "run", *TINY, TWO, HALVES, *world.where(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1
    assert all(line.startswith(b"WARNING: ") for line in said.splitlines())
    assert {path.name for path in folder.iterdir()} == FILES
    assert "failed" not in (folder / "run.log").read_text()
    assert standing(folder).state == "finished"


def test_nothing_but_tensors_and_json_is_kept(world, first):
    kept = {path.suffix for path in world.store.rglob("*") if path.is_file()}
    assert kept == {".safetensors", ".json", ".jsonl", ".lock"}


# What is computed again, and what is not


def test_the_second_run_computes_nothing_and_gives_the_same_bytes(world, first):
    second = world.run("second")
    before = counts(first)
    assert list(before) == [
        "finetune", "features", "distances", "stability", "diagnosis", "merge", "heads", "evaluate"
    ]  # fmt: skip
    assert all(reused == 0 for _, reused in before.values())
    assert counts(second) == {stage: (0, n) for stage, (n, _) in before.items()}
    for name in (
        "results.json",
        "predictions.parquet",
        "plan.json",
        "distances.csv",
        "tables/items.tex",
    ):
        assert (second / name).read_bytes() == (first / name).read_bytes()


@pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(), reason="torch says what the GPU can do"
)
def test_a_run_that_finds_everything_loads_no_torch(world, first):
    again = ["run", *TINY, HALVES, TWO, *world.where(world.root / "runs" / "light")]
    code = (
        "import pathlib, sys; from gwsmm import recipe; from gwsmm.cli.main import main; "
        "recipe._DEV = pathlib.Path('nowhere'); "  # a driver may be here for which torch is not
        f"main({again!r}); assert not {{'torch', 'transformers'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_another_number_of_encoders_redoes_only_the_plan_and_what_follows(world, first):
    third = world.run("three", "grouping.encoders=3")
    found = counts(third)
    for stage in ("finetune", "features", "distances"):
        assert found[stage][0] == 0
        assert found[stage][1] > 0
    results = read_json(third / "results.json")
    assert results["storage"]["encoders_after"] == len(results["plan"]["groups"]) == 3


def test_without_merging_every_item_scores_as_before(world, first):
    folder = world.run("none", "grouping=none")
    results = read_json(folder / "results.json")
    assert results["plan"]["groups"] == [[name] for name in NAMES]
    assert results["merged_only"] is None
    assert results["overall"]["merged"] == results["overall"]["individual"]
    assert results["storage"]["bytes_after"] == results["storage"]["bytes_before"]
    assert results["storage"]["factor"] == 1
    frame = pd.read_parquet(folder / "predictions.parquet").set_index("model")
    np.testing.assert_array_equal(
        frame.loc["merged", "probability"], frame.loc["individual", "probability"]
    )
    assert counts(folder)["merge"] == counts(folder)["heads"] == (0, 0)


def test_all_items_can_share_one_encoder(world, first):
    results = read_json(world.run("all", "grouping=all") / "results.json")
    assert results["plan"]["groups"] == [list(NAMES)]
    assert results["storage"]["encoders_after"] == 1
    assert results["merged_only"] == results["overall"]
    assert results["storage"]["factor"] > 2


@pytest.mark.parametrize("numbers", ["float16", "bfloat16"])
def test_encoders_can_be_kept_in_half_the_bytes(world, first, numbers):
    folder = world.run(numbers, f"numbers={numbers}")
    full, half = (read_json(each / "results.json") for each in (first, folder))
    for when in ("before", "after"):
        ratio = half["storage"][f"bytes_{when}"] / full["storage"][f"bytes_{when}"]
        assert ratio == pytest.approx(0.5, abs=0.08)  # the names of tensors are not halved
    assert half["plan"] == full["plan"]
    assert counts(folder)["merge"][0] == counts(folder)["finetune"][0] == 0
    one, other = (pd.read_parquet(each / "predictions.parquet") for each in (first, folder))
    np.testing.assert_allclose(one["probability"], other["probability"], atol=0.05)
    changed = one["probability"] != other["probability"]
    assert changed[one["model"] == "individual"].mean() > 0.5
    assert changed[one["model"] == "merged"].mean() > 0.5


def test_what_the_diagnosis_warns_of_is_logged_whether_computed_or_reused(
    world, first, monkeypatch
):
    monkeypatch.setattr("gwsmm.merge.diagnosis.LARGEST_RATIO", 0.5)
    for name in ("warned", "warned again"):
        folder = world.run(name, "merge.base=group_mean", "execute=serial")
        warnings = [
            line for group in read_json(folder / "diagnosis.json") for line in group["warnings"]
        ]
        assert warnings
        assert "times as far as" in warnings[0]
        assert all(line in (folder / "run.log").read_text() for line in warnings)
    assert counts(folder)["diagnosis"][0] == 0


def test_controls_are_scored_as_a_plan_of_them_would_be(world, first):
    folder = world.run("controls", "evidence=pairs", "grouping.encoders=3")
    controls = read_json(folder / "controls.json")
    table = pd.read_parquet(folder / "attempts.parquet")
    assert set(paths(controls)) == documented("controls.json")
    assert set(table.columns) == documented("attempts.parquet")
    assert controls["all_plans"]
    assert len(controls["groups"]) == len(controls["plans"]) == 6  # pairs of four items
    results = read_json(folder / "results.json")
    (merged,) = [group for group in results["plan"]["groups"] if len(group) > 1]
    tested = table[table["split"] == "test"].set_index(["group", "item"])["micro_f1"]
    own = {item["name"]: item["scores"] for item in results["items"]}
    for name in NAMES:
        assert tested[-1, name] == own[name]["individual"]["micro_f1"]
    for name in merged:
        assert tested[controls["groups"].index(merged), name] == own[name]["merged"]["micro_f1"]
    assert (table.loc[table["group"] == -1, ["drift", "drift_cka"]] == 0).all(axis=None)
    assert (table.loc[table["group"] >= 0, "drift_cka"] > 0).all()
    kept = world.root / "store" / "evaluate"
    for key, scored in zip(table["evaluation"], table["micro_f1"], strict=True):
        assert read_json(kept / key / "scores.json")["model"]["micro_f1"] == scored
    assert set(table["evaluation"]) <= set(read_json(folder / "keys.json")["stages"]["evaluate"])
    assert "drift" in set(pd.read_csv(folder / "tables" / "prediction.csv")["signal"].str[:5])

    where = ("evidence=pairs", "grouping.encoders=3", "evidence.drift=false")
    without = world.run("controls without drift", *where)
    assert "drift" not in counts(without)
    assert "drift" not in set(pd.read_csv(without / "tables" / "prediction.csv")["signal"].str[:5])
    other = pd.read_parquet(without / "attempts.parquet")
    assert other[["drift", "drift_cka"]].isna().all(axis=None)
    drifts = ["drift", "drift_cka"]
    pd.testing.assert_frame_equal(other.drop(columns=drifts), table.drop(columns=drifts))


def test_what_another_run_tried_in_the_folder_is_no_evidence_of_this_one(world):
    world.run("used", "evidence=pairs", "grouping.encoders=3")
    folder = world.run("used", "grouping.encoders=2")
    assert not {"attempts.parquet", "controls.json"} & {path.name for path in folder.iterdir()}
    assert not {path.stem for path in (folder / "tables").iterdir()} & {"prediction", "standings"}
    assert PREDICTION not in (folder / "report.md").read_text()


def test_the_page_of_a_run_names_the_keys_of_its_distances(first):
    stages = read_json(first / "keys.json")["stages"]
    table = pd.read_csv(first / "tables" / "keys.csv")
    for stage in ("distances", "stability"):
        assert table[stage].tolist() == stages[stage]


def test_a_plan_of_a_run_can_be_given_back(world, first):
    record = f"grouping.record={first / 'plan.json'}"
    again = world.run("given", "grouping=expert", record)
    assert read_json(again / "plan.json") == read_json(first / "plan.json")
    assert all(computed == 0 for computed, _ in counts(again).values())
    assert (again / "results.json").read_bytes() == (first / "results.json").read_bytes()


def changed(world: World, name: str, part: str) -> Path:
    """A copy of the items in which one label of one item is another."""
    data = world.copy(name)
    path = data / f"{NAMES[1]}_{part}.csv"
    head, row, *others = path.read_text().splitlines()
    text, label, other = row.split(",")
    path.write_text("\n".join([head, f"{text},{1 - int(label)},{other}", *others]) + "\n")
    return data


def test_a_changed_label_trains_only_that_item_again(world, first):
    found = counts(world.run("relabelled", data=changed(world, "relabelled", "train")))
    assert found["finetune"] == found["features"] == (1, 3)
    assert found["distances"] == (1, 0)


def test_a_changed_test_row_trains_nothing_again(world, first):
    folder = world.run("retested", data=changed(world, "retested", "test"))
    found, before = counts(folder), counts(first)
    for stage in ("finetune", "features", "distances", "merge", "heads"):
        assert found[stage] == (0, before[stage][0])
    shared = len(read_json(folder / "plan.json")["groups"]) and [
        group for group in read_json(folder / "plan.json")["groups"] if NAMES[1] in group
    ]
    of_item = 1 if len(shared[0]) == 1 else 2  # its own model, and the merged one
    assert found["evaluate"] == (of_item, before["evaluate"][0] - of_item)
    frames = [pd.read_parquet(each / "predictions.parquet") for each in (first, folder)]
    assert (frames[0]["truth"] != frames[1]["truth"]).sum() == len(MODELS)
    np.testing.assert_array_equal(frames[0]["probability"], frames[1]["probability"])


def test_a_model_that_was_damaged_is_noticed_and_trained_again(world, first, tmp_path):
    store = Path(shutil.copytree(world.store, tmp_path / "store"))
    shutil.rmtree(store / "evaluate")
    trunk = _trunk(store, first)
    content = trunk.read_bytes()
    trunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    _is_mended(world, first, store, trunk)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"cut")])
def test_a_model_that_lacks_or_is_cut_is_noticed_even_if_all_else_is_there(
    world, first, tmp_path, spoil
):
    store = Path(shutil.copytree(world.store, tmp_path / "store"))
    trunk = _trunk(store, first)
    spoil(trunk)
    _is_mended(world, first, store, trunk)


def _trunk(store, run):
    """That of one of the models that the run used; other tests train others in the same store."""
    used = read_json(run / "keys.json")["stages"]["finetune"]
    return store / "finetune" / used[0] / "trunk.safetensors"


def _is_mended(world, first, store, spoilt):
    folder = store.parent / "run"
    ended = gwsmm("run", *TINY, TWO, HALVES, *world.where(folder), f"store={store}")
    assert ended.code == 0
    assert ended.err.count("this is not what was written there") == 1
    assert str(spoilt.parent) in ended.err
    assert counts(folder)["finetune"] == (1, 3)
    assert (folder / "results.json").read_bytes() == (first / "results.json").read_bytes()


# Other items


def test_scores_of_ordinal_items_go_through(world):
    path = world.root / "scores.csv"
    rows = [
        (name, text, a + b)
        for item, name in enumerate(NAMES[:3])
        for text, a, b in answers(item, "all", 50)
    ]
    write_table(path, ["question", "answer", "points"], rows)
    columns = ["items.text=answer", "items.item=question", "items.score=points"]
    folder = world.root / "runs" / "ordinal"
    where = [f"items.path={path}", f"store={world.store}", f"hydra.run.dir={folder}"]
    ended = gwsmm("run", *TINY, TWO, "items=table", *columns, *where)
    assert ended.code == 0, ended.err
    results = read_json(folder / "results.json")
    assert [item["kind"] for item in results["items"]] == ["ordinal"] * 3
    assert results["items"][0]["labels"] == ["score>=1", "score>=2"]
    check_scores(folder)
    frame = pd.read_parquet(folder / "predictions.parquet")
    each = frame.groupby(["item", "response", "model"])
    for score, binary in (("score_truth", "truth"), ("score_decision", "decision")):
        assert frame[score].between(0, 2).all()
        assert (each[score].nunique() == 1).all()
        np.testing.assert_array_equal(each[score].first(), each[binary].sum())
        steps = frame.pivot_table(binary, ["item", "response", "model"], "label").to_numpy()
        assert (steps[:, 0] >= steps[:, 1]).all()


# Multirun


@pytest.fixture(scope="module")
def multirun(world: World, first: Path) -> Path:
    """Two merges compared, tracked offline."""
    folder = world.root / "runs" / "several"
    where = [f"items.path={world.data}", f"store={world.store}", f"hydra.sweep.dir={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        ended = gwsmm(
            "run", *TINY, TWO, "items=pasta", *where, "tracker=offline", "merge=average,ties", "-m"
        )
    assert ended.code == 0, ended.err
    assert "merge=average" in ended.out
    return folder


def test_a_multirun_compares_its_jobs(multirun):
    jobs = [multirun / "0", multirun / "1"]
    own = FILES - {"run.json", "report.html"}  # the page is that of all jobs
    assert all({path.name for path in job.iterdir()} >= own for job in jobs)
    table = pd.read_csv(multirun / "tables" / "performance.csv", keep_default_na=False)
    table = table.set_index(["scope", "run", "model"])
    for job, merge in zip(jobs, ("average", "ties"), strict=True):
        results = read_json(job / "results.json")
        row = table.loc["all items", f"merge={merge}", "merged"]
        assert row["micro F1"] == results["overall"]["merged"]["micro_f1"]
        assert float(row["encoders"]) == 2
        assert read_json(job / "run.json")["overrides"][-1] == f"merge={merge}"
        assert all(n == 0 for n, _ in list(counts(job).values())[:3])
    # the baselines are the same in both, and stand there once
    assert list(table.loc["all items"].index) == [
        ("", "majority"),
        ("", "individual"),
        ("merge=average", "merged"),
        ("merge=ties", "merged"),
    ]
    assert "merge=ties" in (multirun / "report.md").read_text()
    assert "merge=ties" in (multirun / "tables" / "performance.tex").read_text()
    assert imread(multirun / "items.png").ndim == 3


def test_no_response_is_in_any_file_of_a_run(world, first, multirun):
    """In its store, its folder, or what W&B keeps."""
    words = [word.encode() for word in (*WORDS, "melting", "floating")]
    places = [world.store, world.root / "runs"]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content = pd.read_parquet(path).to_csv().encode()
        assert not [word for word in words if word in content], path

"""What a report says of finished runs: every figure against what the runs hold, and the page."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import astuple
from functools import partial
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import yaml
from little import CONF, gwsmm
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.stats import spearmanr, ttest_rel

from gwsmm.evidence.testing import holm, keeps
from gwsmm.metrics import METRICS, score
from gwsmm.report import details, figures, performance
from gwsmm.report.table import Table, latex, markdown
from gwsmm.study.agreement import agreements, label_agreements
from gwsmm.study.conditions import axes, conditions
from gwsmm.study.estimates import (
    kept_enough,
    mean_over_items,
    mean_over_merged,
    share_kept,
    share_kept_of_merged,
)
from gwsmm.study.prediction import complete_sizes, merging_losses, places, predictions
from gwsmm.study.reading import read_runs
from gwsmm.types import Distances, Plan

ITEMS = ("apples", "boats", "clouds", "dunes", "eagles", "ferns")
LABELS = ("E1", "E2")
HEADINGS = ("micro F1", "macro F1", "exact match", "label accuracy")
SHARED = ("apples", "boats")  # the plan's only group of several


def write_run(
    folder: Path,
    *,
    seed: int = 0,
    noise: float | None = 0.2,
    overrides: Sequence[str] = (),
    config: dict | None = None,
    labels: Sequence[str] = LABELS,
    items: Sequence[str] = ITEMS,
    pairs: bool = False,
    twice: bool = False,
    plan: Sequence[Sequence[str]] | None = None,
) -> Path:
    """A finished run whose merged model errs so often on what is merged; None: as individual."""
    random = np.random.default_rng([seed, int(100 * (noise or 0))])
    groups = plan or [SHARED, *([name] for name in items if name not in SHARED)]
    shared = [name for group in groups if len(group) > 1 for name in group]
    folder.mkdir(parents=True)
    listed, frames = [], []
    for at, name in enumerate(items):
        n = 40 + 2 * at
        truth = (np.random.default_rng([seed, at]).random((n, len(labels))) < 0.4).astype(np.uint8)
        said = {"majority": np.zeros_like(truth)}
        said["individual"] = truth ^ (random.random(truth.shape) < 0.1)
        said["merged"] = said["individual"]
        if name in shared and noise is not None:
            said["merged"] = truth ^ (random.random(truth.shape) < noise)
        listed.append(
            {
                "name": name,
                "kind": "multilabel",
                "labels": list(labels),
                "train": 90,
                "validation": 10,
                "test": n,
                "scores": {model: score(truth, d).as_dict() for model, d in said.items()},
            }
        )
        for model, decisions in said.items():
            frame = {
                "item": name,
                "response": np.arange(n).repeat(len(labels)),
                "label": list(labels) * n,
                "model": model,
                "truth": truth.ravel(),
                "probability": decisions.ravel().astype(float),
                "decision": decisions.ravel(),
            }
            if twice:
                second = pd.array(truth.ravel(), dtype="Int64")
                second[: 2 * len(labels)] = pd.NA
                frame |= {"second": second, "group": np.where(np.arange(n) % 2, "a", "b").repeat(2)}
            frames.append(pd.DataFrame(frame))
    pd.concat(frames).to_parquet(folder / "predictions.parquet", index=False)

    def over(names: Sequence[str]) -> dict:
        these = [item for item in listed if item["name"] in names]
        weights = [item["test"] for item in these]
        return {
            model: {
                **{
                    metric: float(
                        np.average([i["scores"][model][metric] for i in these], weights=weights)
                    )
                    for metric in METRICS
                },
                "responses": sum(weights),
            }
            for model in ("majority", "individual", "merged")
        }

    results = {
        "schema": 1,
        "name": "run",
        "seed": seed,
        "encoder": {"model": "an encoder"},
        "synthetic": False,
        "plan": {"source": "average linkage of the GW loss", "groups": [list(g) for g in groups]},
        "overall": over(items),
        "merged_only": over(shared),
        "storage": {
            "encoders_before": len(items),
            "encoders_after": len(groups),
            "passes_before": len(items),
            "passes_after": len(groups),
            "bytes_before": 6_000_000,
            "bytes_after": 5_000_000,
            "factor": 1.2,
        },
        "items": listed,
    }
    (folder / "results.json").write_text(json.dumps(results))
    settings = {"seed": seed, "merge": {"_target_": "gwsmm.merge.ties.Ties", "seed": seed}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | (config or {})))
    evaluations = [{"item": n, "individual": "f" * 32, "merged": "f" * 32} for n in items]
    cost = {"seconds": 2.0, "responses": 100, "peak_memory": 10**9}
    about = {
        "overrides": [*overrides, f"seed={seed}"],
        "evaluations": evaluations,
        "scoring": {"individual": cost, "merged": None},
    }
    (folder / "run.json").write_text(json.dumps(about))
    stages = {"distances": [f"{seed:032x}".replace("0", "d")]}
    digests = {name: f"{seed}{at}".rjust(64, "e") for at, name in enumerate(items)}
    (folder / "keys.json").write_text(json.dumps({"items": digests, "stages": stages}))
    write_distances(folder, seed, items)
    if pairs:
        write_attempts(folder, seed, results, items)
    return folder


def apart(seed: int, n: int) -> np.ndarray:
    """[n, n] of distances."""
    values = np.random.default_rng(seed).random((n, n))
    return np.triu(values, 1) + np.triu(values, 1).T


def write_distances(folder: Path, seed: int, items: Sequence[str]) -> None:
    values = apart(seed, len(items))
    frame = pd.DataFrame(values, index=list(items), columns=list(items))
    frame.to_csv(folder / "distances.csv", index_label="GW loss")
    rows = [
        {"item": items[i], "other": items[j], "value": values[i, j], "converged": i > 0}
        for i, j in combinations(range(len(items)), 2)
    ]
    pd.DataFrame(rows).assign(estimated=False).to_csv(folder / "pairs.csv", index=False)
    write_halves(folder, [], items)


def write_halves(folder: Path, nearest: Sequence[tuple[int, int]], items: Sequence[str]) -> None:
    """Two halves for each repetition, in which these two items are the nearest."""
    rows = [
        {"repetition": at, "half": half, "item": items[i], "other": items[j]}
        | {"value": 0.1 if (i, j) == near else 1.0}
        for at, near in enumerate(nearest)
        for half in (0, 1)
        for i, j in combinations(range(len(items)), 2)
    ]
    columns = ["repetition", "half", "item", "other", "value"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "halves.csv", index=False)


def write_own_shares(folder: Path, sizes: Sequence[int]) -> None:
    """All groups of these sizes, in which every item loses the same whoever is with it."""
    groups = [group for size in sizes for group in combinations(ITEMS, size)]
    share = {item: 2.0**-at for at, item in enumerate(ITEMS)}  # whose sums are exact
    rows = [
        {"group": number, "item": item, "split": split}
        | {"micro_f1": 1 - lost, "loss": 1 + lost, "drift": np.nan, "drift_cka": np.nan}
        for split in ("validation", "test")
        for number, group in enumerate([*groups, *((item,) for item in ITEMS)])
        for item in group
        for lost in [share[item] if len(group) > 1 else 0.0]
    ]
    frame = pd.DataFrame(rows)
    frame.loc[frame["group"] >= len(groups), "group"] = -1
    frame.to_parquet(folder / "attempts.parquet", index=False)
    controls = {"groups": groups, "plans": [], "all_plans": False}
    (folder / "controls.json").write_text(json.dumps(controls))


def write_attempts(folder: Path, seed: int, results: dict, items: Sequence[str]) -> None:
    """Pairs that lose as much as they are apart, and all plans of one pair."""
    groups = list(combinations(range(len(items)), 2))
    values = apart(seed, len(items))
    rows = []
    for split in ("validation", "test"):
        for at, item in enumerate(results["items"]):
            own = item["scores"]["individual"]["micro_f1"]
            same = {"item": item["name"], "split": split}
            rows.append({"group": -1, **same, "micro_f1": own, "loss": 0.2, "drift_cka": 0.0})
            for number, group in enumerate(groups):
                if at in group:
                    lost = values[group]
                    rows.append(
                        {
                            "group": number,
                            **same,
                            "micro_f1": own - lost,
                            "loss": 0.2 - lost,
                            "drift_cka": lost**2 + 0.01 * (at == group[0]),
                        }
                    )
    pd.DataFrame(rows).assign(drift=np.nan).to_parquet(folder / "attempts.parquet", index=False)
    controls = {
        "groups": [[items[i] for i in group] for group in groups],
        "plans": [[number] for number in range(len(groups))],
        "all_plans": True,
    }
    (folder / "controls.json").write_text(json.dumps(controls))


def reported(out: Path, *runs: Path) -> Path:
    """The folder of a report that was written without a complaint."""
    ended = gwsmm("report", *map(str, runs), "--out", str(out))
    assert ended.code == 0, ended.err
    return out


def read(folder: Path, table: str) -> pd.DataFrame:
    return pd.read_csv(folder / "tables" / f"{table}.csv", keep_default_na=False, na_values=[""])


def refused(says: str, *arguments: str) -> None:
    ended = gwsmm("report", *arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert re.search(says, ended.err), ended.err


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """Two ways to merge, with two seeds each, reported."""
    root = tmp_path_factory.mktemp("several")
    for seed in (0, 1):
        write_run(root / f"ties{seed}", seed=seed, pairs=True)
        write_run(
            root / f"worse{seed}",
            seed=seed,
            noise=0.45,
            overrides=["merge.scale=9"],
            config={"merge": {"_target_": "gwsmm.merge.ties.Ties", "scale": 9}},
        )
    reported(
        root / "out", *(root / f"{name}{seed}" for seed in (1, 0) for name in ("ties", "worse"))
    )
    return root


# Runs and conditions


def test_runs_that_differ_in_the_seed_alone_are_one_condition(several):
    runs = read_runs([several / name for name in ("ties1", "worse0", "ties0", "worse1")])
    found = conditions(runs)
    assert [[run.seed for run in each.runs] for each in found] == [[0, 1], [0, 1]]
    assert [each.name for each in found] == ["default", "merge.scale=9"]
    assert list(axes(found)) == ["merge.scale"]


def test_a_seed_of_one_part_that_was_asked_for_is_a_setting(tmp_path):
    runs = [
        write_run(
            tmp_path / f"{seed}{own}",
            seed=seed,
            noise=0.2 + own / 10,
            overrides=[f"merge.seed={own}"],
            config={"merge": {"_target_": "gwsmm.merge.ties.Ties", "seed": own}},
        )
        for seed in (0, 1)
        for own in (0, 1)
    ]
    found = conditions(read_runs(runs))
    assert {each.name: each.seeds for each in found} == {
        "merge.seed=0": {0, 1},
        "merge.seed=1": {0, 1},
    }
    assert list(axes(found)) == ["merge.seed"]


def test_a_run_that_is_given_twice_counts_once(several):
    once = conditions(read_runs([several / "ties0"]))
    twice = conditions(read_runs([several / "ties0", several / "ties0"]))
    assert [len(each.runs) for each in once] == [len(each.runs) for each in twice] == [1]


def test_what_tells_no_condition_from_another_is_in_no_name(tmp_path):
    runs = [
        write_run(tmp_path / "a", noise=0.1, config={"merge": {"n": 1}}, overrides=["merge.n=1"]),
        write_run(
            tmp_path / "b",
            config={"merge": {"n": 2}},
            overrides=["published=true", "merge.n=2", "evidence=pairs", "seed=0"],
        ),
    ]
    assert [each.name for each in conditions(read_runs(runs))] == ["merge.n=1", "merge.n=2"]


def test_runs_of_several_multiruns_have_names_of_their_own(tmp_path):
    asked = {"0": "linkage", "1": "random"}
    runs = [
        write_run(
            tmp_path / name / job,
            overrides=[f"experiment={name}", f"grouping={plan}"],
            config={"name": name, "grouping": {"_target_": plan}, "merge": {"_target_": name}},
        )
        for name in "ab"
        for job, plan in asked.items()
    ]
    names = [each.name for each in conditions(read_runs(runs))]
    assert names == [f"grouping={asked[job]} ({name}/{job})" for name in "ab" for job in asked]
    near, far = (
        write_run(tmp_path / name / "same" / "0", config={"merge": {"_target_": name}})
        for name in "ab"
    )
    names = [each.name for each in conditions(read_runs([near, far]))]
    assert names == ["default (a/same/0)", "default (b/same/0)"]


EVIDENCE = {"_target_": "gwsmm.evidence.control.Control", "sizes": [2]}


def test_what_was_merged_as_evidence_makes_no_other_experiment(tmp_path):
    plain = [write_run(tmp_path / f"plain{seed}", seed=seed) for seed in (0, 1)]
    tried = [
        write_run(
            tmp_path / f"tried{seed}",
            seed=seed,
            pairs=True,
            overrides=["evidence=pairs"],
            config={"evidence": EVIDENCE | {"seed": seed}},
        )
        for seed in (1, 2)
    ]
    wanted = read(reported(tmp_path / "tried", *tried), "prediction")
    for name, runs in (("after", [*plain, *tried]), ("before", [*tried, *plain])):
        (found,) = conditions(read_runs(runs))
        assert found.seeds == {0, 1, 2}
        out = reported(tmp_path / name, *runs)
        pd.testing.assert_frame_equal(read(out, "prediction"), wanted)
        assert read(out, "standings")["seed"].tolist() == [1, 2]


def test_evidence_of_any_plan_and_of_other_groups_is_that_of_one_experiment(tmp_path):
    def run(name: str, *, sizes: Sequence[int] = ()) -> Path:
        made = write_run(
            tmp_path / "_".join([name, *map(str, sizes)]),
            overrides=[f"grouping={name}"],
            config={"grouping": {"_target_": name}, "evidence": EVIDENCE | {"sizes": [*sizes]}},
        )
        if sizes:
            write_own_shares(made, sizes)
        return made

    runs = [run("linkage"), run("random", sizes=[2]), run("random", sizes=[3])]
    found = conditions(read_runs(runs))
    assert [each.name for each in found] == ["grouping=linkage", "grouping=random"]
    assert {each.size for each in predictions(found)} == {2, 3}


def test_names_of_items_may_be_numbers(tmp_path):
    names = ["apples", "boats", "3", "04", "5.0", "1e3", "nan", "NA"]
    run = write_run(tmp_path / "run", items=names)
    (made,) = read_runs([run])
    assert list(made.distances.names) == names
    assert np.array_equal(made.distances.values, apart(0, len(names)))
    frame = read(reported(tmp_path / "out", run), "items")
    assert "04" in (tmp_path / "out" / "tables" / "items.csv").read_text()
    assert len(frame) == len(names)


def test_another_strategy_is_one_axis_however_many_settings_it_brings(tmp_path):
    other = {"merge": {"_target_": "gwsmm.merge.average.Average", "weights": 3}}
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", config=other)]
    assert list(axes(conditions(read_runs(runs)))) == ["merge"]
    both = {"split": {"test": 0.3}, "features": {"size": 9}}
    runs.append(write_run(tmp_path / "c", config=both))  # two axes: compared with nothing
    assert [len(each) for each in axes(conditions(read_runs(runs))).values()] == [2]


def test_another_encoder_is_one_axis_however_many_settings_it_brings(tmp_path):
    brought = {"small": {"model": "a", "max_length": 1}, "large": {"model": "b", "max_length": 2}}
    runs = [
        write_run(
            tmp_path / name,
            overrides=[f"encoder={name}"],
            config={"encoder": {"_target_": "gwsmm.encoder.Encoder", **settings}},
        )
        for name, settings in brought.items()
    ]
    assert list(axes(conditions(read_runs(runs)))) == ["encoder"]


def test_ablations_start_from_the_condition_from_which_most_others_differ_in_one_setting(tmp_path):
    runs = [
        write_run(
            tmp_path / f"{merge}_{heads}",
            overrides=[f"merge={merge}", f"heads={heads}"],
            config={"merge": {"_target_": merge}, "heads": {"_target_": heads}},
        )
        for merge, heads in (("average", "refit"), ("ties", "refit"), ("ties", "keep"))
    ]
    found = conditions(read_runs(runs))
    first, centre, last = found
    assert axes(found) == {"merge": [centre, first], "heads": [centre, last]}
    assert axes(found[1:]) == {"heads": [centre, last]}  # of equally many, the first given
    note = (reported(tmp_path / "out", *runs) / "tables" / "ablations.md").read_text()
    assert f"What differs from the run “{centre.name}” in one setting alone" in note


def drawn(draw, found) -> Axes:
    axes = Figure().add_subplot()
    draw(axes, found)
    return axes


def test_individual_models_are_drawn_once_for_all_runs_that_share_them(several, tmp_path):
    scale = {"merge": {"_target_": "gwsmm.merge.ties.Ties", "scale": 9}}
    alike = write_run(tmp_path / "a"), write_run(tmp_path / "b", config=scale)
    unlike = several / "ties0", several / "worse0"
    for runs, own in (
        (alike, ["individual"]),
        (unlike, ["individual: default", "individual: merge.scale=9"]),
    ):
        found = conditions(read_runs(runs))
        bars = drawn(figures.item_bars, found).get_legend_handles_labels()[1]
        points = [text.get_text() for text in drawn(figures.frontier, found).texts]
        for said in (bars, points):
            assert [each for each in said if "individual" in each] == own


def test_what_cannot_be_reported_is_one_line(tmp_path):
    linkage = {"_target_": "gwsmm.grouping.linkage.Linkage", "method": "average", "encoders": 5}
    linkage |= dict.fromkeys(("threshold", "storage", "largest"))
    run = write_run(tmp_path / "run", config={"grouping": linkage})
    out = str(tmp_path / "out")
    refused(r"nowhere: there is no results\.json in it", str(tmp_path / "nowhere"))
    other = write_run(tmp_path / "other", noise=0.4, config={"grouping": linkage})
    refused("same experiment with seed 0 and other results", str(run), str(other), "--out", out)
    again = write_run(tmp_path / "again", seed=1, labels=LABELS[:-1], config={"grouping": linkage})
    differ = rf"differ in the labels of item {ITEMS[0]} .*the answers changed between them"
    refused(differ, str(run), str(again), "--out", out)
    refused("say where their report goes with --out", str(run), str(run))
    fewer = write_run(tmp_path / "fewer", items=ITEMS[:4])
    refused("fewer has other items than .*run: report", str(run), str(fewer), "--out", out)
    for name, text, says in (
        ("results.json", "{", r"results\.json cannot be read \(JSONDecodeError\)"),
        ("results.json", "[1]", "schema None and not 1"),
        ("results.json", '{"schema": 1, "name": "x"}', r"results\.json: seed: Field required"),
        ("run.json", "{}", r"run\.json: overrides: Field required"),
        ("config.yaml", "a: [", r"config\.yaml cannot be read"),
        ("config.yaml", "- a", r"config\.yaml: .*dict"),
        ("predictions.parquet", "no", r"predictions\.parquet cannot be read"),
        ("distances.csv", "", r"distances\.csv cannot be read"),
        ("distances.csv", "GW loss,apples\napples,0\n", r"distances\.csv cannot be read"),
        ("pairs.csv", "item,other\napples,boats\n", r"pairs\.csv cannot be read"),
        ("halves.csv", "item\napples\n", r"halves\.csv cannot be read"),
        ("keys.json", "[]", r"keys\.json cannot be read"),
    ):
        broken = Path(shutil.copytree(run, tmp_path / f"broken_{len(list(tmp_path.iterdir()))}"))
        (broken / name).write_text(text)
        refused(says, str(broken))
    assert not Path(out).exists()


# Figures


def test_every_overall_figure_is_the_weighted_mean_of_its_sources(several):
    table, sources = read(several / "out", "performance"), read(several / "out", "sources")
    whole = table[table["scope"] == "all items"]
    assert len(sources) == 4 * len(ITEMS) * 3
    for row in whole.to_dict("records"):
        of = sources[sources["model"] == row["model"]]
        of = of[of["run"] == row["run"]] if row["run"] == row["run"] else of
        for name in HEADINGS:
            by_run = [
                np.average(part[name], weights=part["responses"])
                for _, part in of.groupby("folder")
            ]
            assert row[name] == pytest.approx(np.mean(by_run), abs=1e-12)
            assert row[f"{name} low"] <= row[name] <= row[f"{name} high"]
    assert set(sources.loc[sources["model"] != "majority", "evaluation"].astype(str)) == {"f" * 32}


def test_every_run_has_the_keys_of_its_distances(several):
    table = read(several / "out", "keys")
    assert table["folder"].tolist() == ["ties0", "ties1", "worse0", "worse1"]
    for row in table.to_dict("records"):
        used = json.loads((several / row["folder"] / "keys.json").read_text())
        assert [str(row["distances"])] == used["stages"]["distances"]
    assert table["stability"].isna().all()  # there are no half-samples


def test_every_run_is_told_by_a_path_that_no_other_has_and_that_tells_of_nobodys_home(tmp_path):
    runs = [
        write_run(tmp_path / "runs" / name, overrides=[f"merge.n={n}"], config={"merge": {"n": n}})
        for n, name in enumerate(("a/0", "a/1", "b/0"))
    ]
    for where, paths in (
        (tmp_path / "out", ["a/0", "a/1", "b/0"]),
        (tmp_path / "runs", ["a/0", "a/1", "b/0"]),
        (tmp_path, ["runs/a/0", "runs/a/1", "runs/b/0"]),
    ):
        out = reported(where, *runs)
        assert list(dict.fromkeys(read(out, "sources")["folder"])) == paths
        assert read(out, "keys")["folder"].tolist() == paths
        page = (out / "report.html").read_text()
        assert re.findall(r"<li>(\S+): <code>", page) == paths
        assert str(tmp_path) not in page
    own = reported(runs[0], runs[0])
    assert read(own, "keys")["folder"].astype(str).tolist() == ["0"]


def test_every_row_of_sources_says_what_the_item_was(several):
    for row in read(several / "out", "sources").to_dict("records"):
        digests = json.loads((several / row["folder"] / "keys.json").read_text())["items"]
        assert row["item's digest"] == digests[row["item"]]


def test_a_run_of_which_only_the_evidence_counts_has_its_keys(tmp_path):
    plain = write_run(tmp_path / "plain")
    tried = write_run(tmp_path / "tried", pairs=True, config={"evidence": EVIDENCE})
    out = reported(tmp_path / "out", plain, tried)
    assert read(out, "keys")["folder"].tolist() == ["plain", "tried"]
    assert set(read(out, "sources")["folder"]) == {"plain"}


def test_the_tests_are_those_of_scipy_on_the_means_over_the_seeds(several):
    table, sources = read(several / "out", "tests"), read(several / "out", "sources")

    def scores(run: str, model: str) -> np.ndarray:
        own = sources[(sources["run"] == run) & (sources["model"] == model)]
        return own.groupby("item", sort=False)["micro F1"].mean().to_numpy()

    worse = table[(table["run"] == "merge.scale=9") & (table["metric"] == "micro F1")]
    against = worse.set_index("against")["p (paired t)"]
    merged = scores("merge.scale=9", "merged")
    others = {
        "individual": scores("merge.scale=9", "individual"),
        "default": scores("default", "merged"),
    }
    for name, other in others.items():
        assert against[name] == pytest.approx(ttest_rel(merged, other).pvalue, abs=1e-9)
    assert (table["p (paired t, Holm)"] >= table["p (paired t)"] - 1e-12).all()


def test_what_is_best_is_marked_and_what_keeps_enough_has_a_dagger(several, tmp_path):
    text = (several / "out" / "tables" / "performance.md").read_text()
    merged = [line for line in text.splitlines() if "merged" in line and "all items" in line]
    assert ["**" in line for line in merged] == [True, False]
    assert "†" not in "".join(merged)  # both lose
    same = write_run(tmp_path / "same", noise=None)
    text = (reported(tmp_path / "out", same) / "tables" / "performance.md").read_text()
    assert "†" in next(line for line in text.splitlines() if "merged" in line)


def test_the_best_of_every_comparison_is_marked_and_what_is_compared_with_nothing_is_not(several):
    runs = read_runs([several / name for name in ("ties0", "worse0")])
    found = conditions(runs)
    items = details.items(found)
    for heading in HEADINGS:
        each = items.frame.groupby("item")[column := f"merged {heading}"]
        best = items.frame.index[items.frame[column] == each.transform("max")]
        assert items.best[column] == {*best}
        assert len(items.frame) > len(best) >= len(ITEMS)
    table = performance.performance(found)
    parts = table.frame[table.frame["model"] == "merged"].groupby("scope")
    for heading in (*HEADINGS, "micro F1 kept"):
        assert table.best[heading] == {*parts[heading].idxmax()}
    ablations = details.ablations(found)
    assert ablations.best["micro F1 kept"] == {ablations.frame["micro F1 kept"].idxmax()}
    for one in (details.items, performance.performance, details.efficiency):
        assert not any(one(found[:1]).best.values())


def test_the_smallest_storage_is_best(tmp_path):
    runs = [
        write_run(tmp_path / n, overrides=[f"merge={n}"], config={"merge": {"_target_": n}})
        for n in "ab"
    ]
    content = json.loads((runs[1] / "results.json").read_text())
    content["storage"] |= {"encoders_after": 4, "passes_after": 4, "bytes_after": 4_000_000}
    (runs[1] / "results.json").write_text(json.dumps(content))
    table = details.efficiency(conditions(read_runs(runs)))
    assert table.frame.loc[3, ["model", "MB"]].tolist() == ["merged", 4]
    assert table.best == {name: {3} for name in ("encoders", "passes", "MB", "times less")}


def test_equal_runs_are_equally_good(tmp_path):
    runs = [
        write_run(tmp_path / f"run{n}", overrides=[f"merge.n={n}"], config={"merge": {"n": n}})
        for n in (1, 2)
    ]
    for table, rows in (("performance", 4), ("ablations", 2)):  # over all, and over merged items
        text = (reported(tmp_path / "out", *runs) / "tables" / f"{table}.md").read_text()
        lines = [line for line in text.splitlines() if "merge.n" in line and "| ma" not in line]
        assert len([line for line in lines if "**" in line]) == rows, text


def test_what_seeds_differ_in_is_a_mean(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    path = runs[1] / "results.json"
    content = json.loads(path.read_text())
    content["storage"] |= {"encoders_after": 2, "passes_after": 2, "bytes_after": 1_000_000}
    path.write_text(json.dumps(content))
    out = reported(tmp_path / "out", *runs)
    assert "3.5" in read(out, "performance")["encoders"].astype(str).tolist()
    assert read(out, "efficiency")["passes"].tolist() == [6, 3.5]
    text = (out / "report.html").read_text()
    assert "2.0 × less storage, 3.5 of 6 passes" in text


def test_a_generated_item_is_said_to_be_whichever_run_has_it(tmp_path):
    runs = [write_run(tmp_path / n, overrides=[n], config={"merge": {n: 1}}) for n in ("a", "b")]
    path = runs[1] / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"synthetic": True}))
    assert "synthetic" in (reported(tmp_path / "out", *runs) / "report.md").read_text()


def test_a_change_that_is_none_has_an_interval_of_none(several):
    table = read(several / "out", "items").set_index(["run", "item"])
    own = table.loc[("default", "dunes")]
    assert own[["change of micro F1 low", "change of micro F1 high"]].tolist() == [0, 0]
    lost = table.loc[("merge.scale=9", "apples")]
    assert lost["change of micro F1 low"] < lost["change of micro F1"] < 0


def test_every_item_has_every_metric_and_its_change(several):
    table = read(several / "out", "items")
    table = table[table["run"] == "default"].set_index("item")
    found = conditions(read_runs([several / "ties0", several / "ties1"]))[0]
    for metric, heading in zip(METRICS, HEADINGS, strict=True):
        for model in ("majority", "individual", "merged"):
            assert table[f"{model} {heading}"].tolist() == pytest.approx(
                found.scores(model, metric)
            )
        change = table[f"change of {heading}"]
        of = table[f"merged {heading}"] - table[f"individual {heading}"]
        assert change.tolist() == pytest.approx(of.tolist(), abs=1e-6)
        assert (table[f"change of {heading} low"] <= change).all()
        assert (change <= table[f"change of {heading} high"]).all()


def test_a_signal_that_says_the_loss_predicts_it_and_the_best_plan_stands_above_all(several):
    table = read(several / "out", "prediction").set_index(["signal", "predicts", "responses"])
    lost = table.loc[("GW loss (default)", "micro F1 lost", "test")]
    assert lost["Spearman"] == pytest.approx(1)
    assert lost["p (Holm)"] < 0.05
    gained = table.loc[("GW loss (default)", "cross-entropy gained", "test")]
    assert gained["Spearman"] == pytest.approx(-1)
    assert not [signal for signal, *_ in table.index if "by the distance" in signal]  # is missing
    above = np.triu_indices(len(ITEMS), 1)
    mean = np.mean([apart(seed, len(ITEMS)) for seed in (0, 1)], axis=0)
    squares = np.mean([apart(seed, len(ITEMS)) ** 2 for seed in (0, 1)], axis=0)
    drift = table.loc[("drift by CKA (default)", "micro F1 lost", "test")]
    expected = spearmanr(mean[above], squares[above]).statistic
    assert drift["Spearman"] == pytest.approx(expected, abs=1e-9)

    places = read(several / "out", "standings").set_index("seed")
    for seed in (0, 1):
        values = apart(seed, len(ITEMS))
        weights = 40 + 2 * np.arange(len(ITEMS))
        costs = [values[i, j] * (weights[i] + weights[j]) for i, j in combinations(range(6), 2)]
        assert places.loc[seed, "p"] == pytest.approx(np.mean(np.array(costs) <= costs[0] + 1e-12))
        assert places.loc[seed, "random plans"] == 15


def test_a_signal_is_dropped_only_where_the_same_is_said_of_groups_of_the_same_size(tmp_path):
    run = write_run(tmp_path / "run")
    write_own_shares(run, [2, 3, len(ITEMS)])
    found = predictions(conditions(read_runs([run, run])))
    for each in found[1:]:
        np.testing.assert_array_equal(each.losses, found[0].losses)
    assert [(each.split, each.size, each.loss) for each in found] == [
        (split, size, loss)
        for split in ("test", "validation")
        for size in (2, 3, len(ITEMS))
        for loss in ("micro F1 lost", "cross-entropy gained")
    ]


def test_nothing_is_drawn_apart_from_the_items_own_shares_where_nothing_is_left(tmp_path, several):
    run = write_run(tmp_path / "run")
    write_own_shares(run, [len(ITEMS)])
    made = reported(tmp_path / "out", run)
    table = read(made, "prediction")
    assert table["Spearman"].notna().all()
    assert table["Spearman without item effects"].isna().all()
    own = ", without the items"
    assert own not in (made / "report.html").read_text()
    assert own in (several / "out" / "report.html").read_text()


def test_signals_are_named_by_what_differs_apart_from_plans(tmp_path):
    def run(name: str, merge: str) -> Path:
        folder = tmp_path / f"{name}_{merge}"
        asked = [f"grouping={name}", f"merge={merge}"]
        settings = {"grouping": {"_target_": name}, "merge": {"_target_": merge}}
        made = write_run(folder, pairs=True, overrides=asked, config=settings)
        write_distances(made, len(merge), ITEMS)
        return made

    plans = [run(name, "ties") for name in ("linkage", "random")]
    both = [*plans, run("linkage", "average")]
    for runs, own in (
        (plans, {"GW loss"}),
        (both, {"GW loss (merge=ties)", "GW loss (merge=average)"}),
    ):
        signals = {each.signal for each in predictions(conditions(read_runs(runs)))}
        assert {signal for signal in signals if signal.startswith("GW loss")} == own


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_seed_that_did_not_merge_every_pair_says_nothing_of_pairs(lacking, tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed, pairs=True) for seed in (0, 1)]
    path = runs[lacking] / "controls.json"
    controls = json.loads(path.read_text())
    last = len(controls["groups"]) - 1
    path.write_text(json.dumps(controls | {"groups": controls["groups"][:-1], "plans": []}))
    attempts = pd.read_parquet(runs[lacking] / "attempts.parquet")
    attempts[attempts["group"] != last].to_parquet(runs[lacking] / "attempts.parquet", index=False)
    both = read(reported(tmp_path / "both", *runs), "prediction")
    alone = read(reported(tmp_path / "alone", runs[1 - lacking]), "prediction")
    pd.testing.assert_frame_equal(both, alone)


def test_p_values_are_adjusted_over_the_whole_table(several):
    table = read(several / "out", "prediction")
    kinds = ("p", "p without item effects")
    raw, adjusted = (table[[f"{k}{end}" for k in kinds]].to_numpy() for end in ("", " (Holm)"))
    assert sorted(table["responses"].unique()) == ["test", "validation"]
    assert adjusted.ravel() == pytest.approx(holm(raw.ravel()))
    places = read(several / "out", "standings")
    assert places["p (Holm)"].tolist() == pytest.approx(holm(places["p"]))
    found = conditions(read_runs([several / f"{name}0" for name in ("ties", "worse")]))
    each = [
        keeps(c.scores("individual", metric), c.scores("merged", metric), 0.99)
        for metric in METRICS[:2]
        for c in found
    ]
    assert np.ravel(kept_enough(found, METRICS[:2])) == pytest.approx(holm(each))


def test_in_groups_of_any_size_a_loss_that_is_each_items_own_is_found_again():
    names = ("a", "b", "c", "d", "e")
    own = {name: float(2**i) for i, name in enumerate(names)}
    groups = [group for size in (5, 2, 3) for group in combinations(names, size)]
    rows = [(n, item, 5 - own[item]) for n, group in enumerate(groups) for item in group]
    rows += [(-1, item, 5.0) for item in names]
    frame = pd.DataFrame(rows, columns=["group", "item", "micro_f1"]).assign(split="test")
    run = SimpleNamespace(names=names, controls={"groups": groups}, attempts=frame)
    expected = [[(own[x] + own[y]) / 2 if x != y else 0.0 for y in names] for x in names]
    assert complete_sizes(run) == [2, 3, 5]
    for size in complete_sizes(run):
        assert merging_losses(run, size, "micro_f1", "test") == pytest.approx(np.array(expected))
    run.controls["groups"] = groups[:-1]  # not every trio
    assert complete_sizes(run) == [2, 5]


def test_a_plan_is_stable_where_half_samples_give_the_same_one(tmp_path):
    linkage = {
        "_target_": "gwsmm.grouping.linkage.Linkage",
        "method": "average",
        "encoders": 5,
        "threshold": None,
        "storage": None,
        "largest": None,
    }
    found = {}
    for name, nearest in (("same", [(0, 1)] * 2), ("half", [(0, 1), (2, 3)])):
        run = write_run(tmp_path / name, config={"grouping": linkage})
        write_halves(run, nearest, ITEMS)
        found[name] = reported(tmp_path / f"out_{name}", run)
    rand = "adjusted Rand with the plan"
    assert read(found["same"], "stability")[rand].item() == 1
    assert read(found["half"], "stability")[rand].item() == pytest.approx((1 - 1 / 14) / 2)
    shares = read(found["half"], "together").set_index("item")
    assert shares.loc["1 apples", "2"] == pytest.approx(3 / 5)  # the plan and the first two halves
    assert shares.loc["3 clouds", "4"] == pytest.approx(2 / 5)
    pairs = {"_target_": "gwsmm.grouping.pairs.Pairs"}
    run = write_run(tmp_path / "pairs", config={"grouping": pairs})
    write_halves(run, [(0, 1), (0, 1)], ITEMS)
    table = read(reported(tmp_path / "out_pairs", run), "stability")
    assert table["plans of half-samples"].item() == 4
    linkage["encoders"] = 0
    wrong = write_run(tmp_path / "wrong", config={"grouping": linkage})
    refused(r"config\.yaml: grouping: .*encoders", str(wrong))


def test_every_run_that_has_several_plans_has_its_shares_of_them(several):
    shares = read(several / "out", "together")
    assert shares["run"].tolist() == ["default"] * 6 + ["merge.scale=9"] * 6  # two seeds of each
    assert shares.groupby("item").nunique()[["1", "2"]].eq(1).all(axis=None)  # have the same plan


def test_the_gain_of_fine_tuning_that_is_kept_is_measured_from_the_frozen_control(tmp_path):
    frozen = {
        "merge": {"_target_": "gwsmm.merge.frozen.Frozen"},
        "private": {"_target_": "gwsmm.private.nothing.Nothing"},
    }
    runs = [
        write_run(tmp_path / name, noise=noise, config=config, plan=[ITEMS], overrides=[override])
        for name, noise, config, override in (
            ("frozen", 0.4, frozen, "merge=f"),
            ("ties", 0.2, {"merge": {"_target_": "gwsmm.merge.ties.Ties"}}, "merge=ties"),
            ("same", None, {"merge": {"_target_": "gwsmm.merge.average.Average"}}, "merge=none"),
        )
    ]
    out = reported(tmp_path / "out", *runs)
    table = read(out, "performance").set_index(["scope", "run", "model"])
    for scope in ("all items", "merged items only"):
        gain = table.loc[scope].xs("merged", level="model")["gain kept"]
        assert gain["merge=f"] == pytest.approx(0, abs=1e-12)
        assert gain["merge=none"] == pytest.approx(1)
        f1 = table.loc[scope]["micro F1"]
        least, most = f1["merge=f", "merged"], f1["merge=ties", "individual"]
        wanted = (f1["merge=ties", "merged"] - least) / (most - least)
        assert gain["merge=ties"] == pytest.approx(wanted, abs=1e-9)
    assert "gain kept" not in read(reported(tmp_path / "two", *runs[1:]), "performance")
    other = frozen | {"encoder": {"model": "another"}}
    control = write_run(tmp_path / "other", config=other, plan=[ITEMS], overrides=["merge=f"])
    table = read(reported(tmp_path / "three", control, runs[1]), "performance")
    gain = table[table["model"] == "merged"].set_index("run")["gain kept"]
    assert gain["merge=ties"].isna().all()  # of another encoder, whose gain it is not
    kept_apart = [ITEMS[:-1], ITEMS[-1:]]  # its own encoder, fine-tuned, scores the last item
    control = write_run(tmp_path / "part", config=frozen, plan=kept_apart, overrides=["merge=f"])
    assert "gain kept" not in read(reported(tmp_path / "o", control, *runs[1:]), "performance")


def test_a_second_rater_and_subgroups_have_their_rows(tmp_path):
    out = reported(tmp_path / "out", write_run(tmp_path / "run", twice=True))
    table = read(out, "agreement").set_index(["item", "scored by"])
    assert table.loc[("apples", "second"), "kappa of labels"] == 1  # rates as the first does
    assert 0 < table.loc[("apples", "merged"), "kappa of labels"] < 1
    groups = read(out, "subgroups").set_index(["item", "subgroup", "scored by"])
    parts = [groups.loc[("clouds", name, "merged")] for name in ("a", "b")]
    assert sum(part["responses"] for part in parts) == 44
    one, other = (part["ahead of the others"] for part in parts)
    assert one == pytest.approx(-other)  # there are two, and each is the other's others
    for part in parts:
        individual = groups.loc[("clouds", part.name[1], "individual"), "micro F1"]
        assert part["gained by merging"] == pytest.approx(part["micro F1"] - individual)
    intervals = [column.removesuffix(" low") for column in groups if column.endswith(" low")]
    assert len(intervals) == 4
    for column in intervals:
        known = groups.dropna(subset=[column])
        assert (known[f"{column} low"] <= known[column]).all()
        assert (known[column] <= known[f"{column} high"]).all()
    assert (
        read(reported(tmp_path / "o", write_run(tmp_path / "r")), "labels")["kappa"].notna().all()
    )


@pytest.mark.filterwarnings("error")
def test_a_seed_in_which_a_label_has_no_kappa_does_not_blank_that_of_the_others():
    varied, never = np.array([[0], [1], [1], [0]], np.uint8), np.zeros((4, 1), np.uint8)
    results = {"items": [{"name": "apples", "kind": "multilabel", "labels": ["E1"]}]}

    def run(truth: np.ndarray) -> SimpleNamespace:
        said = {"truth": truth, "individual": truth, "merged": truth}
        return SimpleNamespace(results=results, decisions=lambda _: said, second=lambda _: None)

    for runs, kappa in (([never, varied], 1.0), ([varied, varied], 1.0), ([never, never], np.nan)):
        seeds = [run(truth) for truth in runs]
        found = [each.kappa.value for each in label_agreements(seeds)]
        found += [each.values["label_kappa"].value for each in agreements(seeds)]
        assert found == pytest.approx([kappa] * 4, nan_ok=True)
    (individual, _) = label_agreements([run(never), run(varied)])
    assert individual.prevalence == individual.predicted == 0.25  # of both seeds


def test_prevalence_is_of_every_label_by_itself():
    truth, said = (np.random.default_rng(s).integers(0, 2, (50, 3), np.uint8) for s in (0, 1))
    results = {"items": [{"name": "apples", "kind": "multilabel", "labels": ["a", "b", "c"]}]}
    decided = {"truth": truth, "individual": said, "merged": truth}
    run = SimpleNamespace(results=results, decisions=lambda _: decided, second=lambda _: None)
    found = label_agreements([run])
    assert [each.label for each in found] == ["a", "b", "c"] * 2
    np.testing.assert_allclose([each.prevalence for each in found], [*truth.mean(0)] * 2)
    predicted = [*said.mean(0), *truth.mean(0)]
    np.testing.assert_allclose([each.predicted for each in found], predicted)


def test_published_rows_stand_where_a_run_asks_for_them_and_say_that_they_are_of_other_answers(
    several, tmp_path
):
    out = reported(tmp_path / "out", write_run(tmp_path / "run", config={"published": True}))
    table = read(out, "performance")
    rows = table[table["scope"].str.startswith("published")].set_index("run")
    assert set(rows["scope"]) == {"published: authors' answers, BERT-base"}
    assert rows.loc["published: GW plan", "micro F1 kept"] == pytest.approx(0.6872 / 0.8291)
    text = (out / "report.md").read_text()
    assert re.search("figures of other answers, .* 2503.09774, table 2, .* BERT-base", text)
    starred = [line for line in text.splitlines() if " * " in line and "| published" in line]
    assert [line.count(" * ") for line in starred if "GW plan" in line] == [2]
    assert len(starred) == 1
    assert "published" not in (several / "out" / "report.md").read_text()


def test_the_experiments_that_reproduce_the_paper_ask_for_its_figures():
    asked = {
        path.stem
        for path in (CONF / "experiment").glob("*.yaml")
        if yaml.safe_load(path.read_text()).get("published")
    }
    assert asked == {"mistakes", "paper", "paper_tables"}


def test_items_that_share_an_encoder_have_intervals_of_their_own(tmp_path):
    plans = {0: [ITEMS[:3], ITEMS[3:4], ITEMS[4:]], 1: [ITEMS[:4], ITEMS[4:5], ITEMS[5:]]}
    runs = [write_run(tmp_path / str(seed), seed=seed, plan=plan) for seed, plan in plans.items()]
    table = read(reported(tmp_path / "out", *runs), "performance")
    rows = table[table["scope"] == "merged items only"].set_index("model")
    found = read_runs(runs)
    for name in HEADINGS:
        for model in ("individual", "merged"):
            low, value, high = (rows.loc[model, f"{name}{end}"] for end in (" low", "", " high"))
            assert low < value < high
            each = [
                run.results["merged_only"][model][METRICS[HEADINGS.index(name)]] for run in found
            ]
            assert value == pytest.approx(np.mean(each))
    kept = [rows.loc["merged", f"micro F1 kept{end}"] for end in (" low", "", " high")]
    assert kept == sorted(kept)
    assert kept[1] == pytest.approx(
        rows.loc["merged", "micro F1"] / rows.loc["individual", "micro F1"]
    )


def test_merged_items_are_drawn_as_all_items_are_where_all_are_merged(tmp_path):
    (condition,) = conditions(read_runs([write_run(tmp_path / "run", plan=[ITEMS])]))
    for whole, part in (
        (
            mean_over_items(condition, "merged", "macro_f1"),
            mean_over_merged(condition, "merged", "macro_f1"),
        ),
        (share_kept(condition, "micro_f1"), share_kept_of_merged(condition, "micro_f1")),
    ):
        assert astuple(part) == pytest.approx(astuple(whole))


def test_ablations_have_an_interval_for_every_metric(several):
    table = read(several / "out", "ablations")
    for name in (*HEADINGS, "micro F1 kept"):
        assert (table[f"{name} low"] <= table[name]).all()
        assert (table[name] <= table[f"{name} high"]).all()


def test_tables_say_that_tests_count_every_item_the_same(several):
    for name in ("performance", "tests"):
        assert (
            "every item counts the same" in (several / "out" / "tables" / f"{name}.md").read_text()
        )


def test_special_characters_are_escaped_in_every_format():
    frame = pd.DataFrame({"run": ["a|b_c & 50 %"], "micro F1": [0.5]})
    table = Table("t", "T", "", frame, {"micro F1": frozenset({0})}, {})
    assert r"| a\|b_c & 50 % | **0.5000**" in markdown(table)
    assert r"a|b\_c \& 50 \%" in latex(table)
    assert r"\textbf{0.5000}" in latex(table)
    label = pd.DataFrame({"label": ["one\nof <b>two</b>, < 3"]})
    shown = markdown(Table("t", "T", "", label, {}, {}))
    assert "| one of &lt;b>two&lt;/b>, < 3 |" in shown


# The page


class Page(HTMLParser):
    """Tags, attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_but_itself(several):
    text = (several / "out" / "report.html").read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "img", "base", "form"} & {
        t for t, _ in page.tags
    }
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "xlink:href", "src"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert "url(http" not in text
    assert "@import" not in text


def test_markup_in_names_is_text(tmp_path):
    evil = "<script>alert(1)</script>"
    run = write_run(
        tmp_path / "run",
        labels=[evil, "$x$ & 'y'"],
        items=[*SHARED, '"><img src=x onerror=alert(1)>', "$\\frac{$", "e", "f"],
        overrides=[f"name={evil}"],
    )
    out = reported(tmp_path / "out", run)
    page = Page((out / "report.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert "img" not in {tag for tag, _ in page.tags}
    assert evil in page.text
    assert "$\\frac{$" in page.text
    assert "onerror=alert" in page.text


def test_headings_alternatives_and_language_are_as_a_screen_reader_needs_them(several):
    page = Page((several / "out" / "report.html").read_text())
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    attributes = dict(page.tags)
    assert attributes["html"]["lang"] == "en"
    images = [each for _, each in page.tags if each.get("role") == "img"]
    assert len(images) == sum(tag == "svg" for tag, _ in page.tags) > 5
    assert all(len(each["aria-label"] or "") > 20 for each in images)
    assert all(each.get("scope") == "col" for tag, each in page.tags if tag == "th")
    names = [each["id"] for tag, each in page.tags if tag == "h2"]
    links = [each["href"].removeprefix("#") for tag, each in page.tags if tag == "a"]
    assert links == names


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_text_has_the_contrast_that_wcag_asks_for_in_light_dark_and_print(several):
    text = (several / "out" / "report.html").read_text()
    themes = [
        dict(re.findall(r"--(\w+): (#\w{6})", each))
        for each in re.findall(r":root {([^}]*)}", text)
    ]
    assert len(themes) == 3
    for theme in themes:
        for ink in ("ink", "quiet", "accent"):
            for paper in ("paper", "raised"):
                low, high = sorted(luminance(theme[name]) for name in (ink, paper))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (theme, ink, paper)


def contrast(one: object, other: object) -> float:
    low, high = sorted(luminance(to_hex(each)) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_digits_of_a_heat_map_have_the_contrast_that_wcag_asks_for_at_every_similarity():
    n = 20
    above = np.triu_indices(n, 1)
    names = tuple(f"item {i}" for i in range(n))
    plan = Plan((names,), "")
    said = {name: np.ones((n, n), dtype=bool) for name in ("converged", "estimated")}
    least = []
    for part in np.array_split(np.linspace(0, 1, 1140), 6):  # every pair of six maps
        values = np.zeros((n, n))
        values[above] = part
        values[0, 1] = 1  # the largest distance, so that similarities are one minus the others
        axes = Figure().add_subplot()
        figures.heat_map(axes, Distances(names, values + values.T, "GW loss", said), plan)
        (image,) = axes.images
        cells = image.to_rgba(image.get_array()).reshape(-1, 4)
        pairs = zip(axes.texts, cells, strict=True)
        least.append(min(contrast(text.get_color(), cell) for text, cell in pairs))
    assert min(least) >= 4.5


PAPERS = ("#ffffff", "#14171b")  # of the page by day and by night


def test_shapes_have_the_contrast_to_the_page_that_wcag_asks_of_graphics(several, tmp_path):
    runs = [
        write_run(
            tmp_path / str(n),
            noise=n / 40,
            overrides=[f"merge.n={n}"],
            config={"merge": {"n": n}},
        )
        for n in range(1, 9)
    ]
    many, one = conditions(read_runs(runs)), conditions(read_runs([several / "ties0"]))
    run, (place,) = one[0].runs[0], places(one)
    bars = [drawn(figures.item_bars, found) for found in (many, one)]
    histogram = drawn(figures.random_plans, place)
    pictures = [
        *bars,
        histogram,
        *(drawn(figures.frontier, found) for found in (many, one)),
        drawn(partial(figures.pairs, apart=True), predictions(one)[0]),
        drawn(partial(figures.dendrogram, plan=run.plan), run.distances),
        drawn(partial(figures.item_map, plan=run.plan), run.distances),
    ]
    shapes = {to_hex(colour) for picture in pictures for colour in outlines(picture)}
    shapes -= {to_hex(mpl.rcParams["axes.edgecolor"])}  # on a page it is that of the text
    individual = [*bars[0].patches[: 8 * len(ITEMS)], *bars[1].patches[: len(ITEMS)]]
    shapes |= {to_hex(patch.get_facecolor()) for patch in [*individual, *histogram.patches]}
    crossing = [*bars[1].collections, histogram.lines[-1]]  # whose colour is near that of bars
    assert all(line.get_path_effects() for line in crossing)
    assert len(shapes) > 8
    for shape in shapes:
        assert min(contrast(shape, paper) for paper in PAPERS) >= 3, shape


@pytest.mark.parametrize("seed", range(5))
def test_names_on_the_map_of_items_stand_on_no_other_name(seed):
    at = np.random.default_rng(seed).normal(size=(8, 2)) * (1, 0.1)
    at[3:6] = at[2]
    values = np.linalg.norm(at[:, None] - at, axis=2)
    names = tuple(f"the_item_{'long_' * (i % 3)}{i}" for i in range(8))
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    figures.item_map(axes, Distances(names, values, "GW distance", {}), Plan((names,), "all"))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 8
    for one, other in combinations(boxes, 2):
        # a descender may touch a line below
        assert min(one.y1, other.y1) - max(one.y0, other.y0) < 3 or not one.overlaps(other)


def outlines(picture: Axes) -> list[object]:
    """Of bars and points, and the colours of lines."""
    marked = [line for line in picture.lines if line.get_marker() != "None"]
    joined = [line for line in picture.lines if line.get_linestyle() != "None"]
    return [
        *(patch.get_edgecolor() for patch in picture.patches),
        *(line.get_markeredgecolor() for line in marked),
        *(line.get_color() for line in joined),
        *(colour for each in picture.collections for colour in each.get_edgecolor()),
    ]


def test_every_signal_is_drawn_before_any_second_picture_and_the_rest_is_counted(tmp_path):
    runs = [
        write_run(
            tmp_path / f"{n}",
            pairs=True,
            overrides=[f"distance.n={n}"],
            config={"distance": {"n": n}},
        )
        for n in range(7)
    ]
    for n, run in enumerate(runs):
        write_distances(run, 10 + n, ITEMS)
    out = reported(tmp_path / "out", *runs)
    found = read(out, "prediction")
    page = Page((out / "report.html").read_text())
    scatters = [
        each for each in page.tags if "A point for every pair" in (each[1].get("aria-label") or "")
    ]
    signals = found["signal"].nunique()
    assert signals > 7
    assert len(scatters) == 2 * signals
    for signal in found["signal"].unique():
        said = f"A point for every pair of items, {signal} against micro F1 lost"
        assert len([each for each in scatters if said in each[1]["aria-label"]]) == 2
    rest = len(found) - signals
    assert f"Not drawn: {rest} more rows of the table “Does it predict the loss?”." in page.text
    assert "of the table “Among random plans”" not in page.text  # one for each of seven runs


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
LIGHT, DARK = (
    ("rgb(27, 31, 36)", "rgb(255, 255, 255)"),
    ("rgb(230, 233, 237)", "rgb(20, 23, 27)"),
)
MEASURE = """<!DOCTYPE html><body><script>
addEventListener("load", () => {
  const said = [];
  for (const width of WIDTHS) {
    const frame = document.createElement("iframe");
    frame.style.width = width + "px"; frame.style.border = "0";
    frame.srcdoc = PAGE; document.body.append(frame);
    frame.onload = () => {
      const inner = frame.contentDocument, root = inner.documentElement;
      const small = [...inner.querySelectorAll("svg")].map(s => s.getBoundingClientRect().width);
      const tables = [...inner.querySelectorAll("table")].map(t => t.getBoundingClientRect().right);
      const style = getComputedStyle(inner.body);
      said.push({width, scroll: root.scrollWidth, svg: Math.min(...small), pictures: small.length,
                 ink: style.color, paper: style.backgroundColor, tables: Math.max(...tables),
                 settings: inner.querySelector("pre").checkVisibility()});
      if (said.length < WIDTHS.length) return;
      document.body.innerHTML = "<pre>" + JSON.stringify(said) + "</pre>";
    };
  }
});
</script>"""


def shown(text: str, folder: Path, widths: Sequence[int], *, dark: bool = False) -> list[dict]:
    """What Chromium makes of a page in frames of these widths, in pixels."""
    # the policy that forbids scripts is the page's own; here a script has to measure it
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    harness = folder / "harness.html"
    page = json.dumps(text).replace("</", "<\\/")
    harness.write_text(MEASURE.replace("WIDTHS", json.dumps(widths)).replace("PAGE", page))
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={folder}/profile",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=20000",
            "--dump-dom", harness.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said = json.loads(re.search(r"<pre>(.*)</pre>", done.stdout)[1])
    assert {each["width"] for each in said} == {*widths}
    return said


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to show the page")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_a_desk_and_a_phone_in_light_and_dark(several, tmp_path, dark):
    text = (several / "out" / "report.html").read_text()
    for each in shown(text, tmp_path, [1280, 390], dark=dark):
        assert each["scroll"] <= each["width"], each  # nothing but its own boxes scrolls sideways
        assert each["svg"] >= 350
        assert each["pictures"] > 5
        assert (each["ink"], each["paper"]) == (DARK if dark else LIGHT)
        assert not each["settings"]  # are folded


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to show the page")
def test_what_is_printed_is_no_wider_than_the_page_and_nothing_is_folded(tmp_path):
    items = [f"an_item_whose_name_is_long_{letter}" for letter in "abcdef"]
    runs = [
        write_run(
            tmp_path / f"{n}",
            pairs=True,
            items=items,
            plan=[items[:2], *([item] for item in items[2:])],
            overrides=[f"merge=a_strategy_whose_name_is_long_{n}"],
            config={"merge": {"_target_": f"strategy_{n}"}},
        )
        for n in range(3)
    ]
    text = (reported(tmp_path / "out", *runs) / "report.html").read_text()
    assert re.search(r"@page \{ size: landscape; margin: 1cm; \}", text)
    letter = 11 * 96 - 2 * 38  # pixels between the margins; A4 is wider
    (found,) = shown(text.replace("@media print", "@media all"), tmp_path, [letter])
    assert 0 < found["tables"] <= letter
    assert found["scroll"] <= letter
    assert found["settings"]

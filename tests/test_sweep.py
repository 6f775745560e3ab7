"""Sweeps: what they go by, what they share, and that they go on where they were stopped."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from little import COMMAND, CONF, TINY, TWO, gwsmm, read_json, write_items
from omegaconf import OmegaConf
from test_cli import composed

from gwsmm.artefact import checksum
from gwsmm.cli.search import Search, distribution, opened
from gwsmm.objective.micro_f1_at_budget import MicroF1AtBudget
from gwsmm.objective.objective import Goal, Measured, returned
from gwsmm.objective.off import Off
from gwsmm.objective.pareto import Pareto
from hydra_plugins.gwsmm_optuna import OptunaSweeper

SWEEPS = sorted(path.stem for path in CONF.glob("experiment/sweep_*.yaml"))
PATIENCE = 120  # seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items, and a store that all the sweeps of this file share."""
    root = tmp_path_factory.mktemp("sweeps")
    write_items(root / "data", items=3)
    return root


def given(place: Path, folder: str, *more: str) -> list[str]:
    data = next((each for each in more if each.startswith("items.path=")), "")
    return [
        *TINY, TWO, "items=pasta", *([] if data else [f"items.path={place / 'data'}"]),
        f"store={place / 'store'}", f"hydra.sweep.dir={place / folder}",
        f"hydra.run.dir={place / folder}", *more,
    ]  # fmt: skip


def begun(place: Path) -> Counter[str]:
    """How often each stage was begun in the store."""
    lines = (place / "store" / "log.jsonl").read_text().splitlines()
    return Counter(e["stage"] for e in map(json.loads, lines) if e["event"] == "begun")


# What a run returns


def test_over_the_budget_nothing_counts_and_within_it_nothing_is_taken_off():
    found = Measured(micro_f1=0.8, bytes=500, share=0.5)
    goals = {b: MicroF1AtBudget(budget=b)(lambda: found) for b in (0.4, 0.5, 0.6)}
    assert [goal.feasible for goal in goals.values()] == [False, True, True]
    assert {goal.values for goal in goals.values()} == {(0.8,)}
    told = [returned(goal, MicroF1AtBudget.directions) for goal in goals.values()]
    assert told == [-math.inf, 0.8, 0.8]
    assert returned(Pareto()(lambda: found), Pareto.directions) == (0.8, 500.0)


def test_without_an_objective_nothing_is_measured():
    assert Off()(lambda: pytest.fail("was measured")) is None


def test_the_objective_sees_validation_responses_and_no_test_response(place):
    write_items(place / "other", items=3)
    for path in (place / "other").glob("*_test.csv"):
        head, *rows = path.read_text().splitlines()
        flipped = [f"{row.rsplit(',', 2)[0]},1,0" for row in rows]
        path.write_text("\n".join([head, *flipped]) + "\n")
    told, scores = [], []
    for data in ("data", "other"):
        more = ("objective=pareto", f"items.path={place / data}")
        assert gwsmm("run", *given(place, f"seen_{data}", *more)).code == 0
        told.append(read_json(place / f"seen_{data}" / "run.json")["objective"])
        results = read_json(place / f"seen_{data}" / "results.json")
        scores.append(results["overall"]["merged"]["micro_f1"])
    assert told[0] == told[1]
    assert told[0]["values"][1] == results["storage"]["bytes_after"]
    assert scores[0] != scores[1]


# A grid


def test_a_grid_that_is_run_again_computes_nothing_and_leaves_finished_jobs_as_they_are(place):
    axes = ["distance=published,cka", "grouping.method=average,single", "merge=average,ties"]
    command = ["run", "-m", *given(place, "grid"), *axes]
    assert gwsmm(*command).code == 0
    before = begun(place)
    assert before["finetune"] == 3
    files = {path: path.stat().st_mtime_ns for path in (place / "grid").glob("[0-9]/*.*")
             if path.suffix != ".log"}  # fmt: skip
    assert {path.parent.name for path in files} == {str(job) for job in range(8)}
    assert {path.name for path in files} >= {"results.json", "predictions.parquet", "report.md"}
    assert "report.html" not in {path.name for path in files}  # drawn for all jobs at once
    assert (place / "grid" / "report.html").exists()

    results = {path: path.read_bytes() for path in files if path.name == "results.json"}
    (place / "grid" / "5" / "run.json").write_text("{}")  # as if it had been cut off
    assert gwsmm(*command).code == 0
    assert begun(place) == before
    again = {path for path, when in files.items() if path.stat().st_mtime_ns != when}
    assert {path.parent.name for path in again} == {"5"}
    assert {path: path.read_bytes() for path in results} == results
    assert "seconds" in read_json(place / "grid" / "5" / "run.json")


def test_every_job_of_a_grid_is_composed_once_and_all_before_the_first_runs(place, monkeypatch):
    asked, compose_job = list[list[str]](), ConfigLoaderImpl.load_sweep_config

    def counted(self, master_config, sweep_overrides):
        asked.append(sweep_overrides[-2:])
        return compose_job(self, master_config, sweep_overrides)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", counted)
    axes = ["seed=0,1", "merge=average,nothing"]
    ended = gwsmm("run", "-m", *given(place, "composed"), *axes)
    assert ended.code == 2
    assert not (place / "composed" / "0").exists()
    assert asked == [["seed=0", "merge=average"], ["seed=0", "merge=nothing"]]
    asked.clear()
    axes = ["merge=average", "seed=0,1,0"]
    ended = gwsmm("run", "-m", *given(place, "composed"), *axes, "--dry-run")
    assert ended.code == 0
    one, other = (["merge=average", f"seed={seed}"] for seed in (0, 1))
    assert asked == [one, other, one, one]  # what stands twice is composed for each


def test_a_file_is_read_again_once_anything_about_it_changes(tmp_path):
    path, long_ago = tmp_path / "file", time.time() - 100
    path.write_bytes(b"as it was")
    os.utime(path, (long_ago, long_ago))
    first = checksum(path)
    assert checksum(path) == first
    path.write_bytes(b"as it is!")  # as many bytes
    assert checksum(path) != first
    path.unlink()
    assert checksum(path) == "missing"


# A search


@pytest.mark.parametrize(
    ("said", "low", "high", "kind"),
    [
        ("x=range(1,9)", 1, 8, "IntDistribution"),
        ("x=range(0,1,0.25)", 0.0, 0.75, "FloatDistribution"),
        ("x=range(0,1,0.3)", 0.0, 0.9, "FloatDistribution"),
        ("x=range(0.4,-0.01,-0.1)", 0.0, 0.4, "FloatDistribution"),
        ("x=int(interval(1,9))", 1, 9, "IntDistribution"),
        ("x=interval(0.1,0.9)", 0.1, 0.9, "FloatDistribution"),
        ("x=tag(log,interval(1e-5,1e-2))", 1e-5, 1e-2, "FloatDistribution"),
    ],
)
def test_ranges_and_intervals_of_hydra_are_searched_between_their_ends(said, low, high, kind):
    (override,) = OverridesParser.create().parse_overrides([said])
    found = distribution(override)
    assert (type(found).__name__, found.low, found.high) == (kind, low, high)
    assert getattr(found, "log", False) == ("log" in said)


def test_a_trial_that_lags_is_not_tried_on_further_seeds_and_one_over_budget_is_never_best(
    tmp_path,
):
    search = Search(
        trials=9, sampler="random", population=2, seed=0, seeds=[0, 1], prune=True, batch=1
    )
    (override,) = OverridesParser.create().parse_overrides(["x=interval(0,1.0)"])
    space, asked = distribution(override), []
    with opened(search, tmp_path, {"micro F1": "maximize"}, {}) as study:
        while trials := study.ask():
            (trial,) = trials
            trial._suggest("x", space)
            last = {7: 0.1, 8: 0.9}.get(trial.number, 0.5 + 0.01 * trial.number)
            over = {"budget": 0.2 if trial.number == 8 else -0.1}
            goals = [Goal((last,), over)]
            while study.goes_on(trial, goals):
                goals.append(Goal((last,), over))
            asked.append(len(goals))
        study.write(tmp_path, ["experiment=tiny"])
    table = pd.read_csv(tmp_path / "trials.csv")
    assert asked[5:] == [2, 2, 1, 1]
    assert list(table["state"])[6:] == ["complete", "pruned", "complete"]
    (best,) = read_json(tmp_path / "best.json")
    assert best["trial"] == 6
    assert best["command"].endswith(
        f"run experiment=tiny {best['overrides'][0]} seed=0 hydra.mode=RUN"
    )


SEARCH = (
    "hydra/sweeper=optuna", "hydra.sweeper.trials=4", "-m", "objective=micro_f1_at_budget",
    "objective.budget=0.9", "merge=choice(ties,average)", "merge.density=interval(0.2,0.8)",
)  # fmt: skip


def test_a_search_that_is_killed_goes_on_with_the_same_trials(place):
    ended = gwsmm("run", *given(place, "whole", *SEARCH))
    assert ended.code == 0, ended.err
    assert "Again: " in ended.out
    whole = (place / "whole" / "trials.csv").read_text()
    table = pd.read_csv(place / "whole" / "trials.csv")
    assert list(table["trial"]) == [0, 1, 2, 3]
    # a setting that a trial's choice does not have is no part of it
    assert (table["merge.density"].isna() == (table["merge"] == "average")).all()
    (best,) = read_json(place / "whole" / "best.json")
    top = table.loc[table["micro F1"].idxmax()]
    assert best["trial"] == top["trial"]

    before = begun(place)
    command = [COMMAND, "run", *given(place, "killed", *SEARCH)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE
    while not (place / "killed" / "2" / "config.yaml").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = (place / "killed" / "0" / "run.json").stat().st_mtime_ns
    assert gwsmm("run", *given(place, "killed", *SEARCH)).code == 0
    assert (place / "killed" / "trials.csv").read_text() == whole
    assert (place / "killed" / "0" / "run.json").stat().st_mtime_ns == first
    assert begun(place) == before  # the same trials

    more = [each.replace("trials=4", "trials=5") for each in SEARCH]
    assert gwsmm("run", *given(place, "killed", *more)).code == 0
    assert len(pd.read_csv(place / "killed" / "trials.csv")) == 5

    other = [each.replace("0.2,", "0.3,") for each in SEARCH]
    ended = gwsmm("run", *given(place, "killed", *other))
    assert ended.code == 2
    assert "holds a sweep of other settings" in ended.err


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("objective=off", "objective=off: a search goes by an objective"),
        ("merge.densty=interval(0,1)", r"merge.densty: there is no such setting; did you mean"),
        ("merge.density=tag(log,interval(0,0.9))", "merge.density=tag(log,interval(0,0.9)): "),
        ("merge.density=interval(0.9,0.1)", "merge.density=interval(0.9,0.1): cannot be searched"),
        ("merge.density=interval(0,inf)", "(0,inf): cannot be searched: both ends of an interval"),
        ("merge.density=range(0.5,0.5)", "(0.5,0.5): cannot be searched: there is no value"),
        ("hydra.sweeper.params=foo", "hydra.sweeper.params=foo: these are settings by their names"),
        ("hydra.sweeper.trials=0", "trials=0: Input should be greater"),
        ("hydra.sweeper.sampler=tpee", "sampler='tpee'"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(place, override, says):
    name = override.split("=")[0]
    others = [each for each in SEARCH if not each.startswith((f"{name}=", f"{name}."))]
    ended = gwsmm("run", *given(place, "refused", *others, override))
    assert ended.code == 2, ended
    (line,) = ended.err.splitlines()
    assert says in line
    assert not (place / "refused").exists()


def test_without_optuna_one_line_says_what_to_install(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    ended = gwsmm("run", *given(place, "missing", *SEARCH))
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "pip install 'gwsmm[optuna]'" in line


@pytest.mark.parametrize("name", SWEEPS)
def test_whatever_a_sweep_of_ours_draws_can_be_built(name, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        master = compose("config", overrides=[f"experiment={name}"], return_hydra_config=True)
        settings = OmegaConf.to_container(master.hydra.sweeper, resolve=False)
        settings |= {"seed": 0, "trials": 12, "sampler": "random"}
        assert settings.pop("_target_") == "hydra_plugins.gwsmm_optuna.OptunaSweeper"
        sweeper = OptunaSweeper(**settings)
        sweeper.master, sweeper.fixed = master, [f"experiment={name}"]
        sweeper.loader = GlobalHydra.instance().config_loader()
        swept = sweeper.swept([])
        sweeper.check(swept)
        space = {key: distribution(each) for key, each in swept.items()}
        assert master.hydra.runtime.choices.objective in ("micro_f1_at_budget", "pareto")
        drawn = []
        with opened(sweeper.search, tmp_path, {"micro F1": "maximize"}, {}) as study:
            while trials := study.ask():
                drawn += [sweeper.overrides(trial, space) for trial in trials]
                for trial in trials:
                    study.refuse(trial)
    used = {each.partition("=")[0] for overrides in drawn for each in overrides}
    assert used == set(space)  # none is a setting of no choice
    for overrides in drawn[:2]:
        assert composed(f"experiment={name}", *overrides).name == name

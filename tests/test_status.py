"""How runs stand and why they are stale; what is cleaned from a store, and what never is."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest
from filelock import FileLock
from little import HALVES, TINY, TWO, gwsmm, read_json, write_items

from gwsmm.artefact import Absent, Artefact
from gwsmm.cleaning import DAY, Broom
from gwsmm.cli.finished import reopened
from gwsmm.dryrun import DryExperiment
from gwsmm.execute import Serial
from gwsmm.experiment import Experiment
from gwsmm.features import Extraction
from gwsmm.logbook import LOCK, LOG, RUNS, run_folders, standing
from gwsmm.staleness import FIRST, changed_settings
from gwsmm.store import NOTED, Store, claimed
from gwsmm.types import InputError


@dataclass(frozen=True)
class Copy:
    """A stage that writes its subject down."""

    stage: ClassVar[str] = "copy"
    version: ClassVar[int] = 1

    def __call__(self, subject: object, folder: Path) -> None:
        (folder / "value.txt").write_text(f"{subject}")


def filled(root: Path, *subjects: str) -> list[Artefact]:
    return Store(root).each(Copy(), subjects, Serial(threads=1))


def aged(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


# How a run stands


def log(folder: Path, *said: str) -> Path:
    """The log of a run that said this."""
    lines = [f"2026-01-02 03:04:05,678 INFO gwsmm.{each}" for each in said]
    (folder / "run.log").write_text("\n".join([*lines, "what belongs to no line", ""]))
    return folder


BEGUN = ("cli.run: begun", "store: finetune: 3 computed, 0 reused")


@pytest.mark.parametrize(
    ("said", "state", "stage", "why"),
    [
        ([*BEGUN, "cli.run: stopped"], "stopped", "finetune", ""),
        ([*BEGUN, "cli.run: failed: a reason: here"], "failed", "finetune", "a reason: here"),
        ([*BEGUN, "cli.run: finished in 3 s: runs/x"], "finished", "finetune", ""),
        (BEGUN, "killed", "finetune", ""),
        ([*BEGUN, "cli.run: stopped", *BEGUN], "killed", "finetune", ""),
        ([*BEGUN, "cli.run: stopped", BEGUN[0]], "killed", None, ""),
        ([], "killed", None, ""),
    ],
)
def test_a_log_says_how_its_run_stands(tmp_path, said, state, stage, why):
    found = standing(log(tmp_path, *said))
    assert (found.state, found.stage, found.why) == (state, stage, why)
    assert found.at == ("2026-01-02 03:04" if said else "")


def test_a_run_that_goes_on_is_told_from_one_that_was_killed(tmp_path):
    log(tmp_path, *BEGUN)
    with claimed(tmp_path / LOCK):
        assert standing(tmp_path).state == "running"
    assert (tmp_path / LOCK).exists()
    assert standing(tmp_path).state == "killed"


# The command


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with items, a store and one finished run."""
    root = tmp_path_factory.mktemp("world")
    write_items(root / "data", items=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        given = ("items=pasta", "items.path=data", "hydra.run.dir=outputs/runs/run")
        assert gwsmm("run", *TINY, TWO, *given, HALVES).code == 0
    return root


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, to be spoiled; its store knows nothing of the first one's run."""
    monkeypatch.chdir(shutil.copytree(world, tmp_path / "world", copy_function=shutil.copy2))
    Path("outputs/store", NOTED).unlink()
    return tmp_path / "world"


RUN = Path("outputs/runs/run")


def status(*folders: str) -> tuple[list[str], list[str]]:
    """The cells of the only run, and the lines below the table."""
    ended = gwsmm("status", *folders)
    assert (ended.code, ended.err) == (0, "")
    lines = [line.strip() for line in ended.out.splitlines() if line.strip()]
    (row,) = [line for line in lines if line.startswith(f"{RUN}  ")]
    return re.split(r"\s{2,}", row)[1:], lines[lines.index(row) + 1 :]


def used(run: Path = RUN) -> list[Path]:
    stages = read_json(run / "keys.json")["stages"]
    return [Path("outputs/store", stage, key) for stage, keys in stages.items() for key in keys]


def test_a_run_that_would_come_out_the_same_is_not_stale(here):
    cells, notes = status()
    assert cells == ["finished", cells[1], f"all {len(used())} there", "no"]
    assert notes == []
    assert status(str(RUN))[0] == status("outputs")[0] == cells


def test_searches_are_shown_beside_runs(here):
    search = shutil.copytree(RUN, Path("outputs/sweeps/search/0"))
    out = gwsmm("status").out
    assert f"{RUN} " in out
    assert f"{search} " in out
    shutil.rmtree("outputs/runs")
    assert f"{search} " in gwsmm("status").out
    shutil.rmtree("outputs/sweeps")
    ended = gwsmm("status")
    assert ended.code == 2
    assert ended.err.startswith("gwsmm: outputs/runs: there is no such folder here;")


def test_the_store_of_a_run_is_told(here):
    one, other = used()[:2]
    shutil.rmtree(one)
    other.rename(other.with_suffix(".damaged"))
    (*_, store, _), _ = status()
    assert store == f"2 of {len(used())} missing, 1 set aside as damaged"
    shutil.rmtree("outputs/store")
    assert status()[0][2:] == ["outputs/store: not here", "unknown"]


def test_changed_settings_data_and_code_are_told_with_what_they_touch(here, monkeypatch):
    config = RUN / "config.yaml"
    text = config.read_text()
    assert "cost: squared_euclidean" in text
    config.write_text(text.replace("cost: squared_euclidean", "cost: cosine"))
    path = Path("data/apples_train.csv")
    path.write_text(path.read_text().replace("frozen", "liquid", 1))
    was = Extraction.version
    monkeypatch.setattr(Extraction, "version", 99)
    (*_, stale), notes = status()
    assert stale == "yes"
    assert [note.removeprefix(f"{RUN} is stale: ") for note in notes] == [
        "distance.cost changed: cosine → squared_euclidean (touches distances and what follows)",
        "item apples: responses, ratings or labels changed (touches finetune and what follows)",
        f"Extraction of the stage features changed: version {was} → 99, and with it what follows",
    ]


def test_data_and_settings_that_are_gone_are_told_in_one_line(here):
    shutil.rmtree("data")
    about = read_json(RUN / "run.json")
    about["overrides"].append("merge.densty=1")
    (RUN / "run.json").write_text(json.dumps(about))
    (*_, stale), (one, other) = status()
    assert stale == "yes"
    assert re.search(r"refused today: merge\.densty.*did you mean merge\.density\?", one)
    assert re.search(r"items cannot be read today: .*data is no folder", other)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("keys.json", '{"stages": [1]}'),
        ("keys.json", '{"stages": {"a": 5}}'),
        ("keys.json", '{"stages": {"a": [1]}}'),
        ("keys.json", '{"stages": {"finetune": ["../../data"]}}'),
        ("keys.json", '{"items": ["apples"]}'),
        ("config.yaml", "items: foo\nsplit: {_target_: x}\nstore: outputs/store"),
        ("config.yaml", "items: {path: data}\nsplit: {_target_: x}\nstore: outputs/store"),
        ("config.yaml", "items: {_target_: x, path: 2020-01-01}\nsplit: {_target_: x}\nstore: s"),
        ("config.yaml", "store: [outputs/store]"),
        ("run.json", '{"overrides": [1, 2]}'),
    ],
)
def test_a_file_of_a_run_of_the_wrong_shape_is_told_as_one_that_cannot_be_read(here, name, content):
    (RUN / name).write_text(content)
    cells, _ = status()
    assert "unknown" in cells or "yes" in cells
    ended = gwsmm("clean", "--unreachable")
    assert (ended.code, "Traceback" in ended.err) == (2 if name == "keys.json" else 0, False)


@pytest.mark.parametrize(
    "origin",
    [
        "[" * 20_000,
        "5",
        '{"made_of": {"a": 1}}',
        '{"made_of": 7}',
        '{"made_of": []}',
        '{"made_of": [{"type": 5, "version": 1}]}',
        '{"made_of": [{"type": "gwsmm.store.Store", "version": []}]}',
        '{"made_of": [{"type": "gwsmm.store.LOG.version", "version": 1}]}',
        '{"made_of": [{"type": "gwsmm.store.Key.__doc__", "version": 1}]}',
        '{"made_of": [{"type": "gwsmm.", "version": 1}]}',
    ],
)
def test_a_result_that_does_not_rightly_say_what_made_it_is_no_traceback(here, origin):
    for path in Path("outputs/store").glob("*/*/origin.json"):
        path.write_text(origin)
    cells, _ = status()
    assert cells[2] == f"all {len(used())} there"


def test_a_store_that_the_environment_names_is_found(here, monkeypatch):
    config = RUN / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("store: outputs/store", "store: ${oc.env:SCR}/store"))
    assert status()[0][2] == "${oc.env:SCR}/store: not here"
    monkeypatch.setenv("SCR", "outputs")
    assert status()[0][2] == f"all {len(used())} there"


def test_a_store_in_the_home_folder_is_found(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "outputs"))
    config = RUN / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("store: outputs/store", "store: ~/store"))
    assert status()[0][2] == f"all {len(used())} there"
    experiment, _ = reopened(RUN)
    there = here / "outputs" / "store"
    assert experiment.kept.root == DryExperiment.of(experiment).kept.root == there
    config.write_text(text.replace("store: outputs/store", "store: ~nobody-of-here/store"))
    assert status()[0][2] == "~nobody-of-here/store: not here"


def test_runs_that_ended_otherwise_are_told(here):
    log(RUN, *BEGUN, "cli.run: failed: no space left")
    cells, notes = status()
    assert cells == ["failed in finetune", "2026-01-02 03:04", "–", "–"]
    assert notes == [f"{RUN} failed: no space left"]
    log(RUN, *BEGUN, "cli.run: stopped")
    cells, (note,) = status()
    assert cells[0] == "stopped in finetune"
    assert "goes on from there" in note
    ended = gwsmm("status", "nowhere")
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(r"gwsmm: nowhere: there is no such folder here; give .*\n", ended.err)


def test_status_imports_no_torch(here):
    code = (
        "import sys; from gwsmm.cli.main import main; main(['status']); "
        "assert not {'torch', 'transformers', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_choice_of_an_experiment_touches_known_stages():
    assert set(FIRST) == {field.name for field in fields(Experiment)}


def test_settings_that_come_and_go_are_said():
    before = {"merge": {"density": 0.1, "old": None}, "name": "a", "evidence": {"seed": 0}}
    now = {"merge": {"density": 0.1, "new": [1]}, "name": "b", "evidence": {"seed": 1}}
    assert changed_settings(before, now) == [
        "merge.old is no setting any more (was null) (touches merge and what follows)",
        "name changed: a → b (changes no result)",
        "evidence.seed changed: 0 → 1 (touches evidence)",
        "merge.new is a new setting: [1] (touches merge and what follows)",
    ]


# Last use


def test_the_time_of_a_result_is_that_of_its_last_use(tmp_path):
    (made,) = filled(tmp_path, "a")
    aged(made.path, 100)
    Store(tmp_path).holds("copy", made.digest)
    assert time.time() - made.path.stat().st_mtime > 99 * DAY
    filled(tmp_path, "a")
    assert time.time() - made.path.stat().st_mtime < 60


def test_a_result_that_is_gone_is_told_when_it_is_read(tmp_path):
    (made,) = filled(tmp_path, "a")
    shutil.rmtree(made.path)
    with pytest.raises(Absent, match="run the command again") as error:
        made.file("value.txt")
    assert error.value.stage == "copy"
    assert not made.path.with_suffix(".damaged").exists()


# Cleaning


def fates(root: Path, broom: Broom) -> dict[str, str]:
    return {each.path.name: each.fate for each in broom.found(root)}


def test_only_what_nobody_needs_used_or_works_on_goes(tmp_path):
    needed, old, lately, held = (each.path for each in filled(tmp_path, *"abcd"))
    for path in (needed, old, held):
        aged(path, 3)
    aged(lately, 1)
    damaged, part, worked_on = (each.path for each in filled(tmp_path, *"efg"))
    damaged = damaged.rename(damaged.with_suffix(".damaged"))
    part = part.rename(part.with_suffix(".part"))
    working = worked_on.rename(worked_on.with_suffix(".part"))
    foreign = tmp_path / "copy" / "notes"
    foreign.mkdir()
    broom = Broom(needed={("copy", needed.name)}, age=2 * DAY)
    with claimed(held.with_suffix(".lock")), claimed(worked_on.with_suffix(".lock")):
        assert fates(tmp_path, broom) == {
            needed.name: "needed",
            old.name: "unused",
            lately.name: "used lately",
            held.name: "in work",
            damaged.name: "damaged",
            part.name: "left over",
            working.name: "in work",
        }
        assert set(fates(tmp_path, Broom(needed=(), age=None)).values()) == {
            "used lately", "in work", "damaged", "left over",
        }  # fmt: skip
        removed = {each.path for each in broom.found(tmp_path) if broom.remove(each)}
    assert removed == {old, damaged, part}
    left = {path for path in (tmp_path / "copy").iterdir() if path.suffix != ".lock"}
    assert left == {needed, lately, held, working, foreign}
    assert needed.joinpath("value.txt").read_text() == "a"


def test_what_is_used_after_it_was_looked_at_stays(tmp_path):
    used, held = (each.path for each in filled(tmp_path, *"ab"))
    for path in (used, held):
        aged(path, 3)
    broom = Broom(needed=(), age=DAY)
    found = list(broom.found(tmp_path))
    assert {each.fate for each in found} == {"unused"}
    filled(tmp_path, "a")
    with claimed(held.with_suffix(".lock")):
        assert [broom.remove(each) for each in found] == [False, False]
    assert used.exists()
    assert held.exists()


def test_a_cleaning_that_is_killed_leaves_whole_results_and_the_next_goes_on(tmp_path, monkeypatch):
    paths = [each.path for each in filled(tmp_path, *"abc")]
    for path in paths:
        aged(path, 3)
    broom, real = Broom(needed=(), age=DAY), shutil.rmtree

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            (path / "value.txt").unlink()
            raise KeyboardInterrupt
        real(path, ignore_errors=True)

    first, *others = list(broom.found(tmp_path))
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        broom.remove(first)
    monkeypatch.undo()
    assert not first.path.exists()
    for each in others:
        assert (each.path / "value.txt").exists()
    assert fates(tmp_path, Broom(needed=(), age=None))[f"{first.path.name}.part"] == "left over"
    assert all(broom.remove(each) for each in broom.found(tmp_path))
    assert all(path.suffix == ".lock" for path in (tmp_path / "copy").iterdir())
    assert [each.file("value.txt").read_text() for each in filled(tmp_path, *"abc")] == [*"abc"]


def test_clean_says_what_goes_and_asks_and_never_takes_what_a_run_needs(here):
    store = Path("outputs/store")
    (extra,) = filled(store, "extra")
    for path in (extra.path, *used()):
        aged(path, 50)
    whole = set(store.rglob("*"))
    said = gwsmm("clean", "--unreachable")
    assert re.search(r"copy +1 +0 +0 ", said.out)
    assert re.search(r"1 folders, .* nothing was removed: --yes removes it", said.out)
    assert gwsmm("clean", "--older-than", "30d", "--dry-run").out == said.out
    assert "nothing to remove" in gwsmm("clean", "--older-than", "60d").out
    assert "nothing to remove" in gwsmm("clean").out
    assert set(store.rglob("*")) == whole
    assert "Removed 1 folders" in gwsmm("clean", "--unreachable", "--yes").out
    assert not extra.path.exists()
    assert status()[0][2] == f"all {len(used())} there"

    (RUN / "keys.json").write_text(json.dumps({"items": {}, "stages": {"copy": ["0" * 32]}}))
    for piece in store.glob("pairs/*"):  # which no run needs
        aged(piece, 50)
    assert gwsmm("clean", "--unreachable", "--yes").code == 0
    assert not list(store.glob("*/*/manifest.json"))


@pytest.mark.parametrize(
    "place", ["outputs/sweeps/search/0", "outputs/runs/many/all/a/0", "outputs/runs/elsewhere"]
)
def test_clean_finds_runs_wherever_they_are_under_its_folders(here, place):
    for path in used():
        aged(path, 50)
    moved = Path(place)
    moved.parent.mkdir(parents=True, exist_ok=True)
    if moved.name == "elsewhere":
        moved.symlink_to(RUN.rename(here / "elsewhere"))
        Path("outputs/runs/round").symlink_to(here / "outputs")
    else:
        RUN.rename(moved)
        (moved / "run.log").rename(moved / "renamed.log")  # by hydra.job.name=renamed
    for runs in ([], ["--runs", "outputs"], ["--runs", place]):
        assert "nothing to remove" in gwsmm("clean", "--unreachable", *runs).out


def test_clean_knows_the_runs_that_the_store_has_noted_wherever_they_are(here, world, tmp_path):
    assert Store(world / "outputs/store").noted_runs() == [world / RUN]
    for path in used():
        aged(path, 50)
    other = tmp_path / "a" / "x"
    other.parent.mkdir()
    RUN.rename(other)
    log(Path(shutil.copytree(other, RUN)), *BEGUN, "cli.run: stopped")
    (RUN / "keys.json").unlink()
    going = f"{len(used(other))} folders, "
    assert going in gwsmm("clean", "--unreachable").out

    store = Store(Path("outputs/store"))
    with (store.root / NOTED).open("a") as file:
        file.write('7\n{}\n"/half of a li')  # as on a full disk
    for folder in (other, Path("gone"), other):
        store.note_run(folder)
    assert store.noted_runs() == [other, here / "gone"]
    out = gwsmm("clean", "--unreachable").out
    assert "nothing to remove" in out
    assert f"not here any more: 1, e.g. {here / 'gone'}; " in out
    with claimed(other / LOCK):
        log(other, *BEGUN)
        ended = gwsmm("clean", "--unreachable", "--yes")
    assert (ended.code, ended.out) == (2, "")
    assert f"{other}: this run is at work" in ended.err
    shutil.rmtree(other)
    assert going in gwsmm("clean", "--unreachable").out


def test_a_run_is_not_noted_in_a_store_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    Store(tmp_path / "file").note_run(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


GWSMM = """#!/usr/bin/env bash
for given; do
  job=${given#hydra.sweep.dir=}/0
  if [[ $given == hydra.* ]]; then mkdir -p "$job" && touch "$job/run.log"; fi
done
"""


def test_the_runs_that_reproduce_the_tables_are_where_runs_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("scripts", "conf/experiment", ".venv/bin"):
        Path(folder).mkdir(parents=True)
    for name in ("paper_tables", "ablation_x"):
        Path(f"conf/experiment/{name}.yaml").touch()
    Path("scripts/setup").touch()  # nothing is installed here
    command = Path(".venv/bin/gwsmm")
    command.write_text(GWSMM)
    command.chmod(0o755)
    script = shutil.copy(Path(__file__).parents[1] / "scripts/reproduce", "scripts")
    subprocess.run(["bash", script, "seed=1"], check=True, capture_output=True)
    found = [path.parts[-2:] for folder in RUNS for path in run_folders(folder, LOG)]
    assert found == [("ablation_x", "0"), ("paper_tables", "0")]


def test_clean_is_refused_where_no_run_is_found(here):
    Path("none").mkdir()
    for runs, says in (
        (["--runs", "outputs/runs", "none"], "none: there is no run in it"),
        (["--runs", "nowhere"], "nowhere: there is no such folder here"),
        (["--runs", "data/apples_test.csv"], "data/apples_test.csv cannot be read"),
    ):
        ended = gwsmm("clean", "--unreachable", "--yes", *runs)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith(f"gwsmm: {says}")
    shutil.rmtree("outputs/runs")
    ended = gwsmm("clean", "--unreachable", "--yes")
    assert (ended.code, ended.out) == (2, "")
    assert "no run in outputs/runs or outputs/sweeps" in ended.err
    assert list(Path("outputs/store").glob("*/*/manifest.json"))
    assert gwsmm("clean").code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_of_runs_that_cannot_be_read_is_not_passed_over(here):
    RUN.chmod(0)
    ended = gwsmm("clean", "--unreachable", "--yes")
    RUN.chmod(0o755)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"{RUN} cannot be read" in ended.err


def test_clean_takes_nothing_while_a_run_is_at_work(here):
    (extra,) = filled(Path("outputs/store"), "extra")
    aged(extra.path, 50)
    log(RUN, *BEGUN)
    with claimed(RUN / LOCK):
        ended = gwsmm("clean", "--unreachable", "--yes")
        assert gwsmm("clean", "--yes").code == 0
    assert (ended.code, ended.out) == (2, "")
    assert f"{RUN}: this run is at work" in ended.err
    assert extra.path.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere: there is no such folder here"),
        (["--unreachable", "--runs", "nowhere"], "nobody knows what its runs need"),
        (["--older-than", "1h"], "'1h' is no age"),
        (["--older-than", "0d"], "'0d' is no age"),
        (["--yes", "--dry-run"], "not allowed with"),
    ],
)
def test_clean_is_refused_in_one_line(here, arguments, says):
    ended = gwsmm("clean", *arguments)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert says in line


def test_clean_is_refused_where_a_run_does_not_say_what_it_needs(here):
    keys = RUN / "keys.json"
    keys.unlink()
    ended = gwsmm("clean", "--unreachable", "--yes")
    keys.write_text("half of")
    log(RUN, *BEGUN, "cli.run: stopped")
    again = gwsmm("clean", "--unreachable", "--yes")
    assert ended.code == again.code == 2
    assert ended.err == again.err
    assert "has no keys.json" in ended.err
    assert gwsmm("clean").code == 0


def test_a_store_that_cannot_be_cleaned_says_so(here, monkeypatch):
    (extra,) = filled(Path("outputs/store"), "extra")
    aged(extra.path, 50)

    def refused(self: Broom, found: object) -> bool:
        raise PermissionError(13, "Permission denied", "outputs/store/copy")

    monkeypatch.setattr(Broom, "remove", refused)
    ended = gwsmm("clean", "--unreachable", "--yes")
    assert ended.code == 2
    assert ended.err == "gwsmm: outputs/store/copy: cannot be removed: Permission denied\n"


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """All locks are of somebody else, and root may take them."""

    def refused(self: FileLock, blocking: bool) -> None:
        raise PermissionError(13, "Permission denied", self.lock_file)

    monkeypatch.setattr(FileLock, "acquire", refused)


def test_what_of_somebody_elses_runs_and_store_cannot_be_told_is_said(here, foreign):
    (RUN / LOCK).touch()
    log(RUN, *BEGUN)
    assert status()[0][0] == "running or killed in report"
    ended = gwsmm("clean", "--unreachable", "--yes")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"{RUN}: this run is perhaps at work" in ended.err

    store = Path("outputs/store")
    paths = [path for path in store.glob("*/*") if path.is_dir()]
    assert all(path.with_suffix(".lock").exists() for path in paths)
    assert fates(store, Broom(needed=(), age=DAY)) == {path.name: "in work" for path in paths}
    ended = gwsmm("clean", "--yes")
    assert (ended.code, ended.err) == (0, "")
    assert "Removed 0 folders" in ended.out


def test_a_store_that_cannot_be_read_ends_in_one_line(here, monkeypatch):
    def refused(self: Broom, root: Path) -> list:
        raise PermissionError(13, "Permission denied", "outputs/store/copy")

    monkeypatch.setattr(Broom, "found", refused)
    ended = gwsmm("clean")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "gwsmm: outputs/store/copy: Permission denied\n"


def test_an_error_of_the_user_is_one_line(tmp_path):
    assert issubclass(Absent, InputError)
    assert "\n" not in str(Absent(tmp_path / "stage" / "key"))

"""A dry run asks for what the run asks for; it computes nothing, and leaves nothing."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from little import CONF, HALVES, TINY, TWO, gwsmm, write_items

from gwsmm.cli.composing import build
from gwsmm.dryrun import Asked, Forecast
from gwsmm.estimating import expected
from gwsmm.pipeline import foresee, prepare, run
from gwsmm.store import key_of
from gwsmm.types import InputError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_items(tmp_path_factory.mktemp("items"), items=3)


@pytest.fixture(scope="module")
def experiment(data):
    """An experiment over one store for all tests of this file."""

    def composed(*overrides: str):
        where = ["items=pasta", f"items.path={data}", f"store={data.parent / 'store'}", HALVES]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return build(compose("config", overrides=[*TINY, *where, *overrides]))

    return composed


def asked(forecast: Forecast) -> set[tuple[str, str]]:
    return {(each.stage, each.digest) for each in forecast.asked if each.stays}


def missing(forecast: Forecast) -> set[tuple[str, str]]:
    return {(e.stage, e.digest) for e in forecast.asked if e.stays and not e.there}


def kept(root: Path) -> set[tuple[str, str]]:
    return {(path.parent.name, path.name) for path in root.glob("*/*") if not path.suffix}


@pytest.mark.parametrize(
    "overrides",
    [
        ["grouping=all"],  # of an empty store: no distance decides on the plan
        [TWO],
        ["grouping=all", "numbers=float16", "decision=temperature"],
        ["grouping=all", "private=svd", "private.rank=2"],
        ["grouping=all", "evidence=pairs", "heads=keep"],
        ["grouping=greedy_weights", TWO],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_where_the_plan_is_known_a_dry_run_asks_for_what_the_run_computes(experiment, overrides):
    x = experiment(*overrides)
    items, root = prepare(x), Path(x.store)
    before, forecast = kept(root), foresee(x, items)
    assert kept(root) == before
    if forecast.waits:  # for the angles between the weights
        assert "greedy" in overrides[0]
        run(x, items)
        before, forecast = kept(root), foresee(experiment(*overrides), items)
        assert missing(forecast) == set()
    run(x, items)
    assert forecast.waits is None
    assert asked(forecast) == {(stage, key) for stage, keys in x.kept.used.items() for key in keys}
    made = {(stage, key) for stage, key in kept(root) - before if stage != "pairs"}  # see store.md
    assert missing(forecast) == made


@pytest.mark.parametrize(
    ("overrides", "waits"),
    [
        ([TWO], "distances"),
        (["grouping=validated", TWO], "evaluate"),
        (["grouping=drift", TWO], "drift"),
        (["evidence=pairs", TWO], "distances"),
    ],
)
def test_what_must_be_read_is_waited_for_and_the_rest_is_asked_for(experiment, overrides, waits):
    x = experiment(*overrides, "seed=7")
    items = prepare(x)
    forecast = foresee(x, items)
    assert forecast.waits == waits
    stages = [each.stage for each in forecast.asked if not each.there]
    assert stages.count("finetune") == 3
    assert stages.count("distances") == 1
    # what every plan asks for: the individual models, and all pairs where these are tried
    tries = overrides[0] in ("evidence=pairs", "grouping=drift")
    assert stages.count("merge") == (3 if tries else 0)
    assert "merge" not in [stage for stage, _ in missing(forecast)]  # those are not kept
    assert "evaluate" in stages
    assert sum(each.pairs for each in forecast.asked if each.stage == "distances") == 3
    assert sum(each.pairs for each in forecast.asked if each.stage == "stability") == 6


def test_a_language_model_is_not_asked(experiment, tmp_path):
    asks = ["grouping=llm", "grouping.record=null", f"grouping.answers={tmp_path}"]
    for overrides in (asks, [*asks, TWO]):
        x = experiment(*overrides)
        forecast = foresee(x, prepare(x, ask=False))
        assert forecast.waits == "the language model's answer"
    assert list(tmp_path.iterdir()) == []


def test_what_the_remote_has_is_there_and_stays_where_it_is(experiment, tmp_path):
    root, shared = tmp_path / "store", tmp_path / "shared"
    overrides = ["grouping=all", f"remote=file://{shared}", "seed=9"]
    x = experiment(*overrides, f"store={root}")
    items = prepare(x, ask=False)
    assert not shared.exists()  # nothing is tried there
    assert len(missing(foresee(x, items))) == len(foresee(x, items).asked)
    run(x, items)
    before = sorted(shared.rglob("*"))

    elsewhere = experiment(*overrides, f"store={tmp_path / 'elsewhere'}")
    forecast = foresee(elsewhere, prepare(elsewhere, ask=False))
    assert asked(forecast) == {(stage, key) for stage, keys in x.kept.used.items() for key in keys}
    assert missing(forecast) == set()
    assert sorted(shared.rglob("*")) == before
    assert not (tmp_path / "elsewhere").exists()

    manifest = next(shared.glob("finetune/*/manifest.json"))
    manifest.write_text("{}")
    assert missing(foresee(elsewhere, items)) == {("finetune", manifest.parent.name)}
    with pytest.raises(InputError, match="give no user or password"):
        prepare(experiment(*overrides[:1], "remote=s3://me:secret@bucket/x"), ask=False)


# What it takes


def finished(root: Path, stage: str, seconds: float, size: int, settings: object = None) -> None:
    """A finished result."""
    key = key_of(type("S", (), {"digest": f"{stage}{seconds}{settings}"})(), None)
    folder = root / stage / key.digest
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("")
    origin = f'{{"seconds": {seconds}, "made_of": [{{"a": {settings or 0}}}, null]}}'
    (folder / "origin.json").write_text(origin)
    (folder / "value").write_text("x" * (size - len(origin)))


def result(root: Path, digest: str, **changed: object) -> Asked:
    fields = {
        "stage": "s",
        "settings": {"a": 0},
        "there": False,
        "stays": True,
        "pairs": 0,
        "workers": 2,
    }
    return Asked(store=root, digest=digest, **(fields | changed))


def test_times_are_medians_divided_over_the_workers_and_what_jobs_share_counts_once(tmp_path):
    for seconds, size in ((1.0, 1000), (2.0, 2000), (30.0, 3000)):
        finished(tmp_path, "s", seconds, size)
    finished(tmp_path, "s", 100.0, 9000, settings=1)
    one = [result(tmp_path, digest) for digest in "abc"]
    other = [*one, result(tmp_path, "d"), result(tmp_path, "e", there=True, stage="t")]
    s, t = expected([Forecast(one, None), Forecast(other, None)])
    assert (s.stage, s.there, s.missing, s.bytes) == ("s", 0, 4, 8000)
    assert s.seconds == (2 + 1) * 2.0  # two rounds of two workers, and one of the second job
    assert (t.there, t.missing, t.bytes, t.seconds) == (1, 0, 0, 0)
    (like,) = expected([Forecast([result(tmp_path, "x", settings={"a": 1})], None)])
    assert like.seconds == 100  # that of the same settings
    (unlike,) = expected([Forecast([result(tmp_path, "x", settings={"a": 2})], None)])
    assert unlike.seconds == 16  # of all that there are
    (unknown,) = expected([Forecast([result(tmp_path, "x", stage="u", pairs=3)], None)])
    assert (unknown.seconds, unknown.bytes, unknown.pairs) == (None, None, 3)
    (passing,) = expected([Forecast([result(tmp_path, "x", stays=False)], None)])
    assert (passing.seconds, passing.bytes) == (2, 0)  # it takes its time, and no room


# The command


def rows(out: str) -> dict[str, list[str]]:
    """The cells of a table by that of the first column."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if "  " in line]
    return {first: rest for first, *rest in cells}


def test_the_command_says_what_is_to_do_and_leaves_nothing(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [*TINY, TWO, "items=pasta", f"items.path={data}", HALVES]
    ended = gwsmm("run", *given, "--dry-run")
    assert ended.code == 0, ended.err
    shown = rows(ended.out)
    assert shown["finetune"] == ["0", "3", "0", "unknown", "unknown"]
    assert shown["distances"][:3] == ["0", "1", "3"]
    assert "3 trainings; 9 pairs of items" in ended.out
    assert "The plan waits for distances; " in ended.out

    ended = gwsmm("run", "--dry-run", *given, "-m", "grouping=linkage,drift")
    assert ended.code == 0, ended.err
    assert rows(ended.out)["finetune"][:2] == ["0", "3"]
    assert rows(ended.out)["merge"][:2] == ["0", "3"]
    assert "2 jobs, what they share counted once" in ended.out
    for what in ("distances", "drift"):
        assert f"The plan of 1 of 2 jobs waits for {what}; " in ended.out

    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "+hydra.launcher.verbose=0"]
    again = gwsmm("run", "--dry-run", *given, "-m", "grouping=linkage,drift", *launcher)
    assert (again.code, again.out) == (0, ended.out), again.err

    ended = gwsmm("run", *given, "grouping.encoders=9", "--dry-run")
    assert ended.code == 2
    assert "there are only 3 items" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_search_is_refused_at_once(tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="pip install 'gwsmm[optuna]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gwsmm.cli.run.build", lambda _: pytest.fail("a job was begun"))
    for given in (["experiment=sweep_merge"], ["-m", "hydra/sweeper=optuna", "seed=1,2"]):
        ended = gwsmm("run", "--dry-run", *given)
        assert (ended.code, ended.out) == (2, "")
        (line,) = ended.err.splitlines()
        assert re.search("--dry-run: .*OptunaSweeper chooses its jobs by .* hydra.mode=RUN", line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", [["--cfg", "job"], ["-i"], ["--help"]], ids=" ".join)
def test_what_runs_nothing_is_no_dry_run(other):
    for given in ([*other, "--dry-run"], ["-m", "--dry-run", "merge=ties,average", *other]):
        ended = gwsmm("run", *TINY, *given)
        assert (ended.code, ended.out) == (2, "")
        (line,) = ended.err.splitlines()
        assert re.match("gwsmm: gwsmm run: --dry-run and --.*: give one of the two", line)

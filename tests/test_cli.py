"""The command line: what is wrong is said in one line, before any work; what is right runs."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from little import COMMAND, CONF, NAMES, TINY, TWO, gwsmm, read_json, write_items
from omegaconf import OmegaConf

from gwsmm import __version__
from gwsmm.cli.composing import build, rebuild
from gwsmm.experiment import Experiment
from gwsmm.logbook import LOCK
from gwsmm.results import write_json
from gwsmm.store import claimed
from gwsmm.types import InputError

EVERY_YAML = sorted(CONF.rglob("*.yaml"))
CHOICES = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name not in ("experiment", "hydra")
}
EXPERIMENTS = sorted(path.stem for path in CONF.glob("experiment/*.yaml"))


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_items(tmp_path_factory.mktemp("items"), items=3)


@pytest.fixture
def data(items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The items, to be spoiled, in a working directory where nothing else is."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(items, tmp_path / "data"))


PASTA = (*TINY, TWO, "items=pasta", "items.path=data")


def refused(*overrides: str, says: str) -> None:
    """The command ends with 2 and one line that holds this, and leaves nothing."""
    ended = gwsmm("run", *overrides)
    assert ended.code == 2, ended
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("gwsmm: ")
    assert re.search(says, line), line
    assert "Traceback" not in line
    assert len(line) < 600
    runs = Path("outputs/runs")
    assert not runs.exists() or list(runs.iterdir()) == []
    assert not Path("outputs/store").exists()


# Settings

SEEDS = "split.seed=0 features.seed=0 distance.seed=0 stability.seed=0 evidence.seed=0"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("merge.densty=0.1", r"merge\.densty.*did you mean merge\.density\?"),
        ("+merge.densty=0.1", r"merge\.densty.*did you mean merge\.density\?"),
        ("sede=1", r"sede.*did you mean seed\?"),
        ("mrege=ties", r"mrege.*did you mean merge\?"),
        ("merge=tise", r"merge=tise.*did you mean ties\?.*average"),
        ("merge=1", r"merge=1: merge takes the name of a choice \(.*average"),
        ("-m merge=ties,2", r"merge=ties,2: merge takes the name of a choice \(.*average"),
        ("merge=null", r"merge=null: merge takes the name of a choice \(.*average"),
        ("=1", r"=1: there is no name of a setting"),
        ("merge=average merge.density=0.1", r"merge\.density: the chosen merge has no such"),
        ("merge.density=abc", r"merge\.density='abc'.*number"),
        ("finetune.epochs=2.5", r"finetune\.epochs=2\.5.*integer"),
        ("features.split=test", r"features\.split='test'.*train"),
        ("seed=abc", r"seed='abc'.*integer"),
        (f"seed=1.5 {SEEDS}", r"seed=1\.5: give a whole number"),
        ("seed=-1", r"seed=-1"),
        ("store=null", "store=None: give a text"),
        ("published=perhaps", "published='perhaps': give true or false"),
        ("merge.density=7", r"merge\.density=7.*less than or equal to 1"),
        ("grouping.encoders=null", "give one of `encoders`, `threshold` and `storage`"),
        ("grouping.encoders=9", r"grouping\.encoders=9: there are only 3 items.*at most 3"),
        ("merge.base=aples", r"merge\.base=aples: there is no such item.*apples"),
        (
            "merge=dare_ties merge.then.base=aples",
            r"merge\.then\.base=aples: there is no such item.*apples",
        ),
        (
            "merge=distill merge.recipe.frozen_layers=9",
            r"merge\.recipe\.frozen_layers=9: .*2 layers",
        ),
        ("private=last_layers private.layers=7", r"private\.layers=7: the encoder has 2 layers"),
        ("features=hidden features.layer=-9", r"features\.layer=-9: the encoder has 2 layers"),
        ("encoder=custom", r"encoder\.model: this setting has no default"),
        ("encoder.model=./nowhere", r"encoder\.model=\./nowhere: there is no such folder"),
        ("encoder.model=./data", r"encoder\.model=\./data.*no config\.json"),
        ("encoder.model=package:no_such_package/x", "no_such_package is not installed"),
        ("grouping=expert grouping.record=nowhere.json", r"nowhere\.json: there is no such file"),
        ("grouping=expert", "names the unknown item 'anna_vs_carla'"),
        ("+x._target_=os.system", r"x\._target_=os\.system: only classes of gwsmm"),
        ("merge._target_=os.system", r"merge\._target_=os\.system: only classes"),
        ("+x._target_=torch.load", r"x\._target_=torch\.load: only classes"),
        ("+x._target_=torch.os.system", r"x\._target_=torch\.os\.system: only classes"),
        ("+x=[{_target_:os.system}]", r"_target_=os\.system: only classes"),
        ("merge._target_=gwsmm.merge.nothing.Foo", r"gwsmm\.merge\.nothing\.Foo"),
        ("merge", "merge: cannot be read as option=value"),
        ("merge.density=[1", r"merge\.density=\[1: cannot be read as option=value"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(data, override, says):
    refused(*PASTA, *override.split(), says=says)


@pytest.mark.parametrize("content", ['"0"', "[]", "3", "null", "a: 1"])
def test_a_file_that_is_no_configuration_of_a_run_is_refused(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match="no configuration of a run"):
        rebuild(path)


def test_a_setting_that_has_no_default_is_asked_for(data):
    refused(*TINY, TWO, "items=pasta", says=r"items\.path: this setting has no default; give")


def test_a_job_of_a_multirun_is_refused_in_one_line_and_leaves_nothing(data):
    ended = gwsmm("run", *PASTA, "-m", "merge.density=7,8")
    assert ended.code == 2
    *launched, line = ended.err.splitlines()
    assert re.match(r"gwsmm: merge\.density=7: ", line)
    assert [text.split()[0] for text in launched] == ["Launching", "#0"]
    assert list(Path("outputs/runs").iterdir()) == []


def test_a_folder_of_the_user_is_never_removed(data):
    precious = Path("precious")
    precious.mkdir()
    (precious / "file").write_text("keep")
    assert gwsmm("run", *PASTA, "merge.density=7", f"hydra.run.dir={precious}").code == 2
    assert gwsmm("run", *PASTA, "merge.density=7", "hydra.run.dir=.").code == 2
    assert (precious / "file").read_text() == "keep"
    assert len(list(data.glob("*.csv"))) == 6


def test_the_working_directory_stays_when_it_was_empty(data, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    where = f"items.path={data}"
    assert gwsmm("run", *PASTA, where, "merge.density=7", "hydra.run.dir=.").code == 2
    assert list(empty.iterdir()) == []


def test_a_folder_that_the_system_does_not_make_is_refused_in_one_line(data, monkeypatch):
    make = os.mkdir

    def mkdir(path: object, mode: int = 0o777) -> None:
        if Path(path).name == "proc":  # which takes no new folder, and says that there is none
            raise FileNotFoundError(2, "No such file or directory", str(path))
        make(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    refused(*PASTA, "hydra.run.dir=proc/run", says=r"proc cannot be written \(No such file")


@pytest.mark.parametrize("several", [(), ("-m",)], ids=["one", "several"])
def test_a_folder_in_which_another_process_is_at_work_is_left_alone(data, several):
    folder = Path("runs/0" if several else "runs")
    folder.mkdir(parents=True)
    (folder / "run.log").write_text("what the other says\n")
    with claimed(folder / LOCK):
        where = ("hydra.sweep.dir=runs", "hydra.run.dir=runs")
        ended = gwsmm("run", *PASTA, *several, *where)
        assert {path.name for path in folder.iterdir()} == {"run.log", LOCK}
        with claimed(folder / LOCK) as free:
            assert not free
    assert (ended.code, ended.out) == (2, "")
    line = ended.err.splitlines()[-1]
    assert line.startswith(f"gwsmm: {folder.resolve()}: another process is at work in this folder")
    assert (folder / "run.log").read_text() == "what the other says\n"
    assert not Path("outputs/store").exists()


@pytest.mark.parametrize("where", ["run", "sweep"])
def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(monkeypatch, where):
    second = datetime(2026, 1, 2, 3, 4, 5)
    times = iter([second.replace(microsecond=6), second.replace(microsecond=7)])

    class Clock(datetime):
        @classmethod
        def now(cls) -> datetime:
            return next(times)

    monkeypatch.setattr("hydra.core.utils.datetime", Clock)
    folders = []
    for _ in range(2):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=["name=mine"], return_hydra_config=True)
        folders.append(config.hydra[where].dir)
    assert folders == [f"outputs/runs/2026-01-02_03-04-05-00000{last}_mine" for last in (6, 7)]


def test_two_processes_never_write_the_same_part_of_a_file(tmp_path, monkeypatch):
    path, replace = tmp_path / "run.json", Path.replace

    def meanwhile(part: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(os, "getpid", lambda: -1)  # another process
        write_json(path, "the other's")
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", meanwhile)
    write_json(path, "ours")
    assert read_json(path) == "ours"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_command_is_refused_with_the_nearest():
    ended = gwsmm("rum")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "gwsmm: there is no command 'rum'; did you mean run?; see gwsmm --help"
    ]


# Files


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


APPLES = Path("data/apples_train.csv")


def missing_folder() -> None:
    shutil.rmtree("data")


def missing_partner() -> None:
    Path("data/apples_test.csv").unlink()


def no_name_for_the_text() -> None:
    edit(APPLES, "response,", ",")


def text_stands_last() -> None:
    rows = [line.split(",") for line in APPLES.read_text().splitlines()]
    APPLES.write_text("\n".join(",".join([*row[1:], row[0]]) for row in rows))


def label_of_two() -> None:
    lines = APPLES.read_text().splitlines()
    lines[5] = lines[5][:-1] + "2"
    APPLES.write_text("\n".join(lines))


def empty_text() -> None:
    edit(APPLES, "the zebrafish of train 3", "")
    lines = APPLES.read_text().splitlines()
    lines[4] = "," + lines[4].split(",", 1)[1]
    APPLES.write_text("\n".join(lines))


def same_name_twice() -> None:
    for part in ("train", "test"):
        shutil.copy(f"data/apples_{part}.csv", f"data/Apples_{part}.csv")


def not_utf_8() -> None:
    content = APPLES.read_text().replace("train 6 were", "train 6 wäre").encode("latin-1")
    APPLES.write_bytes(content)


def broken_quote() -> None:
    edit(APPLES, "the zebrafish of train 7", '"the zebrafish of train 7')


def one_item() -> None:
    for path in Path("data").glob("*.csv"):
        if "apples" not in path.name:
            path.unlink()


def too_few() -> None:
    APPLES.write_text("".join(APPLES.read_text().splitlines(keepends=True)[:6]))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (missing_folder, r"data is no folder.*items\.path"),
        (missing_partner, r"apples_train\.csv lacks its partner: add apples_test\.csv"),
        (no_name_for_the_text, r"apples_train\.csv line 1: column 1 has no name"),
        (text_stands_last, r"apples_train\.csv.*'E1'"),
        (label_of_two, r"apples_train\.csv line 6, column 'E2': '2' is not 0 or 1"),
        (empty_text, r"apples_train\.csv line 5, column 'response': the response is empty"),
        (same_name_twice, "two items are named '[Aa]pples' and '[Aa]pples'"),
        (not_utf_8, r"apples_train\.csv line 8 is not UTF-8"),
        (broken_quote, r"apples_train\.csv line 9: a quote opens here and does not close"),
        (one_item, "there is only the item 'apples'"),
        (too_few, "item 'apples' has 5 training responses and needs 10|item 'apples'"),
    ],
)
def test_items_that_cannot_be_used_are_refused_in_one_line(data, spoil, says):
    spoil()
    refused(*PASTA, says=says)


def test_a_missing_file_of_a_table_is_refused(data):
    refused(*TINY, TWO, "items=table", "items.path=no.csv", says=r"no\.csv does not exist")


def test_a_missing_text_column_is_refused_with_those_that_there_are(data):
    table = ("items=table", "items.path=data", "items.text=respnse")
    refused(*TINY, TWO, *table, says="has no column 'respnse'.*did you mean 'response'")


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([["apples"], ["boats"]], "not a partition: item 'clouds' is in no group"),
        ([["apples", "boats"], ["boats", "clouds"]], "item 'boats' stands in it more than once"),
        ([["apples", "boats"], ["clouds", "bananas"]], "unknown item 'bananas'"),
    ],
)
def test_a_plan_that_is_no_partition_of_the_items_is_refused(data, groups, says):
    Path("plan.yaml").write_text(yaml.safe_dump({"source": "me", "groups": groups}))
    refused(*PASTA, "grouping=expert", "grouping.record=plan.yaml", says=says)


def test_an_item_whose_labels_are_constant_is_warned_of_and_runs(data):
    lines = APPLES.read_text().splitlines()
    constant = [line.rsplit(",", 2)[0] + ",1,0" for line in lines[1:]]
    APPLES.write_text("\n".join([lines[0], *constant]))
    ended = gwsmm("run", *PASTA, "hydra.run.dir=run")
    assert ended.code == 0
    assert "WARNING: item apples: every label is constant in training" in ended.err
    item = read_json(Path("run/results.json"))["items"][0]
    assert item["name"] == NAMES[0]
    assert "label E1 is always 1 in training" in item["notes"]
    assert "label E2 is always 0 in training" in item["notes"]


def test_a_command_says_each_warning_once_and_a_dry_run_none_of_what_was_found(data):
    lines = APPLES.read_text().splitlines()
    constant = [line.rsplit(",", 2)[0] + ",1,0" for line in lines[1:]]
    APPLES.write_text("\n".join([lines[0], *constant]))
    of_data, found = "WARNING: item apples: every label", "WARNING: merge: the model of "
    several = ("run", *PASTA, "-m", "merge=ties,average", "hydra.sweep.dir=run")
    ended = gwsmm(*several)
    assert ended.code == 0, ended.err
    warned = [line for line in ended.err.splitlines() if line.startswith("WARNING: ")]
    assert ended.err.count(of_data) == 1
    assert ended.err.count(found) > 0
    assert len(set(warned)) == len(warned)
    for job in "01":
        assert set(warned) == {
            f"WARNING: {line.partition(' WARNING ')[2].partition(': ')[2]}"
            for line in Path(f"run/{job}/run.log").read_text().splitlines()
            if " WARNING " in line
        }
    ended = gwsmm(*several, "--dry-run")
    assert (ended.err.count(of_data), ended.err.count(found)) == (1, 0)
    ended = gwsmm("bundle", "run/0", "bundle")
    assert ended.code == 0, ended.err
    assert ended.err.splitlines() == warned


# How long it takes


def timed(*arguments: str, folder: Path) -> tuple[float, subprocess.CompletedProcess[str]]:
    begin = time.monotonic()
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, cwd=folder)
    return time.monotonic() - begin, done


def test_help_is_there_within_a_second(tmp_path):
    runs = [timed("--help", folder=tmp_path) for _ in range(3)]
    assert all(done.returncode == 0 and "usage: gwsmm run" in done.stdout for _, done in runs)
    assert statistics.median(seconds for seconds, _ in runs) < 1


def test_the_version_is_that_of_the_package(tmp_path):
    _, done = timed("--version", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"gwsmm {__version__}\n")


@pytest.mark.parametrize("override", ["merge.densty=1", "merge=tise", "mrege=ties"])
def test_a_misspelling_is_told_within_two_seconds(tmp_path, override):
    """The fastest of three: another program may have had the processor."""
    seconds = []
    for _ in range(3):
        took, done = timed("run", override, folder=tmp_path)
        assert done.returncode == 2
        assert "did you mean" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        seconds.append(took)
        if took < 2:
            break
    assert min(seconds) < 2


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "merge.densty=1"], ["run", "--cfg", "job"]]
)
def test_no_heavy_library_is_imported_to_talk(tmp_path, arguments):
    code = (
        "import sys; from gwsmm.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'wandb', 'matplotlib', 'pytorch_lightning'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)


def test_the_composed_configuration_is_printed_and_nothing_is_run(tmp_path):
    _, done = timed("run", "--cfg", "job", "merge.density=0.25", folder=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    shown = yaml.safe_load(done.stdout)
    assert shown["merge"]["density"] == 0.25
    assert shown["_target_"] == "gwsmm.experiment.Experiment"
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["seed=3", "--cfg", "job", "name=x"], "^seed: 3$"),
        (["seed=3", "-c", "job", "name=x", "-p", "merge"], "^density: "),
        (["seed=3", "--resolve", "name=x", "--cfg=job"], "^seed: 3$"),
        (["seed=3", "-cn", "config", "name=x", "-cd", ".", "-c", "job"], "^seed: 3$"),
        (["seed=3", "-i", "name=x"], r"^name: x\nseed: 3$"),
        (["seed=3", "--info", "defaults", "name=x"], "Defaults List"),
        (["seed=3", "name=x", "-i"], "Defaults List"),
        (["seed=3", "--help"], "gwsmm run"),
    ],
    ids=" ".join,
)
def test_flags_stand_anywhere(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    ended = gwsmm("run", *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert re.search(says, ended.out, re.M), ended.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--foo seed=1", "there is no flag --foo; see"),
        ("-sc query=bash", "--shell-completion knows no command of two words"),
        ("--cfg", "--cfg/-c: expected one argument"),
        ("--cfg=jbo", "--cfg/-c: invalid choice: 'jbo'"),
        ("-m seed=1,2 --cfg job", "--multirun and --cfg: give one of the two"),
        ("--cfg job --info", "--cfg and --info: give one of the two"),
        ("--run -m --dry-run", "--run and --multirun: give one of the two"),
        ("--resolve", "--resolve .* give --cfg job, too"),
    ],
)
def test_flags_that_there_are_not_or_that_exclude_each_other_are_refused_in_one_line(
    tmp_path, monkeypatch, flags, says
):
    monkeypatch.chdir(tmp_path)
    refused("experiment=tiny", *flags.split(), says=says)


# The configuration


def composed(*overrides: str) -> Experiment:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "somewhere")
    return build(config)


@pytest.mark.parametrize("number", range(max(map(len, CHOICES.values()))))
def test_every_choice_of_every_group_builds(number):
    """The first choices of all groups together, then the second ones, and so on."""
    chosen = {group: names[number % len(names)] for group, names in CHOICES.items()}
    built = composed(*[f'{group}="{name}"' for group, name in chosen.items()])
    for group, name in chosen.items():
        target = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())["_target_"]
        kind = type(getattr(built, group))
        assert f"{kind.__module__}.{kind.__qualname__}" == target


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds(name):
    assert composed(f"experiment={name}").name == name


@pytest.mark.parametrize("path", EVERY_YAML, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_yaml_says_first_what_it_is(path):
    lines = path.read_text().splitlines()
    if path.parent.name == "experiment" or lines[0].startswith("# @package"):
        package = "_global_" if path.parent.name == "experiment" else "hydra"
        assert lines.pop(0) == f"# @package {package}"
    assert re.match(r"# \S.{15,}", lines[0])
    assert len(lines) > 1

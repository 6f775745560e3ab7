"""Items come into a bundle and leave it, and nobody else notices."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from little import COMMAND, CONF, NAMES, TINY, answers, gwsmm, read_json, write_items, write_table

from gwsmm.bundle import joining, sealing
from gwsmm.bundle.joining import nearest
from gwsmm.cli import add as cli_add
from gwsmm.types import Distances

*OLD, NEW = NAMES
PAIR = [[NAMES[0], NAMES[2]], [NAMES[1]]]
ALWAYS = ("--tolerance", "1")  # no F1 falls by more
# Trained so well, and with heads that are kept, that an item loses on another's encoder.
TRAINED = (
    "heads=keep",
    "finetune.epochs=30",
    "finetune.learning_rate=0.01",
    "finetune.patience=30",
)


@dataclass(frozen=True)
class World:
    """Items with and without the new one, and one store for every run."""

    root: Path

    def run(self, *overrides: str, groups: list[list[str]], data: str = "all") -> Path:
        """The folder of a finished run of this plan."""
        folder = self.root / f"run{len(list(self.root.glob('run*')))}"
        record = self.root / f"{folder.name}.yaml"
        record.write_text(yaml.safe_dump({"source": "two teachers", "groups": groups}))
        plan = ("grouping=expert", f"grouping.record={record}")
        items = ("items=pasta", f"items.path={self.root / data}")
        where = (f"store={self.root / 'store'}", f"hydra.run.dir={folder}")
        ended = gwsmm("run", *TINY, *items, *plan, *where, *TRAINED, *overrides)
        assert ended.code == 0, ended.err
        return folder

    def bundle(self, out: Path, *overrides: str) -> Path:
        """A bundle of the old items, two of which share an encoder."""
        run = self.run(*overrides, groups=PAIR, data="old")
        said("bundle", run, out)
        return out

    def alone(self, *overrides: str) -> Path:
        """A run of all items that merges nothing."""
        return self.run(*overrides, groups=[[name] for name in NAMES])


def said(*arguments: object) -> str:
    """What a command that succeeds says."""
    ended = gwsmm(*map(str, arguments))
    assert ended.code == 0, ended.err
    return ended.out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    write_items(made.root / "all")
    write_items(made.root / "old", items=3)
    return made


@pytest.fixture(scope="module")
def made(world: World) -> Path:
    """A bundle of the old items."""
    return world.bundle(world.root / "made")


@pytest.fixture(scope="module")
def every(world: World) -> Path:
    """A run of all items."""
    return world.alone()


@pytest.fixture
def here(
    made: Path, every: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict]:
    """A working directory where only `bundle` and `run` are."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "bundle")
    shutil.copytree(every, "run")
    return lambda folder: read_json(Path(folder) / "manifest.json")


def files(folder: Path | str) -> dict[str, bytes]:
    """The content of every file by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


ABOUT = {"manifest.json", "README.md", "results.json", "plan.json", "added.json"}


def models(folder: Path | str) -> dict[str, bytes]:
    """The files that are not about the others."""
    return {name: content for name, content in files(folder).items() if name not in ABOUT}


def scores(bundle: Path | str, tmp_path: Path, names: list[str]) -> str:
    """What `gwsmm score` writes for a table that mixes these items."""
    rows = [[names[i % len(names)], answers(i % 3, "test", 7)[i % 7][0]] for i in range(20)]
    write_table(tmp_path / "table.csv", ["item", "text"], rows)
    return said("score", bundle, tmp_path / "table.csv", "--probabilities")


# Whoever was there stays as they were


def comes_and_goes(world: World, tmp_path: Path, *overrides: str) -> Path:
    """A new item joins and leaves; the bundle with it."""
    old, run = world.bundle(tmp_path / "old", *overrides), world.alone(*overrides)
    before, told = files(old), scores(old, tmp_path, OLD)
    assert "no other item changes" in said("add", old, run, NEW, tmp_path / "new", *ALWAYS)

    assert models(old).items() <= models(tmp_path / "new").items()
    assert not {name for name in models(tmp_path / "new").keys() - models(old).keys()
                if not name.startswith((f"items/{NEW}/", "pretrained/"))}  # fmt: skip
    was, now = read_json(old / "manifest.json"), read_json(tmp_path / "new" / "manifest.json")
    assert [item["name"] for item in now["items"]] == list(NAMES)
    assert now["items"][:-1] == was["items"]
    unchanged = was["files"].keys() - ABOUT
    assert {name: now["files"][name] for name in unchanged} == {
        name: was["files"][name] for name in unchanged
    }
    assert scores(tmp_path / "new", tmp_path, OLD) == told
    assert scores(tmp_path / "new", tmp_path, list(NAMES)).count(f"\n{NEW},") == 5

    said("remove", tmp_path / "new", NEW, tmp_path / "again")
    assert files(tmp_path / "again") == files(old) == before
    return tmp_path / "new"


@pytest.mark.parametrize("private", sorted(path.stem for path in CONF.glob("private/*.yaml")))
def test_an_item_that_joins_and_leaves_leaves_no_trace(world, tmp_path, private):
    new = comes_and_goes(world, tmp_path, f"private={private}")
    coded = read_json(new / "manifest.json")["items"][-1]["trunk"]["private"]
    assert bool(coded) == (private not in ("nothing", "pooler"))


@pytest.mark.parametrize(
    "overrides",
    [
        ("private=svd", "private.base=pretrained", "private.pooler=shared"),
        ("private=mask", "private.pooler=shared"),
        ("private=int", "numbers=float16"),
        ("private=nothing", "numbers=float16", "heads=refit"),
        ("decision=thresholds", "heads=refit"),
        ("decision=temperature", "encoder.pooler=false"),
    ],
    ids=" ".join,
)
def test_so_it_is_whatever_is_shared(world, tmp_path, overrides):
    comes_and_goes(world, tmp_path, *overrides)


def test_the_old_items_keep_what_they_have_when_the_new_one_codes_its_own(world, made, tmp_path):
    run = world.alone("private=int")
    said("add", made, run, NEW, tmp_path / "new", *ALWAYS)
    assert models(made).items() <= models(tmp_path / "new").items()
    assert read_json(tmp_path / "new" / "manifest.json")["codec"]["strategy"].endswith("Int")
    assert scores(tmp_path / "new", tmp_path, OLD) == scores(made, tmp_path, OLD)
    said("remove", tmp_path / "new", NEW, tmp_path / "again")
    assert files(tmp_path / "again") == files(made)


# Who is let in


def record(folder: str) -> dict:
    (only,) = read_json(Path(folder) / "added.json")
    return only


def test_it_joins_up_to_the_tolerance_and_stands_alone_beyond(here):
    out = said("add", "bundle", "run", NEW, "first", *ALWAYS)
    validation = record("first")["validation"]
    lost = validation["alone"] - validation["joined"]
    assert lost > 0
    assert f"loses {lost:.4f}, may lose 1.0" in out
    said("add", "bundle", "run", NEW, "joined", "--tolerance", repr(lost))
    below = said("add", "bundle", "run", NEW, "alone", "--tolerance", repr(math.nextafter(lost, 0)))
    assert "So it keeps an encoder of its own." in below

    assert record("joined")["accepted"]
    assert not record("alone")["accepted"]
    assert models("joined") == models("first")
    trunks = {name: here(name)["items"][-1]["trunk"]["shared"] for name in ("joined", "alone")}
    (place,) = trunks["joined"]
    assert place in here("bundle")["files"]
    assert trunks["alone"] == ["groups/3/trunk.safetensors"]
    groups = {name: read_json(Path(name) / "plan.json")["groups"] for name in trunks}
    assert groups["alone"] == [*PAIR, [NEW]]
    near = record("joined")["nearest"]
    assert groups["joined"] == [[*g, NEW] if g == near else g for g in PAIR]
    assert models("bundle").items() <= models("alone").items()
    said("remove", "alone", NEW, "again")
    assert files("again") == files("bundle")


def test_by_default_a_hundredth_may_be_lost(here):
    said("add", "bundle", "run", NEW, "new")
    assert record("new")["validation"]["tolerance"] == 0.01
    assert not record("new")["accepted"]


def test_one_that_stands_alone_is_as_in_a_run_of_that_plan(world, here):
    """All of it but how it came and what was measured between the items of the first run."""
    said("bundle", world.run(groups=[*PAIR, [NEW]]), "expected")
    said("add", "bundle", "run", NEW, "new")
    assert models("new") == models("expected")
    assert files("new")["plan.json"] == files("expected")["plan.json"]
    found, expected = (read_json(Path(name) / "results.json") for name in ("new", "expected"))
    assert found.pop("distances") != expected.pop("distances")
    assert found == expected


def test_the_card_the_results_and_the_record_say_what_was_decided(here):
    said("add", "bundle", "run", NEW, "new", *ALWAYS)
    card, added = Path("new/README.md").read_text(), record("new")
    results = read_json(Path("new/results.json"))
    for value in (added["distance"], *(added["validation"][k] for k in ("alone", "joined"))):
        assert f"{value:.4f}" in card or f"{value:.4g}" in card
    assert NEW in card.split("## Items")[0]
    assert results["plan"] == read_json(Path("new/plan.json"))
    assert [item["name"] for item in results["items"]] == list(NAMES)
    storage, before = results["storage"], read_json(Path("bundle/results.json"))["storage"]
    assert storage["encoders_after"] == before["encoders_after"]
    assert storage["encoders_before"] == before["encoders_before"] + 1
    own = sum(size for name, size in sizes("new").items() if name.startswith(f"items/{NEW}/"))
    assert storage["bytes_after"] == before["bytes_after"] + own


def sizes(folder: str) -> dict[str, int]:
    return {name: len(content) for name, content in files(folder).items()}


def test_it_scores_as_its_results_say(world, here):
    from gwsmm.metrics import score

    said("add", "bundle", "run", NEW, "new", *ALWAYS)
    frame = pd.read_csv(world.root / "all" / f"{NEW}_test.csv")
    table = frame.rename(columns={"response": "text"}).assign(item=NEW)[["item", "text"]]
    table.to_csv("table.csv", index=False)
    said("score", "new", "table.csv", "--out", "scores.csv")
    labels = ["E1", "E2"]
    found = score(frame[labels].to_numpy(), pd.read_csv("scores.csv")[labels].to_numpy())
    entry = read_json(Path("new/results.json"))["items"][-1]
    assert found.as_dict() == entry["scores"]["merged"]


def test_the_nearest_group_is_that_of_the_least_mean_distance():
    """Single linkage would choose the first group, complete linkage the last."""
    names = ("a", "b", "c", "d", "new")
    values = np.zeros((5, 5))
    values[4, :4] = values[:4, 4] = [1, 8, 2, 6]
    distances = Distances(names, values, "GW loss", {})
    assert nearest((("a", "b"), ("c", "d")), distances, "new") == (("c", "d"), 4.0)
    assert nearest((("a", "b"), ("c",), ("d",)), distances, "new") == (("c",), 2.0)


def test_several_come_one_after_the_other(world, tmp_path):
    data = world.root / "two"
    write_items(data, items=2)
    run = world.run(groups=[[NAMES[0], NAMES[1]]], data="two")
    said("bundle", run, tmp_path / "0")
    every = world.alone()
    said("add", tmp_path / "0", every, NAMES[2], tmp_path / "1")
    said("add", tmp_path / "1", every, NAMES[3], tmp_path / "2", *ALWAYS)
    assert [each["item"] for each in read_json(tmp_path / "2" / "added.json")] == [*NAMES[2:]]
    assert models(tmp_path / "0").items() <= models(tmp_path / "1").items()
    assert models(tmp_path / "1").items() <= models(tmp_path / "2").items()
    said("remove", tmp_path / "2", NAMES[2], tmp_path / "3")
    assert [each["item"] for each in read_json(tmp_path / "3" / "added.json")] == [NAMES[3]]
    stay = [NAMES[0], NAMES[1], NAMES[3]]
    assert scores(tmp_path / "3", tmp_path, stay) == scores(tmp_path / "2", tmp_path, stay)


def test_what_stands_on_the_pretrained_encoder_shares_no_encoder_of_one_item(
    world, tmp_path, monkeypatch
):
    coded = ("private=svd", "private.base=pretrained", "private.rank=1", "private.bits=2")
    old, every = world.bundle(tmp_path / "0", *coded), world.alone(*coded)
    for at, name in enumerate(NAMES[1:3]):
        said("remove", old, name, tmp_path / f"{at + 1}")
        old = tmp_path / f"{at + 1}"
    among, choose = [], joining.nearest
    monkeypatch.setattr(
        joining, "nearest", lambda groups, *rest: among.append(groups) or choose(groups, *rest)
    )
    monkeypatch.setattr(cli_add, "_share", float)
    for name, tolerance, decided in ((NAMES[2], -1, "of its own"), (NAMES[3], 1, "shares")):
        assert decided in said("add", old, every, name, tmp_path / name, f"--tolerance={tolerance}")
        old = tmp_path / name
    assert among == [((NAMES[0],),)] * 2


# Who leaves


def test_a_trunk_goes_with_the_last_item_that_uses_it(here):
    told = scores("bundle", Path(), [NAMES[1]])
    said("remove", "bundle", NAMES[0], "second")
    left = {name: content for name, content in models("bundle").items()
            if not name.startswith(f"items/{NAMES[0]}/")}  # fmt: skip
    assert models("second") == left
    said("remove", "second", NAMES[2], "third")
    assert models("third") == {
        name: content
        for name, content in left.items()
        if not name.startswith((f"items/{NAMES[2]}/", "groups/1/"))
    }
    assert read_json(Path("third/plan.json"))["groups"] == [[NAMES[1]]]
    assert read_json(Path("third/results.json"))["merged_only"] is None
    assert scores("third", Path(), [NAMES[1]]) == told


def test_an_item_that_left_can_come_back(here, every):
    said("remove", "bundle", NAMES[1], "less")
    said("add", "less", "run", NAMES[1], "more")
    assert not record("more")["accepted"]
    assert models("more") == models("bundle")
    found, before = (read_json(Path(name) / "results.json") for name in ("more", "bundle"))
    assert found["storage"] == before["storage"]
    for model, overall in before["overall"].items():
        assert found["overall"][model] == pytest.approx(overall)


def test_a_damaged_item_can_be_taken_out(here):
    Path(f"bundle/items/{NAMES[0]}/head.safetensors").unlink()
    said("remove", "bundle", NAMES[0], "new")
    assert scores("new", Path(), OLD[1:])


def test_taking_out_needs_no_torch(here):
    code = (
        "import sys; from gwsmm.cli.main import main\n"
        f"main(['remove', 'bundle', {NAMES[0]!r}, 'new'])\n"
        "assert not {'torch', 'transformers', 'hydra', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# What cannot be done


def refused(*arguments: str, says: str) -> None:
    """The command ends with 2 and one line that holds this, and leaves nothing."""
    before = files(Path())
    ended = gwsmm(*arguments)
    assert (ended.code, ended.out) == (2, ""), ended
    lines = [line for line in ended.err.splitlines() if line.startswith("gwsmm: ")]
    assert lines == ended.err.splitlines()
    assert len(lines) == 1
    assert len(lines[0]) < 600
    assert pd.Series(lines).str.contains(says, regex=True).all(), lines
    assert files(Path()) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["remove", "nowhere", "apples", "new"], "nowhere is no bundle"),
        (
            ["remove", "bundle", "aples", "new"],
            r"bundle has no item 'aples'; did you mean 'apples'",
        ),
        (["remove", "bundle", "qqq", "new"], r"no item 'qqq'; its items are 'apples', 'boats', 'c"),
        (["remove", "bundle", "apples", "run"], "run exists already: give another folder"),
        (["remove", "bundle", "apples", "run/config.yaml/new"], "cannot be made"),
        (["remove", "bundle", "apples"], "required: out; see gwsmm remove --help"),
        (["add", "nowhere", "run", NEW, "new"], "nowhere is no bundle"),
        (["add", "bundle", "nowhere", NEW, "new"], r"nowhere/results\.json cannot be read"),
        (["add", "bundle", "bundle", NEW, "new"], r"bundle/config\.yaml cannot be read"),
        (["add", "bundle", "run", NEW, "bundle"], "bundle exists already: give another folder"),
        (["add", "bundle", "run", "apples", "new"], "bundle has the item 'apples' already"),
        (
            ["add", "bundle", "run", "dune", "new"],
            "the run has no item 'dune'; did you mean 'dunes'",
        ),
        (["add", "bundle", "run", NEW, "new", "--tolerance", "2"], "'2' is no number from 0 to 1"),
        (["add", "bundle", "run", NEW, "new", "--tolerance", "nan"], "'nan' is no number"),
        (["add", "bundle", "run", NEW, "new", "--tolerance", "much"], "'much' is no number"),
        (["add", "bundle", "run", NEW], "required: out; see gwsmm add --help"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(here, arguments, says):
    refused(*arguments, says=says)


def test_the_last_item_cannot_leave(here):
    said("remove", "bundle", NAMES[0], "two")
    assert "one (1 item, 1 encoder pass, " in said("remove", "two", NAMES[1], "one")
    assert "takes 1 encoder pass, with" in Path("one/README.md").read_text()
    refused(
        "remove", "one", NAMES[2], "none", says="no other item than 'clouds'.*delete the folder"
    )


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["encoder.max_length=32"], r"encoder\.max_length: the run has 32 and bundle has 64"),
        (["encoder.pooling=cls"], r"encoder\.pooling: the run has 'cls' and bundle has 'mean'"),
        (
            ["encoder.random.num_attention_heads=4"],
            r"encoder/config\.json is not that of the run's encoder",
        ),
        (["private=svd", "private.base=pretrained"], "private: the run codes .* otherwise"),
    ],
    ids=str,
)
def test_a_run_of_another_encoder_is_refused(world, here, overrides, says):
    refused(
        "add", "bundle", str(world.alone("finetune.epochs=1", *overrides)), NEW, "new", says=says
    )


def test_private_parts_of_another_kind_are_refused(world, here):
    world.bundle(Path("coded"), "private=int")
    run = str(world.alone("private=int", "private.bits=8"))
    refused("add", "coded", run, NEW, "new", says="private: the run codes .* otherwise than coded")


def test_another_pretrained_encoder_is_refused(world, here):
    world.bundle(Path("coded"), "private=mask")
    run = str(world.alone("private=mask", "numbers=float16"))
    says = r"pretrained/trunk\.safetensors is not the run's pretrained encoder"
    refused("add", "coded", run, NEW, "new", says=says)


def test_a_pooler_that_is_not_shared_cannot_be_joined(world, here):
    said("remove", "bundle", NAMES[1], "less")  # of whose items each has its own pooler
    run = str(world.alone("private=nothing"))
    refused("add", "less", run, NEW, "new", says="have poolers of their own.*private=pooler")


def test_a_run_without_an_item_of_the_bundle_is_refused(world, here):
    for name in (NAMES[0], NAMES[2], NAMES[3]):
        for part in ("train", "test"):
            (world.root / "some").mkdir(exist_ok=True)
            shutil.copy(world.root / "all" / f"{name}_{part}.csv", world.root / "some")
    run = str(world.run(groups=[[NAMES[0]], [NAMES[2]], [NAMES[3]]], data="some"))
    says = r"the run has no item 'boats', to which 'dunes' is to be compared"
    refused("add", "bundle", run, NEW, "new", says=says)


def test_an_item_of_other_labels_is_another_item(world, here):
    shutil.copytree(world.root / "all", world.root / "other")
    for part in ("train", "test"):
        path = world.root / "other" / f"{NAMES[1]}_{part}.csv"
        path.write_text(path.read_text().replace("E2", "E9"))
    run = str(world.run(groups=[[name] for name in NAMES], data="other"))
    refused("add", "bundle", run, NEW, "new", says="item 'boats' has other labels in the run")


def test_a_run_whose_results_are_not_its_own_is_refused(here):
    results = Path("run/results.json")
    results.write_text(results.read_text().replace('"seed": 0', '"seed": 7'))
    refused("add", "bundle", "run", NEW, "new", says=r"is not what .*config\.yaml gives now")


@pytest.mark.parametrize(
    "name", ["groups/1/trunk.safetensors", "encoder/tokenizer.json", "results.json"]
)
@pytest.mark.parametrize("command", [("add", "bundle", "run", NEW), ("remove", "bundle", "boats")])
def test_a_damaged_bundle_is_refused(here, name, command):
    path = Path("bundle") / name
    path.write_bytes(path.read_bytes()[:-1])
    refused(*command, "new", says=f"{name} is missing or damaged")


# Whole or not at all


@pytest.mark.parametrize("what", ["check", "card", "stop"])
def test_a_failure_leaves_nothing(here, monkeypatch, what):
    def fail(*_: object) -> str:
        raise KeyboardInterrupt if what == "stop" else RuntimeError("no more")

    if what == "check":
        for name in ("TOLERANCE", "GRAPH_TOLERANCE"):
            monkeypatch.setattr(sealing, name, -1.0)
    else:
        monkeypatch.setattr(sealing, "card", fail)
    before = files(Path())
    if what == "card":
        with pytest.raises(RuntimeError):
            gwsmm("add", "bundle", "run", NEW, "new")
    else:
        assert gwsmm("add", "bundle", "run", NEW, "new").code == (2 if what == "check" else 130)
    assert files(Path()) == before


def test_killed_in_the_middle_nothing_stands_and_the_next_time_it_does(here):
    said("add", "bundle", "run", NEW, "expected")
    before, arguments = files("bundle"), ["add", "bundle", "run", NEW, "new"]
    for begun in (".new.*.part", ".new.*.part/README.md"):
        process = subprocess.Popen(
            [COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 120
        while not list(Path().glob(begun)):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not Path("new").exists()
        assert files("bundle") == before
        for part in Path().glob(".new.*.part"):
            shutil.rmtree(part)
    said(*arguments)
    assert files("new") == files("expected")

"""One model trained on several devices: processes that share every batch, here of the processor."""

import json
import sys

import pytest
import torch
from little import TINY, TWO, gwsmm, write_items
from pydantic import ValidationError
from safetensors.torch import load_file

from gwsmm import recipe
from gwsmm.cli.finished import reopened
from gwsmm.execute import Processes, Serial, at_once
from gwsmm.finetune import Finetuning
from gwsmm.recipe import Trainer
from gwsmm.store import LOG, Store


def even(rank: int) -> int:
    if rank == 1:
        raise ZeroDivisionError
    return rank


def test_if_one_of_several_processes_fails_the_others_are_not_waited_for():
    with pytest.raises(ZeroDivisionError):
        at_once(even, 2)
    assert at_once(abs, 2) == [0, 1]
    tasks = Processes(jobs=2, threads=1)  # go on afterwards, with workers of their own
    assert tasks.map(abs, [1, -2, 3], label="tasks") == [1, 2, 3]


def test_two_devices_train_as_one_does(configured, tiny, make_item, tmp_path):
    """Dropout draws otherwise; but for that, the batches and the steps are the same."""
    item = make_item(n=41)  # the last batch has one row
    recipe = configured("finetune", "finetune.epochs=2", "finetune.batch_size=8").on_this_machine()
    made = {}
    for name, devices in {"one": 1, "two": 2, "again": 2}.items():
        trainer = Trainer(accelerator="cpu", devices=devices, strategy="auto")
        stage = Finetuning(encoder=tiny, recipe=recipe, trainer=trainer, seed=0)
        (made[name],) = Store(tmp_path / name).each(stage, [item], Serial(threads=1))
    one, two = made["one"], made["two"]
    log = (tmp_path / "two" / LOG).read_text().splitlines()
    assert [json.loads(line)["event"] for line in log] == ["begun", "done"]
    assert {path.name for path in one.path.iterdir()} == {path.name for path in two.path.iterdir()}
    curves = [json.loads(each.file("training.json").read_text())["epochs"] for each in (one, two)]
    assert [len(each) for each in curves] == [2, 2]
    for alone, shared in zip(*curves, strict=True):
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], abs=0.02)
        assert shared["validation_loss"] == pytest.approx(alone["validation_loss"], abs=0.02)
    for part in ("trunk", "head"):
        alone, shared, again = (
            load_file(each.file(f"{part}.safetensors")) for each in made.values()
        )
        start = tiny.network(2).part_state(part) if part == "trunk" else {}
        assert any((shared[k] != start[k]).any() for k in start) or not start  # it was trained
        for name in alone:
            assert (alone[name] - shared[name]).abs().max() < 0.01
            assert (again[name] == shared[name]).all()


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed"])
def test_a_strategy_that_shares_more_than_batches_is_refused(strategy):
    with pytest.raises(ValidationError, match="give ddp"):
        Trainer(accelerator="gpu", devices=2, strategy=strategy)
    ended = gwsmm("run", "experiment=tiny", "trainer.devices=2", f"trainer.strategy={strategy}")
    assert ended.code == 2
    assert "give ddp" in ended.err


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(
            ["trainer.accelerator=gpu"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ["trainer.accelerator=gqu"],
        ["trainer.strategy=dpp"],
        ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddpp"],
    ],
    ids=" ".join,
)
def test_what_nothing_can_be_trained_with_is_refused_before_any_work(given, tmp_path):
    where = [f"store={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    ended = gwsmm("run", *TINY, *given, *where)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    for setting in given:
        assert setting in ended.err
    assert "can be used anywhere" in ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [{}, {"devices": 2}, {"devices": 2, "strategy": "ddp"}], ids=str)
def test_what_can_be_trained_with_is_not_refused(given):
    Trainer(**{"accelerator": "cpu", "devices": 1, "strategy": "auto"} | given).check()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells devices by files")
@pytest.mark.parametrize("name", ["nvidia0", "kfd"])
def test_torch_is_asked_for_a_gpu_where_a_driver_made_a_device(name, tmp_path, monkeypatch):
    asked = recipe._has_gpu.__wrapped__  # whatever was found before
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(recipe, "_DEV", tmp_path)
    (tmp_path / "nvme0").touch()  # a disk
    assert not asked()
    (tmp_path / name).touch()
    assert asked()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_of_another_machine_is_opened_without_its_devices(tmp_path):
    run, store = tmp_path / "run", tmp_path / "store"
    where = [f"store={store}", f"hydra.run.dir={run}", f"items.path={write_items(tmp_path / 'x')}"]
    assert gwsmm("run", *TINY, TWO, "items=pasta", "trainer.accelerator=cpu", *where).code == 0
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("accelerator: cpu", "accelerator: gpu"))
    experiment, _ = reopened(run)
    assert experiment.trainer.accelerator == "gpu"


def test_a_share_of_a_batch_is_a_row_at_least():
    from gwsmm.scoring import _Batches, _Share

    batches = [list(_Batches([3] * 9, 4, by_length=False, seed=0)) for _ in range(2)]
    assert batches[0] == batches[1]
    shares = [
        list(_Share(_Batches([3] * 9, 4, by_length=False, seed=0), rank, 2)) for rank in (0, 1)
    ]
    for batch, *parts in zip(batches[0], *shares, strict=True):
        assert {row for part in parts for row in part} == set(batch)
        assert all(parts)

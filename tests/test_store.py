"""The store: a result is computed once, is whole or not there, and is never that of other input."""

import errno
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from filelock import FileLock

from gwsmm.artefact import Absent, Artefact, Damaged
from gwsmm.execute import Serial
from gwsmm.store import LOG, ORIGIN, Key, Store, identity, key_of
from gwsmm.types import InputError, Item, Label, Responses

HERE = Serial(threads=1)


@dataclass(frozen=True)
class Inner:
    """A strategy within a stage."""

    rate: float
    words: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """A stage that writes its subject down, and a line each time that it does."""

    stage: ClassVar[str] = "copy"
    version: ClassVar[int] = 1

    log: str
    number: int = 1
    flag: bool = False
    note: str | None = None
    inner: Inner = Inner(rate=0.5, words=("a", "b"))

    def __call__(self, subject: object, folder: Path) -> None:
        with Path(self.log).open("a") as file:
            file.write("computed\n")
        (folder / "value.txt").write_text(f"{subject}")


class NextVersion(Copy):
    """The same stage after its code was changed."""

    version: ClassVar[int] = 2


NextVersion.__module__, NextVersion.__qualname__ = Copy.__module__, Copy.__qualname__


@dataclass(frozen=True)
class OtherName(Inner):
    """A strategy of the same fields."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def one(store: Store, stage: object, subject: object = "subject") -> Artefact:
    (made,) = store.each(stage, [subject], HERE)
    return made


def times(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def responses(**changed: object) -> Responses:
    labels = np.array([[0, 1], [1, 0], [1, 1]], np.uint8)
    return Responses(**({"texts": ("one", "two", "three"), "labels": labels} | changed))


def item(**changed: object) -> Item:
    parts = {part: responses() for part in ("train", "validation", "test")}
    labels = (Label("E1"), Label("E2"))
    return Item(**({"name": "x", "labels": labels, "kind": "multilabel", **parts} | changed))


# The key


@pytest.mark.parametrize(
    "other",
    [
        {"number": 2},
        {"flag": True},
        {"note": ""},
        {"note": "x"},
        {"inner": Inner(rate=0.25, words=("a", "b"))},
        {"inner": Inner(rate=0.5, words=("b", "a"))},
        {"inner": Inner(rate=0.5, words=("ab",))},
        {"inner": OtherName(rate=0.5, words=("a", "b"))},
    ],
    ids=str,
)
def test_every_choice_of_a_stage_and_of_its_strategies_makes_another_key(store, log, other):
    stage = Copy(log=str(log))
    assert one(store, stage).digest != one(store, replace(stage, **other)).digest
    assert times(log) == 2


def test_a_new_version_of_a_stage_makes_another_key(store, log):
    assert one(store, Copy(log=str(log))).digest != one(store, NextVersion(log=str(log))).digest


def test_equal_choices_make_the_same_key(store, log):
    stage = Copy(log=str(log), inner=Inner(rate=0.5, words=("a", "b")))
    assert one(store, stage).digest == one(store, Copy(log=str(log))).digest


@pytest.mark.parametrize(
    "changed",
    [
        {"texts": ("one", "two", "thre")},
        {"texts": ("one", "twot", "hree")},
        {"texts": ("two", "one", "three")},
        {"labels": np.array([[0, 1], [1, 0], [1, 0]], np.uint8)},
        {"labels": np.array([[0, 1, 1], [0, 1, 1]], np.uint8)},
    ],
    ids=str,
)
def test_every_text_and_label_makes_another_identity(changed):
    assert responses(**changed).digest != responses().digest
    for part in ("train", "validation", "test"):
        assert item(**{part: responses(**changed)}).digest != item().digest


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "y"},
        {"kind": "ordinal"},
        {"labels": (Label("E2"), Label("E1"))},
        {"train": responses().rows([0, 1]), "validation": responses().rows([2, 0, 1, 2])},
    ],
    ids=str,
)
def test_what_an_item_is_makes_another_identity(changed):
    assert item(**changed).digest != item().digest


def test_what_cannot_change_a_result_does_not_change_an_items_identity():
    described = (Label("E1", "says it"), Label("E2"))
    told = item(labels=described, prompt="Why?", synthetic=True, notes=("a note",))
    assert told.digest == item().digest


def test_an_item_without_its_test_split_does_not_know_what_was_in_it():
    changed = item(test=responses(texts=("four", "five", "six")))
    assert changed.without_test().digest == item().without_test().digest
    assert len(changed.without_test().test) == 0


@pytest.mark.parametrize(
    "value",
    [Path("x"), object(), {1, 2}, len, np.zeros(2), Inner],
    ids=["path", "object", "set", "function", "array", "class"],
)
def test_what_has_no_content_is_refused_in_a_key(store, log, value):
    for where in (value, [value], {"a": value}, Inner(rate=value, words=())):
        with pytest.raises(TypeError):
            one(store, Copy(log=str(log)), where)
    assert times(log) == 0


def test_the_identity_of_a_dataclass_names_its_type_and_all_its_fields():
    found = identity(Copy(log="x"))
    assert found["type"] == f"{__name__}.Copy"
    assert set(found["fields"]) == {field.name for field in fields(Copy)}
    assert found["fields"]["inner"]["fields"] == {"rate": 0.5, "words": ["a", "b"]}


# Computing once


def test_a_result_is_computed_once_and_then_loaded(store, log):
    first, second = (one(store, Copy(log=str(log))) for _ in range(2))
    assert times(log) == 1
    assert first.file("value.txt").read_text() == "subject" == second.file("value.txt").read_text()


def test_results_come_in_the_order_of_the_subjects_and_equal_subjects_share_one(store, log):
    subjects = ["b", "a", "b", "c"]
    made = store.each(Copy(log=str(log)), subjects, HERE)
    assert [each.file("value.txt").read_text() for each in made] == subjects
    assert times(log) == 3


def test_a_joint_stage_is_computed_once_and_spreads_its_own_work(store, log):
    @dataclass(frozen=True)
    class Joint:
        stage: ClassVar[str] = "joint"
        version: ClassVar[int] = 1

        def __call__(
            self, subject: Sequence[int], folder: Path, pieces: Store, execute: Serial
        ) -> None:
            log.open("a").write("computed\n")
            for piece in pieces.each(Copy(log=str(log)), subject, execute):
                shutil.copy(piece.file("value.txt"), folder / piece.digest)

    for _ in range(2):
        made = store.once(Joint(), [1, 2, 3], HERE)
        pieces = [path.read_text() for path in made.path.iterdir() if len(path.name) == 32]
        assert sorted(pieces) == ["1", "2", "3"]
    assert times(log) == 4
    assert store.used == {"joint": {made.digest}}  # nobody needs the pieces any more


def events(store: Store) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (store.root / LOG).read_text().splitlines()]
    return [(line["event"], line["key"]) for line in lines]


def test_the_log_says_what_was_computed_and_the_result_what_it_was_made_of(store, log):
    stage = Copy(log=str(log))
    made = [one(store, stage, subject) for subject in ("a", "b", "a")]
    a, b = made[0].digest, made[1].digest
    assert events(store) == [("begun", a), ("done", a), ("begun", b), ("done", b)]
    origin = json.loads(made[0].file(ORIGIN).read_text())
    assert origin["made_of"] == json.loads(json.dumps([identity(stage), "a"]))
    assert 0 <= origin["seconds"] < 10


def test_a_computation_that_fails_leaves_nothing_and_is_tried_again(store, log):
    @dataclass(frozen=True)
    class Failing(Copy):
        def __call__(self, subject: object, folder: Path) -> None:
            super().__call__(subject, folder)
            if times(log) == 1:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one(store, Failing(log=str(log)))
    assert {path for path in store.root.rglob("*") if path.suffix != ".lock"} == {
        store.root / "copy",
        store.root / LOG,
    }
    assert [event for event, _ in events(store)] == ["begun"]
    assert one(store, Failing(log=str(log))).file("value.txt").read_text() == "subject"


def test_what_a_killed_process_left_is_replaced(store, log):
    made = one(store, Copy(log=str(log)))
    left = made.path.with_suffix(".part")
    made.path.rename(left)
    (left / "half").write_text("x")
    again = one(store, Copy(log=str(log)))
    assert times(log) == 2
    assert not left.exists()
    assert not again.has("half")
    assert not (again.path / "half").exists()


def test_a_finished_result_holds_no_trace_of_its_progress(store, log):
    from gwsmm.progress import read_fraction, write_fraction

    @dataclass(frozen=True)
    class Telling(Copy):
        def __call__(self, subject: object, folder: Path) -> None:
            write_fraction(folder, 0.25)
            assert read_fraction(folder) == 0.25
            super().__call__(subject, folder)

    made = one(store, Telling(log=str(log)))
    assert {path.name for path in made.path.iterdir()} == {
        "value.txt",
        "origin.json",
        "manifest.json",
    }


def test_what_another_run_is_computing_is_waited_for_at_the_end(store, log):
    stage, keys = Copy(log=str(log)), [key_of(Copy(log=str(log)), subject) for subject in "abc"]
    (store.root / "copy").mkdir(parents=True)
    held = threading.Event()

    def compute_for_long() -> None:
        with FileLock(store.root / "copy" / f"{keys[0].digest}.lock"):
            held.set()
            while times(log) < 2:
                time.sleep(0.01)

    other = threading.Thread(target=compute_for_long, daemon=True)
    other.start()
    held.wait(60)
    made = store.each(stage, list("abc"), HERE)
    other.join(60)
    assert [each.file("value.txt").read_text() for each in made] == list("abc")
    order = [keys[i].digest for i in (1, 2, 0)]
    assert [key for event, key in events(store) if event == "begun"] == order


def _fetch(root: Path, log: Path, start: object, done: object) -> None:
    """In a process of its own."""

    def compute(folder: Path) -> None:
        with log.open("a") as file:
            file.write("computed\n")
        (folder / "value.txt").write_text("x" * 1000)
        done.wait(0.5)

    start.wait()
    made = Store(root).fetch("slow", Key("key"), compute)
    assert made.file("value.txt").read_text() == "x" * 1000


def test_processes_that_want_the_same_result_compute_it_once(store, log):
    context = multiprocessing.get_context("spawn")
    start, never = context.Barrier(2), context.Event()
    two = [context.Process(target=_fetch, args=(store.root, log, start, never)) for _ in range(2)]
    for process in two:
        process.start()
    for process in two:
        process.join(60)
    assert [process.exitcode for process in two] == [0, 0]
    assert times(log) == 1


# A disk that refuses


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE, errno.ETIMEDOUT, errno.ELOOP])
def test_a_store_that_cannot_be_made_is_named_with_the_reason(store, log, monkeypatch, number):
    def mkdir(path: object, mode: int = 0o777) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(InputError, match=rf"^store={store.root} .*\({os.strerror(number)}\)"):
        one(store, Copy(log=str(log)))


def test_a_file_that_a_stage_does_not_find_is_not_said_to_be_the_disks_fault(store, log):
    @dataclass(frozen=True)
    class Reading(Copy):
        def __call__(self, subject: object, folder: Path) -> None:
            (folder / "nothing").read_text()

    with pytest.raises(FileNotFoundError):
        one(store, Reading(log=str(log)))


# Damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-min(10, len(content))] ^= 1  # of the manifest: in a checksum
    path.write_bytes(bytes(content))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("name", ["value.txt", "manifest.json"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, append, delete])
def test_a_damaged_result_is_noticed_set_aside_and_computed_again(store, log, name, damage):
    made = one(store, Copy(log=str(log)))
    damage(made.path / name)
    reached = one(store, Copy(log=str(log)))
    assert times(log) == 1  # nobody has read it yet
    with pytest.raises(InputError) as error:
        reached.file("value.txt")
    assert "\n" not in str(error.value)
    assert str(made.path) in str(error.value)
    assert not made.path.exists()
    assert made.path.with_suffix(".damaged").exists()
    assert one(store, Copy(log=str(log))).file("value.txt").read_text() == "subject"
    assert times(log) == 2


@pytest.mark.parametrize(
    "said", ["[]", '{"sha256": []}', '{"sha256": [], "bytes": {"value.txt": 7}}', '{"sha256": 1}']
)
def test_a_manifest_of_another_shape_is_damage(store, log, said):
    made = one(store, Copy(log=str(log)))
    (made.path / "manifest.json").write_text(said)
    with pytest.raises(Damaged, match="run the command again"):
        Artefact(made.path, made.digest).file("value.txt")


def test_damage_that_two_readers_meet_is_told_to_both(store, log):
    made = one(store, Copy(log=str(log)))
    readers = [Artefact(made.path, made.digest) for _ in range(2)]
    for reader in readers:
        assert reader.has("value.txt")
    truncate(made.path / "value.txt")
    for reader in [*readers, Artefact(made.path, made.digest)]:
        with pytest.raises(InputError, match="run the command again"):
            reader.file("value.txt")


def test_a_second_damage_is_set_aside_too(store, log):
    for n in (1, 2):
        made = one(store, Copy(log=str(log)))
        assert times(log) == n
        truncate(made.path / "value.txt")
        with pytest.raises(InputError):
            made.file("value.txt")


def test_an_error_of_a_result_that_is_gone_arrives_from_a_worker_as_it_was():
    said = Absent(Path("store/merge/key"))
    come = copy(said)  # as what travels between processes is made again
    assert (type(come), str(come), come.stage) == (Absent, str(said), "merge")

"""Nothing lost: a dozen of the runs of scripts/chaos, every kind of fault among them."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from chaos import FAULTS, chaos
from chaos_watch import duplicates, held_locks
from filelock import FileLock

from gwsmm.artefact import Artefact, Damaged
from gwsmm.store import LOG, Key, Store
from gwsmm.types import InputError


def test_whatever_happens_the_same_command_again_ends_as_if_it_had_not(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, {"OMP_NUM_THREADS": "1"}.get(name, "false"))
    *_, found = chaos(runs=len(FAULTS), seed=1, kinds=list(FAULTS))
    assert found["failures"] == []
    assert (
        found["runs"] + len(found["skipped"])
        == len(FAULTS)
        == found["resumed_identical"] + len(found["skipped"])
    )
    for reason in found["skipped"].values():
        pytest.skip(reason)


# That what is looked for would be seen.


def lines(root: Path, *events: tuple[str, str, int]) -> None:
    said = [{"event": event, "key": key, "process": f"here:{n}"} for event, key, n in events]
    root.mkdir(exist_ok=True)
    (root / LOG).write_text("".join(json.dumps(line) + "\n" for line in said))


@pytest.mark.parametrize(
    ("events", "lived", "spoilt", "found"),
    [
        ([("begun", "a", 1), ("done", "a", 1), ("begun", "b", 2), ("done", "b", 2)], {}, set(), 0),
        ([("begun", "a", 1), ("begun", "a", 2), ("done", "a", 2)], {}, set(), 0),  # 1 was killed
        ([("begun", "a", 1), ("begun", "a", 2), ("done", "a", 2)], {1: 10**6}, set(), 1),
        ([("begun", "a", 1), ("begun", "a", 2), ("done", "a", 1)], {}, set(), 1),
        ([("begun", "a", 1), ("done", "a", 1)] * 2, {}, set(), 1),
        ([("begun", "a", 1), ("done", "a", 1)] * 2, {}, {"a"}, 0),
    ],
)
def test_the_log_tells_what_was_computed_twice(tmp_path, events, lived, spoilt, found):
    lines(tmp_path, *events)
    assert duplicates(tmp_path, lived, spoilt) == found


def test_a_lock_that_is_held_is_counted(tmp_path):
    (tmp_path / "stage").mkdir()
    with FileLock(tmp_path / "stage" / "key.lock"):
        assert held_locks(tmp_path) == 1
    assert held_locks(tmp_path) == 0


# What chaos found.


def write(folder: Path) -> None:
    (folder / "value").write_text("what was computed")


def test_who_saw_the_damage_late_does_not_move_away_what_was_computed_anew(tmp_path):
    store = Store(tmp_path)
    made = store.fetch("stage", Key("key"), write)
    late = Artefact(made.path, made.digest)
    assert late.has("value")
    (made.path / "value").write_text("what was com-uted")
    with pytest.raises(Damaged):
        made.file("value")
    again = store.fetch("stage", Key("key"), write)
    with pytest.raises(Damaged):
        raise late._set_aside(late.path / "value")
    assert again.file("value").read_text() == "what was computed"


def test_a_file_that_was_cut_is_noticed_though_nobody_reads_it(tmp_path):
    made = Store(tmp_path).fetch("stage", Key("key"), write)
    (made.path / "value").write_text("cut")
    with pytest.raises(Damaged):
        Artefact(made.path, made.digest).has("value")


def test_a_store_of_an_older_version_is_still_read(tmp_path):
    made = Store(tmp_path).fetch("stage", Key("key"), write)
    content = json.loads((made.path / "manifest.json").read_text())
    del content["bytes"]
    (made.path / "manifest.json").write_text(json.dumps(content))
    assert Artefact(made.path, made.digest).file("value").read_text() == "what was computed"


def test_a_place_that_is_no_folder_ends_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"store=.*cannot be written"):
        Store(tmp_path / "file" / "store").fetch("stage", Key("key"), write)

"""Nothing trusted: every reader refuses in one line what it cannot take; see scripts/fuzz."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import fuzz_targets
from fuzz import guided
from fuzz_targets import TARGETS, Target, fuzz

SLOW = {
    "configurations": 20,
    "overrides": 20,
    "runs": 100,
    "runs left": 20,
    "tables": 100,
}  # inputs


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_takes_or_refuses_whatever_stands_in_a_file(name, tmp_path):
    assert fuzz(name, SLOW.get(name, 200), str(tmp_path)) is None


@pytest.mark.parametrize("fault", ["raise ZeroDivisionError", "write outside", "never end"])
def test_a_fault_would_be_found(fault, tmp_path, monkeypatch):
    def read(folder: Path) -> None:
        if (folder / "file").read_bytes() == b"valid":
            return
        if fault == "write outside":
            (folder.parent / "outside").touch()
        while fault == "never end":
            pass
        assert fault == "write outside"

    monkeypatch.setattr(fuzz_targets, "SLOWEST", 0.05)
    monkeypatch.setitem(TARGETS, "faulty", Target(read, lambda: [{"file": b"valid"}], {}))
    assert fuzz("faulty", 20, str(tmp_path)) is not None


def test_inputs_may_be_guided_by_the_lines_that_they_reach(tmp_path):
    pytest.importorskip("atheris", reason="atheris is for Linux")
    assert guided("plans", 100, str(tmp_path)) is None
    reached = {path.name for path in (tmp_path / "corpus").iterdir()}
    assert not all(map(str.isdigit, reached)), "no input reached anything new"
    (tmp_path / "other").mkdir()
    said = guided("no such target", 1, str(tmp_path / "other"))
    assert said is not None, "whatever ends it is told"

"""Jobs of a multirun in processes of Hydra's launchers: they share one store with all others."""

from pathlib import Path

import pytest
from little import TINY, Ended, counts, gwsmm, write_items

PACKAGES = {"joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "submitit"}


@pytest.fixture(params=PACKAGES)
def launcher(request) -> str:
    pytest.importorskip(PACKAGES[request.param], reason="pip install 'gwsmm[joblib,slurm]'")
    return request.param


def swept(root: Path, launcher: str, items: Path) -> Ended:
    where = [f"store={root / 'store'}", f"hydra.sweep.dir={root / launcher}"]
    data = ["items=pasta", f"items.path={items}"]
    two = ["grouping.encoders=2,3", f"hydra/launcher={launcher}"]
    return gwsmm("run", "-m", *TINY, *data, *where, *two)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """With what one job after the other, in this process, has computed."""
    made = tmp_path_factory.mktemp("sweeps")
    ended = swept(made, "basic", write_items(made / "items", items=3))
    assert ended.code == 0, ended.err
    return made


def test_jobs_use_the_store_and_end_as_in_this_process(launcher, root):
    ended = swept(root, launcher, root / "items")
    assert ended.code == 0, ended.err
    for job in ("0", "1"):
        there, here = root / launcher / job, root / "basic" / job
        assert (there / "results.json").read_bytes() == (here / "results.json").read_bytes()
        assert {computed for computed, _ in counts(there).values()} == {0}
    assert (root / launcher / "report.html").exists()


def test_what_a_job_refuses_is_one_line_and_the_exit_code_says_so(launcher, tmp_path):
    ended = swept(tmp_path, launcher, tmp_path / "nowhere")
    assert ended.code == 2
    (line,) = [line for line in ended.err.splitlines() if line.startswith("gwsmm: ")]
    assert "nowhere" in line
    assert "Traceback" not in ended.err

"""What a user gets from `pip install`: the configs and data travel inside the package."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wheel_carries_every_config_record_and_text_bank(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src" / "gwsmm"
    expected = {
        f"gwsmm/{path.relative_to(source).as_posix()}"
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {
        f"gwsmm/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("conf/**/*.yaml")
    }
    assert len(expected) > 50
    assert expected <= inside
    sweeper = "hydra_plugins/gwsmm_optuna.py"  # where Hydra looks for sweepers
    assert sweeper in inside
    ours = ("gwsmm/", "gwsmm-", sweeper)
    assert not [name for name in inside if not name.startswith(ours)]


def test_unpacked_wheel_composes_its_own_configs(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "unpacked")
    code = "from gwsmm.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--cfg", "job", "experiment=tiny"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "unpacked"), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "name: tiny" in done.stdout
    where = [sys.executable, "-c", "from gwsmm.cli.run import CONF; print(CONF)"]
    env = {"PYTHONPATH": str(tmp_path / "unpacked"), "PATH": "/usr/bin:/bin"}
    conf = subprocess.run(where, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    assert Path(conf.stdout.strip()) == tmp_path / "unpacked" / "gwsmm" / "conf"

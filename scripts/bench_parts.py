"""What the benchmarks share: their configuration, their parts, and processes of their own."""

import json
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench_memory import peak_memory
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from gwsmm.experiment import Experiment

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
BENCH = ROOT / "outputs" / "bench"
Row = dict[str, object]


def configured(*overrides: str) -> Experiment:
    """The experiment of these overrides, without a tracker."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=["tracker=off", *overrides])
    x: Experiment = instantiate(config, _convert_="all")
    return x


def carry_out(
    file: Path,
    parts: Mapping[str, Callable[[], None]],
    only: Sequence[str],
    rows: list[Row],
    keys: dict[str, object],
) -> None:
    """Run the parts, which fill `rows` and `keys`, and write the file after each of them.

    Args:
        file: JSON; a part that is run again replaces its own rows there.
        parts: by name; a row says in `part` which one it is of.
        only: names of those to run; none: all.
        rows: to be filled; in the end also with those that the file had of other parts.
        keys: to be filled likewise.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and only:
        before = json.loads(file.read_text())
        rows += [row for row in before.pop("rows") if row["part"] not in only]
        keys |= before
    for name, part in parts.items():
        if not only or name in only:
            print(f"— {name}", flush=True)
            part()
            write(file, rows, keys)


def write(file: Path, rows: list[Row], keys: dict[str, object]) -> None:
    """Write what was measured so far."""
    file.write_text(json.dumps(keys | {"rows": rows}, indent=2) + "\n")


def alone(work: Callable[..., Any], *arguments: object) -> tuple[Any, int]:
    """What a function returns in a fresh process, and that process's peak memory in bytes."""
    with get_context("spawn").Pool(1) as pool:
        found: tuple[Any, int] = pool.apply(_with_memory, (work, arguments))
    return found


def _with_memory(work: Callable[..., Any], arguments: Sequence[object]) -> tuple[Any, int]:
    result = work(*arguments)
    return result, peak_memory()

"""What the store spares a sweep: a grid of runs that share it, killed and gone on with, by several.

The grid is four distances, the quickstart's three groupings and four merges on its items, 80
responses each, fine-tuned as by default; expert's and language model's plans ask no distance. Each
process runs on one thread. What 48 runs without a shared store would take is estimated from one of
them, or the median of several, each with an empty store.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from bench_parts import BENCH, Row, alone, carry_out, configured

from gwsmm.artefact import Artefact
from gwsmm.finetune import Finetuning
from gwsmm.pipeline import prepare, run
from gwsmm.store import LOG, Key, Store, key_of
from gwsmm.types import Item, Label, Responses

GWSMM = Path(sys.executable).with_name("gwsmm")
PARTS = ("grid", "kill", "processes", "store", "keys")
GRID = {
    "distance": ("published", "gw_exact", "cka", "label_overlap"),
    "grouping": ("linkage", "expert", "llm"),
    "merge": ("average", "ties", "task_arithmetic", "tsv"),
}
JOBS = list(product(*GRID.values()))
KILLED = 30


class Bench:
    """The overrides of all runs, and a folder for their stores."""

    def __init__(self, overrides: Sequence[str], root: Path, colds: int) -> None:
        self.fixed = ["items.limit=80", "features.size=50", "stability.repeats=1"]
        self.fixed += ["tracker=off", "execute=serial", *overrides]
        self.root, self.colds = root, colds
        self.rows: list[Row] = []
        self.keys: dict[str, object] = {}
        self.shared: float | None = None  # seconds of the grid by one process, once measured

    def note(self, part: str, what: str, result: str) -> None:
        self.rows.append({"part": part, "what": what, "result": result})
        print(f"{what}: {result}", flush=True)

    def grid(self, store: str, folder: str, **axes: str) -> list[str]:
        """The command of the grid; of a part of it where an axis is given."""
        swept = {name: ",".join(values) for name, values in GRID.items()} | axes
        where = [f"store={self.root / store}", f"hydra.sweep.dir={self.root / folder}"]
        return [
            str(GWSMM),
            "run",
            "-m",
            *self.fixed,
            *(f"{k}={v}" for k, v in swept.items()),
            *where,
        ]

    def cold(self, number: int) -> tuple[float, float]:
        """Wall and processor seconds of a job of the grid as a run with an empty store."""
        name = f"cold{number}"
        own = [f"{key}={value}" for key, value in zip(GRID, JOBS[number], strict=True)]
        where = [f"store={self.root / name}", f"hydra.run.dir={self.root / name}_run"]
        return spent([str(GWSMM), "run", *self.fixed, *own, *where])

    def begun(self, store: str) -> Counter[str]:
        """How often each stage was begun in a store."""
        return Counter(e["stage"] for e in events(self.root / store) if e["event"] == "begun")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], choices=PARTS)
    parser.add_argument("--colds", type=int, default=1, help="independent runs that are timed")
    parser.add_argument("--root", type=Path, help="folder for the stores; without: a temporary one")
    parser.add_argument("--name", default="sweep", help="of the files in outputs/bench")
    parser.add_argument(
        "overrides", nargs="*", help="of the configuration, after --, e.g. -- finetune.epochs=1"
    )
    asked = parser.parse_args()
    with TemporaryDirectory() as temporary:
        bench = Bench(asked.overrides, asked.root or Path(temporary), asked.colds)
        parts: dict[str, Callable[[], None]] = {
            "grid": lambda: grid(bench),
            "kill": lambda: kill(bench),
            "processes": lambda: processes(bench),
            "store": lambda: store(bench),
            "keys": lambda: keys(bench),
        }
        if asked.overrides:
            bench.keys["overrides"] = asked.overrides
        carry_out(BENCH / f"{asked.name}.json", parts, asked.only, bench.rows, bench.keys)
    table = pd.DataFrame(bench.rows).drop(columns="part").to_markdown(index=False)
    (BENCH / f"{asked.name}.md").write_text(table + "\n")
    print(f"\n{table}")


def grid(bench: Bench) -> None:
    """The grid with an empty store and again, beside independent runs."""
    some = [round(at) for at in np.linspace(0, len(JOBS) - 1, bench.colds)]
    each = [bench.cold(number) for number in some]
    wall, cpu = median(w for w, _ in each), median(c for _, c in each)
    bench.note("grid", f"one run with an empty store, median of {len(some)}", seconds(wall, cpu))
    first = spent(bench.grid("grid", "first"))
    bench.note("grid", f"{len(JOBS)} runs that share an empty store", seconds(*first))
    before = bench.begun("grid")
    whole = [f"{n} {stage}" for stage, n in before.items() if stage != "pairs"]  # pieces of others
    bench.note("grid", "stages computed", ", ".join(whole))
    again = spent(bench.grid("grid", "second"))
    bench.note("grid", "the same again, into another folder", seconds(*again))
    same = spent(bench.grid("grid", "first"))
    more = bench.begun("grid") - before
    bench.note("grid", "the same again, into the same folder", seconds(*same))
    bench.note("grid", "stages computed by these", str(more.total()))
    bench.note("grid", "times less than independent runs", f"{len(JOBS) * wall / first[0]:.1f}")
    bench.shared = first[0]
    bench.keys |= {
        "grid_speedup": len(JOBS) * wall / first[0],
        "grid_speedup_processor": len(JOBS) * cpu / first[1],
        "repeat_seconds": again[0],
        "repeat_processor_seconds": again[1],
        "repeat_same_folder_seconds": same[0],
        "repeat_trainings": more["finetune"],
        "repeat_solves": more["pairs"],
    }


def kill(bench: Bench) -> None:
    """The grid killed in a job, and called again."""
    command, folder = bench.grid("killed", "killed_runs"), bench.root / "killed_runs"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)  # fmt: skip
    while not (folder / str(KILLED) / "config.yaml").exists():
        assert process.poll() is None, f"ended by itself with {process.returncode}"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*/run.json")}
    before, at = bench.begun("killed"), time.time()
    spent(command)
    kept = sum(path.stat().st_mtime_ns == when for path, when in done.items())
    until = (folder / str(KILLED) / "run.json").stat().st_mtime - at
    twice = repeated(bench.root / "killed", "done")
    bench.note("kill", f"killed in job {KILLED}: finished jobs kept as they were", f"{kept}")
    bench.note("kill", "called again: seconds until that job was finished", f"{until:.1f}")
    bench.note("kill", "stages finished twice", str(twice))
    bench.note("kill", "stages left to compute", str((bench.begun("killed") - before).total()))
    bench.keys |= {"killed_jobs_kept": kept, "killed_twice": twice}


def processes(bench: Bench) -> None:
    """The grid by four processes, a distance each, beside one process."""
    one = bench.shared or spent(bench.grid("one", "one_runs"))[0]
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            bench.grid("four", f"four_runs/{distance}", distance=distance),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for distance in GRID["distance"]
    ]
    assert [each.wait() for each in running] == [0] * len(running)
    four = time.perf_counter() - started
    twice = repeated(bench.root / "four", "begun")
    bench.note("processes", "one process on the grid", f"{one:.0f} s")
    bench.note("processes", f"four processes on the grid, {cores()} cores", f"{four:.0f} s")
    bench.note("processes", "times faster than the one", f"{one / four:.2f}")
    bench.note("processes", "stages that two of them computed", str(twice))
    bench.keys |= {"four_processes_speedup": one / four, "four_processes_twice": twice}


def store(bench: Bench) -> None:
    """What the store takes of a run with an empty one."""
    with TemporaryDirectory(dir=bench.root) as place:
        (own, whole), _ = alone(overhead, [*bench.fixed, f"store={place}"])
    bench.note(
        "store", "keys, checksums, locks and manifests of a run", f"{100 * own / whole:.2f} %"
    )
    bench.keys["store_overhead"] = own / whole


def overhead(overrides: list[str]) -> tuple[float, float]:
    """Seconds of a run's main process in the store but not in its stages, and in all."""
    took, inside = [0.0], [0.0]

    def timed(function: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                into[0] += time.perf_counter() - started

        return call

    fetch = Store.fetch

    def outside(
        self: Store, stage: str, key: Key, compute: Callable[[Path], None], *, patient: bool = True
    ) -> Artefact:
        within = timed(compute, inside)
        made: Artefact = timed(lambda: fetch(self, stage, key, within, patient=patient), took)()
        return made

    Store.fetch = outside  # type: ignore[method-assign]
    Artefact.file = timed(Artefact.file, took)  # type: ignore[method-assign]
    import gwsmm.store

    gwsmm.store.key_of = timed(key_of, took)
    x = configured(*overrides)
    started = time.perf_counter()
    run(x, prepare(x))
    return took[0] - inside[0], time.perf_counter() - started


def keys(bench: Bench) -> None:
    """The key of one stage of an item with 10,000 responses."""
    x = configured(*bench.fixed)
    _ = x.encoder.digest
    stage = Finetuning(
        encoder=x.encoder, recipe=x.finetune.on_this_machine(), trainer=x.trainer, seed=0
    )
    took = []
    for number in range(9):
        item = large_item(number)
        started = time.perf_counter()
        key_of(stage, item)
        took.append(1000 * (time.perf_counter() - started))
    bench.note("keys", "the key of a stage, 10,000 responses", f"{median(took):.1f} ms")
    bench.keys["key_milliseconds"] = median(took)


def large_item(seed: int) -> Item:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (10_000, 5)).astype(np.uint8)
    texts = tuple(f"response {i} of {seed}: the particles of the gas move faster when they are "
                  "heated and so the balloon grows" for i in range(len(labels)))  # fmt: skip
    train = Responses(texts, labels)
    names = [Label(f"E{i}") for i in range(labels.shape[1])]
    few = train.rows(range(100))
    return replace(Item("large", tuple(names), "multilabel", train=train, validation=few, test=few))


def spent(command: Sequence[str]) -> tuple[float, float]:
    """Wall and processor seconds of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    said = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {status}:\n{said[-2000:]}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def events(store: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (store / LOG).read_text().splitlines()]


def repeated(store: Path, event: str) -> int:
    """Results of which the log of a store has this event more than once."""
    of = Counter((e["stage"], e["key"]) for e in events(store) if e["event"] == event)
    return sum(count > 1 for count in of.values())


def seconds(wall: float, cpu: float) -> str:
    return f"{wall:.1f} s ({cpu:.1f} s of processor)"


def cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()

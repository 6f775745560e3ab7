"""Nothing lost: whatever happens to a run, the same command again ends as if it had not happened.

Little runs are killed at random moments, starved of disk, damaged, and crowded on one store. Every
one is begun again and must write the `results.json` of an undisturbed run, byte for byte. Meanwhile
a reader checks that no half-written file can be seen, and in the end the store's log that nothing
was computed twice.
"""

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from chaos_faults import FAULTS, MAY_REFUSE, ROOT, Skipped, Trial, write_items
from chaos_watch import Reader, duplicates, held_locks

OUT = ROOT / "outputs" / "bench"
HEAVY = ("gwsmm.pipeline", "gwsmm.scoring", "gwsmm.report.run", "transformers", "ot.gromov")
ALSO = ("sklearn.linear_model", "torchmetrics", "chaos_faults")
COUNTS = (
    "runs",
    "resumed_identical",
    "torn_reads",
    "duplicate_computations",
    "locks_left",
    "unreadable_ends",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(FAULTS), choices=list(FAULTS))
    asked = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    said = 0
    for found in chaos(asked.runs, asked.seed, asked.only):
        (OUT / "chaos.json").write_text(json.dumps(found, indent=2) + "\n")
        print(f"{found['runs']} of {asked.runs}", *found["failures"][said:], flush=True)
        said = len(found["failures"])
    (OUT / "chaos.md").write_text(table(found) + "\n")
    print(table(found))
    sys.exit(found["failures"] != [])


def chaos(runs: int, seed: int, kinds: Sequence[str]) -> Iterator[dict[str, Any]]:
    """After every run the counts over all and of each kind of fault, and what failed."""
    rows = {kind: dict.fromkeys(COUNTS, 0) for kind in kinds}
    skipped, failures = dict[str, str](), list[str]()
    with TemporaryDirectory() as place:
        root = Path(place)
        data = write_items(root / "items", items=3, train=24, test=8)
        first = _first(root, data)
        for number in range(runs):
            kind = kinds[number % len(kinds)]
            if kind in skipped:
                continue
            trial = _trial(root, data, first, Random(f"{seed} {number}"), number)
            try:
                with trial.undo:
                    row = _carried_out(trial, kind)
            except Skipped as reason:
                skipped[kind] = str(reason)
                continue
            for name in COUNTS:
                rows[kind][name] += row[name]
            if row != _GOOD:
                failures.append(f"{number} {kind}: {row} {trial.ends} {sorted(trial.reader.torn)}")
            shutil.rmtree(trial.root)
            yield _summary(seed, rows, skipped, failures)


def _summary(
    seed: int, rows: dict[str, dict[str, int]], skipped: dict[str, str], failures: list[str]
) -> dict[str, Any]:
    total = {name: sum(row[name] for row in rows.values()) for name in COUNTS}
    every = [{"kind": kind, **row} for kind, row in rows.items() if kind not in skipped]
    return {"seed": seed, **total, "skipped": skipped, "failures": failures, "rows": every}


_GOOD = dict.fromkeys(COUNTS, 0) | {"runs": 1, "resumed_identical": 1}


def _context() -> multiprocessing.context.ForkServerContext:
    """Of processes that have done their imports when they start; otherwise as any other."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*HEAVY, *ALSO])
    return context


def _first(root: Path, data: Path) -> Trial:
    """The undisturbed run: the installed command in a fresh process, and once more, to be timed."""
    trial = Trial(
        root / "first",
        data,
        root / "first" / "store",
        0,
        Random(0),
        _context(),
        Reader(root, [], b""),
    )
    trial.root.mkdir()
    arguments = trial.arguments("run")
    command = Path(sys.executable).with_name("gwsmm")
    subprocess.run([command, "run", *arguments], check=True, capture_output=True)
    again = Trial(root / "timed", data, trial.store, 0, Random(0), trial.context, trial.reader)
    again.root.mkdir()
    server = trial.context.Process(target=time.time)  # starts what makes the processes
    server.start()
    server.join()
    started = time.monotonic()
    if again.wait(again.start()):
        raise RuntimeError(again.ends[-1][1])
    trial.seconds = time.monotonic() - started
    return trial


def _trial(root: Path, data: Path, first: Trial, random: Random, number: int) -> Trial:
    place = root / str(number)
    place.mkdir()
    content = (first.root / "run" / "results.json").read_bytes()
    reader = Reader(place / "store", [place / "run" / "results.json"], content)
    return Trial(place, data, first.store, first.seconds, random, first.context, reader)


def _carried_out(trial: Trial, kind: str) -> dict[str, int]:
    """Disturb it, give the command again, and look at what there is."""
    with trial.reader:
        FAULTS[kind](trial)
        refused = [each for each in trial.ends if not _readable(each, kind, trial)]
        for name in trial.names:
            code = trial.wait(trial.start(name), name)
            refused += [trial.ends[-1]] if code else []
    results = [trial.root / name / "results.json" for name in trial.names]
    same = all(path.exists() and path.read_bytes() == trial.reader.content for path in results)
    spoilt = {folder.name for folder in trial.reader.spoilt}
    return {
        "runs": 1,
        "resumed_identical": int(same),
        "torn_reads": len(trial.reader.torn),
        "duplicate_computations": duplicates(trial.store, trial.lived, spoilt),
        "locks_left": held_locks(trial.store) + len(list(trial.store.glob("*/*.part"))),
        "unreadable_ends": len(refused),
    }


def _readable(end: tuple[int, str], kind: str, trial: Trial) -> bool:
    """Whether a run ended well, or where it could not, in one line that names the folder."""
    code, said = end
    if "Traceback" in said or "Logging error" in said:
        return False
    if code == 0:
        return True
    lines = [line for line in said.splitlines() if line.startswith("gwsmm: ")]
    return kind in MAY_REFUSE and code == 2 and len(lines) == 1 and str(trial.root) in lines[0]


def table(found: dict[str, Any]) -> str:
    """Markdown, a row for every kind of fault."""
    frame = pd.DataFrame([*found["rows"], {"kind": "all", **{n: found[n] for n in COUNTS}}])
    frame.columns = [str(name).replace("_", " ") for name in frame.columns]
    return frame.to_markdown(index=False)


if __name__ == "__main__":
    main()

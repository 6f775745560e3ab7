"""Nothing trusted: every reader takes what can be meant and refuses the rest in one line.

Inputs are valid files with bytes changed, cut, repeated and put in, and documents of the right
shape with wrong values. A reader may return, or raise what it says that it raises; anything else,
a hang or a file outside its folder is a fault, and its smallest input is printed. With --guided
inputs are made of those before that reached lines of ours not reached before.
"""

import argparse
import logging
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from bench_parts import BENCH, Row, carry_out
from fuzz_targets import TARGETS, fuzz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="for each reader")
    parser.add_argument("--only", nargs="+", default=[], choices=list(TARGETS))
    parser.add_argument("--guided", action="store_true", help="by what is reached (Linux)")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # of items whose labels are constant, ten thousand times
    rows: list[Row] = []
    parts = {name: partial(_tried, name, asked.inputs, asked.guided, rows) for name in TARGETS}
    file = BENCH / ("fuzz_guided.json" if asked.guided else "fuzz.json")
    carry_out(file, parts, asked.only, rows, {})
    table = pd.DataFrame(rows).rename(columns={"part": "reader"}).to_markdown(index=False)
    file.with_suffix(".md").write_text(table + "\n")
    print(table)
    sys.exit(any(row["faults"] for row in rows))


def _tried(name: str, inputs: int, by_reach: bool, rows: list[Row]) -> None:
    """One row for one reader; a fault ends its inputs and is printed."""
    started = time.monotonic()
    with TemporaryDirectory() as place:
        fault = (guided if by_reach else fuzz)(name, inputs, place)
    if fault is not None:
        print(fault, flush=True)
    seconds = round(time.monotonic() - started)
    rows.append(
        {"part": name, "inputs": inputs, "seconds": seconds, "faults": int(fault is not None)}
    )


def guided(name: str, number: int, place: str) -> str | None:
    """As `fuzz`, in a process of its own, which the engine ends."""
    program = str(Path(__file__).with_name("fuzz_guided.py"))
    command = [sys.executable, program, name, str(number), place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else None


if __name__ == "__main__":
    main()

"""Nothing trusted: every reader takes what can be meant and refuses the rest in one line.

Inputs are valid files with bytes changed, cut, repeated and put in, and documents of the right
shape with wrong values. A reader may return, or raise what it says that it raises; anything else,
a hang or a file outside its folder is a fault, and its smallest input is printed. With --guided
inputs are made of those before that reached lines of ours not reached before.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz_targets import TARGETS, fuzz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="for each reader")
    parser.add_argument("--only", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--guided", action="store_true", help="by what is reached (Linux)")
    asked = parser.parse_args()
    search = guided if asked.guided else fuzz
    failed = False
    for name in asked.only:
        started = time.monotonic()
        with TemporaryDirectory() as place:
            fault = search(name, asked.inputs, place)
        failed |= fault is not None
        said = "no fault" if fault is None else f"FAULT\n{fault}"
        print(
            f"{name}: {asked.inputs} inputs, {time.monotonic() - started:.0f} s: {said}", flush=True
        )
    sys.exit(failed)


def guided(name: str, number: int, place: str) -> str | None:
    """As `fuzz`, in a process of its own, which the engine ends."""
    program = str(Path(__file__).with_name("fuzz_guided.py"))
    command = [sys.executable, program, name, str(number), place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else None


if __name__ == "__main__":
    main()

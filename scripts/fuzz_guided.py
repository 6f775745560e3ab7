"""One target of the fuzzing, whose inputs are made of those that reached lines not reached before.

fuzz_guided.py TARGET INPUTS PLACE: ends with 0, or prints the fault and ends with another code.
"""

import contextlib
import io
import random
import sys
from pathlib import Path

import atheris

with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["gwsmm"]):
    from fuzz_targets import check  # and what it imports, with a counter in every branch

LONGEST = 4096  # bytes that an input is made of
SEEDS = 64


def main() -> None:
    name, inputs, place = sys.argv[1:]
    corpus, home = Path(place, "corpus"), Path(place, "home")
    corpus.mkdir()
    home.mkdir()
    drawn = random.Random(0)
    for number in range(SEEDS):  # the empty input, which it would begin with, makes nothing
        (corpus / str(number)).write_bytes(drawn.randbytes(LONGEST))
    take = check(name, 1, str(home)).hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    given = [f"-runs={inputs}", f"-max_len={LONGEST}", "-seed=1", f"-artifact_prefix={place}/"]
    atheris.Setup([sys.argv[0], *given, str(corpus)], take)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

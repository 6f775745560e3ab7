"""The command `gwsmm` and its subcommands."""

import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = (  # each a module beside this one
    "run",
    "status",
    "clean",
    "report",
    "bundle",
    "score",
    "add",
    "remove",
)

HELP = """\
gwsmm finds out which scoring models can share one encoder, merges them, and shows what that costs.

usage: gwsmm run [OPTION=VALUE …] [-m] [--dry-run] [--cfg job]
       gwsmm status [FOLDER …]
       gwsmm clean [STORE] [--unreachable] [--older-than AGE] [--dry-run | --yes]
       gwsmm report RUN … [--out DIR]
       gwsmm bundle RUN OUT
       gwsmm score BUNDLE TABLE [--out FILE] [--probabilities]
       gwsmm add BUNDLE RUN ITEM OUT [--tolerance F1]
       gwsmm remove BUNDLE ITEM OUT

  gwsmm run                             nine generated items, GW plan, merge, comparison table
  gwsmm run experiment=quickstart       a first look: GW, expert and LLM plans side by side
  gwsmm run items=pasta items.path=DIR  your answers: DIR/<item>_train.csv, DIR/<item>_test.csv
  gwsmm run -m merge=average,ties       every combination, sharing what is computed already
  gwsmm run --dry-run …                 what that would compute, how long, how much; nothing is done
  gwsmm run --cfg job                   print the composed configuration and stop
  gwsmm run --help                      every option and its choices

  gwsmm status                          how all runs stand, what is kept of them, which are stale
  gwsmm clean --unreachable             what no run needs any more; --yes removes it

  gwsmm report RUN RUN … --out DIR      tables and a page that compare finished runs
  gwsmm bundle outputs/runs/RUN models  what a finished run would deploy, in one folder
  gwsmm score models answers.csv        scores of a table that mixes items; see gwsmm score --help
  gwsmm add models RUN ITEM models2     one item more; the files of the others stay as they are
  gwsmm remove models ITEM models2      one item less; likewise

  -h, --help     this text
  --version      the version
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the program with 2 after an error in what the user gave."""
    # Spinning threads slow a busy machine twentyfold; to be set before numpy or torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has every letter
    logging.raiseExceptions = False  # a log that cannot be written is no traceback on the terminal
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    if command in ("-h", "--help"):
        sys.stdout.write(HELP)
    elif command == "--version":
        from gwsmm import __version__

        sys.stdout.write(f"gwsmm {__version__}\n")
    elif command in COMMANDS:
        if command != "run":  # whose log Hydra sets up
            terminal = logging.StreamHandler()
            terminal.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
            logging.getLogger().addHandler(terminal)
        try:
            module = import_module(f"gwsmm.cli.{command}")
            getattr(module, f"{command}_command")(rest)
        except KeyboardInterrupt:  # while its libraries are loaded
            sys.stderr.write("gwsmm: stopped before anything was done\n")
            raise SystemExit(130) from None
    else:
        from gwsmm.cli.explain import nearest

        hint = nearest(command, [*COMMANDS, "--help", "--version"])
        sys.stderr.write(f"gwsmm: there is no command {command!r}{hint}; see gwsmm --help\n")
        raise SystemExit(2)

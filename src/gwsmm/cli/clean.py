"""`gwsmm clean`: removes from the store what no run needs."""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gwsmm.cleaning import DAY, GOES, Broom, Found
from gwsmm.cli.parsing import OneLine, input_errors
from gwsmm.cli.showing import amount, say, show
from gwsmm.logbook import KEYS, LOG, RUNS, Left, run_folders, standing
from gwsmm.store import NOTED, Store
from gwsmm.types import InputError

_EPILOG = """\
What a run under the folders of --runs, or one that the store knows of, lists in its keys.json
always stays: remove the run's folder first if you need neither it nor a bundle of it; if you need
no run at all, remove the store.
A bundle itself needs no store. What was used within the last day stays, too, so that a run that was
stopped keeps what it has; while one is at work there, --unreachable and --older-than are refused.
"""
_UNITS = {"d": DAY, "w": 7 * DAY}


def clean_command(arguments: Sequence[str]) -> None:
    """Show, or remove, what the arguments say; ends with 2 on bad input."""
    given = _parser().parse_args(arguments)
    with input_errors("every result that is still there is whole"):
        _clean(given)


def _parser() -> argparse.ArgumentParser:
    parser = OneLine(
        prog="gwsmm clean",
        description="Remove from a store what was set aside as damaged and what killed runs left; "
        "with --unreachable or --older-than also results that no run needs.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        "store", type=Path, nargs="?", default=Path("outputs/store"), help="(outputs/store)"
    )
    parser.add_argument(
        "--unreachable",
        action="store_true",
        help="results that no run needs and that were not used within the last day",
    )
    parser.add_argument(
        "--older-than",
        type=_age,
        metavar="AGE",
        help="results that no run needs and that were not used for so long, e.g. 30d or 4w",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help=f"all folders of runs that use this store ({' '.join(map(str, RUNS))})",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="only say what would go (default)")
    how.add_argument("--yes", action="store_true", help="remove it")
    return parser


def _clean(given: argparse.Namespace) -> None:
    if not given.store.is_dir():
        raise InputError(f"{given.store}: there is no such folder here; give the folder of a store")
    age: float | None = given.older_than or (DAY if given.unreachable else None)
    needed, gone = set[tuple[str, str]](), list[Path]()
    if age:
        noted = Store(given.store).noted_runs()
        gone = [run for run in noted if not _is_run(run)]
        needed = _needed([*_runs(given.runs), *(run for run in noted if run not in gone)])
    broom = Broom(needed=needed, age=age)
    found = list(broom.found(given.store))
    going = [each for each in found if each.fate in GOES]
    _show(found)
    if gone:
        say(
            f"Runs that used this store and are not here any more: {len(gone)}, e.g. {gone[-1]}; "
            "what no other run needs of theirs counts as unused."
        )
    size = amount(sum(each.bytes for each in going))
    if not given.yes:
        ask = "nothing was removed: --yes removes it" if going else "nothing to remove"
        say(f"{len(going)} folders, {size}; {ask}.")
        return
    try:
        removed = [each for each in going if broom.remove(each)]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be removed: {error.strerror}") from error
    stayed = f"; {len(going) - len(removed)} in use now stay" if len(removed) < len(going) else ""
    say(f"Removed {len(removed)} folders, {amount(sum(e.bytes for e in removed))}{stayed}.")


def _show(found: Sequence[Found]) -> None:
    """By stage how many folders there are of each fate, and what is freed."""
    rows = []
    for stage in dict.fromkeys(each.stage for each in found):
        of = [each for each in found if each.stage == stage]
        number = Counter(each.fate for each in of)
        freed = sum(each.bytes for each in of if each.fate in GOES)
        stays = number["used lately"] + number["in work"]
        counted = [number["unused"], number["left over"], number["damaged"]]
        rows.append([stage, *map(str, counted), amount(freed), str(number["needed"]), str(stays)])
    goes = ("unused", "left over", "damaged", "frees")
    show(("stage", *goes, "needed by runs: stay", "others: stay"), rows)


def _runs(given: Sequence[Path] | None) -> list[Path]:
    """All runs, at any depth, in the folders that were given, or where runs are by default.

    Raises:
        InputError: a folder is not here, or there is no run in it.
    """
    found = {folder: run_folders(folder, LOG, KEYS) for folder in given or RUNS}
    for folder, runs in found.items():
        if given and not runs:
            what = "there is no run in it" if folder.is_dir() else "there is no such folder here"
            raise InputError(
                f"{folder}: {what}, so that nobody knows what its runs need; give the folders in "
                "which there are runs that use this store"
            )
    if not any(found.values()):
        raise InputError(
            f"there is no run in {' or '.join(map(str, RUNS))}, so that nobody knows what runs "
            "need: call this where the runs were started, or give --runs FOLDER; if you need no "
            "run at all, remove the store's folder"
        )
    return [run for runs in found.values() for run in runs]


def _is_run(folder: Path) -> bool:
    """Whether there still is a run in a folder that the store knows of.

    Raises:
        InputError: that cannot be seen.
    """
    try:
        return any(path.name in (LOG, KEYS) for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # or no path at all
        return False
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read ({error.strerror}), so that nobody knows what the run there "
            f"needs: make it readable, or take its line out of {NOTED} in the store"
        ) from error


def _needed(runs: Sequence[Path]) -> set[tuple[str, str]]:
    """(stage, key) of every result that a finished run used.

    Raises:
        InputError: a run does not say what it used, or is still at work.
    """
    needed = set[tuple[str, str]]()
    for run in runs:
        state, stages = standing(run).state, Left(run).stages
        if state.startswith("running"):
            perhaps = "" if state == "running" else "perhaps "
            raise InputError(
                f"{run}: this run is {perhaps}at work, so that nobody knows yet what it needs: "
                "call this when it has ended"
            )
        if not stages and (state == "finished" or (run / KEYS).exists()):
            raise InputError(
                f"{run}: this run has no keys.json that can be read, so that nobody knows what "
                "it needs: run it again, which computes nothing anew, and remove this folder"
            )
        needed |= {(stage, key) for stage, keys in stages.items() for key in keys}
    return needed


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d{1,5})([dw])", text)
    if not match or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; give days or weeks: 1d, 30d, 4w")
    return int(match[1]) * _UNITS[match[2]]

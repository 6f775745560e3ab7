"""`gwsmm add`: an item of a finished run → a bundle with one item more."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gwsmm.cli.finished import EPILOG, carried_out, reopened, users_errors
from gwsmm.cli.parsing import OneLine, described


def add_command(arguments: Sequence[str]) -> None:
    """Write the bundle with the item that the arguments name; ends with 2 on bad input."""
    parser = OneLine(
        prog="gwsmm add",
        description="Write a bundle with one item more: on the encoder of the nearest group by the "
        "run's distance if validation says that this is good enough, else on its own. All files of "
        "the other items stay as they are.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="folder that gwsmm bundle wrote; stays as it is")
    parser.add_argument("run", type=Path, help="folder of a finished run of all items and the new")
    parser.add_argument("item", help="name of the new item")
    parser.add_argument("out", type=Path, help="folder to make; it must not be there yet")
    parser.add_argument(
        "--tolerance",
        type=_share,
        default=0.01,
        metavar="F1",
        help="micro F1 on its validation responses that the item may lose by sharing (0.01)",
    )
    given = parser.parse_args(arguments)
    with users_errors("nothing was written"):
        _add(given)


def _add(given: argparse.Namespace) -> None:
    from gwsmm.bundle.changing import read_old
    from gwsmm.bundle.sealing import check_free

    check_free(given.out)
    old = read_old(given.bundle)
    experiment, items = reopened(given.run)

    from gwsmm.bundle.adding import write_added
    from gwsmm.bundle.checking import check_encoder, check_names
    from gwsmm.bundle.joining import placed

    check_names(old, items, given.item)
    check_encoder(old, experiment)
    run = carried_out(given.run, experiment, items)
    found = placed(old, experiment, run, given.item, given.tolerance)
    bundle, deviation = write_added(old, experiment, run, found, given.out)
    sys.stdout.write(
        f"{_said(found.record)}\n"
        f"Bundle: {described(given.out, bundle.manifest)}\n"
        f"{given.item} scores as evaluated: probabilities differ by at most {deviation:.0e}.\n"
        f"Next: gwsmm score {given.out} TABLE --out scores.csv\n"
    )


def _said(record: Mapping[str, Any]) -> str:
    """What was decided, and why."""
    item, validation = record["item"], record["validation"]
    lost = validation["alone"] - validation["joined"]
    decided = (
        "So it shares this encoder, which stays as it is: no other item changes."
        if record["accepted"]
        else "So it keeps an encoder of its own."
    )
    return (
        f"Nearest to {item}: {', '.join(record['nearest'])} "
        f"({record['quantity']} {record['distance']:.4g}).\n"
        f"Micro F1 on {validation['responses']} validation responses: "
        f"{validation['joined']:.4f} on their encoder, {validation['alone']:.4f} on its own; "
        f"{'loses' if lost > 0 else 'gains'} {abs(lost):.4f}, may lose {validation['tolerance']}.\n"
        f"{decided}"
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value

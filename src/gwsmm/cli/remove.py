"""`gwsmm remove`: a bundle with one item less."""

import sys
from collections.abc import Sequence
from pathlib import Path

from gwsmm.cli.parsing import OneLine, described, input_errors


def remove_command(arguments: Sequence[str]) -> None:
    """Write the bundle without the item that the arguments name; ends with 2 on bad input."""
    parser = OneLine(
        prog="gwsmm remove",
        description="Write a bundle with one item less. What only this item needed is gone; all "
        "files of the other items stay as they are.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, help="folder that gwsmm bundle wrote; stays as it is")
    parser.add_argument("item", help="name of the item")
    parser.add_argument("out", type=Path, help="folder to make; it must not be there yet")
    given = parser.parse_args(arguments)
    with input_errors():
        from gwsmm.bundle.removing import remove_item

        manifest = remove_item(given.bundle, given.item, given.out)
    sys.stdout.write(
        f"Bundle: {described(given.out, manifest)}\n"
        f"Next: gwsmm score {given.out} TABLE --out scores.csv\n"
    )

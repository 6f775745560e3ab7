"""`gwsmm bundle`: a finished run → the folder that is deployed."""

import sys
from collections.abc import Sequence
from pathlib import Path

from gwsmm.cli.finished import EPILOG, carried_out, reopened, users_errors
from gwsmm.cli.parsing import OneLine, described


def bundle_command(arguments: Sequence[str]) -> None:
    """Write the bundle of the run that the arguments name; ends with 2 on bad input."""
    parser = OneLine(
        prog="gwsmm bundle",
        description="Write what a finished run would deploy: one folder for gwsmm score.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="folder of the finished run")
    parser.add_argument("out", type=Path, help="folder to make; it must not be there yet")
    given = parser.parse_args(arguments)
    with users_errors("nothing was written"):
        _bundle(given.run, given.out)


def _bundle(folder: Path, out: Path) -> None:
    from gwsmm.bundle.sealing import check_free

    check_free(out)
    experiment, items = reopened(folder)

    from gwsmm.bundle.writing import write_bundle

    bundle, deviation = write_bundle(
        out,
        carried_out(folder, experiment, items),
        encoder=experiment.encoder,
        private=experiment.private,
        device=experiment.trainer.device,
    )
    sys.stdout.write(
        f"Bundle: {described(out, bundle.manifest)}\n"
        f"It scores as evaluated: probabilities differ by at most {deviation:.0e}.\n"
        f"Next: gwsmm score {out} TABLE --out scores.csv\n"
    )

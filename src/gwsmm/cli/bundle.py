"""`gwsmm bundle`: a finished run → the folder that is deployed.

A run's folder holds its composed configuration, and the store everything that was made of it, under
keys of its content. So the run is carried out once more, which takes everything from the store: no
list of files can go stale, and a label or response that changed since is noticed.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gwsmm.cli.explain import is_users
from gwsmm.cli.run import rebuild, refuse
from gwsmm.cli.score import OneLine
from gwsmm.types import InputError

if TYPE_CHECKING:
    from gwsmm.bundle.reading import Bundle

_NO_RUN = "give the folder of a finished run, e.g. outputs/runs/TIME_NAME (of a multirun, a job's)"


def bundle_command(arguments: Sequence[str]) -> None:
    """Write the bundle of the run that the arguments name; ends with 2 on bad input."""
    parser = OneLine(
        prog="gwsmm bundle",
        description="Write what a finished run would deploy: one folder for gwsmm score.",
        epilog="Call it in the folder where the run was started, so that its paths hold.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="folder of the finished run")
    parser.add_argument("out", type=Path, help="folder to make; it must not be there yet")
    given = parser.parse_args(arguments)
    try:
        _bundle(given.run, given.out)
    except Exception as error:
        if not is_users(error):
            raise
        refuse(error)
    except KeyboardInterrupt:
        sys.stderr.write("gwsmm: stopped; no bundle was written\n")
        raise SystemExit(130) from None


def _bundle(folder: Path, out: Path) -> None:
    before = _results(folder)

    from gwsmm.bundle.writing import check_free, write_bundle
    from gwsmm.pipeline import prepare, run
    from gwsmm.tracking import Off

    check_free(out)
    experiment = replace(rebuild(folder / "config.yaml"), tracker=Off())
    if not Path(experiment.store).is_dir():
        raise InputError(
            f"store={experiment.store}: there is no such folder here; call gwsmm bundle where the "
            "run was started"
        )
    found = run(experiment, prepare(experiment))
    if json.loads(json.dumps(found.results)) != before:
        raise InputError(
            f"{folder / 'results.json'} is not what {folder / 'config.yaml'} gives now: responses, "
            "models or gwsmm changed since; run it again and bundle the new run"
        )
    bundle, deviation = write_bundle(
        out,
        found,
        encoder=experiment.encoder,
        private=experiment.private,
        device=experiment.trainer.device,
    )
    sys.stdout.write(_said(bundle, deviation))


def _results(folder: Path) -> object:
    path = folder / "results.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {_NO_RUN}") from error


def _said(bundle: "Bundle", deviation: float) -> str:
    manifest = bundle.manifest
    size = sum(file.bytes for file in manifest.files.values()) / 1e6
    passes = len({item.trunk for item in manifest.items})
    return (
        f"Bundle: {bundle.folder} ({len(manifest.items)} items, {passes} encoder passes, "
        f"{size:.1f} MB)\n"
        f"It scores as evaluated: probabilities differ by at most {deviation:.0e}.\n"
        f"Next: gwsmm score {bundle.folder} TABLE --out scores.csv\n"
    )

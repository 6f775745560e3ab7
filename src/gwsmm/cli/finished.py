"""A finished run, carried out once more.

A run's folder holds its composed configuration, and the store everything that was made of it, under
keys of its content. So the run is carried out again, which takes everything from the store: no list
of files can go stale, and a label or response that changed since is noticed.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gwsmm.cli.composing import rebuild, refuse
from gwsmm.cli.explain import is_users
from gwsmm.types import InputError, Item

if TYPE_CHECKING:
    from gwsmm.experiment import Experiment
    from gwsmm.results import Run

EPILOG = "Call it in the folder where the run was started, so that its paths hold."


@contextmanager
def users_errors(stopped: str) -> Iterator[None]:
    """End with 2 and one line where the user's input is wrong, and where the user stops it.

    Args:
        stopped: what is said then of the files.
    """
    try:
        yield
    except Exception as error:
        if not is_users(error):
            raise
        refuse(error)
    except KeyboardInterrupt:
        sys.stderr.write(f"gwsmm: stopped; {stopped}\n")
        raise SystemExit(130) from None


def reopened(folder: Path) -> "tuple[Experiment, tuple[Item, ...]]":
    """The experiment of a run and its items, as they are now.

    Raises:
        InputError: the folder holds no finished run, or its store or its items are not here.
    """
    _results(folder)

    from gwsmm.pipeline import prepare
    from gwsmm.tracking import Off

    experiment = replace(rebuild(folder / "config.yaml"), tracker=Off())
    if not experiment.kept.root.is_dir():
        raise InputError(
            f"store={experiment.store}: there is no such folder here; call this where the run was "
            "started"
        )
    return experiment, prepare(experiment, train=False)


def carried_out(folder: Path, experiment: "Experiment", items: Sequence[Item]) -> "Run":
    """What the run found out, from the store.

    Raises:
        InputError: it is not what the run's folder says.
    """
    from gwsmm.pipeline import run

    found = run(experiment, items)
    if json.loads(json.dumps(found.results)) != _results(folder):
        raise InputError(
            f"{folder / 'results.json'} is not what {folder / 'config.yaml'} gives now: responses, "
            "models or gwsmm changed since; run it again and give the new run"
        )
    return found


def _results(folder: Path) -> object:
    path = folder / "results.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read: give the folder of a finished run, e.g. "
            "outputs/runs/TIME_NAME (of a multirun, a job's)"
        ) from error

"""One run from its items to its filled folder, and what a multirun shows when it ends."""

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gwsmm.artefact import Absent, Damaged
from gwsmm.cli.composing import shown
from gwsmm.remote import Remote

if TYPE_CHECKING:
    from gwsmm.experiment import Experiment
    from gwsmm.results import Run
    from gwsmm.types import Item

log = logging.getLogger(__name__)

Show = Callable[[], None]

_MOST_REPAIRS = 20  # a disk that spoils more than this is not to be gone on with
_HINTS = (
    "Next: {gwsmm} run grouping.encoders=4              another number of encoders",
    "      {gwsmm} run -m merge=average,ties,published  merges side by side",
    "      {gwsmm} run items=pasta items.path=DIR       your own answers",
)


def conduct(
    cfg: DictConfig, experiment: "Experiment", items: "Sequence[Item]", folder: Path
) -> tuple[object, Show]:
    """Run one experiment, fill its folder, and return what its objective makes of it.

    Beside that what shows the run, to be called when all is written and said: whoever reads the
    output may go away before its end, and the run has finished nevertheless.

    A folder that holds the same run, finished, stays as it is. What turns out to be damaged in the
    store was set aside and is computed anew.
    """
    repairs = 0
    while True:
        try:
            return _conducted(cfg, experiment, items, folder)
        except (Absent, Damaged) as error:
            repairs += 1
            if repairs > _MOST_REPAIRS:
                raise
            log.warning("%s; this is done now", error)


def _conducted(
    cfg: DictConfig, experiment: "Experiment", items: "Sequence[Item]", folder: Path
) -> tuple[object, Show]:
    from gwsmm import __version__
    from gwsmm.measuring import measured
    from gwsmm.objective.objective import returned
    from gwsmm.pipeline import run
    from gwsmm.results import costs, evaluations, write_json

    started = time.monotonic()
    config = shown(cfg)
    _write_config(folder, OmegaConf.to_yaml(config))
    experiment.kept.note_run(folder)
    found = run(experiment, items)
    goal = experiment.objective(partial(measured, experiment, found))
    about = {
        "version": __version__,
        "overrides": OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False),
        "evaluations": evaluations(found.outcomes),
        "scoring": costs(found.outcomes),
        **({"objective": goal.told()} if goal else {}),
    }
    show: Show = _nothing
    if _stands(folder, found.results, about):
        log.info("finished before, and nothing has changed: %s", folder)
    else:
        show = _fill(folder, config, experiment, items, found, about)
        seconds = round(time.monotonic() - started, 1)
        write_json(folder / "run.json", about | {"seconds": seconds})
        log.info("finished in %.0f s: %s", seconds, folder)
    return returned(goal, experiment.objective.directions) if goal else None, show


def _nothing() -> None:
    """Show nothing: a run that had finished before, or a job of a multirun."""


def _write_config(folder: Path, config: str) -> None:
    """Write the configuration; what the folder holds of another one is not finished any more."""
    path = folder / "config.yaml"
    if not path.exists() or path.read_text(encoding="utf-8") != config:
        (folder / "run.json").unlink(missing_ok=True)
        path.write_text(config, encoding="utf-8")


def _stands(folder: Path, results: Mapping[str, object], about: Mapping[str, object]) -> bool:
    """Whether the folder holds these results, and its last file was written."""
    try:
        then = [json.loads((folder / f"{name}.json").read_text()) for name in ("results", "run")]
        ended = "seconds" in then[1] and then[1].pop("seconds") is not None
    except (OSError, ValueError, AttributeError, TypeError):
        return False
    return ended and then == json.loads(json.dumps([results, about]))


def _fill(
    folder: Path,
    config: Mapping[str, object],
    experiment: "Experiment",
    items: "Sequence[Item]",
    found: "Run",
    about: Mapping[str, object],
) -> Show:
    """Write all files of a run, track it, and return what shows it.

    A job of a multirun has no page, which `gwsmm report` draws, and pictures only if they are
    tracked.
    """
    from gwsmm.bundle.writing import write_bundle
    from gwsmm.report.run import summary, write_report, write_run
    from gwsmm.results import keys_content, pairs_frame, write_json
    from gwsmm.study.conditions import conditions
    from gwsmm.study.reading import read_runs
    from gwsmm.tracked import Finished

    write_run(folder, found)
    write_json(folder / "keys.json", keys_content(items, experiment.kept))
    write_json(folder / "run.json", about)
    here = conditions(read_runs([folder]))
    several = HydraConfig.get().mode == RunMode.MULTIRUN
    pictures = not several or experiment.tracker.pictures
    tables = write_report(folder, here, page=not several, pictures=pictures)
    # last, as it may wait for a service that does not answer
    experiment.tracker(
        Finished(
            name=folder.name if not several else f"{folder.parent.name}_{folder.name}",
            group=folder.parent.name if several else None,
            folder=folder,
            config=config,
            results=found.results,
            # whose students belong to which subgroup, and how these do, stays on the machine
            tables={name: frame for name, frame in tables.items() if name != "subgroups"}
            | {"pairs": pairs_frame(found.distances)},
            items=items,
            members=found.members,
            write_bundle=partial(
                write_bundle,
                run=found,
                encoder=experiment.encoder,
                private=experiment.private,
                device=experiment.trainer.device,
            ),
        )
    )
    if several:
        return _nothing
    return partial(summary, folder, here, tables["performance"], _hints(experiment.remote))


def _hints(remote: str | None) -> list[str]:
    """What to try next, with the command as it can be typed here; at last what was not shared."""
    hints = [hint.format(gwsmm=typed()) for hint in _HINTS]
    if remote is not None and Remote(remote).given_up:  # the warning scrolled away long ago
        hints.append(
            f"Not shared: remote={remote} could not be used; what was computed without it is in "
            "the store alone."
        )
    return hints


def typed() -> str:
    """The command as it can be typed here."""
    installed = Path(sys.prefix, "bin", "gwsmm")
    return "gwsmm" if shutil.which("gwsmm") else os.path.relpath(installed)


class Summary(Callback):
    """Compares the jobs of a multirun when all have ended."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write the tables of the multirun and show them."""
        from gwsmm.report.run import show_best, summary, write_report
        from gwsmm.study.conditions import conditions
        from gwsmm.study.reading import read_runs

        folder = Path(config.hydra.sweep.dir)
        if any(folder.glob("*/run.json")):
            found = conditions(read_runs([folder]))
            tables = write_report(folder, found)
            best = folder / "best.json"  # of a search
            if best.exists():
                show_best(folder, json.loads(best.read_text(encoding="utf-8")))
            else:
                summary(folder, found, tables["performance"], _hints(config.remote))

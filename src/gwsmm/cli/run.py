"""`gwsmm run`: compose, check, build, run, report; or say what that would compute."""

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gwsmm.cli.composing import CONF, build, refuse, settings
from gwsmm.cli.explain import explain, is_users
from gwsmm.logbook import LOCK
from gwsmm.store import claimed
from gwsmm.types import InputError

if TYPE_CHECKING:
    from gwsmm.dryrun import Forecast
    from gwsmm.experiment import Experiment
    from gwsmm.types import Item

log = logging.getLogger(__name__)

DRY = "--dry-run"
_HINTS = (
    "Next: {gwsmm} run grouping.encoders=4              another number of encoders",
    "      {gwsmm} run -m merge=average,ties,published  merges side by side",
    "      {gwsmm} run items=pasta items.path=DIR       your own answers",
)


def run_command(arguments: Sequence[str]) -> None:
    """Run the experiment or experiments that the arguments compose; ends with 2 on bad input."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one line
    dry = DRY in arguments
    try:
        if dry:
            _dry_run([each for each in arguments if each != DRY])
        else:
            _hydra(_job, arguments)
    except Exception as error:
        if not is_users(error):
            raise
        refuse(error)
    except KeyboardInterrupt:
        kept = "what was finished is kept: the same command goes on from there"
        sys.stderr.write(f"gwsmm: stopped; {'nothing was computed' if dry else kept}\n")
        raise SystemExit(130) from None


def _hydra(job: Callable[[DictConfig], None], arguments: Sequence[str]) -> None:
    """Let Hydra compose the job or jobs of these arguments and call `job` with each."""
    # Hydra reads flags only before the first override; our users may put them anywhere.
    flags_first = sorted(arguments, key=lambda given: given not in ("-m", "--multirun"))
    sys.argv = ["gwsmm run", *flags_first]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()


def _dry_run(arguments: Sequence[str]) -> None:
    """Show what the job or jobs would compute; nothing is left of it."""
    from gwsmm.cli.forecast import show_forecast

    places = ("hydra.run.dir=", "hydra.sweep.dir=", "hydra.sweep.subdir=", "hydra/launcher=")
    given = [each for each in arguments if not each.startswith(places)]
    found: list[Forecast] = []
    with TemporaryDirectory() as nowhere:
        here = [f"hydra.run.dir={nowhere}", f"hydra.sweep.dir={nowhere}", "hydra/launcher=basic"]
        _hydra(lambda cfg: found.append(_foreseen(cfg)), [*given, *here])
        logging.shutdown()  # closes the log
    show_forecast(found)


def _foreseen(cfg: DictConfig) -> "Forecast":
    """What one job would compute.

    Raises:
        InputError: what the next job is hangs on what this one finds.
    """
    sweeper = HydraConfig.get().sweeper["_target_"]
    if HydraConfig.get().mode == RunMode.MULTIRUN and not sweeper.endswith(".BasicSweeper"):
        raise InputError(
            f"{DRY}: {sweeper} chooses its jobs by what the ones before found, so that nobody "
            "knows them yet; give the settings of one job, without -m"
        )
    experiment = build(cfg)
    from gwsmm.pipeline import foresee, prepare

    return foresee(experiment, prepare(experiment, ask=False))


def _job(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        experiment = build(cfg)
        from gwsmm.pipeline import prepare

        items = prepare(experiment)
    except KeyboardInterrupt:
        _take_back(folder)
        raise
    except Exception as error:
        if not is_users(error):
            raise
        _take_back(folder)
        _end_job(error)
    try:
        with _logged(folder):
            _conduct(cfg, experiment, items, folder)
    except InputError as error:
        _end_job(error)


def _end_job(error: Exception) -> NoReturn:
    """Say what went wrong; a job in a process of a launcher leaves that to who launched it."""
    if HydraConfig.get().runtime.choices["hydra/launcher"] == "basic":
        refuse(error)
    kind = type(error) if isinstance(error, InputError) else InputError
    raise kind(explain(error, list(settings()))) from None


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Let the folder say that the run goes on, and its log how it ended."""
    log.info("begun")
    with claimed(folder / LOCK):
        try:
            yield
        except KeyboardInterrupt:
            log.info("stopped")
            raise
        except BaseException as error:
            # what a fault of this program says may hold a response
            log.info("failed: %s", explain(error, []) if is_users(error) else type(error).__name__)
            raise
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def _take_back(folder: Path) -> None:
    """Remove what Hydra made for a run that never began, and nothing else that stands there."""
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, logging.FileHandler)]:
        root.removeHandler(handler)  # the log is there no more
        handler.close()
    made = {folder: f"{HydraConfig.get().job.name}.log"}
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        made[folder.parent] = "multirun.yaml"
    for place, only in made.items():
        if [path.name for path in place.iterdir()] == [only]:
            shutil.rmtree(place)


def _conduct(
    cfg: DictConfig, experiment: "Experiment", items: "tuple[Item, ...]", folder: Path
) -> None:
    """Run one experiment and fill its folder."""
    from gwsmm import __version__
    from gwsmm.bundle.writing import write_bundle
    from gwsmm.pipeline import run
    from gwsmm.report.run import summary, write_report, write_run
    from gwsmm.results import costs, evaluations, keys_content, pairs_frame, write_json
    from gwsmm.study.conditions import conditions
    from gwsmm.study.reading import read_runs
    from gwsmm.tracked import Finished

    hydra_config, started = HydraConfig.get(), time.monotonic()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    found = run(experiment, items)
    write_run(folder, found)
    about = {
        "version": __version__,
        "overrides": list(hydra_config.overrides.task),
        "seconds": round(time.monotonic() - started, 1),
        "evaluations": evaluations(found.outcomes),
        "scoring": costs(found.outcomes),
    }
    write_json(folder / "keys.json", keys_content(items, experiment.kept))
    write_json(folder / "run.json", about)
    here = conditions(read_runs([folder]))
    tables = write_report(folder, here)
    log.info("finished in %.0f s: %s", about["seconds"], folder)
    several = hydra_config.mode == RunMode.MULTIRUN
    if not several:
        summary(folder, here, tables["performance"], _hints())
    # last, as it may wait for a service that does not answer
    experiment.tracker(
        Finished(
            name=folder.name if not several else f"{folder.parent.name}_{folder.name}",
            group=folder.parent.name if several else None,
            folder=folder,
            config=OmegaConf.to_container(cfg, resolve=True),  # type: ignore[arg-type]
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


def _hints() -> list[str]:
    """What to try next, with the command as it can be typed here."""
    installed = Path(sys.prefix, "bin", "gwsmm")
    typed = "gwsmm" if shutil.which("gwsmm") else os.path.relpath(installed)
    return [hint.format(gwsmm=typed) for hint in _HINTS]


class Summary(Callback):
    """Compares the jobs of a multirun when all have ended."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write the tables of the multirun and show them."""
        from gwsmm.report.run import summary, write_report
        from gwsmm.study.conditions import conditions
        from gwsmm.study.reading import read_runs

        folder = Path(config.hydra.sweep.dir)
        if any(folder.glob("*/run.json")):
            found = conditions(read_runs([folder]))
            tables = write_report(folder, found)
            summary(folder, found, tables["performance"], _hints())

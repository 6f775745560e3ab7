"""`gwsmm run`: compose, check, build, run, report; or say what that would compute."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gwsmm.cli.composing import CONF, build, check_choices, refuse, settings
from gwsmm.cli.conducting import conduct
from gwsmm.cli.explain import explain, is_users
from gwsmm.disk import writing
from gwsmm.logbook import LOCK
from gwsmm.store import claimed
from gwsmm.types import InputError

if TYPE_CHECKING:
    from gwsmm.dryrun import Forecast

log = logging.getLogger(__name__)

DRY = "--dry-run"


def run_command(arguments: Sequence[str]) -> None:
    """Run the experiment or experiments that the arguments compose; ends with 2 on bad input."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one line
    dry = DRY in arguments
    try:
        check_choices([each for each in arguments if "=" in each and not each.startswith("-")])
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


def _hydra(job: Callable[[DictConfig], object], arguments: Sequence[str]) -> None:
    """Let Hydra compose the job or jobs of these arguments and call `job` with each."""
    # Hydra reads flags only before the first override; our users may put them anywhere.
    flags_first = sorted(arguments, key=lambda given: given not in ("-m", "--multirun"))
    sys.argv = ["gwsmm run", *flags_first]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()


def _dry_run(arguments: Sequence[str]) -> None:
    """Show what the job or jobs would compute; nothing is left of it."""
    from gwsmm.cli.forecast import show_forecast

    # what says where and by what jobs are run: these are not
    places = ("hydra.run.dir=", "hydra.sweep.dir=", "hydra.sweep.subdir=")
    launcher = ("hydra/launcher=", "hydra.launcher.")
    given = [each for each in arguments if not each.lstrip("+~").startswith((*places, *launcher))]
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


def _job(cfg: DictConfig) -> object:
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
        with _logged(folder), writing(folder, "hydra.run.dir"):
            worth, show = conduct(cfg, experiment, items, folder)
    except InputError as error:
        _end_job(error)
    show()
    return worth


def _end_job(error: Exception) -> NoReturn:
    """Say what went wrong; a job in a process of a launcher leaves that to who launched it."""
    if HydraConfig.get().runtime.choices["hydra/launcher"] == "basic":
        refuse(error)
    kind = type(error) if isinstance(error, InputError) else InputError
    raise kind(explain(error, list(settings()))) from None


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Let the folder say that the run goes on, and its log how it ended.

    Raises:
        InputError: another process is at work in the folder.
    """
    with claimed(folder / LOCK) as ours:
        if not ours:
            raise InputError(
                f"{folder}: another process is at work in this folder; give another hydra.run.dir "
                "(with -m: hydra.sweep.dir), or wait until it has ended"
            )
        log.info("begun")
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

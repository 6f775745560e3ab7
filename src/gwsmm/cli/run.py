"""`gwsmm run`: compose, check, build, run, report; or say what that would compute."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from gwsmm.cli.composing import CONF, build, check_choices, refuse, settings
from gwsmm.cli.conducting import conduct
from gwsmm.cli.explain import explain, is_users
from gwsmm.cli.parsing import Once, OneLine
from gwsmm.disk import writing
from gwsmm.logbook import LOCK
from gwsmm.store import claimed
from gwsmm.types import InputError

if TYPE_CHECKING:
    from gwsmm.dryrun import Forecast

log = logging.getLogger(__name__)

DRY = "--dry-run"
# flags of Hydra and ours of which one is given at most: no job runs where something is shown
_SHOWS = ("cfg", "info")
_ONE_OF = ("run", "multirun", *_SHOWS)
_OR_DRY = ("dry_run", *_SHOWS, "help", "hydra_help", "experimental_rerun")


def run_command(arguments: Sequence[str]) -> None:
    """Run the experiment or experiments that the arguments compose; ends with 2 on bad input."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one line
    Once.said.clear()  # of an earlier command of this process
    dry, flags, overrides = _parsed(arguments)
    try:
        check_choices([each for each in overrides if "=" in each])
        if dry:
            _dry_run(flags, overrides)
        else:
            _hydra(_job, flags, overrides)
    except Exception as error:
        if not is_users(error):
            raise
        refuse(error)
    except KeyboardInterrupt:
        kept = "what was finished is kept: the same command goes on from there"
        sys.stderr.write(f"gwsmm: stopped; {'nothing was computed' if dry else kept}\n")
        raise SystemExit(130) from None


def _parsed(arguments: Sequence[str]) -> tuple[bool, list[str], list[str]]:
    """Whether it is a dry run, the flags for Hydra with their values, and the overrides.

    Hydra reads flags only before the first override; our users may put them anywhere.
    """
    parser = OneLine(
        prog="gwsmm run", add_help=False, allow_abbrev=False, parents=[get_args_parser()]
    )
    parser.add_argument(DRY, action="store_true")
    # what stands behind this flag is its value, or else an override
    told = [
        "--info=all" if each in ("--info", "-i") and "=" in after else each
        for each, after in pairwise([*arguments, ""])
    ]
    given, rest = parser.parse_known_intermixed_args(told)
    if rest:
        parser.error(f"there is no flag {rest[0]}")
    if given.shell_completion:
        parser.error("--shell-completion knows no command of two words such as `gwsmm run`")
    for names in (_OR_DRY if given.dry_run else (), _ONE_OF):
        both = [f"--{name.replace('_', '-')}" for name in names if getattr(given, name)]
        if len(both) > 1:
            parser.error(f"{both[0]} and {both[1]}: give one of the two")
    if given.resolve and not (given.cfg or given.help):
        parser.error("--resolve resolves what --cfg shows: give --cfg job, too")
    flags = [each for each in told if each not in (DRY, *given.overrides)]
    return given.dry_run, flags, given.overrides


def _hydra(
    job: Callable[[DictConfig], object], flags: Sequence[str], overrides: Sequence[str]
) -> None:
    """Let Hydra compose the job or jobs of these arguments and call `job` with each."""
    sys.argv = ["gwsmm run", *flags, "--", *overrides]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()


def _dry_run(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Show what the job or jobs would compute; nothing is left of it."""
    from gwsmm.cli.forecast import show_forecast

    # what says where and by what jobs are run: these are not
    places = ("hydra.run.dir=", "hydra.sweep.dir=", "hydra.sweep.subdir=")
    launcher = ("hydra/launcher=", "hydra.launcher.")
    given = [each for each in overrides if not each.lstrip("+~").startswith((*places, *launcher))]
    found: list[Forecast] = []
    with TemporaryDirectory() as nowhere:
        here = [f"hydra.run.dir={nowhere}", f"hydra.sweep.dir={nowhere}", "hydra/launcher=basic"]
        grids = f"+hydra.callbacks.grids._target_={__name__}.{OnlyGrids.__name__}"
        _hydra(lambda cfg: found.append(_foreseen(cfg)), flags, [*given, *here, grids])
        logging.shutdown()  # closes the log
    show_forecast(found)


class OnlyGrids(Callback):
    """Refuses a multirun whose next job hangs on what this one finds."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Look at who chooses the jobs, before it begins."""
        sweeper = config.hydra.sweeper["_target_"]
        if not sweeper.endswith(".BasicSweeper"):
            # Hydra makes a warning of what a callback raises, but not of an exit
            refuse(
                InputError(
                    f"{DRY}: {sweeper} chooses its jobs by what the ones before found, so that "
                    "nobody knows them yet; give the settings of one job and hydra.mode=RUN"
                )
            )


def _foreseen(cfg: DictConfig) -> "Forecast":
    """What one job would compute."""
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
            (place / only).unlink()
            if place.resolve() != Path.cwd():
                place.rmdir()

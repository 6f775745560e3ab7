"""`gwsmm run`: compose, check, build, run, report."""

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from pydoc import locate
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gwsmm.cli.explain import explain, is_users
from gwsmm.types import InputError

if TYPE_CHECKING:
    from gwsmm.experiment import Experiment
    from gwsmm.types import Item

log = logging.getLogger(__name__)

_PACKAGED = Path(__file__).parents[1] / "conf"
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "conf"
ALLOWED = ("gwsmm.", "torch.", "pytorch_lightning.", "hydra.", "hydra_plugins.")
_HINTS = (
    "Next: {gwsmm} run grouping.encoders=4              another number of encoders",
    "      {gwsmm} run -m merge=average,ties,published  merges side by side",
    "      {gwsmm} run items=pasta items.path=DIR       your own answers",
)


def run_command(arguments: Sequence[str]) -> None:
    """Run the experiment or experiments that the arguments compose; ends with 2 on bad input."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one line
    # Hydra reads flags only before the first override; our users may put them anywhere.
    flags_first = sorted(arguments, key=lambda given: given not in ("-m", "--multirun"))
    sys.argv = ["gwsmm run", *flags_first]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_job)()
    except Exception as error:
        if not is_users(error):
            raise
        refuse(error)
    except KeyboardInterrupt:
        sys.stderr.write(
            "gwsmm: stopped; what was finished is kept: the same command goes on from there\n"
        )
        raise SystemExit(130) from None


def _job(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        experiment = build(cfg)
        from gwsmm.pipeline import prepare

        items = prepare(experiment)
    except Exception as error:
        if not is_users(error):
            raise
        _take_back(folder)
        refuse(error)
    try:
        _conduct(cfg, experiment, items, folder)
    except InputError as error:
        refuse(error)


def _take_back(folder: Path) -> None:
    """Remove what Hydra made for a run that never began, and nothing else that stands there."""
    logging.shutdown()  # closes the log
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
    from gwsmm.results import costs, evaluations, pairs_frame, write_json
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


def refuse(error: Exception) -> NoReturn:
    """Say in one line what the user gave wrong, and end with 2."""
    sys.stderr.write(f"gwsmm: {explain(error, list(settings()))}\n")
    raise SystemExit(2) from None


def settings() -> Iterator[str]:
    """Every name that can be set: the groups of `conf`, and the keys of every file in it."""
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.relative_to(CONF).parent.as_posix()
        if group == "experiment":
            continue
        prefix = "" if group == "." else f"{group}."
        if prefix:
            yield group
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))  # OmegaConf takes seconds for all
        yield from (
            f"{prefix}{key}" for key in _keys(keys) if not key.startswith(("_", "defaults"))
        )


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def build(cfg: DictConfig) -> "Experiment":
    """The experiment that a composed configuration describes; imports torch.

    Raises:
        InputError: a required setting is missing, or a `_target_` is not allowed.
        InstantiationException: a setting has the wrong type or is out of range.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise InputError(f"{missing[0]}: this setting has no default; give {missing[0]}=VALUE")
    _check_targets(OmegaConf.to_container(cfg, resolve=True), "")
    from hydra.utils import instantiate

    experiment: Experiment = instantiate(cfg, _convert_="all")
    return experiment


def rebuild(path: Path) -> "Experiment":
    """The experiment of the `config.yaml` that a run left; imports torch.

    Raises:
        InputError: the file cannot be read, or is no composed configuration.
        InstantiationException: a setting has the wrong type or is out of range.
    """
    try:
        cfg = OmegaConf.load(path)
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__})") from error
    if not isinstance(cfg, DictConfig) or "_target_" not in cfg:
        raise InputError(f"{path} is no configuration of a run")
    return build(cfg)


def _check_targets(node: object, where: str) -> None:
    if isinstance(node, dict):
        target = str(node.get("_target_", "gwsmm.experiment.Experiment"))
        # A class only builds; a function, such as torch.load, does something at once.
        if not (target.startswith(ALLOWED) and isinstance(locate(target), type)):
            raise InputError(
                f"{where}_target_={target}: only classes of {', '.join(ALLOWED)} may be named in a "
                "configuration"
            )
        for key, value in node.items():
            _check_targets(value, f"{where}{key}.")
    elif isinstance(node, list):
        for value in node:
            _check_targets(value, where)

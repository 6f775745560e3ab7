"""From what the user types, or a run left, to the experiment that it describes."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from gwsmm.cli.explain import explain
from gwsmm.cli.parsing import one_line
from gwsmm.plain import read_yaml
from gwsmm.types import InputError

if TYPE_CHECKING:
    from gwsmm.experiment import Experiment
    from gwsmm.types import Item

_PACKAGED = Path(__file__).parents[1] / "conf"
CONF = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "conf"
_KEPT = 1000  # composed jobs: a quarter of a gigabyte


def refuse(error: Exception) -> NoReturn:
    """Say in one line what went wrong, and end with the error's code; 2: what the user gave."""
    sys.stderr.write(f"gwsmm: {one_line(explain(error, list(settings())))}\n")
    raise SystemExit(getattr(error, "code", 2)) from None


def settings() -> Iterator[str]:
    """Every name that can be set: the groups of `conf`, and the keys of every file in it."""
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.relative_to(CONF).parent.as_posix()
        if group == "experiment":
            continue
        text = path.read_text(encoding="utf-8")
        prefix = "" if group == "." else f"{group}."
        if prefix:
            yield group
        if text.startswith("# @package hydra\n"):
            prefix = "hydra."
        keys = yaml.safe_load(text)  # OmegaConf takes seconds for all
        yield from (
            f"{prefix}{key}" for key in _keys(keys) if not key.startswith(("_", "defaults"))
        )


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def check_choices(overrides: Sequence[str]) -> None:
    """Refuse a group that is set to what is no name; Hydra does not say which one it was.

    Raises:
        InputError: names the override.
        OverrideParseException: one cannot be read.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group, value = override.key_or_group, override.value()
        if not group:
            raise InputError(f"{override.input_line}: there is no name of a setting before the =")
        names = value.list if isinstance(value, ChoiceSweep) else [value]
        if (CONF / group).is_dir() and any(isinstance(n, int | float | None) for n in names):
            choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
            raise InputError(
                f"{override.input_line}: {group} takes the name of a choice ({choices})"
            )


def build(cfg: DictConfig) -> "Experiment":
    """The experiment that a composed configuration describes; imports torch.

    Raises:
        InputError: a required setting is missing, or a `_target_` is not allowed.
        InstantiationException: a setting has the wrong type or is out of range.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise InputError(f"{missing[0]}: this setting has no default; give {missing[0]}=VALUE")
    check_targets(OmegaConf.to_container(cfg, resolve=True))
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
        content: Any = read_yaml(path.read_text(encoding="utf-8"))
        cfg = OmegaConf.create(content) if isinstance(content, dict) else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__})") from error
    if cfg is None or "_target_" not in cfg:
        raise InputError(f"{path} is no configuration of a run")
    return build(cfg)


def shown(cfg: DictConfig) -> dict[str, object]:
    """The configuration as it is written down: resolved, but for environment variables.

    What stands in one may be secret, and is another's on another machine.
    """

    def unread(*name: str) -> str:
        return f"${{oc.env:{','.join(map(str, name))}}}"

    OmegaConf.register_new_resolver("oc.env", unread, replace=True)
    try:
        found: dict[str, object] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    return found


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """The settings that these overrides give now, as the `config.yaml` of a run has them.

    Raises:
        HydraException, OmegaConfBaseException: they give none any more.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=list(overrides))
    settings: dict[str, Any] = yaml.safe_load(OmegaConf.to_yaml(shown(cfg)))
    return settings


def resolved(text: str) -> str:
    """A setting of a run's `config.yaml`, with what its `${oc.env:…}` stand for here.

    Where they stand for nothing, the setting as it is written.
    """
    try:
        return str(OmegaConf.create({"text": text})["text"])
    except OmegaConfBaseException:
        return text


def items_of(settings: Mapping[str, Any]) -> "tuple[Item, ...]":
    """The items that the `config.yaml` of a run describes, as they are now; imports no torch.

    Raises:
        InputError: they cannot be read any more.
        InstantiationException: a setting of theirs is none any more.
    """
    from hydra.utils import instantiate

    chosen = {group: settings[group] for group in ("items", "split")}
    check_targets(OmegaConf.to_container(OmegaConf.create(chosen), resolve=True))
    built = instantiate(chosen, _convert_="all")
    items: tuple[Item, ...] = built["items"](built["split"])
    return items


def _is_own(target: str) -> bool:
    """Whether it is a class that this package defines: one that it imports may run anything."""
    kind = locate(target) if target.startswith("gwsmm.") else None
    return isinstance(kind, type) and f"{kind.__module__}.{kind.__qualname__}" == target


def check_targets(node: object, where: str = "") -> None:
    """Refuse a configuration that names what is not of this program.

    Raises:
        InputError: a `_target_` is not allowed.
    """
    if isinstance(node, dict):
        target = str(node.get("_target_", "gwsmm.experiment.Experiment"))
        if not _is_own(target):
            raise InputError(
                f"{where}_target_={target}: only classes of gwsmm may be named in a configuration"
            )
        for key, value in node.items():
            check_targets(value, f"{where}{key}.")
    elif isinstance(node, list):
        for value in node:
            check_targets(value, where)


class ComposedOnce(Callback):
    """Composes every job of a grid once; Hydra does it to check the grid, and to run the job."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Let Hydra's own launcher have what Hydra's own sweeper composed."""
        # any other launcher would send what is kept to its workers
        if not config.hydra.sweeper["_target_"].endswith(".BasicSweeper"):
            return
        if not config.hydra.launcher["_target_"].endswith(".BasicLauncher"):
            return
        loader = GlobalHydra.instance().config_loader()
        compose = loader.load_sweep_config
        kept = dict[tuple[str, ...], DictConfig]()
        seen = set[tuple[str, ...]]()

        def once(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
            job = tuple(sweep_overrides)
            if job in kept:
                return kept.pop(job)
            made = compose(master_config, sweep_overrides)
            # a job that stands twice in a grid: what the first ran with is changed
            if job not in seen and len(kept) < _KEPT:
                kept[job] = made
            seen.add(job)
            return made

        setattr(loader, "load_sweep_config", once)  # noqa: B010 - a method, to types

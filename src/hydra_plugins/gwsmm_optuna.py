"""`hydra/sweeper=optuna`: Hydra's side of a search; `gwsmm.cli.search` has Optuna's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

    from gwsmm.cli.search import Study
    from gwsmm.objective.objective import Goal, Objective

_SAME = ("store", "remote", "published", "execute", "trainer", "tracker")  # change no result


class OptunaSweeper(Sweeper):
    """Tries what Optuna suggests, and writes into the sweep's folder what is best.

    A setting that the choices of a trial do not have, such as `merge.density` beside
    `merge=average`, is left out of the trial.
    """

    def __init__(  # noqa: PLR0913 - Hydra gives the keys of the yaml
        self,
        params: Mapping[str, object],
        trials: int,
        sampler: Any,
        population: int,
        seed: int,
        seeds: Sequence[int],
        prune: bool,
        batch: int,
    ) -> None:
        from gwsmm.cli.search import Search

        self.params = params
        self.search = Search(
            trials=trials,
            sampler=sampler,
            population=population,
            seed=seed,
            seeds=list(seeds),
            prune=prune,
            batch=batch,
        )

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives; see `Sweeper`."""
        self.hydra_context, self.config, self.master = hydra_context, config, config
        self.loader = hydra_context.config_loader
        self.jobs = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Carry out what is left of the study; see `Sweeper`."""
        from gwsmm.cli.search import distribution, opened

        objective = self._objective()
        swept = self.swept(arguments)
        self.check(swept)
        space = {key: distribution(each) for key, each in swept.items()}
        folder = Path(self.master.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.master, folder / "multirun.yaml")
        about = {
            "space": {key: each.input_line for key, each in swept.items()},
            "fixed": sorted(e for e in self.fixed if e.split("=")[0].split(".")[0] not in _SAME),
            "objective": OmegaConf.to_container(self.master.objective, resolve=True),
            "search": {
                key: value
                for key, value in asdict(self.search).items()
                if key not in ("trials", "batch")
            },
        }
        with opened(self.search, folder, objective.directions, about) as study:
            while trials := study.ask():
                self._try(study, [(each, self.overrides(each, space)) for each in trials])
                study.write(folder, self.fixed)

    def swept(self, arguments: Sequence[str]) -> dict[str, Override]:
        """What is searched, by its name; what is given and not searched is kept for all trials."""
        from gwsmm.types import InputError

        if not isinstance(self.params, Mapping):
            raise InputError(
                f"hydra.sweeper.params={self.params}: these are settings by their names; on the "
                "command line give e.g. 'merge.density=interval(0.1,0.9)' by itself"
            )
        given = [f"{key}={_written(value)}" for key, value in self.params.items()]
        parsed = OverridesParser.create(self.loader).parse_overrides([*given, *arguments])
        by_key = {each.get_key_element(): each for each in parsed}  # the last one counts
        self.fixed = [_plain(each) for each in by_key.values() if not each.is_sweep_override()]
        return {key: each for key, each in by_key.items() if each.is_sweep_override()}

    def _objective(self) -> "Objective":
        from hydra.utils import instantiate

        from gwsmm.cli.composing import check_targets
        from gwsmm.types import InputError

        config = {"objective": OmegaConf.to_container(self.master.objective, resolve=True)}
        check_targets(config)
        objective: Objective = instantiate(config, _convert_="all")["objective"]
        if not objective.directions:
            raise InputError(
                "objective=off: a search goes by an objective: objective=micro_f1_at_budget or "
                "objective=pareto"
            )
        return objective

    def check(self, swept: Mapping[str, Override]) -> None:
        """Refuse a search of nothing, and settings that no choice has."""
        from gwsmm.cli.composing import settings
        from gwsmm.cli.explain import nearest
        from gwsmm.types import InputError

        if not swept:
            raise InputError(
                "hydra.sweeper.params: there is nothing to search; give e.g. "
                "'merge.density=interval(0.1,0.9)'"
            )
        known = [*settings()]
        for key in (each.key_or_group for each in swept.values() if not each.is_add()):
            if key not in known and not _has(self.master, key):
                raise InputError(f"{key}: there is no such setting{nearest(key, known)}")

    def overrides(self, trial: "Trial", space: Mapping[str, "BaseDistribution"]) -> list[str]:
        """What a trial is to set: first the choices, then what these have."""
        from gwsmm.cli.search import written

        def drawn(key: str) -> str:
            return f"{key}={written(trial._suggest(key, space[key]))}"

        choices = [key for key in space if self.loader.get_group_options(key.lstrip("+"))]
        found = [drawn(key) for key in choices]
        config = self.loader.load_sweep_config(self.master, [*self.fixed, *found])
        rest = [key for key in space if key not in choices]
        return found + [drawn(key) for key in rest if key.startswith("+") or _has(config, key)]

    def _try(self, study: "Study", trials: Sequence[tuple["Trial", list[str]]]) -> None:
        """Carry out these trials seed by seed, as long as they are worth it."""
        goals: dict[int, list[Goal]] = {trial.number: [] for trial, _ in trials}
        seeds = self.search.seeds
        for at, seed in enumerate([f"seed={seed}" for seed in seeds] or [""]):
            found = self._launched(trials, seed, at)
            going = []
            for (trial, overrides), goal in zip(trials, found, strict=True):
                if goal is None:
                    study.refuse(trial)
                    continue
                goals[trial.number].append(goal)
                if study.goes_on(trial, goals[trial.number]):
                    going.append((trial, overrides))
            if not (trials := going):
                break

    def _launched(
        self, trials: Sequence[tuple["Trial", list[str]]], seed: str, at: int
    ) -> list["Goal | None"]:
        """What became of these trials with one seed; None of one that was refused."""
        jobs = []
        for trial, overrides in trials:
            folder = "_".join(filter(None, (str(trial.number), seed.replace("=", ""))))
            more = [f"hydra.sweep.subdir={folder}", *filter(None, [seed])]
            jobs.append([*self.fixed, *overrides, *more])
        self.validate_batch_is_legal(jobs)
        first = trials[0][0].number * max(1, len(self.search.seeds)) + at
        try:
            return [_goal(each) for each in self.jobs.launch(jobs, initial_job_idx=first)]
        except SystemExit as end:
            if end.code != 2:
                raise
            if len(trials) == 1:
                return [None]
            return [self._launched([each], seed, at)[0] for each in trials]


def _goal(job: JobReturn) -> "Goal | None":
    """What a finished job says of itself in its folder; None: it was refused."""
    from gwsmm.objective.objective import Goal
    from gwsmm.types import InputError

    try:
        _ = job.return_value  # raises what the job raised
    except InputError as error:  # a launcher's own process leaves it to us
        if getattr(error, "code", 2) != 2:
            raise
        return None
    assert job.hydra_cfg is not None
    path = Path(job.hydra_cfg.hydra.runtime.output_dir, "run.json")
    told = json.loads(path.read_text(encoding="utf-8"))["objective"]
    return Goal(tuple(told["values"]), told["constraints"])


def _plain(override: Override) -> str:
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _written(value: object) -> str:
    """A value of the yaml as an override has it; a list is a choice."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(_written, value))
    return "null" if value is None else str(value)


def _has(config: DictConfig, key: str) -> bool:
    """Whether a composed configuration has a setting, with a value or without."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and name in node.keys()  # noqa: SIM118 - also without value

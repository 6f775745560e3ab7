"""What a sweep by Optuna is asked to do, and its study, which is kept in the sweep's folder."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.cli.conducting import typed
from gwsmm.objective.objective import Direction, Goal
from gwsmm.results import write_json
from gwsmm.types import STRICT, InputError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna import Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

Count = Annotated[int, Field(ge=1)]

_DIGITS = 12  # after the point, of the ends of a range


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Search:
    """How a space is searched; conf/hydra/sweeper/optuna.yaml says what the settings mean."""

    trials: Count
    sampler: Literal["tpe", "nsga2", "random"]
    population: Annotated[int, Field(ge=2)]
    seed: Annotated[int, Field(ge=0)]
    seeds: list[Annotated[int, Field(ge=0)]]
    prune: bool
    batch: Count

    def sampler_at(self, trial: int) -> "BaseSampler":
        """The sampler of one trial: a study that is gone on with draws what it would have drawn."""
        from optuna import samplers

        seed = self.seed + 1000 * trial
        if self.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if self.sampler == "nsga2":
            return samplers.NSGAIISampler(population_size=self.population, seed=seed)
        return samplers.TPESampler(seed=seed)


def distribution(override: "Override") -> "BaseDistribution":
    """What is drawn for a setting that Hydra was asked to sweep.

    Raises:
        InputError: Optuna is not installed, or nothing can be drawn.
    """
    try:
        return _distribution(override)
    except ImportError as error:
        raise InputError(
            "hydra/sweeper=optuna: Optuna is not installed: pip install 'gwsmm[optuna]'"
        ) from error
    except ValueError as error:  # Optuna's, of ends that cannot be
        raise InputError(f"{override.input_line}: cannot be searched: {error}") from error


def _distribution(override: "Override") -> "BaseDistribution":
    from optuna import distributions as of

    if override.is_choice_sweep():
        return of.CategoricalDistribution(list(override.sweep_string_iterator()))
    sweep: Any = override.value()
    if override.is_range_sweep():
        values = list(sweep.range())
        if not values:
            raise ValueError("there is no value in this range")
        low, high, step = min(values), max(values), abs(sweep.step)
        if isinstance(low, int):
            return of.IntDistribution(low, high, step=step)
        # Hydra adds up steps, 0.8999999999999999, and Optuna would leave out such an end
        return of.FloatDistribution(round(low, _DIGITS), round(high, _DIGITS), step=step)
    if not isfinite(sweep.end - sweep.start):
        raise ValueError("both ends of an interval are numbers")
    whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
    of_interval = of.IntDistribution if whole else of.FloatDistribution
    return of_interval(sweep.start, sweep.end, log="log" in sweep.tags)


def written(value: object) -> str:
    """A value as it is tried and told: numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def opened(
    search: Search,
    folder: Path,
    directions: Mapping[str, Direction],
    about: Mapping[str, object],
) -> "Iterator[Study]":
    """The study in this folder, or a new one; nobody else can go on with it meanwhile.

    Args:
        search: how.
        folder: of the sweep.
        directions: by the name of each value.
        about: what makes it this search and no other, as JSON.

    Raises:
        InputError: the folder holds another search, or another process is at work on it.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    lock = FileLock(folder / "study.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{folder}: another process is at work on this sweep") from error
    try:
        path = folder / "study.journal"
        study = optuna.create_study(
            study_name="sweep",
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
            directions=list(directions.values()),
            pruner=optuna.pruners.MedianPruner() if search.prune else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        if study.user_attrs.get("about", about) != about:
            raise InputError(
                f"{folder} holds a sweep of other settings: give this one another name=NAME"
            )
        study.set_user_attr("about", about)
        yield Study(search, study, list(directions))
    finally:
        lock.release()


@dataclass(frozen=True, config=STRICT)
class Study:
    """An open study.

    Attributes:
        search: how it goes on.
        study: Optuna's.
        names: of the values.
    """

    search: Search
    study: Any
    names: list[str]

    def ask(self) -> "list[Trial]":
        """The next trials; those that were cut off come first. None are left: none."""
        from optuna import Trial
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        found = []
        for each in (t for t in trials if t.state == TrialState.RUNNING):
            self.study.sampler = self.search.sampler_at(each.number)
            found.append(Trial(self.study, each._trial_id))
        for number in range(len(trials), self.search.trials):
            if len(found) < self.search.batch:
                self.study.sampler = self.search.sampler_at(number)
                found.append(self.study.ask())
        return found[: self.search.batch]

    def goes_on(self, trial: "Trial", goals: Sequence[Goal]) -> bool:
        """Whether a trial is worth another seed; where not, it is closed.

        Args:
            trial: open.
            goals: of its seeds until now.
        """
        whole = len(goals) == max(1, len(self.search.seeds))
        feasible = all(goal.feasible for goal in goals)
        values = [mean(each) for each in zip(*(goal.values for goal in goals), strict=True)]
        if not whole and feasible:
            return not self._lags(trial, len(goals), values)
        for name in goals[0].constraints.keys() - trial.constraints:
            trial.set_constraint(name, max(goal.constraints[name] for goal in goals))
        self.study.tell(trial, values)
        return False

    def _lags(self, trial: "Trial", step: int, values: Sequence[float]) -> bool:
        """Whether a trial of one value is below the earlier ones at the same step, and closed."""
        from optuna.trial import TrialState

        if len(values) > 1:  # Optuna prunes for one objective only
            return False
        if step not in self.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(values[0], step)
        lags: bool = trial.should_prune()
        if lags:
            self.study.tell(trial, state=TrialState.PRUNED)
        return lags

    def refuse(self, trial: "Trial") -> None:
        """Close a trial that cannot be carried out."""
        from optuna.trial import TrialState

        self.study.tell(trial, state=TrialState.FAIL)

    def write(self, folder: Path, fixed: Sequence[str]) -> None:
        """Write `trials.csv`, and `best.json` with what no other trial beats.

        Args:
            folder: to write into.
            fixed: what all trials have in common.
        """
        import pandas as pd

        ended = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        best = {trial.number for trial in self._best()}
        rows = [
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "best": trial.number in best,
                **dict.fromkeys(self.names),
                **dict(zip(self.names, trial.values or (), strict=False)),
                **{f"above {name}": value for name, value in trial.constraints.items()},
                **{key: written(value) for key, value in trial.params.items()},
            }
            for trial in ended
        ]
        pd.DataFrame(rows).to_csv(folder / "trials.csv", index=False)
        seed = [f"seed={self.search.seeds[0]}"] if self.search.seeds else []
        found = [
            {
                "trial": trial.number,
                "values": dict(zip(self.names, trial.values, strict=True)),
                "overrides": (
                    own := [f"{key}={written(value)}" for key, value in trial.params.items()]
                ),
                "command": shlex.join([typed(), "run", *fixed, *own, *seed, "hydra.mode=RUN"]),
            }
            for trial in ended
            if trial.number in best
        ]
        write_json(folder / "best.json", found)

    def _best(self) -> "list[FrozenTrial]":
        """What no feasible trial beats; of one value the first that has the most."""
        if len(self.names) > 1:
            return [t for t in self.study.best_trials if _feasible(t)]
        try:
            return [self.study.best_trial]
        except ValueError:  # no trial is feasible
            return []


def _feasible(trial: "FrozenTrial") -> bool:
    return all(value <= 0 for value in trial.constraints.values())

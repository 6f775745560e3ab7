"""Whether a plan is the same from other responses and other seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from gwsmm.grouping.linkage import Linkage
from gwsmm.grouping.pairs import Pairs
from gwsmm.study.conditions import Condition
from gwsmm.study.reading import RunFolder
from gwsmm.types import InputError, Plan


@dataclass(frozen=True, eq=False)
class PlanStability:
    """How far the plans of one condition agree.

    Attributes:
        condition: its name.
        half_samples: plans that were made of half-samples of the responses.
        with_half_samples: mean adjusted Rand index of them with the plan of their run; nan: none.
        seeds: plans, one for each seed.
        between_seeds: mean adjusted Rand index of every two of them; nan: there is one.
        together: [N, N]: in which share of all these plans two items share an encoder.
    """

    condition: str
    half_samples: int
    with_half_samples: float
    seeds: int
    between_seeds: float
    together: NDArray[np.float64]


def plan_stability(condition: Condition) -> PlanStability:
    """Of the plans of all seeds, and where the distances decide, of half-samples of the responses.

    Source: Hubert and Arabie (1985) for the adjusted Rand index.
    """
    own = [run.plan for run in condition.runs]
    drawn = [(run.plan, half) for run in condition.runs for half in half_plans(run)]
    names = condition.names
    plans = [*own, *(half for _, half in drawn)]
    return PlanStability(
        condition.name,
        len(drawn),
        _mean([_rand(*pair, names) for pair in drawn]),
        len(own),
        _mean([_rand(*pair, names) for pair in combinations(own, 2)]),
        np.mean([_shared(plan, names) for plan in plans], axis=0),
    )


_OF_DISTANCES: Mapping[str, type[Linkage] | type[Pairs]] = {
    f"{kind.__module__}.{kind.__name__}": kind for kind in (Linkage, Pairs)
}
"""The groupings that ask for the distances alone, by their target in the configuration."""


def half_plans(run: RunFolder) -> list[Plan]:
    """The plans that the run's grouping makes of half-samples; none where it asks for more."""
    settings = dict(run.config.get("grouping", {}))
    kind = _OF_DISTANCES.get(settings.pop("_target_", ""))
    if kind is None:
        return []
    try:
        grouping = kind(**settings)
    except ValidationError as error:
        raise InputError(f"{run.folder / 'config.yaml'}: grouping: {error}") from error
    plans = []
    for half in run.half_samples:
        try:
            plans.append(grouping.of(half))
        except InputError:  # Ward's method is not defined at every sample's distances
            continue
    return plans


def _numbers(plan: Plan, names: Sequence[str]) -> list[int]:
    return [plan.groups.index(plan.group_of(name)) for name in names]


def _rand(one: Plan, other: Plan, names: Sequence[str]) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(_numbers(one, names), _numbers(other, names)))


def _shared(plan: Plan, names: Sequence[str]) -> NDArray[np.float64]:
    numbers = np.array(_numbers(plan, names))
    same: NDArray[np.float64] = (numbers[:, None] == numbers).astype(float)
    return same


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")

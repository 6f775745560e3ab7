"""What is still to be computed, and what that will take by what it took before."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from gwsmm.dryrun import Asked, Forecast
from gwsmm.inventory import Kept, results_of


@dataclass(frozen=True)
class Expected:
    """A stage of one job or of several; a result that several ask for counts once.

    Attributes:
        stage: its name.
        there: results that are in the store.
        missing: results that are not.
        pairs: of items that are solved for these, at most.
        bytes: that will be written; None: unknown, as no result of the stage is finished.
        seconds: that it will take; None: likewise.
    """

    stage: str
    there: int
    missing: int
    pairs: int
    bytes: float | None
    seconds: float | None


def expected(forecasts: Sequence[Forecast]) -> list[Expected]:
    """The stages of these jobs, which run one after the other, as they are first asked for."""
    jobs, history = _counted_once(forecasts), _History()
    stages = dict.fromkeys(each.stage for job in jobs for each in job)
    return [
        _expected([[each for each in job if each.stage == stage] for job in jobs], stage, history)
        for stage in stages
    ]


def _counted_once(forecasts: Sequence[Forecast]) -> list[list[Asked]]:
    """What each job asks for that no job before it did."""
    seen = set[tuple[Path, str, str]]()
    jobs = []
    for forecast in forecasts:
        asked = {(each.store, each.stage, each.digest): each for each in forecast.asked}
        jobs.append([each for key, each in asked.items() if key not in seen])
        seen |= set(asked)
    return jobs


@dataclass(frozen=True)
class _History:
    """The finished results of stores, each read once."""

    found: dict[tuple[Path, str], list[Kept]] = field(default_factory=dict)

    def like(self, asked: Asked) -> list[Kept]:
        """Finished results of the same settings, or if there are none, of the same stage."""
        key = asked.store, asked.stage
        if key not in self.found:
            self.found[key] = list(results_of(*key))
        alike = [each for each in self.found[key] if each.settings == asked.settings]
        return alike or self.found[key]


def _expected(jobs: Sequence[Sequence[Asked]], stage: str, history: _History) -> Expected:
    missing = [[each for each in job if not each.there] for job in jobs]
    every = [each for job in missing for each in job]
    sizes, times = [], []
    for group in [group for job in missing for group in _alike(job)]:
        finished, rounds = history.like(group[0]), -(-len(group) // group[0].workers)
        stay = sum(each.stays for each in group)
        sizes.append(_median(stay, (each.bytes for each in finished)))
        times.append(_median(rounds, (each.seconds for each in finished)))
    return Expected(
        stage=stage,
        there=sum(each.there for job in jobs for each in job),
        missing=len(every),
        pairs=sum(each.pairs for each in every),
        bytes=_sum(sizes),
        seconds=_sum(times),
    )


def _alike(job: Iterable[Asked]) -> list[list[Asked]]:
    """Those of equal settings, which are computed side by side."""
    groups: list[list[Asked]] = []
    for asked in job:
        own = next((group for group in groups if group[0].settings == asked.settings), None)
        if own is None:
            groups.append([asked])
        else:
            own.append(asked)
    return groups


def _median(times: int, values: Iterable[float | None]) -> float | None:
    """So many times the median of what is known; None: nothing is."""
    if not times:
        return 0.0
    known = [value for value in values if value is not None]
    return times * median(known) if known else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return None if len(known) < len(values) else sum(known)

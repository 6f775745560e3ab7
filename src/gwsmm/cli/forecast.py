"""`gwsmm run --dry-run`: what the job or jobs would compute, as a table."""

from collections import Counter
from collections.abc import Sequence

from gwsmm.cli.showing import amount, say, show
from gwsmm.dryrun import Forecast
from gwsmm.estimating import Expected, expected

_COLUMNS = ("stage", "in the store", "missing", "pairs to solve", "to write", "minutes")


def show_forecast(forecasts: Sequence[Forecast]) -> None:
    """Show what these jobs would compute, and what is not known of it."""
    stages = expected(forecasts)
    rows = [_row(each) for each in stages]
    show(_COLUMNS, [*rows, _total(stages)])
    missing = sum(each.missing for each in stages)
    trainings = sum(each.missing for each in stages if each.stage == "finetune")
    pairs = sum(each.pairs for each in stages)
    jobs = f"{len(forecasts)} jobs, what they share counted once: " if len(forecasts) > 1 else ""
    say(
        f"To do: {jobs}{missing} results, among them {trainings} trainings; {pairs} pairs of items "
        "to solve. Nothing was computed or written."
    )
    for line in (*_waiting(forecasts), *_unknown(stages)):
        say(line)


def _row(of: Expected) -> list[str]:
    if not of.missing:
        return [of.stage, str(of.there), "0", "0", "0 B", "0.0"]
    return [
        of.stage,
        str(of.there),
        str(of.missing),
        str(of.pairs),
        "unknown" if of.bytes is None else amount(of.bytes),
        "unknown" if of.seconds is None else f"{of.seconds / 60:.1f}",
    ]


def _total(stages: Sequence[Expected]) -> list[str]:
    sizes, times = [each.bytes for each in stages], [each.seconds for each in stages]
    least = "> " if None in sizes else ""
    longest = "> " if None in times else ""
    return [
        "all",
        str(sum(each.there for each in stages)),
        str(sum(each.missing for each in stages)),
        str(sum(each.pairs for each in stages)),
        least + amount(sum(size or 0 for size in sizes)),
        f"{longest}{sum(time or 0 for time in times) / 60:.1f}",
    ]


def _waiting(forecasts: Sequence[Forecast]) -> list[str]:
    waits = Counter(each.waits for each in forecasts if each.waits)
    several = len(forecasts) > 1
    return [
        f"The plan{f' of {count} of {len(forecasts)} jobs' if several else ''} waits for {what}; "
        "the merges, heads and evaluations that follow from it come on top."
        for what, count in waits.items()
    ]


def _unknown(stages: Sequence[Expected]) -> list[str]:
    lines = []
    if names := [each.stage for each in stages if each.bytes is None or each.seconds is None]:
        lines.append(
            f"Unknown, as the store has no finished result of it: size and time of "
            f"{', '.join(names)}."
        )
    if len(names) < len(stages):
        lines.append(
            "Sizes and times are medians of the finished results in the store, the times divided "
            "over the workers of execute."
        )
    return lines

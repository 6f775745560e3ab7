"""`gwsmm status`: how runs stand, whether their results are kept, and which are stale and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gwsmm.artefact import DAMAGED
from gwsmm.cli.parsing import OneLine, input_errors
from gwsmm.cli.showing import say, show
from gwsmm.logbook import LOG, RUNS, Left, run_folders, standing
from gwsmm.staleness import changed_items, changed_settings, changed_versions
from gwsmm.types import InputError


def status_command(arguments: Sequence[str]) -> None:
    """Show how the runs stand that the arguments name; ends with 2 on bad input."""
    parser = OneLine(
        prog="gwsmm status",
        description="Say of every run whether it is finished, whether its results are in the "
        "store, and whether it is stale: whether its command would give other results today.",
        epilog="Call it in the folder where the runs were started, so that their paths hold.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="FOLDER",
        help=f"a run, a multirun or a folder of both ({' '.join(map(str, RUNS))})",
    )
    given = parser.parse_args(arguments)
    with input_errors():
        _status(given.folders or [each for each in RUNS if run_folders(each, LOG)] or RUNS[:1])


def _status(folders: Sequence[Path]) -> None:
    from gwsmm.cli.composing import resolved

    runs = [run for folder in folders for run in found_in(folder)]
    today = _Today()
    rows, notes = [], []
    for folder in dict.fromkeys(runs):
        now, run = standing(folder), Left(folder, resolved)
        finished = now.state == "finished"
        reasons = list(today.reasons(run)) if finished else []
        where = f" in {now.stage}" if now.stage and not finished else ""
        stale = "yes" if reasons else "no" if _is_told(run) else "unknown"
        known = [_kept(run), stale] if finished else ["–", "–"]
        rows.append([str(folder), now.state + where, now.at, *known])
        notes += [f"{folder} failed: {now.why}"] if now.why else []
        notes += [f"{folder} is stale: {reason}" for reason in reasons]
    show(("run", "state", "when", "store", "stale"), rows, texts=5)
    for note in notes:
        say(note)
    if any(row[1].startswith(("stopped", "killed")) for row in rows):
        say("What was finished is kept: the command of a stopped or killed run goes on from there.")


def found_in(folder: Path) -> list[Path]:
    """The runs in a folder.

    Raises:
        InputError: there are none.
    """
    if runs := run_folders(folder, LOG):
        return runs
    what = "there are no runs in it" if folder.is_dir() else "there is no such folder here"
    raise InputError(f"{folder}: {what}; give the folder of a run, a multirun or of several")


def _kept(run: Left) -> str:
    """Whether what a run used is still in its store."""
    if not (run.stages and run.settings):
        return "unknown"
    if not run.store.root.is_dir():
        return f"{run.store.root}: not here"
    used = run.results
    gone = [each for each in used if not run.store.holds(each.stage, each.digest)]
    damaged = sum(each.path.with_suffix(DAMAGED).exists() for each in gone)
    if not gone:
        return f"all {len(used)} there"
    aside = f", {damaged} set aside as damaged" if damaged else ""
    return f"{len(gone)} of {len(used)} missing{aside}"


def _is_told(run: Left) -> bool:
    """Whether a result of every stage is left, to say by which code it was made."""
    told = {each.stage for each in run.results if each.settings is not None}
    return bool(run.stages) and told == set(run.stages)


@dataclass(frozen=True)
class _Today:
    """What settings, data and code are now; items that several runs have are read once."""

    items: dict[str, "dict[str, str] | str"] = field(default_factory=dict)

    def reasons(self, run: Left) -> Iterator[str]:
        """Why the run would come out otherwise."""
        yield from self._settings(run)
        yield from self._data(run)
        yield from changed_versions((each.stage, each.settings) for each in run.results)

    def _settings(self, run: Left) -> list[str]:
        from gwsmm.cli.composing import composed, settings
        from gwsmm.cli.explain import explain, is_users

        if run.overrides is None or not run.settings:
            return ["its config.yaml or run.json cannot be read"]
        try:
            return changed_settings(run.settings, composed(run.overrides))
        except Exception as error:
            if not is_users(error):
                raise
            return [f"its command is refused today: {explain(error, list(settings()))}"]

    def _data(self, run: Left) -> list[str]:
        before = run.items
        if not before or not run.settings:
            return []
        chosen = {group: run.settings[group] for group in ("items", "split")}
        key = repr(chosen)
        if key not in self.items:
            self.items[key] = self._read_items(chosen)
        now = self.items[key]
        return [now] if isinstance(now, str) else changed_items(before, now)

    def _read_items(self, chosen: Mapping[str, Any]) -> dict[str, str] | str:
        """Of each item the digest, or why the items cannot be read."""
        from gwsmm.cli.composing import items_of, settings
        from gwsmm.cli.explain import explain, is_users

        try:
            return {item.name: item.digest for item in items_of(chosen)}
        except Exception as error:
            if not is_users(error):
                raise
            return f"its items cannot be read today: {explain(error, list(settings()))}"

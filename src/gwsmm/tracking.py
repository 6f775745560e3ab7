"""The only door for wandb: curves, tables and pictures of a finished run."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic.dataclasses import dataclass

from gwsmm.artefact import Member
from gwsmm.types import STRICT, InputError

if TYPE_CHECKING:
    import pandas as pd
    import wandb

log = logging.getLogger(__name__)


@plain_dataclass(frozen=True, eq=False)
class Finished:
    """What a tracker is told of a run; it holds no response text.

    Attributes:
        name: of the run.
        group: of the multirun it belongs to, if any.
        folder: the run's folder; pictures are read from it.
        config: the composed configuration.
        results: the content of `results.json`.
        tables: by name.
        members: whose training curves are sent.
    """

    name: str
    group: str | None
    folder: Path
    config: Mapping[str, object]
    results: Mapping[str, object]
    tables: Mapping[str, "pd.DataFrame"]
    members: Sequence[Member]


class Tracker(Protocol):
    """Where runs are shown besides their own folder."""

    def check(self) -> None:
        """Refuse, before any work, what cannot succeed.

        Raises:
            InputError: e.g. there is no key for the online service.
        """

    def __call__(self, run: Finished) -> None:
        """Show a finished run; a failure is logged and never ends the program."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Off:
    """Nothing is tracked; the run's folder has it all."""

    def check(self) -> None:
        """Nothing can fail; see `Tracker`."""

    def __call__(self, run: Finished) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Wandb:
    """Weights & Biases.

    Attributes:
        mode: `offline` writes into the run's folder what `wandb sync` sends later; `online` sends.
        project: on the service.
        entity: user or team on the service; None: the default one.
    """

    mode: Literal["offline", "online"]
    project: str
    entity: str | None

    def check(self) -> None:
        """Refuse to go online without a key; see `Tracker`."""
        netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        known = netrc.is_file() and "wandb" in netrc.read_text(errors="replace")
        if self.mode == "online" and not os.environ.get("WANDB_API_KEY") and not known:
            raise InputError(
                "tracker.mode=online: there is no Weights & Biases key; run `wandb login`, set "
                "WANDB_API_KEY, or take tracker=offline or tracker=off"
            )

    def __call__(self, run: Finished) -> None:
        """Send curves, heat map, tables and summary; see `Tracker`."""
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False
        )
        try:
            tracked = wandb.init(
                mode=self.mode,
                project=self.project,
                entity=self.entity,
                name=run.name,
                group=run.group,
                dir=run.folder,
                config=dict(run.config),
                settings=settings,
            )
            with tracked:
                _send(tracked, run)
        except (wandb.Error, OSError) as error:
            log.warning("not tracked (%s); everything is in %s", error, run.folder)


def _send(tracked: "wandb.Run", run: Finished) -> None:
    import wandb

    for member in run.members:
        name = member.item.name
        tracked.define_metric(f"{name}/*", step_metric=f"{name}/epoch")
        for epoch in json.loads(member.made.file("training.json").read_text())["epochs"]:
            tracked.log({f"{name}/{key}": value for key, value in epoch.items()})
    tables = {name: _table(frame) for name, frame in run.tables.items()}
    pictures = {path.name: wandb.Image(str(path)) for path in sorted(run.folder.glob("*.png"))}
    tracked.log({**tables, **pictures})
    for key in ("overall", "merged_only", "storage"):
        tracked.summary[key] = run.results[key]


def _table(frame: "pd.DataFrame") -> "wandb.Table":
    import wandb

    # Missing values as None: wandb takes those of pandas for a type of their own.
    rows = frame.astype(object).where(frame.notna(), None).to_numpy()
    return wandb.Table(columns=list(frame.columns), data=rows)

"""The only door for wandb; `gwsmm.tracking` runs it as a process of its own."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb


def record() -> None:
    """Write the offline run that the standard input tells of, as `Wandb` gives it."""
    run = json.load(sys.stdin)
    settings = wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,
        x_disable_meta=True,  # it would tell of this process, not of the run
        disable_git=True,
        save_code=False,
    )
    with wandb.init(
        mode="offline",
        id=run["id"],
        project=run["project"],
        entity=run["entity"],
        name=run["name"],
        group=run["group"],
        dir=run["folder"],
        config=run["config"],
        settings=settings,
    ) as tracked:
        _log_numbers(tracked, run)
        _log_lineage(tracked, run)


def _log_numbers(tracked: wandb.Run, run: Mapping[str, Any]) -> None:
    tracked.define_metric("training/*", step_metric="training/epoch", summary="none")
    for row in run["epochs"]:
        tracked.log({f"training/{key}": value for key, value in row.items()})
    tables = {
        f"tables/{name}": wandb.Table(columns=table["columns"], data=table["data"])
        for name, table in run["tables"].items()
    }
    figures = {f"figures/{name}": wandb.Image(path) for name, path in run["figures"].items()}
    tracked.log({**tables, **figures})
    tracked.summary.update(run["summary"])


def _log_lineage(tracked: wandb.Run, run: Mapping[str, Any]) -> None:
    """Items go into the run, members come out of it; with a bundle they go in, and it comes out."""

    def artifact(name: str) -> wandb.Artifact:
        file = Path(tracked.dir).with_name(f"{name}.json")
        file.write_text(json.dumps(run[name], indent=2, ensure_ascii=False), encoding="utf-8")
        made = wandb.Artifact(name, type=name)
        made.add_file(str(file), skip_cache=True, policy="immutable")  # no copies
        return made

    def use(made: wandb.Artifact) -> None:
        # What `use_artifact` does with an artifact that is new; offline it refuses.
        tracked._log_artifact(made, is_user_created=True, use_after_commit=True)

    members = artifact("members")
    use(artifact("items"))
    tracked.log_artifact(members)
    if run["bundle"]:
        use(members)
        bundle = wandb.Artifact("bundle", type="model")
        bundle.add_dir(run["bundle"], skip_cache=True, policy="immutable")
        tracked.log_artifact(bundle)


if __name__ == "__main__":
    record()

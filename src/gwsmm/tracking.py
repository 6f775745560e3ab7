"""Trackers: curves, tables, pictures and lineage of a finished run for Weights & Biases.

All of wandb runs in processes of its own that are ended at a deadline: whatever happens there does
not end the run, nor hold it up for longer. `online` records as `offline` does and then sends the
record, so that a lost connection loses nothing.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Annotated, ClassVar, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.tracked import Finished, told
from gwsmm.types import STRICT, InputError

log = logging.getLogger(__name__)

# Else wandb reports how it is used, offline too, and does not end before that is taken.
_QUIET = {"WANDB_ERROR_REPORTING": "false"}
_NO_KEY = "there is no Weights & Biases key"
_GIVEN_UP = set[str]()  # addresses of services to which this process could not send


class Tracker(Protocol):
    """Where runs are shown besides their own folder.

    Attributes:
        pictures: whether those in the run's folder are shown, too.
    """

    pictures: ClassVar[bool]

    def check(self) -> None:
        """Warn, before any work, of what cannot succeed."""

    def __call__(self, run: Finished) -> None:
        """Show a finished run; a failure is logged and never ends the program."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Off:
    """Nothing is tracked; the run's folder has it all."""

    pictures: ClassVar[bool] = False

    def check(self) -> None:
        """Nothing can fail; see `Tracker`."""

    def __call__(self, run: Finished) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Wandb:
    """Weights & Biases; docs/results.md says what is there.

    Attributes:
        mode: `offline` writes into the run's folder what `wandb sync` sends later; `online` writes
            and sends it.
        project: on the service.
        entity: user or team on the service; None: the default one.
        bundle: whether the run's bundle is written into its folder, and is an artifact too.
        timeout: seconds, at most a day, that recording and sending may take together. After a run
            that could not be sent, later runs of the same process are recorded and not sent, so
            that a service that is silent holds up one run and not a whole multirun.
    """

    pictures: ClassVar[bool] = True

    mode: Literal["offline", "online"]
    project: str
    entity: str | None
    bundle: bool
    timeout: Annotated[float, Field(gt=0, le=86400)]

    def check(self) -> None:
        """Say that without a key nothing is sent; see `Tracker`."""
        if self.mode == "online" and not _has_key():
            log.warning(
                "tracker.mode=online: %s: what is recorded is not sent; run `wandb login` or set "
                "WANDB_API_KEY, and `wandb sync RUN/wandb/offline-run-*` sends it later",
                _NO_KEY,
            )

    def __call__(self, run: Finished) -> None:
        """Record the run, and send the record if online; see `Tracker`."""
        bundle = _bundled(run) if self.bundle else None
        end = time.monotonic() + self.timeout
        try:
            place = self._record(run, bundle, end)
        except (InputError, OSError, subprocess.SubprocessError) as error:
            log.warning("not tracked (%s); everything is in %s", _why(error), run.folder)
            return
        if self.mode == "online" and (reason := _unsent(place, end)):
            log.warning("not sent (%s); `wandb sync %s` sends it", reason, place)

    def _record(self, run: Finished, bundle: Path | None, end: float) -> Path:
        """Write the offline run, and return its folder."""
        number, home = token_hex(4), run.folder.resolve() / "wandb"
        content = told(run) | {
            "id": number,
            "project": self.project,
            "entity": self.entity,
            "bundle": str(bundle) if bundle else None,
        }
        said = _call("gwsmm.recording", [], home, end, json.dumps(content))
        if not (written := list(home.glob(f"offline-run-*-{number}"))):
            raise OSError(_last_line(said))
        return written[0]


def _has_key() -> bool:
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname or "wandb"
    with suppress(OSError, RuntimeError):  # no such file, or ~ of nobody
        netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        if host in netrc.read_text(errors="replace"):
            return True
    return any(os.environ.get(f"WANDB_{name}") for name in ("API_KEY", "IDENTITY_TOKEN_FILE"))


def _bundled(run: Finished) -> Path | None:
    folder = run.folder.resolve() / "bundle"
    try:
        if folder.exists():  # of another run that was here before
            shutil.rmtree(folder)
        run.write_bundle(folder)
    except (InputError, OSError) as error:
        log.warning("no bundle is tracked (%s)", error)
        return None
    return folder


def _unsent(place: Path, end: float) -> str:
    """Send a record; why that did not succeed, or nothing."""
    service = os.environ.get("WANDB_BASE_URL", "")
    if not _has_key():
        return _NO_KEY
    if service in _GIVEN_UP:
        return "sending failed before"
    try:
        _send(place, end)
    except (OSError, subprocess.SubprocessError) as error:
        _GIVEN_UP.add(service)
        return _why(error)
    return ""


def _send(place: Path, end: float) -> None:
    said = _call("wandb", ["sync", str(place)], place.parent, end)
    if not list(place.glob("*.wandb.synced")):  # it ends with 0 even if it did nothing
        raise OSError(_last_line(said))


def _call(module: str, arguments: Sequence[str], home: Path, end: float, given: str = "") -> str:
    """Run a module in a process of its own, and return what it said.

    wandb's service is a child of that process, and ends soon after it.

    Args:
        module: to run.
        arguments: of its command line.
        home: folder for all that wandb writes; else it takes the user's home and the current one.
        end: of `time.monotonic`, when the process is killed.
        given: its standard input.
    """
    places = {"DIR": home.parent, "DATA_DIR": home / "data", "CACHE_DIR": home / "cache"}
    for place in places.values():  # else wandb takes a temporary folder where it cannot write here
        place.mkdir(parents=True, exist_ok=True)
    own = {f"WANDB_{name}": str(place) for name, place in places.items()}
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        input=given,
        env={**_QUIET, **own, **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=max(end - time.monotonic(), 0.0),
        check=True,
    )
    return done.stdout


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return "Weights & Biases was not done in time; tracker.timeout=SECONDS gives it more"
    if isinstance(error, subprocess.CalledProcessError):
        return _last_line(error.stdout)
    return str(error)


def _last_line(said: str) -> str:
    return (said.strip() or "Weights & Biases gave no reason").splitlines()[-1]

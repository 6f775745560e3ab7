"""Finished results at an address that fsspec knows, for machines that share no folder.

The folder of the store stays where results are computed and read. What it lacks is downloaded,
what it computes is uploaded, the manifest last: it says that a result is whole. A remote that
cannot be reached stops no run; what it holds is believed as far as the checksums go.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from uuid import uuid4

from gwsmm.artefact import MANIFEST, checksum
from gwsmm.lease import Lease
from gwsmm.types import InputError

log = logging.getLogger(__name__)

LEASE = 60.0  # seconds after which the owner of a lock who gives no sign of life is dead
_LONGEST = 1 << 20  # bytes of a manifest
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a file: no folder, and no way up
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "file": {"auto_mkdir": True},
    "local": {"auto_mkdir": True},
    "s3": {"config_kwargs": {"connect_timeout": 10, "retries": {"max_attempts": 6}}},
}
_given_up: set[str] = set()  # addresses that this process does not ask any more
_one_at_a_time = Lock()
Value = TypeVar("Value")


@dataclass(frozen=True)
class Remote:
    """A place where results are kept for other machines.

    Attributes:
        address: e.g. `s3://bucket/prefix`, or a path, with or without `file://`.
        lease: seconds; see `Lease`.
    """

    address: str
    lease: float = LEASE

    @property
    def given_up(self) -> bool:
        """Whether this process found it out of reach."""
        return self.address in _given_up

    def check(self, *, write: bool = True) -> None:
        """Refuse, before any work, an address that cannot be used; one out of reach is given up.

        Args:
            write: whether to try if results can be written and locked there.

        Raises:
            InputError: it holds a password, its library is missing, there is no such bucket, or
                nothing can be locked there.
        """
        if "@" in self.address.partition("://")[2].partition("/")[0]:
            raise InputError(
                "remote: give no user or password in the address, as it is written down with the "
                "run; give them in the environment or where the service's own tools look"
            )
        bad = (FileNotFoundError, PermissionError, ValueError)
        try:
            probe = self._probe if write else lambda: _opened(self.address)
            self._tried(probe, None, users=(ImportError, *bad))
        except ImportError as error:
            raise InputError(
                f"remote={self.address}: {error}; for s3:// pip install 'gwsmm[s3]'"
            ) from error
        except bad as error:
            raise InputError(
                f"remote={self.address}: cannot be a remote store: "
                + (str(error) or type(error).__name__)
            ) from error

    def holds(self, place: str) -> bool:
        """Whether a result is there that is whole, as far as its manifest says."""
        return self._tried(lambda: self._manifest(place) is not None, otherwise=False)

    def download(self, place: str, part: Path, folder: Path) -> bool:
        """Bring a result to `folder` by way of `part`; False: there is none that is whole."""
        return self._tried(lambda: self._download(place, part, folder), otherwise=False)

    def obtain(
        self, place: str, part: Path, folder: Path, compute: Callable[[], None], *, patient: bool
    ) -> None:
        """Bring a result to `folder`: from here, or computed under its lock and uploaded.

        Raises:
            TimeoutError: somebody else is computing it, and we are not patient.
        """
        fs, root = _opened(self.address)
        lease = Lease(fs, f"{root}/{place}", self.lease)
        while not self.download(place, part, folder):
            if self._tried(lease.take, otherwise=True):
                with lease:
                    if not self.download(place, part, folder):
                        compute()
                        self._tried(lambda: self._upload(place, folder, lease), None)
                return
            if not patient:
                raise TimeoutError(place)
            time.sleep(self.lease / 30)

    def _tried(
        self,
        operation: Callable[[], Value],
        otherwise: Value,
        users: tuple[type[Exception], ...] = (),
    ) -> Value:
        if self.given_up:
            return otherwise
        try:
            return operation()
        except users:
            raise
        except Exception as error:  # noqa: BLE001 - each backend has its own
            _give_up(self.address, type(error).__name__)  # no more of it: it may tell a secret
            return otherwise

    def _download(self, place: str, part: Path, folder: Path) -> bool:
        fs, root = _opened(self.address)
        shutil.rmtree(part, ignore_errors=True)
        if (found := self._manifest(place)) is None:
            return False
        manifest, sums = found
        try:
            part.mkdir(parents=True)
            for name, expected in sums.items():
                fs.get_file(f"{root}/{place}/{name}", str(part / name))
                if checksum(part / name) != expected:
                    raise ValueError(name)
            (part / MANIFEST).write_bytes(manifest)
            part.rename(folder)
        except FileNotFoundError:
            return False
        except ValueError:
            _refuse(f"{root}/{place}")
            return False
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return True

    def _manifest(self, place: str) -> tuple[bytes, dict[str, str]] | None:
        """A result's manifest and the checksums in it; None: there is none that can be read."""
        fs, root = _opened(self.address)
        try:
            manifest: bytes = fs.cat_file(f"{root}/{place}/{MANIFEST}", end=_LONGEST)
            return manifest, _sums(manifest, place)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            _refuse(f"{root}/{place}")
            return None

    def _upload(self, place: str, folder: Path, lease: Lease) -> None:
        if not lease.held():  # somebody took us for dead, and uploads the same
            return
        fs, root = _opened(self.address)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
            fs.put_file(str(path), f"{root}/{place}/{path.name}")

    def _probe(self) -> None:
        """Create an object twice, in a folder as results have; the second must be refused."""
        fs, root = _opened(self.address)
        folder = f"{root}/probe-{uuid4().hex}"
        path = f"{folder}/probe"
        try:
            for again in (False, True):
                with suppress(OSError) if again else nullcontext(), fs.open(path, "xb") as file:
                    file.write(b"twice" if again else b"once")
            if fs.cat_file(path) != b"once":
                raise ValueError(
                    "it writes over an object that was to be created, so that nothing can be locked"
                )
        finally:
            with suppress(Exception):
                fs.rm_file(path)
                fs.rmdir(folder)


def _give_up(address: str, why: str) -> None:
    with _one_at_a_time:
        if address not in _given_up:
            _given_up.add(address)
            log.warning("remote=%s cannot be used (%s); the run goes on without it", address, why)


@cache
def _opened(address: str) -> tuple[Any, str]:
    """The file system and the path in it."""
    from fsspec.core import url_to_fs
    from fsspec.utils import get_protocol

    options = _OPTIONS.get(get_protocol(address), {})
    fs, root = url_to_fs(address, use_listings_cache=False, **options)
    return fs, str(root).rstrip("/")


def _sums(manifest: bytes, place: str) -> dict[str, str]:
    """The checksums of a result by file; nobody vouches for what a remote's manifest says.

    Raises:
        ValueError: it is no manifest of this result, or names a file that is not inside of it.
    """
    content = json.loads(manifest)
    sums = content["sha256"]
    names_it = f"{content['stage']}/{content['key']}" == place
    if not (
        names_it and sums and all(_NAME.fullmatch(name) for name in sums) and MANIFEST not in sums
    ):
        raise ValueError(place)
    return dict(sums)


@cache
def _refuse(path: str) -> None:
    """Say it once."""
    log.warning("%s is not what was uploaded there: refused", path)

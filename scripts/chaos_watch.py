"""What must hold of a store whatever happens to those who use it."""

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from filelock import FileLock, Timeout

from gwsmm.artefact import MANIFEST, checksum
from gwsmm.store import LOG

PERIOD = 0.02  # seconds between two looks


def finished(store: Path) -> list[Path]:
    """The folders of whole results."""
    while True:
        try:
            return [path.parent for path in store.glob(f"*/*/{MANIFEST}") if not path.parent.suffix]
        except FileNotFoundError:  # a folder was renamed while the list was made
            continue


@dataclass
class Reader:
    """Reads whatever is there, all the time, as another program on the same disk would.

    Attributes:
        store: whose results are to be what their checksums say.
        results: files of which a reader may only see this content, or nothing.
        content: that content.
        spoilt: results that were damaged on purpose.
        torn: what was read and was not whole.
    """

    store: Path
    results: list[Path]
    content: bytes
    spoilt: set[Path] = field(default_factory=set)
    torn: set[str] = field(default_factory=set)
    _seen: set[tuple[Path, int]] = field(default_factory=set)
    _stop: Event = field(default_factory=Event)

    def __enter__(self) -> "Reader":
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._seen.clear()
        self.look()

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            self.look()

    def look(self) -> None:
        """Read every result that was not read yet, and the files of the runs."""
        for folder in finished(self.store):
            try:
                at = (folder, folder.stat().st_ino)
                if at in self._seen or folder in self.spoilt:
                    continue
                self._seen.add(at)
                if not _is_whole(folder) and folder.stat().st_ino == at[1]:
                    self.torn.add(str(folder))
            except FileNotFoundError:  # moved away meanwhile
                continue
        for path in self.results:
            try:
                if path.read_bytes() != self.content:
                    self.torn.add(str(path))
            except FileNotFoundError:
                continue


def _is_whole(folder: Path) -> bool:
    try:
        sums = json.loads((folder / MANIFEST).read_text())["sha256"]
    except (ValueError, KeyError):
        return False
    return all(checksum(folder / name) == said for name, said in sums.items())


def held_locks(store: Path) -> int:
    """How many locks cannot be had although nobody is there any more."""
    held = 0
    for path in store.glob("*/*.lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            held += 1
    return held


def log_size(store: Path) -> int:
    """Bytes of the log so far."""
    path = store / LOG
    return path.stat().st_size if path.exists() else 0


def duplicates(store: Path, lived: Mapping[int, int], spoilt: Set[str]) -> int:
    """How often the log says that a result was computed twice, or by two at the same time.

    Args:
        store: whose log is read.
        lived: by number of a killed process, how long the log was when it surely was still alive.
        spoilt: keys of results that were damaged on purpose.
    """
    path, at = store / LOG, 0
    begun, done, found = dict[str, tuple[int, set[int]]](), set[str](), 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        at += len(line)
        try:
            said = json.loads(line)
        except ValueError:  # half a line of a full disk
            continue
        key, process = said["key"], int(said["process"].rpartition(":")[2])
        owner, others = begun.get(key, (process, set()))
        if said["event"] == "begun":
            if owner != process:
                found += lived.get(owner, 0) > at
                others = others | {owner}
            begun[key] = (process, others)
        elif said["event"] == "done":
            found += process in others  # it went on while another had begun
            found += key in done and key not in spoilt
            done.add(key)
    return found

"""A lock among machines that share nothing but a store of objects.

The lock of a key is its objects KEY.lock.0, KEY.lock.1, …, of which the last one counts. Its owner
has created it, which the store grants to one alone, and rewrites it again and again. Whoever sees
it unchanged for the time of the lease, by the own clock, takes its owner for dead and creates the
next one. So no two clocks are compared, and no lock outlives its owner by more than the lease.
"""

import time
from contextlib import suppress
from threading import Event, Thread
from typing import Any, Self
from uuid import uuid4

_BEATS = 5  # in the time of a lease, so that some may fail


class Lease:
    """The lock of one key, for one process.

    Args:
        fs: fsspec's file system, which creates exclusively in mode `xb`.
        place: of the key.
        seconds: without a beat after which an owner is dead.
    """

    def __init__(self, fs: Any, place: str, seconds: float) -> None:
        self.fs, self.place, self.seconds = fs, place, seconds
        self._token, self._beat = uuid4().hex, 0
        self._number = -1  # of the object that is ours
        self._seen: tuple[int, bytes | None] = (-1, None)
        self._since = 0.0
        self._ended = Event()
        self._thread = Thread(target=self._renew, daemon=True)

    def take(self) -> bool:
        """Try once, without waiting; True: it is ours until the block of `with` ends."""
        number, content = -1, None
        while (found := self._read(number + 1)) is not None:
            number, content = number + 1, found
        if number >= 0:
            if self._seen != (number, content):
                self._seen, self._since = (number, content), time.monotonic()
            if time.monotonic() - self._since < self.seconds:
                return False
        if not self._create(number + 1):
            return False
        self._number = number + 1
        self._thread.start()
        return True

    def held(self) -> bool:
        """Whether nobody took us for dead."""
        return self._number >= 0 and self._ours() and self._read(self._number + 1) is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back, if it is ours; the last object goes first, as it is the one that counts.

        Who was taken for dead removes nothing: whoever looks for the last object begins at 0.
        """
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(Exception):  # it then ends with the lease
            if self.held():
                for number in range(self._number, -1, -1):
                    self.fs.rm_file(self._path(number))

    def _create(self, number: int) -> bool:
        content = self._content()
        try:
            with self.fs.open(self._path(number), "xb") as file:
                file.write(content)
        except Exception:
            # It is there; or it was ours, and the answer that said so was lost.
            if (found := self._read(number)) is None:
                raise
            return found == content
        return True

    def _renew(self) -> None:
        while not self._ended.wait(self.seconds / _BEATS):
            self._beat += 1
            with suppress(Exception):  # the next beat may reach the store again
                if not self._ours():
                    return
                self.fs.pipe_file(self._path(self._number), self._content())

    def _ours(self) -> bool:
        """Whether our object is there yet; the next owner removes it, and it may come anew."""
        content = self._read(self._number)
        return content is not None and content.startswith(self._token.encode())

    def _read(self, number: int) -> bytes | None:
        try:
            content: bytes = self.fs.cat_file(self._path(number))
        except FileNotFoundError:
            return None
        return content

    def _content(self) -> bytes:
        return f"{self._token} {self._beat}".encode()

    def _path(self, number: int) -> str:
        return f"{self.place}.lock.{number}"

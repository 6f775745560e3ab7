"""Paths that the user gives, and what a disk that is full, read-only or broken says of them."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from gwsmm.types import InputError

_REFUSED = {
    errno.EACCES,
    errno.EBUSY,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOLCK,
    errno.ENOSPC,
    errno.ENOTCONN,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
_SAFETENSORS = re.compile(r"\(os error (\d+)\)")  # it tells the number in its message alone


def locate(path: str, setting: str = "") -> Path:
    """The path with `~` replaced; a relative one starts at the working directory.

    Raises:
        InputError: there is no such home folder; names the setting that gave the path, if any.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        given = f"{setting}={path}" if setting else path
        raise InputError(
            f"{given}: there is no such home folder: write the path in full"
        ) from error


def refusal(error: BaseException) -> str | None:
    """The system's reason if it is one on which the user can act, else None."""
    number = error.errno if isinstance(error, OSError) else None
    if type(error).__name__ == "SafetensorError" and (said := _SAFETENSORS.search(str(error))):
        number = int(said[1])
    # /proc and automounted folders take no new one; a file that is not there may be our own fault
    refused = number in _REFUSED or (number == errno.ENOENT and _from_mkdir(error))
    return os.strerror(number) if refused and number is not None else None


def _from_mkdir(error: BaseException) -> bool:
    names = [frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)]
    return names[-1:] == ["mkdir"]


@contextmanager
def writing(folder: Path, setting: str) -> Iterator[None]:
    """Run a block that writes into a folder which the user chose by a setting.

    Raises:
        InputError: the system refuses to write.
    """
    try:
        yield
    except Exception as error:
        if (reason := refusal(error)) is None:
            raise
        raise InputError(
            f"{setting}={folder} cannot be written ({reason}): free space there, make it writable "
            "or give another folder; what is finished is kept, and the same command goes on from "
            "there"
        ) from error

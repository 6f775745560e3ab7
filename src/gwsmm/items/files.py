"""Which files a path means, and their content."""

import glob
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gwsmm.disk import locate
from gwsmm.types import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
LARGEST = 4 * 10**9  # bytes of a table, packed or not; a text takes some times that in memory
ENDINGS = (*DELIMITERS, *JSON_LINES, ".parquet")


@contextmanager
def looking(path: Path) -> Iterator[None]:
    """Run a block that looks at a path which the user gave.

    Raises:
        InputError: the system refuses.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path") from error


def read_bytes(path: Path) -> bytes:
    """The file's content, or one line on why it cannot be had."""
    with looking(path):
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise InputError(
                f"{path} does not exist: relative paths start at {Path.cwd()}"
            ) from error
        if size > LARGEST:
            raise InputError(
                f"{path} has {size / 1e9:.1f} GB and at most {LARGEST / 1e9:.0f} are read: divide "
                "it into several files"
            )
        return path.read_bytes()


def decode(path: Path, data: bytes) -> str:
    """The UTF-8 text, with or without a byte order mark; more than blank."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} line {line} is not UTF-8: save the file as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path} line {line} holds a NUL byte: save the file as UTF-8 text")
    if not text.strip():
        raise InputError(f"{path} is empty: fill it, or remove it")
    return text


def tables(paths: Iterable[str]) -> list[Path]:
    """The files that these files, folders and patterns name, each once.

    Of a folder, `.json` files are passed over: most often they describe the tables beside them.
    """
    found = dict[Path, None]()
    for path in paths:
        place = locate(path)
        with looking(place):
            found |= dict.fromkeys(_tables(place))
    return list(found)


def _tables(place: Path) -> list[Path]:
    endings = ", ".join(ENDINGS)
    if place.is_dir():
        inside = [file for file in place.iterdir() if not file.name.startswith(".")]
        files = [file for file in inside if file.suffix.lower() in ENDINGS and file.is_file()]
        files = [file for file in files if file.suffix.lower() != ".json"]
        if not files:
            raise InputError(f"folder {place} holds no table: add files that end in {endings}")
    elif place.exists() or not glob.has_magic(str(place)):
        files = [place]
    else:
        # Path.glob refuses absolute patterns.
        files = [Path(name) for name in glob.glob(str(place), recursive=True)]  # noqa: PTH207
        files = [file for file in files if file.is_file()]
        if not files:
            raise InputError(f"no file matches {place}: relative paths start at {Path.cwd()}")
    return sorted(files)

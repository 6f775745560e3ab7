"""Which files a path means, and their content."""

import glob
from collections.abc import Iterable
from pathlib import Path

from gwsmm.types import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
LARGEST = 4 * 10**9  # bytes of a table, packed or not; a text takes some times that in memory
ENDINGS = (*DELIMITERS, *JSON_LINES, ".parquet")


def locate(path: str) -> Path:
    """The path with `~` replaced; a relative one starts at the working directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: there is no such home folder: write the path in full") from error


def read_bytes(path: Path) -> bytes:
    """The file's content, or one line on why it cannot be had."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise InputError(
                f"{path} has {size / 1e9:.1f} GB and at most {LARGEST / 1e9:.0f} are read: divide "
                "it into several files"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: relative paths start at {Path.cwd()}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path") from error


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
    found = [file for path in paths for file in _tables(path)]
    return list(dict.fromkeys(found))


def _tables(path: str) -> list[Path]:
    place = locate(path)
    endings = ", ".join(ENDINGS)
    if place.is_dir():
        inside = [file for file in place.iterdir() if not file.name.startswith(".")]
        files = [file for file in inside if file.suffix.lower() in ENDINGS and file.is_file()]
        files = [file for file in files if file.suffix.lower() != ".json"]
        if not files:
            raise InputError(f"folder {place} holds no table: add files that end in {endings}")
    elif place.exists() or not glob.has_magic(path):
        files = [place]
    else:
        # Path.glob refuses absolute patterns.
        files = [Path(name) for name in glob.glob(str(place), recursive=True)]  # noqa: PTH207
        files = [file for file in files if file.is_file()]
        if not files:
            raise InputError(f"no file matches {place}: relative paths start at {Path.cwd()}")
    return sorted(files)

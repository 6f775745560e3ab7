"""What the commands beside `gwsmm run` have in common: how they read arguments and end."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gwsmm.types import InputError

if TYPE_CHECKING:
    from gwsmm.bundle.manifest import Manifest


class OneLine(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End with 2 and what was wrong."""
        sys.stderr.write(f"gwsmm: {self.prog}: {message}; see {self.prog} --help\n")
        raise SystemExit(2)


@contextmanager
def input_errors() -> Iterator[None]:
    """End with 2 and one line where the input is wrong, and where the user stops the command."""
    try:
        yield
    except InputError as error:
        sys.stderr.write(f"gwsmm: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("gwsmm: stopped; nothing was written\n")
        raise SystemExit(130) from None


def described(folder: Path, manifest: "Manifest") -> str:
    """A bundle in one line."""
    size = sum(file.bytes for file in manifest.files.values()) / 1e6
    passes = len({item.trunk for item in manifest.items})
    return f"{folder} ({len(manifest.items)} items, {passes} encoder passes, {size:.1f} MB)"

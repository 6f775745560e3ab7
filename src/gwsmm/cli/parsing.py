"""What the commands beside `gwsmm run` have in common: how they read arguments and end."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn

from gwsmm.disk import refusal
from gwsmm.types import InputError

if TYPE_CHECKING:
    from gwsmm.bundle.manifest import Manifest


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def one_line(text: str) -> str:
    """The text with every run of white space as one space, and nothing that a terminal obeys."""
    return harmless(" ".join(text.split()))


def harmless(text: str) -> str:
    """The text with nothing that a terminal obeys."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class Once(logging.Filter):
    """Lets a command say each thing once, in however many jobs of a multirun it is met."""

    said: ClassVar[set[str]] = set()  # Hydra makes another filter for every job

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this is said for the first time."""
        told = record.getMessage()
        known = told in self.said
        self.said.add(told)
        return not known


class OneLine(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End with 2 and what was wrong."""
        sys.stderr.write(f"gwsmm: {self.prog}: {one_line(message)}; see {self.prog} --help\n")
        raise SystemExit(2)


@contextmanager
def input_errors(stopped: str = "nothing was written") -> Iterator[None]:
    """End with 2 and one line where the input is wrong, and where the user stops the command.

    Args:
        stopped: how things stand then.
    """
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        sys.stderr.write(f"gwsmm: {one_line(str(error))}\n")
        raise SystemExit(2) from None
    except BrokenPipeError:  # whoever read the output, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes the rest
        raise SystemExit(1) from None
    except OSError as error:
        if (reason := refusal(error)) is None:
            raise
        sys.stderr.write(f"gwsmm: {one_line(str(error.filename or 'the output'))}: {reason}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write(f"gwsmm: stopped; {stopped}\n")
        raise SystemExit(130) from None


def described(folder: Path, manifest: "Manifest") -> str:
    """A bundle in one line."""
    size = sum(file.bytes for file in manifest.files.values()) / 1e6
    items, passes = len(manifest.items), len({item.trunk for item in manifest.items})
    counted = f"{items} item{'s' * (items > 1)}, {passes} encoder pass{'es' * (passes > 1)}"
    return f"{folder} ({counted}, {size:.1f} MB)"

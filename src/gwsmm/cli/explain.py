"""What was wrong with the configuration, in one line that a researcher can act on."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from gwsmm.cli.parsing import one_line
from gwsmm.disk import refusal
from gwsmm.types import InputError

SEE = "see gwsmm run --cfg job"


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the known word that is most alike, or nothing."""
    found = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def explain(error: BaseException, settings: Sequence[str]) -> str:
    """The one line for an error in what the user gave.

    Args:
        error: raised while the configuration was composed or built, or an `InputError`.
        settings: every name that can be set, to find the nearest of a misspelled one.
    """
    if isinstance(error, InputError):
        return one_line(str(error))
    if (refused := _refused(error)) is not None:
        return (
            f"{refused.filename or 'a file'} cannot be written ({refused.strerror}): free space "
            "there, make it writable or give another folder, and give the command again"
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_choice(error)
    if isinstance(error, OverrideParseException):
        reason = one_line(error.message).split(" See https")[0]
        return f"{error.override}: cannot be read as option=value ({reason})"
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return _not_built(error, error.__cause__, settings)
    if match := re.search(r"Could not override '([^']+)'", str(error)):
        return _no_setting(match[1], settings)
    return one_line(str(error))


def is_users(error: BaseException) -> bool:
    """Whether the error comes from what the user gave, and not from a fault of this program."""
    if isinstance(error, InstantiationException):
        users = ValidationError | InputError | TypeError | ValueError | ImportError | None
        return isinstance(error.__cause__, users)
    if _refused(error) is not None:
        return True
    return isinstance(error, InputError | HydraException | OmegaConfBaseException)


def _refused(error: BaseException) -> OSError | None:
    """What the system refused to write, also where it is the cause of another error."""
    found = next((each for each in (error, error.__cause__) if isinstance(each, OSError)), None)
    return found if found is not None and refusal(found) else None


def _no_choice(error: MissingConfigException) -> str:
    missing, options = str(error.missing_cfg_file), list(error.options or [])
    group, _, name = missing.rpartition("/")
    if not options:
        return f"{missing}: there is no such configuration; {SEE}"
    hint = nearest(name, options)
    return f"{group}={name}: there is no such choice{hint} (choices: {', '.join(sorted(options))})"


def _no_setting(name: str, settings: Sequence[str]) -> str:
    if name in settings:  # of another choice of its group
        return f"{name}: the chosen {name.partition('.')[0]} has no such setting ({SEE})"
    hint = nearest(name, settings)
    if not hint:  # the last part may be right and stand elsewhere
        last = name.rpartition(".")[2]
        hint = nearest(last, {setting.rpartition(".")[2] for setting in settings})
    return f"{name}: there is no such setting{hint} ({SEE})"


def _not_built(error: Exception, cause: BaseException, settings: Sequence[str]) -> str:
    match = re.search(r"full_key: (\S+)", str(error))
    where = f"{match[1]}." if match else ""
    if isinstance(cause, ValidationError):
        first = cause.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        name = where + field if field else where.rstrip(".")
        if first["type"] in ("unexpected_keyword_argument", "dataclass_exact_type"):
            return _no_setting(name, settings)
        reason = one_line(first["msg"]).removeprefix("Value error, ")
        value = f"={first['input']!r}" if field and first["type"] != "missing" else ""
        return f"{name}{value}: {reason}"
    if match_name := re.search(r"unexpected keyword argument '(\w+)'", str(cause)):
        return _no_setting(where + match_name[1], settings)
    return one_line(f"{where.rstrip('.')}: {cause}".removeprefix(": "))

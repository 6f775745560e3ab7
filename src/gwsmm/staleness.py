"""Why a finished run would not come out the same today: settings, data, code."""

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

ALL = "finetune"

FIRST: Mapping[str, str | None] = {
    "encoder": ALL,
    "items": ALL,
    "split": ALL,
    "finetune": ALL,
    "trainer": ALL,
    "seed": ALL,
    "features": "features",
    "distance": "distances",
    "stability": "stability",
    "grouping": "plan",
    "merge": "merge",
    "private": "merge",
    "numbers": "merge",
    "heads": "heads",
    "decision": "decision",
    "evidence": "evidence",
    "name": None,
    "store": None,
    "execute": None,
    "objective": None,
    "remote": None,
    "published": None,
    "tracker": None,
}
"""By the first part of a setting: the first stage of the pipeline that it changes; None: none."""

_ENDS = ("stability", "evidence")  # nothing follows from them
_UNKNOWN = object()


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between a run's settings and those that its overrides give now, in words."""
    old, new = dict(_flat(before)), dict(_flat(now))
    lines = []
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            said = f"{name} is no setting any more (was {_shown(old[name])})"
        elif name not in old:
            said = f"{name} is a new setting: {_shown(new[name])}"
        elif old[name] != new[name]:
            said = f"{name} changed: {_shown(old[name])} → {_shown(new[name])}"
        else:
            continue
        lines.append(said + _touched(FIRST.get(name.split(".")[0], ALL)))
    return lines


def changed_items(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between the digests of a run's items and those of the items now, in words."""
    lines = [
        f"item {name}: responses, ratings or labels changed"
        for name in before
        if name in now and before[name] != now[name]
    ]
    lines += [f"item {name} is gone" for name in before if name not in now]
    lines += [f"item {name} is new" for name in now if name not in before]
    return [line + _touched(ALL) for line in lines]


def changed_versions(stages: Iterable[tuple[str, Any]]) -> list[str]:
    """Which code has another version than when it made these results, in words.

    Args:
        stages: names, each with the identity of the stage at that time; None: unknown.
    """
    found = dict[tuple[str, str, int], None]()
    for stage, settings in stages:
        for kind, version in _versions(settings):
            found[stage, kind, version] = None
    lines = []
    for stage, kind, version in found:
        now = _version_now(kind)
        if now != version:
            what = kind.rpartition(".")[2]
            became = "is gone" if now is None else f"changed: version {version} → {now}"
            lines.append(f"{what} of the stage {stage} {became}, and with it what follows")
    return lines


def _touched(first: str | None) -> str:
    if first is None:
        return " (changes no result)"
    return f" (touches {first})" if first in _ENDS else f" (touches {first} and what follows)"


def _flat(settings: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(settings, Mapping) and (settings or not prefix):
        for key, value in settings.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, settings


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


def _versions(settings: object) -> Iterator[tuple[str, int]]:
    """Every type within an identity, with its version."""
    if isinstance(settings, Mapping):
        kind, version = settings.get("type"), settings.get("version")
        if isinstance(kind, str) and isinstance(version, int):
            yield kind, version
        for part in settings.values():
            yield from _versions(part)
    elif isinstance(settings, list):
        for part in settings:
            yield from _versions(part)


def _version_now(kind: str) -> int | None:
    """The version of a class of this package; None: there is none of this name."""
    module, _, name = kind.rpartition(".")
    if not module.startswith("gwsmm."):
        return None
    try:
        version: object = getattr(getattr(import_module(module), name), "version", 1)
    except (ImportError, AttributeError):
        return None
    return version if isinstance(version, int) else None

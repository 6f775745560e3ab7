"""The pooler stays the item's own."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pooler:
    """An item keeps its pooler and its head.

    The pooler stands right under the head and is as much the item's own; for an encoder without one
    this is the same as keeping nothing.
    """

    shared_parts: ClassVar[tuple[str, ...]] = ("trunk",)

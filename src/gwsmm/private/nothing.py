"""Trunk and pooler are shared, as published."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Nothing:
    """An item keeps only its head."""

    shared_parts: ClassVar[tuple[str, ...]] = ("trunk", "pooler")

"""What a choice of private parts says."""

from typing import Protocol


class Private(Protocol):
    """Parts an encoder into what a group shares and what an item keeps."""

    @property
    def shared_parts(self) -> tuple[str, ...]:
        """The parts, of `trunk` and `pooler`, that are merged; an item keeps the others."""

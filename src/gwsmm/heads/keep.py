"""Every item's head stays as it was fine-tuned."""

from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.heads.fitting import Frozen
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Keep:
    """No fitting: shows how far the merged encoder has moved from what the head expects."""

    def __call__(self, frozen: Frozen) -> State:
        """The original head."""
        return frozen.member.state("head")

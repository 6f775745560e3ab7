"""A low-rank delta, every matrix of a rank that the validation responses ask for."""

import logging
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.private.delta import Bits, Still
from gwsmm.private.private import Base, Pooler, shared_parts
from gwsmm.private.svd import decode_factors
from gwsmm.private.svd_error import SvdError
from gwsmm.types import STRICT

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SvdValidated:
    """`svd_error` at the largest error with loss(θ_base + Δ) ≤ (1 + tolerance) · loss(θ_i).

    So every matrix of an item has the smallest rank of one error, and that error is as large as the
    item's validation responses bear. The loss is their binary cross-entropy under the item's own
    head; if no error is small enough, the smallest is taken, with a warning. As `svd`, which see
    for source, with its decompositions and one inference on the validation responses for each
    error. Choose it where what is lost is to be bounded and not the size.

    Attributes:
        errors: candidates, each the largest relative error of a matrix; see `svd_error`.
        tolerance: share by which the loss may exceed that of the individual model.
        bits: of an entry of a factor; 16: fp16.
        still: rows whose norm is at most this share of the largest row's are left as in the base.
        base: `merged`: the group's encoder, and a group of one keeps its own; `pretrained`: nothing
            is merged, all items of all groups share one pretrained encoder.
        pooler: `own`, or `shared`: coded as the trunk is.
    """

    version: ClassVar[int] = 3

    errors: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1)]
    tolerance: Annotated[float, Field(ge=0)]
    bits: Bits
    still: Still
    base: Base
    pooler: Pooler

    @property
    def shared_parts(self) -> tuple[str, ...]:
        """The trunk, and the pooler if it is shared."""
        return shared_parts(self.pooler)

    @property
    def bases(self) -> tuple[Base, ...]:
        """What Δ starts from."""
        return (self.base,)

    def encode(
        self, member: State, bases: Sequence[State], loss: Callable[[State], float]
    ) -> State:
        """Factors of every matrix; see `PrivateTrunk`."""
        allowed = (1 + self.tolerance) * loss(member)
        code: State = {}
        for error in sorted(self.errors, reverse=True):
            code = self._at(error).encode(member, bases, loss)
            if loss(self.decode(code, bases)) <= allowed:
                return code
        log.warning(
            "even at private.errors=%g an item loses more than private.tolerance=%g of its "
            "validation loss; give a smaller error as well",
            min(self.errors),
            self.tolerance,
        )
        return code

    def decode(self, code: State, bases: Sequence[State]) -> State:
        """The base plus the products of the factors."""
        return decode_factors(code, bases[0], self.bits)

    def _at(self, error: float) -> SvdError:
        return SvdError(
            error=error, bits=self.bits, still=self.still, base=self.base, pooler=self.pooler
        )

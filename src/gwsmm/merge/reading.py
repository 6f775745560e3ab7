"""How a merge reads its members' training responses: which of them, and how far it has come."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gwsmm.artefact import Member
    from gwsmm.merge.learning import Learners


def training_ids(learners: "Learners", member: "Member", most: int | None) -> list[list[int]]:
    """Token ids of the member's training responses; if there are more than `most`, of so many.

    Those are spread evenly over the table, so that nothing is drawn, and a table that is sorted by
    score or by class is read from end to end.
    """
    texts = member.item.train.texts
    if most is not None and most < len(texts):
        rows = np.linspace(0, len(texts) - 1, most).round().astype(int)
        texts = tuple(texts[row] for row in rows)
    return learners.encoder.tokenize(texts)


def step(tick: Callable[[float], None], number: int, of: int) -> Callable[[float], None]:
    """What takes the fraction of one of `of` equal steps, and tells that of the whole."""
    return lambda done: tick((number + done) / of)

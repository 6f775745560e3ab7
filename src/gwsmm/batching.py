"""How responses are put into batches: of like length, so that little of a batch is padding."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

INFERENCE_BATCH = 64  # responses; large enough to fill the cores, small enough for any memory
PADDING = 1 / 8  # at most, for every token of a response; less makes batches that fill no core


class Most(NamedTuple):
    """How large a batch may be.

    Attributes:
        responses: in a batch; it has less where lengths differ, for the sake of `PADDING`.
        tokens: in a batch of several responses, padding included.
    """

    responses: int = INFERENCE_BATCH
    tokens: float = math.inf


def batches(ids: Sequence[Sequence[int]], most: Most) -> Iterator[list[int]]:
    """Positions of the responses with these token ids, every one once, the shortest first."""
    batch, own = list[int](), 0
    for i in sorted(range(len(ids)), key=lambda i: len(ids[i])):
        longest, size = len(ids[i]), len(batch) + 1
        room = min(most.tokens, (1 + PADDING) * (own + longest))
        if batch and (size > most.responses or size * longest > room):
            yield batch
            batch, own = [], 0
        batch.append(i)
        own += longest
    if batch:
        yield batch


def padded(
    ids: Sequence[Sequence[int]], filler: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids [b, t] padded to the longest of the batch, and their attention mask [b, t]."""
    longest = max(len(row) for row in ids)
    tokens = np.full((len(ids), longest), filler, np.int64)
    mask = np.zeros((len(ids), longest), np.int64)
    for i, row in enumerate(ids):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return tokens, mask

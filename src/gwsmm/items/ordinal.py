"""A score 0..K as K cumulative binaries "score ≥ 1", …, "score ≥ K", and back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gwsmm.types import Label


def steps(most: int) -> tuple[Label, ...]:
    """The K labels of a score from 0 to `most`."""
    return tuple(Label(f"score>={k}", f"a score of {k} or more") for k in range(1, most + 1))


def encode(scores: NDArray[np.int64], most: int) -> NDArray[np.uint8]:
    """[n, K] cumulative binaries of n scores from 0 to `most`."""
    return (scores[:, None] >= np.arange(1, most + 1)).astype(np.uint8)


def decode(binaries: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """[n] scores of [n, K] binaries: how many are 1.

    Counting also decodes predictions that are no staircase, such as (0, 1): it is the score whose
    own staircase is nearest, and with independent thresholds the usual rule (Frank and Hall 2001).
    """
    scores: NDArray[np.int64] = np.asarray(binaries).sum(axis=1, dtype=np.int64)
    return scores

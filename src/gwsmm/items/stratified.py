"""Stratified division that keeps copies of one text on one side."""

from collections import defaultdict
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.items.split import Share, fingerprint
from gwsmm.types import STRICT, Responses


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stratified:
    """Systematic sampling along the label vectors.

    Responses with the same text (but for case, punctuation and spacing) form one cluster. Clusters
    stand in the order of their label vectors, and every 1/fraction-th response is taken from that
    line, so each vector, and each group of vectors with the same first labels, is represented in
    proportion. The part's size is off by one response or half of the largest cluster at most.

    Attributes:
        validation: share of the training responses.
        test: share of all responses.
        seed: order within a label vector, and the place where counting starts.
    """

    validation: Share
    test: Share
    seed: Annotated[int, Field(ge=0)]

    def divide(self, responses: Responses, fraction: float) -> tuple[Responses, Responses]:
        """(rest, part), both in the order of the responses."""
        random = np.random.default_rng(self.seed)
        start = random.random() - 0.5
        seen, part = 0, list[int]()
        for cluster in _line(responses, random):
            seen += len(cluster)
            if len(part) + len(cluster) / 2 <= fraction * seen + start:
                part += cluster
        chosen = set(part)
        rest = [i for i in range(len(responses)) if i not in chosen]
        return responses.rows(rest), responses.rows(sorted(part))


def _line(responses: Responses, random: np.random.Generator) -> list[list[int]]:
    """The clusters, by label vector; the largest first, so that single texts can balance them."""
    clusters = defaultdict[str, list[int]](list)
    for i, text in enumerate(responses.texts):
        clusters[fingerprint(text)].append(i)
    order = random.permutation(len(clusters))
    ranked = zip(clusters.values(), order, strict=True)
    keys = [(_vector(responses, rows), -len(rows), int(rank), rows) for rows, rank in ranked]
    return [rows for *_, rows in sorted(keys)]


def _vector(responses: Responses, rows: list[int]) -> list[int]:
    """The label vector of most copies: raters do not always agree on the same text."""
    vectors: list[list[int]] = sorted(responses.labels[rows].tolist())
    return max(vectors, key=vectors.count)

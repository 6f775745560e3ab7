"""The division of the paper's authors."""

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.items.split import Share
from gwsmm.types import STRICT, InputError, Responses


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PublishedSplit:
    """scikit-learn's stratified split without the unique label vectors.

    A response whose label vector no other response has cannot be stratified; it goes back to the
    rest. Copies of one text may stand on both sides, as they did in the paper (arXiv 2503.09774,
    `offical_pretrain_and_test.ipynb`); prefer `stratified` for new work.

    Attributes:
        validation: share of the training responses that are divided.
        test: share of all responses that are divided.
        seed: the authors' is 2020.
    """

    validation: Share
    test: Share
    seed: Annotated[int, Field(ge=0, lt=2**32)]

    def divide(self, responses: Responses, fraction: float) -> tuple[Responses, Responses]:
        """(rest, part) in the authors' order: shuffled, the unique vectors last.

        Raises:
            InputError: scikit-learn cannot stratify so few responses.
        """
        from sklearn.model_selection import train_test_split  # a second that `--help` can spare

        vectors = np.array([" ".join(map(str, row)) for row in responses.labels.tolist()])
        _, inverse, counts = np.unique(vectors, return_inverse=True, return_counts=True)
        unique = counts[inverse] == 1
        shared = np.flatnonzero(~unique)
        try:
            rest, part = train_test_split(
                shared, test_size=fraction, stratify=vectors[shared], random_state=self.seed
            )
        except ValueError as error:
            raise InputError(
                f"the published split cannot stratify {len(shared)} responses over "
                f"{int((counts > 1).sum())} label vectors at fraction {fraction:g}: "
                "set split=stratified or give a larger fraction"
            ) from error
        return responses.rows([*rest, *np.flatnonzero(unique)]), responses.rows(part)

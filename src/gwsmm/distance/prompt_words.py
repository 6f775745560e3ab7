"""How few words two questions share: a distance without any model or answer."""

import math
import re
from collections import Counter
from typing import ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT, InputError, Item, Pair


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PromptWords:
    """1 − the cosine of the word counts of two questions.

    Words are letters and digits, case folded; a word that stands n times counts 1 + log n. In
    [0, 1]; unchanged by the order of the words, and by everything that the students wrote.
    O(words).

    Choose it as the control that asks whether a reader of the questions would have grouped the
    items as well as the encoders do, at no cost.

    Source: Salton and Buckley (1988), "Term-weighting approaches in automatic text retrieval".
    """

    compares: ClassVar[str] = "labels"
    title: ClassVar[str] = "1 - cosine of the questions' words"

    def prepare(self, subject: Item) -> dict[str, float]:
        """The weights of the question's words, of length 1.

        Raises:
            InputError: the item has no question.
        """
        counts = Counter(re.findall(r"[^\W_]+", subject.prompt.casefold()))
        if not counts:
            raise InputError(
                f"distance=prompt_words: item {subject.name!r} has no question; give the column "
                "with items.prompt=COLUMN (items=table) or an items.json (items=pasta), or choose "
                "another distance"
            )
        weights = {word: 1 + math.log(n) for word, n in counts.items()}
        length = math.hypot(*weights.values())
        return {word: weight / length for word, weight in weights.items()}

    def __call__(self, a: dict[str, float], b: dict[str, float]) -> Pair:
        """One minus the sum over the words of both."""
        # in the order of the words, so that both directions round alike
        shared = math.fsum(a[word] * b[word] for word in sorted(a.keys() & b.keys()))
        return Pair(min(max(1 - shared, 0.0), 1.0) if a != b else 0.0)

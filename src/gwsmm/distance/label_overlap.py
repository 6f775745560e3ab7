"""How few words two rubrics share: a distance without any model."""

import re
from typing import ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT, Item, Pair

# Only words that carry no content in any rubric: longer lists hold "system", "amount" and "full".
_STOP = """
a an and are as at be because been but by can do does for from had has have how if in into is it
its no nor not of on or so than that the their them then there these they this those to was were
what when where which while who why will with
"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelOverlap:
    """1 − |A ∩ B| / |A ∪ B|, with A and B the sets of content words of two rubrics: Jaccard.

    The words of an item are those of the names and descriptions of its labels, case folded,
    without a few English words such as "the"; words are letters and digits, and are not stemmed.
    Where labels have no descriptions their names are all there is: items with E1 to E3 and E1 to
    E5 are then 2 / 5 apart, which says how many labels they have and nothing else. Two items
    without any word are 0 apart. In [0, 1], a metric; unchanged by the order and the repetition of
    words and labels, and by everything that the students wrote. O(words).

    Choose it as the control that asks whether a reader of the rubrics would have grouped the items
    as well as the encoders do, at no cost.

    Source: Jaccard (1912).
    """

    compares: ClassVar[str] = "labels"
    title: ClassVar[str] = "1 - label overlap"

    def prepare(self, subject: Item) -> frozenset[str]:
        """The content words of the item's rubric."""
        said = " ".join(f"{label.name} {label.description}" for label in subject.labels)
        return frozenset(re.findall(r"[^\W_]+", said.casefold())).difference(_STOP.split())

    def __call__(self, a: frozenset[str], b: frozenset[str]) -> Pair:
        """The share of the words of both that only one has."""
        either = a | b
        return Pair(len(a ^ b) / len(either) if either else 0.0)

"""The nouns of the program: what the stages take and return."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

# Every strategy is `@dataclass(frozen=True, kw_only=True, config=STRICT)` of pydantic: a misspelled
# field, a wrong type or a value out of range is refused when the object is built, and so is a
# number that is infinite, as most ranges allow, or NaN.
STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

SplitName = Literal["train", "validation"]


class InputError(Exception):
    """Something that the user gave cannot be used; the message is the one line that is shown."""

    code: ClassVar[int] = 2  # with which the program ends


class UnfinishedError(InputError):
    """Workers or memory were lost; what is finished is kept, and the same command goes on."""

    code: ClassVar[int] = 3


@dataclass(frozen=True)
class Label:
    """One rubric element: 1 if a response shows it, 0 if not."""

    name: str
    description: str = ""


@dataclass(frozen=True, eq=False)
class Responses:
    """Student responses with their ratings.

    Attributes:
        texts: n responses as the students wrote them.
        labels: [n, L] of 0 and 1, one column per label of the item.
        second: [n, L], the labels of a second rater, a row of -1 where there was none; None: the
            source has none.
        groups: n names of subgroups of the students, None where unknown; None: the source has none.

    Only the results show `second` and `groups`; no stage may read them, as they are in no digest.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.uint8]
    second: NDArray[np.int8] | None = None
    groups: tuple[str | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, index: Iterable[int]) -> "Responses":
        """The responses at these positions, in this order."""
        chosen = list(index)
        return Responses(
            tuple(self.texts[i] for i in chosen),
            self.labels[chosen],
            None if self.second is None else self.second[chosen],
            None if self.groups is None else tuple(self.groups[i] for i in chosen),
        )

    @cached_property
    def digest(self) -> str:
        """Hash of every text and label: the identity of this data in the store."""
        seen = sha256(np.ascontiguousarray(self.labels).tobytes())
        seen.update(repr(self.labels.shape).encode())
        for text in self.texts:
            encoded = text.encode()
            seen.update(len(encoded).to_bytes(8, "little") + encoded)
        return seen.hexdigest()


@dataclass(frozen=True, eq=False)
class Item:
    """One assessment item with its rated responses.

    Attributes:
        name: unique within the item set; a plain file name.
        labels: rubric elements; for an ordinal item the steps "score ≥ 1", "score ≥ 2", ….
        kind: `multilabel` (independent 0/1 elements) or `ordinal` (cumulative steps of one score).
        prompt: the question, where known.
        synthetic: True if the responses were generated and not written by students.
        notes: what a reader of the results should know, e.g. dropped rows or constant labels.
    """

    name: str
    labels: tuple[Label, ...]
    kind: Literal["multilabel", "ordinal"]
    train: Responses
    validation: Responses
    test: Responses
    prompt: str = ""
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Hash of everything that can change a result: responses, labels and kind."""
        parts = [self.name, self.kind, *(label.name for label in self.labels)]
        parts += [part.digest for part in (self.train, self.validation, self.test)]
        return sha256("\0".join(parts).encode()).hexdigest()

    def without_test(self) -> "Item":
        """This item with an empty test split: what every stage but the evaluation is given."""
        return replace(self, test=self.test.rows([]))

    def split(self, name: SplitName) -> Responses:
        """The training or the validation responses."""
        return self.train if name == "train" else self.validation


@dataclass(frozen=True, eq=False)
class Cloud:
    """An item's feature cloud: points [n, d] with weights [n] that sum to one."""

    name: str
    points: NDArray[np.float64]
    weights: NDArray[np.float64]

    def rows(self, index: NDArray[np.int64]) -> "Cloud":
        """The cloud of these points, their weights scaled to sum to one."""
        weights = self.weights[index]
        return Cloud(self.name, self.points[index], weights / weights.sum())


@dataclass(frozen=True)
class TaskVector:
    """What fine-tuning changed: the item's trunk minus the pretrained trunk, tensor by tensor."""

    name: str
    tensors: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Pair:
    """How far apart two items are, and how the solver got there.

    Attributes:
        value: the distance, in the quantity that the strategy's title names.
        converged: False where the solver stopped at its iteration limit.
        iterations: of the start that gave the value; 0 for a closed form.
        bound: a proven lower bound of the value; NaN where the strategy has none.
        starts: how many starts were tried.
        spread: (largest - smallest) / smallest value over the starts that were carried to the end.
        marginal_error: largest deviation of the coupling's marginals from the weights.
        estimated: the value was not solved for but estimated, because a bound screened the pair.
    """

    value: float
    converged: bool = True
    iterations: int = 0
    bound: float = math.nan
    starts: int = 1
    spread: float = 0.0
    marginal_error: float = 0.0
    estimated: bool = False


@dataclass(frozen=True, eq=False)
class Distances:
    """A symmetric matrix of distances between items.

    Attributes:
        names: N item names.
        values: [N, N], zero on the diagonal; `quantity` says which quantity it is.
        quantity: for instance `GW loss` or `GW root`.
        details: [N, N] for every other field of `Pair`, by its name, and for `seconds`.
        halves: [repetitions, 2, pairs] from disjoint half-samples, the pairs as above the diagonal;
            None: not measured.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    quantity: str
    details: Mapping[str, NDArray[Any]]
    halves: NDArray[np.float64] | None = None

    @property
    def converged(self) -> NDArray[np.bool_]:
        """[N, N]: False where the solver stopped at its iteration limit."""
        return self.details["converged"]

    @property
    def gap(self) -> NDArray[np.float64]:
        """[N, N]: (value - bound) / value: how far too large a value can be; NaN: unknown."""
        with np.errstate(invalid="ignore", divide="ignore"):
            gap: NDArray[np.float64] = (self.values - self.details["bound"]) / self.values
        return gap

    @property
    def stability(self) -> NDArray[np.float64] | None:
        """Rank correlation of the two halves, by repetition in which there is one; None: in none.

        Where all pairs are equally far apart there are no ranks.
        """
        from scipy.stats import spearmanr

        ranked = [] if self.halves is None else [h for h in self.halves if np.ptp(h, axis=1).all()]
        if not ranked:
            return None
        return np.array([float(spearmanr(one, other).statistic) for one, other in ranked])

    def violations(self) -> int:
        """How many triples of items break the triangle inequality; of a loss, its root is meant."""
        v = np.sqrt(self.values) if self.quantity.endswith("loss") else self.values
        ways = (v[:, j, None] + v[j] for j in range(len(v)))  # from i to k through j, in O(N²)
        return sum(int((v > way * (1 + 1e-9) + 1e-12).sum()) for way in ways) // 2

    def similarity(self) -> NDArray[np.float64]:
        """[N, N]: 1 - d / d_max, as in the paper; all ones if every distance is zero."""
        largest = self.values.max()
        return 1 - self.values / largest if largest > 0 else np.ones_like(self.values)


@dataclass(frozen=True)
class Plan:
    """A partition of the items: those of a group share one encoder.

    Attributes:
        groups: item names; within a group and between groups in the order of the item set.
        source: where the plan came from.
    """

    groups: tuple[tuple[str, ...], ...]
    source: str

    def group_of(self, name: str) -> tuple[str, ...]:
        """The group that holds this item."""
        return next(group for group in self.groups if name in group)

    @property
    def merged_items(self) -> tuple[str, ...]:
        """The items that share an encoder with another item."""
        return tuple(name for group in self.groups if len(group) > 1 for name in group)


def partition(groups: Iterable[Iterable[str]], names: Sequence[str], source: str) -> Plan:
    """The plan with these groups, its items and groups in the order of `names`.

    Raises:
        InputError: the groups are not a partition of `names`.
    """
    listed = [list(group) for group in groups]
    flat = [name for group in listed for name in group]
    if unknown := [name for name in flat if name not in names]:
        raise InputError(
            f"{source}: the plan names the unknown item {unknown[0]!r}; the items are: "
            + ", ".join(names)
        )
    if twice := [name for i, name in enumerate(flat) if name in flat[:i]]:
        raise InputError(
            f"{source}: the plan is not a partition: item {twice[0]!r} stands in it more than "
            "once; name every item exactly once"
        )
    if lacking := [name for name in names if name not in flat]:
        raise InputError(
            f"{source}: the plan is not a partition: item {lacking[0]!r} is in no group; name "
            "every item exactly once (an item that keeps its own encoder is a group of one)"
        )
    order = {name: i for i, name in enumerate(names)}
    ordered = [tuple(sorted(group, key=order.__getitem__)) for group in listed if group]
    return Plan(tuple(sorted(ordered, key=lambda group: order[group[0]])), source)

"""What can be seen of a group before it is merged: whether it can be, and how well that may go."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gwsmm.artefact import State
from gwsmm.merge.matrices import effective_rank, is_matrix, task_matrices
from gwsmm.merge.stored import Tensors, tensors_of
from gwsmm.types import InputError

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_RATIO = 3.0
"""A rule of thumb: where norms differ more, the longest task vector drowns the others."""

UNSURE = 0.8
"""A rule of thumb: a model that is no surer than this has learned little to be kept."""


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How sure a model is of its item's validation responses.

    Attributes:
        entropy: of its probabilities in nats, −p log p − (1−p) log(1−p), mean over responses and
            labels.
        of_frequencies: what it is for who knows only how often each label is given in training.
    """

    entropy: float
    of_frequencies: float

    @property
    def share(self) -> float:
        """0: always sure; 1: no surer than the frequencies alone allow."""
        return self.entropy / self.of_frequencies if self.of_frequencies > 0 else 0.0


def confidence(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.uint8]) -> Confidence:
    """Of probabilities [m, L] of validation responses, and labels [n, L] of training responses."""
    return Confidence(entropy=_entropy(probabilities), of_frequencies=_entropy(labels.mean(axis=0)))


def _entropy(p: NDArray[np.floating[Any]]) -> float:
    from scipy.special import entr

    return float((entr(p) + entr(1 - p)).mean())


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The task vectors τ_i = θ_i − θ_base of a group, over all tensors that are merged.

    Attributes:
        members: item names; everything below is in their order.
        norms: ‖τ_i‖.
        norm_ratio: largest to smallest norm; members that equal the base are left out, and it is 1
            where fewer than two are left.
        sign_conflict: [T, T] share of opposite signs among the entries in which both members moved.
        weighted_sign_conflict: [T, T] the same with every entry weighted by |τ_i τ_j|.
        effective_ranks: of each member's task matrix, for the weight of every linear layer.
        confidences: of each member's own model.
        warnings: one line each, with the remedy.
    """

    members: tuple[str, ...]
    norms: tuple[float, ...]
    norm_ratio: float
    sign_conflict: tuple[tuple[float, ...], ...]
    weighted_sign_conflict: tuple[tuple[float, ...], ...]
    effective_ranks: Mapping[str, tuple[float, ...]]
    confidences: tuple[Confidence, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """All of it, as it is kept beside the merged encoder."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)


def diagnose(
    base: State, members: Mapping[str, State], confidence_of: Callable[[str], Confidence]
) -> Diagnosis:
    """Look at every tensor, of one member at a time or in pieces of all.

    Args:
        base: the state that task vectors start from.
        members: the states by item name.
        confidence_of: the confidence of a member's own model; asked for when all can be merged.

    Raises:
        InputError: a tensor is lacking, has another shape, or holds what is no number.
    """
    _check_alike(base, members)
    names, products = tuple(members), _Products(len(members))
    ranks = {}
    for name, start in base.items():
        tensors = tensors_of(members.values(), name, start)
        _check_finite(name, start, "the base")
        for item, tensor in zip(names, tensors, strict=True):
            _check_finite(name, tensor, f"item {item}")
        products.add(start, tensors)
        if is_matrix(name, start):
            ranks[name] = tuple(effective_rank(tau) for tau in task_matrices(start, tensors))
    norms = products.norms()
    moved = [(norm, item) for norm, item in zip(norms, names, strict=True) if norm > 0]
    ratio = max(moved)[0] / min(moved)[0] if moved else 1.0
    warnings = [_unequal(max(moved)[1], min(moved)[1], ratio)] if ratio > LARGEST_RATIO else []
    sure = {name: confidence_of(name) for name in names}
    warnings += [_unsure(name, has.share) for name, has in sure.items() if has.share > UNSURE]
    return Diagnosis(
        members=names,
        norms=norms,
        norm_ratio=ratio,
        sign_conflict=products.sign_conflict(),
        weighted_sign_conflict=products.weighted_sign_conflict(),
        effective_ranks=ranks,
        confidences=tuple(sure.values()),
        warnings=tuple(warnings),
    )


def _unequal(longest: str, shortest: str, ratio: float) -> str:
    return (
        f"merge: fine-tuning moved {longest} {ratio:.1f} times as far as {shortest}, so the merged "
        f"encoder will be mostly that of {longest}; fine-tune both alike (finetune.learning_rate, "
        "finetune.epochs, finetune.frozen_layers), or do not group them"
    )


def _unsure(name: str, share: float) -> str:
    return (
        f"merge: the model of {name} is hardly surer of its validation responses than the label "
        f"frequencies alone ({share:.0%} of their entropy), so it has little to give to a merged "
        "encoder; train it longer (finetune.epochs, finetune.learning_rate), give it more "
        "responses, or leave it out of the group"
    )


def _check_alike(base: State, members: Mapping[str, State]) -> None:
    """Refuse states of which one has a tensor that another lacks, or in another shape."""
    # The base comes last: where it is the members' mean, it has no shape if they are not alike.
    states = {**{f"item {name}": state for name, state in members.items()}, "the base": base}
    (one, first), *others = states.items()
    for other, second in others:
        for name in sorted({*first} ^ {*second}):
            has, lacks = (one, other) if name in first else (other, one)
            raise InputError(
                f"{has} and {lacks} cannot be merged: {lacks} has no tensor {name}; group only "
                "items that were fine-tuned from the same encoder"
            )
        for name in first:
            if first[name].shape != second[name].shape:
                raise InputError(
                    f"{one} and {other} cannot be merged: the tensor {name} is "
                    f"{tuple(first[name].shape)} in one and {tuple(second[name].shape)} in the "
                    "other; group only items that were fine-tuned from the same encoder"
                )


def _check_finite(name: str, tensor: "Tensor", owner: str) -> None:
    bad = sum(int((~part.isfinite()).sum()) for _, (part,) in Tensors.of([tensor]).pieces())
    if bad:
        raise InputError(
            f"{owner} cannot be merged: {bad} of {tensor.numel()} entries of the tensor {name} are "
            "NaN or infinite, so its fine-tuning diverged; lower finetune.learning_rate, or give "
            "the item its own encoder"
        )


class _Products:
    """Sums over all entries of products of two members' task vectors, [T, T] each."""

    def __init__(self, members: int) -> None:
        zeros = np.zeros((members, members))
        self._signed, self._magnitude, self._opposite, self._both = (zeros.copy() for _ in range(4))

    def add(self, base: "Tensor", members: Tensors) -> None:
        """Take in one tensor."""
        import torch

        origin = base.flatten()
        for at, here in members.pieces():
            taus = torch.stack([each.double() - origin[at].double() for each in here])
            signs, sizes = taus.sign().float(), taus.abs()  # counts of a piece are exact
            moved, agree = signs.abs(), (signs @ signs.T).numpy()
            both = (moved @ moved.T).numpy()
            self._signed += (taus @ taus.T).numpy()
            self._magnitude += (sizes @ sizes.T).numpy()
            self._both += both
            self._opposite += (both - agree) / 2

    def norms(self) -> tuple[float, ...]:
        return tuple(math.sqrt(square) for square in self._signed.diagonal())

    def sign_conflict(self) -> tuple[tuple[float, ...], ...]:
        return _share(self._opposite, self._both)

    def weighted_sign_conflict(self) -> tuple[tuple[float, ...], ...]:
        return _share((self._magnitude - self._signed) / 2, self._magnitude)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    share = part / np.where(whole > 0, whole, 1)
    return tuple(tuple(float(value) for value in row) for row in share)

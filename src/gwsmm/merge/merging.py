"""The stage that merges one group, and what a merge strategy is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from gwsmm.artefact import Member, State
from gwsmm.encoder import Encoder
from gwsmm.private.private import Private
from gwsmm.progress import write_fraction
from gwsmm.types import InputError

PRETRAINED = "pretrained"
GROUP_MEAN = "group_mean"
FIRST_ITEM = "first_item"


class Merge(Protocol):
    """A strategy that makes one state of several.

    Every tensor keeps its name, shape and dtype; the states given are not changed.
    """

    @property
    def base(self) -> str:
        """Where task vectors start: `pretrained`, `group_mean`, `first_item` or an item's name."""

    def __call__(self, base: State, states: Sequence[State], sizes: Sequence[int]) -> State:
        """Merge the shared tensors.

        Args:
            base: the state that task vectors start from.
            states: of the members, in the order of the item set.
            sizes: training responses of each member.
        """


@dataclass(frozen=True)
class Group:
    """What one merge is given.

    Attributes:
        members: that share the encoder, in the order of the item set.
        anchor: the member whose state is the base, where the base is an item's.
    """

    members: tuple[Member, ...]
    anchor: Member | None


def group_for(merge: Merge, members: Sequence[Member], everyone: Sequence[Member]) -> Group:
    """The members of a group with the member that the strategy takes as its base, if any."""
    if merge.base in (PRETRAINED, GROUP_MEAN):
        return Group(tuple(members), None)
    if merge.base == FIRST_ITEM:
        return Group(tuple(members), everyone[0])
    anchor = next(member for member in everyone if member.item.name == merge.base)
    return Group(tuple(members), anchor)


def check_base(merge: Merge, names: Sequence[str]) -> None:
    """Refuse, before any work, a base that is neither a known word nor an item.

    Raises:
        InputError: there is no such item.
    """
    words = (PRETRAINED, GROUP_MEAN, FIRST_ITEM)
    if merge.base not in (*words, *names):
        raise InputError(
            f"merge.base={merge.base}: there is no such item; give {', '.join(words)} or one of "
            + ", ".join(names)
        )


@dataclass(frozen=True, kw_only=True)
class Merging:
    """The stage: a group → the `trunk`, and the `pooler` where it is not private."""

    stage: ClassVar[str] = "merge"
    version: ClassVar[int] = 1

    encoder: Encoder
    merge: Merge
    private: Private

    def __call__(self, subject: Group, folder: Path) -> None:
        """Merge what the members share."""
        from safetensors.torch import save_file

        write_fraction(folder, 0.0)
        parts = self.private.shared_parts
        states = [_shared(member, parts) for member in subject.members]
        base = self._base(subject, states, parts)
        merged = self.merge(base, states, [len(member.item.train) for member in subject.members])
        for part in parts:
            tensors = {
                name.removeprefix(f"{part}."): tensor.contiguous()
                for name, tensor in merged.items()
                if name.startswith(f"{part}.")
            }
            if tensors:
                save_file(tensors, folder / f"{part}.safetensors")

    def _base(self, group: Group, states: Sequence[State], parts: Sequence[str]) -> State:
        if group.anchor is not None:
            return _shared(group.anchor, parts)
        if self.merge.base == GROUP_MEAN:
            return mean_state(states, [1.0] * len(states))
        pretrained = self.encoder.pretrained()
        return {k: v for k, v in pretrained.items() if k.startswith(tuple(f"{p}." for p in parts))}


def mean_state(states: Sequence[State], weights: Sequence[float]) -> State:
    """The weighted mean of states, accumulated in fp32; the weights need not sum to one."""
    import torch

    total = sum(weights)
    merged = {}
    for name, first in states[0].items():
        mean = torch.zeros_like(first, dtype=torch.float32)
        for state, weight in zip(states, weights, strict=True):
            mean += state[name].float() * (weight / total)
        merged[name] = mean.to(first.dtype)
    return merged


def _shared(member: Member, parts: Sequence[str]) -> State:
    return {
        f"{part}.{name}": tensor for part in parts for name, tensor in member.state(part).items()
    }

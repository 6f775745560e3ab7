"""The stage that merges one group, and what a merge strategy is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol, runtime_checkable

from pydantic import AfterValidator

from gwsmm.artefact import Member, State
from gwsmm.encoder import Encoder
from gwsmm.merge.stored import Stored, tensors_of
from gwsmm.private.private import Private
from gwsmm.progress import write_fraction
from gwsmm.recipe import Trainer
from gwsmm.types import InputError

if TYPE_CHECKING:
    from torch import Tensor

PRETRAINED = "pretrained"
GROUP_MEAN = "group_mean"
FIRST_ITEM = "first_item"


class Based(Protocol):
    """Whatever has a base to merge around."""

    @property
    def base(self) -> str:
        """Where task vectors start: `pretrained`, `group_mean`, `first_item` or an item's name."""


@runtime_checkable
class Merge(Protocol):
    """A strategy that makes one encoder of several, tensor by tensor.

    The result has the shape and dtype of what went in, shares no memory with it and depends on
    nothing but the arguments: a strategy that draws derives its draws from its seed and the name.
    """

    @property
    def base(self) -> str:
        """Where task vectors start; see `Based`."""

    def __call__(
        self, name: str, base: "Tensor", members: Sequence["Tensor"], sizes: Sequence[int]
    ) -> "Tensor":
        """Merge the shared tensors of one name.

        Args:
            name: of the tensor, beginning with its part: `trunk.…` or `pooler.…`.
            base: the tensor that task vectors start from; all are on one device, and so is what
                is returned.
            members: the tensor of each member, in the order of the item set; each is read anew
                whenever it is asked for, so that one at a time is in memory; see `Tensors`.
            sizes: training responses of each member.
        """


def _not_first_item(base: str) -> str:
    if base == FIRST_ITEM:
        raise ValueError(
            "the first item is a base for merge=published alone, which anchors every group on it; "
            f"give {PRETRAINED}, {GROUP_MEAN} or the name of an item that is in every group"
        )
    return base


Base = Annotated[str, AfterValidator(_not_first_item)]
"""A base that the user chooses: `pretrained`, `group_mean` or the name of an item."""


@dataclass(frozen=True)
class Group:
    """What one merge is given.

    Attributes:
        members: that share the encoder, in the order of the item set.
        anchor: the member whose state is the base, where the base is an item's.
    """

    members: tuple[Member, ...]
    anchor: Member | None


def group_for(merge: Based, members: Sequence[Member], everyone: Sequence[Member]) -> Group:
    """The members of a group with the member that the strategy takes as its base, if any.

    Raises:
        InputError: the base is an item that is no member of the group.
    """
    if merge.base in (PRETRAINED, GROUP_MEAN):
        return Group(tuple(members), None)
    if merge.base == FIRST_ITEM:  # only the published merge can say so
        return Group(tuple(members), everyone[0])
    for member in members:
        if member.item.name == merge.base:
            return Group(tuple(members), member)
    setting = _where(merge)
    raise InputError(
        f"{setting}={merge.base}: this item is no member of the group "
        f"{', '.join(member.item.name for member in members)}, whose encoder would be pulled "
        f"towards it; give {setting}={PRETRAINED}, or merge=published for the authors' merge"
    )


def check_base(merge: Based, names: Sequence[str]) -> None:
    """Refuse, before any work, a base that is neither a known word nor an item.

    Raises:
        InputError: there is no such item.
    """
    if merge.base not in (PRETRAINED, GROUP_MEAN, FIRST_ITEM, *names):
        raise InputError(
            f"{_where(merge)}={merge.base}: there is no such item; give {PRETRAINED}, {GROUP_MEAN} "
            "or one of " + ", ".join(names)
        )


def _where(merge: Based) -> str:
    """The setting of the base: of the merge itself, or of one that it hands it on to."""
    setting = "merge"
    while "base" not in (names := [field.name for field in fields(merge)]):  # type: ignore[arg-type]
        inner = next(name for name in names if hasattr(getattr(merge, name), "base"))
        setting, merge = f"{setting}.{inner}", getattr(merge, inner)
    return f"{setting}.base"


@dataclass(frozen=True, kw_only=True)
class Merging:
    """The stage: a group → the `trunk`, the `pooler` where it is not private.

    Goes tensor by tensor, on the trainer's device. Of the members, one tensor of one of them is in
    memory, or pieces of it of all.
    """

    stage: ClassVar[str] = "merge"
    version: ClassVar[int] = 3

    encoder: Encoder
    merge: Merge
    private: Private
    trainer: Trainer

    def __call__(self, subject: Group, folder: Path) -> None:
        """Merge what the members share."""
        from safetensors.torch import save_file

        write_fraction(folder, 0.0)
        parts = self.private.shared_parts
        members = [Stored(each, parts) for each in subject.members]
        base = base_state(self.merge.base, self.encoder, subject, parts)

        device = self.trainer.device
        sizes = [len(each.item.train) for each in subject.members]
        done = 0
        for part in parts:
            merged = {}
            for name in (each for each in base if each.startswith(f"{part}.")):
                start = base[name].to(device)
                tensor = self.merge(name, start, tensors_of(members, name, start), sizes)
                merged[name.removeprefix(f"{part}.")] = tensor.contiguous().cpu()
                done += 1
                write_fraction(folder, done / len(base))
            if merged:
                save_file(merged, folder / f"{part}.safetensors")


def base_state(base: str, encoder: Encoder, group: Group, parts: Sequence[str]) -> State:
    """The tensors of these parts that task vectors start from."""
    if group.anchor is not None:
        return Stored(group.anchor, parts)
    if base == GROUP_MEAN:
        return _Mean([Stored(member, parts) for member in group.members])
    prefixes = tuple(f"{part}." for part in parts)
    return {k: v for k, v in encoder.pretrained().items() if k.startswith(prefixes)}


class _Mean(Mapping[str, "Tensor"]):
    """The mean of states, each tensor computed when it is asked for."""

    def __init__(self, states: Sequence[State]) -> None:
        self._states = states

    def __getitem__(self, name: str) -> "Tensor":
        tensors = tensors_of(self._states, name, self._states[0][name])
        return weighted_mean(tensors, [1.0] * len(tensors))

    def __iter__(self) -> Iterator[str]:
        return iter(self._states[0])

    def __len__(self) -> int:
        return len(self._states[0])


def weighted_mean(tensors: Sequence["Tensor"], weights: Sequence[float]) -> "Tensor":
    """The weighted mean, accumulated in fp32; the weights need not sum to one."""
    import torch

    total = sum(weights)
    mean = torch.zeros_like(tensors[0], dtype=torch.float32)
    for tensor, weight in zip(tensors, weights, strict=True):
        mean += tensor.float() * (weight / total)
    return mean.to(tensors[0].dtype)

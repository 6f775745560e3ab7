"""The stage that merges one group with the help of its responses, and what such a merge is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from gwsmm.artefact import Member, State, first_not_finite, part_of
from gwsmm.encoder import Encoder
from gwsmm.merge.merging import Group, Merge, base_state
from gwsmm.merge.stored import Stored, tensors_of
from gwsmm.private.private import Private
from gwsmm.progress import write_fraction
from gwsmm.recipe import Trainer
from gwsmm.task import name_of
from gwsmm.types import InputError

if TYPE_CHECKING:
    from gwsmm.network import Network


@dataclass(frozen=True, eq=False)
class Learners:
    """What a merge that needs data is given: one group, its encoders and its responses.

    Attributes:
        members: that share the encoder, in the order of the item set; their items have training
            and validation responses and no others.
        base: the tensors that task vectors start from, named `trunk.…` and `pooler.…`: those that
            the members share, and the names that the result has.
        encoder: makes networks and tokenizes for them.
        trainer: where to compute.
        tick: takes the fraction of the work that is done.
    """

    members: Sequence[Member]
    base: State
    encoder: Encoder
    trainer: Trainer
    tick: Callable[[float], None]

    @property
    def states(self) -> Sequence[State]:
        """The shared tensors of each member, each read from disk when it is asked for."""
        parts = tuple(dict.fromkeys(name.split(".")[0] for name in self.base))
        return [Stored(member, parts) for member in self.members]

    def sorted_by_name(self) -> "Learners":
        """The same with the members in the order of their items' names.

        For what would otherwise depend on their order in a group, if only by rounding.
        """
        return replace(self, members=sorted(self.members, key=lambda each: each.item.name))

    def merged_by(self, merge: "Merge | LearnedMerge") -> State:
        """What another merge makes of the members; one that looks at responses ticks as it does."""
        if isinstance(merge, LearnedMerge):
            return merge.learn(self)
        sizes, states = [len(each.item.train) for each in self.members], self.states
        return {
            name: merge(name, base, tensors_of(states, name, base), sizes)
            for name, base in self.base.items()
        }

    def network(self, member: Member, shared: State | None = None) -> "Network":
        """The member's own network, or with these shared tensors, without dropout."""
        network = self.encoder.unfilled(len(member.item.labels))
        for part in ("trunk", "pooler", "head"):
            given = part_of(shared, part) if shared is not None else {}
            network.load_part(part, given or member.state(part))
        return network.to(self.trainer.device).eval()


@runtime_checkable
class LearnedMerge(Protocol):
    """A strategy that looks at training responses, and makes the whole encoder at once.

    As of `Merge`, the result shares no memory with what went in, has its names, shapes and dtypes,
    and depends on nothing but the arguments and the strategy's own seed.
    """

    @property
    def base(self) -> str:
        """Where task vectors start; see `Based`."""

    def learn(self, learners: Learners) -> State:
        """The shared tensors, by the names of `learners.base`."""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """The stage: a group → what `Merging` writes, by a strategy that needs data."""

    stage: ClassVar[str] = "merge"
    version: ClassVar[int] = 3

    encoder: Encoder
    merge: LearnedMerge
    private: Private
    trainer: Trainer

    def __call__(self, subject: Group, folder: Path) -> None:
        """Merge what the members share.

        Raises:
            InputError: the training diverged.
        """
        from safetensors.torch import save_file

        write_fraction(folder, 0.0)
        parts = self.private.shared_parts
        base = base_state(self.merge.base, self.encoder, subject, parts)
        tick = partial(write_fraction, folder)
        learners = Learners(subject.members, base, self.encoder, self.trainer, tick)
        merged = self.merge.learn(learners)
        if name := first_not_finite(merged):
            raise InputError(
                f"items {name_of(subject)}: their merge diverged, the tensor {name} is not finite; "
                "give merge a lower learning_rate or precision=fp32, or choose another merge. "
                "Nothing of it is kept"
            )
        for part in parts:
            if tensors := part_of(merged, part):
                kept = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
                save_file(kept, folder / f"{part}.safetensors")

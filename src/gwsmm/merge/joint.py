"""Joint training: one encoder for the group, fine-tuned for all of its items at once."""

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.encoder import Encoder
from gwsmm.merge.learning import Learners
from gwsmm.merge.merging import PRETRAINED
from gwsmm.recipe import Settled, check_frozen
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Joint:
    """θ, heads = argmin mean over all items' responses of the binary cross-entropy of the labels.

    A reference, no merge: the members have no part in it but for the pooler that an item keeps as
    it was fine-tuned with `private=pooler`. Hard parameter sharing from the pretrained encoder:
    what training with all labels at hand reaches where a merge has only the finished encoders. Its
    heads start from nothing, learn at their own rate, and are given up for those that are fitted
    later. A loss is the mean over the labels of a response and then over responses, whatever item
    they are of; batches mix items. Dropout is before the heads, and in the trunk if
    the recipe says so.

    Needs the labels of the training responses, and gradients; the epoch of lowest loss on the
    validation responses is kept. Takes as long as fine-tuning all items for as many epochs.

    Attributes:
        recipe: as of fine-tuning.
        seed: of the heads, of dropout, and of the order of the batches.

    Source: Caruana (1997), "Multitask learning".
    """

    base: ClassVar[str] = PRETRAINED

    recipe: Settled
    seed: Annotated[int, Field(ge=0)]

    def check(self, encoder: Encoder) -> None:
        """Refuse to freeze more layers than there are."""
        check_frozen(self.recipe, encoder, "merge.recipe")

    def learn(self, learners: Learners) -> State:
        """Train the shared encoder; see `LearnedMerge`."""
        import torch

        from gwsmm.merge.lesson import Responses
        from gwsmm.merge.student import soft_loss, student_of
        from gwsmm.scoring import train

        group = learners.sorted_by_name()
        responses = Responses.of(group)
        labels = responses.labels(group)
        student = student_of(group, group.members, learners.base, self.recipe.frozen_layers)

        def loss(ids: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            items = responses.items[rows.cpu()].to(rows.device)
            wanted = labels[rows.cpu()].to(rows.device)
            return soft_loss(student, student(ids, mask, items).logits, wanted, items)

        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            fresh = group.encoder.network(student.head.out_features).head
            student.head.load_state_dict(fresh.state_dict())
            student.dropout.train()
            student.trunk.train(self.recipe.trunk_dropout)
            data = responses.data(group, self.recipe, self.seed)
            train(student, loss, data, self.recipe, group.trainer, group.tick)
        return student.shared_state()

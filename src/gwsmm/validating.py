"""What a member's network says of its own validation responses."""

from typing import TYPE_CHECKING

from gwsmm.artefact import Member, State, part_of
from gwsmm.encoder import Encoder
from gwsmm.recipe import Trainer

if TYPE_CHECKING:
    from torch import Tensor


def validation_logits(
    encoder: Encoder, member: Member, shared: State, trainer: Trainer
) -> "Tensor":
    """[m, L]: the logits of the item's m validation responses.

    Args:
        encoder: of the member.
        member: the item, with the parts that are not given.
        shared: tensors of whole parts, named `trunk.…` and `pooler.…`; of none: the member's own.
        trainer: says where to compute.
    """
    from gwsmm.network import infer

    network = encoder.network(len(member.item.labels))
    for part in ("trunk", "pooler", "head"):
        network.load_part(part, part_of(shared, part) or member.state(part))
    network.to(trainer.device).eval()
    ids = encoder.tokenize(member.item.validation.texts)
    return infer(network, ids, encoder.padding, network)

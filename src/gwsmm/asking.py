"""What a member's network says of texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gwsmm.artefact import Member, State, part_of
from gwsmm.encoder import Encoder

if TYPE_CHECKING:
    from torch import Tensor


def logits_of(
    encoder: Encoder, member: Member, texts: Sequence[str], shared: State, device: str
) -> "Tensor":
    """[n, L]: the logits of n texts.

    Args:
        encoder: of the member.
        member: the item, with the parts that are not given.
        texts: of responses to the item.
        shared: tensors of whole parts, named `trunk.…` and `pooler.…`; of none: the member's own.
        device: where to compute.
    """
    from gwsmm.network import infer

    network = encoder.unfilled(len(member.item.labels))
    for part in ("trunk", "pooler", "head"):
        network.load_part(part, part_of(shared, part) or member.state(part))
    network.to(device).eval()
    return infer(network, encoder.tokenize(texts), encoder.padding, network)

"""The network that scores one item, and how responses are fed to it."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from gwsmm.artefact import Scorer, State, load_state
from gwsmm.batching import Most, batches, padded


class Network(nn.Module):
    """Trunk, optional pooler and head of one item.

    Args:
        trunk: a transformers model without pooling layer; [b, t] token ids to hidden states.
        pooler: dense layer, followed by tanh; None where the vector goes to the head as it is.
        head: linear layer with one output per label.
        pooling: `cls` for the first token, `mean` for the mean over the tokens.
        dropout: between representation and head, in training.
    """

    def __init__(
        self,
        trunk: nn.Module,
        pooler: nn.Linear | None,
        head: nn.Linear,
        *,
        pooling: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.trunk, self.pooler, self.head = trunk, pooler, head
        self.dropout = nn.Dropout(dropout)
        self.pooling = pooling

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits [b, L] of a batch of token ids [b, t] with their attention mask [b, t]."""
        logits: Tensor = self.head(self.dropout(self.represent(ids, mask)))
        return logits

    def represent(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[b, d]: the vectors that the head sees."""
        return self.pooled(self.vector(ids, mask))

    def vector(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[b, d]: the vectors before the pooler, the same for all items that share the trunk."""
        hidden = self.trunk(input_ids=ids, attention_mask=mask).last_hidden_state
        return pool(hidden, mask, self.pooling)

    def pooled(self, vector: Tensor) -> Tensor:
        """[b, d]: what the pooler, if there is one, makes of the trunk's vectors [b, d]."""
        return vector if self.pooler is None else torch.tanh(self.pooler(vector))

    def hidden(self, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
        """[b, t, d]: the hidden states of one layer, counted from the end: -1 is the last."""
        states = self.trunk(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        chosen: Tensor = states.hidden_states[layer]
        return chosen

    def freeze(self, layers: int) -> None:
        """Keep the embeddings and this many of the lowest layers as they are; 0: train all."""
        if layers == 0:
            return
        depth = int(self.trunk.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        stack = next(
            net
            for net in self.trunk.modules()
            if isinstance(net, nn.ModuleList) and len(net) == depth
        )
        # What all layers share stays too: trained, DeBERTa's relative positions move every layer.
        self.trunk.requires_grad_(False)
        stack[layers:].requires_grad_(True)

    def shared_state(self) -> State:
        """A copy of what merging works on: the tensors of trunk and pooler."""
        parts = {"trunk": self.trunk, "pooler": self.pooler}
        return {f"{part}.{k}": v for part, net in parts.items() for k, v in _floats(net)}

    def part_state(self, part: str) -> State:
        """A copy of the tensors of `trunk`, `pooler` or `head`; empty if it has no such part."""
        return dict(_floats(getattr(self, part)))

    def load_scorer(self, scorer: Scorer) -> None:
        """Take over all three parts of what scores an item."""
        self.load_part("trunk", load_state(scorer.trunk, "trunk"))
        self.load_part("pooler", load_state(scorer.pooler, "pooler"))
        self.load_part("head", load_state(scorer.head, "head"))

    def load_part(self, part: str, state: State, *, copy: bool = True) -> None:
        """Take over the tensors of one part; an empty state is that of a part that is not there.

        Args:
            part: `trunk`, `pooler` or `head`.
            state: its tensors by name.
            copy: False: the network holds these very tensors, which may be mapped from a file.
        """
        net: nn.Module | None = getattr(self, part)
        if net is not None:
            # Buffers such as position ids are not weights and are not stored.
            missing, unexpected = net.load_state_dict(dict(state), strict=False, assign=not copy)
            lacking = set(missing) & {name for name, _ in net.named_parameters()}
            if lacking or unexpected:
                raise ValueError(f"{part} lacks {sorted(lacking)} or has unknown {unexpected}")


def _floats(net: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in net.state_dict().items() if net is not None else ():
        if tensor.is_floating_point():
            yield name, tensor.detach().cpu().clone().contiguous()


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """[b, d] from [b, t, d]: the first token's vector (`cls`), or the mean over real tokens."""
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def pad(ids: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Token ids [b, t] padded to the longest of the batch, and their attention mask [b, t]."""
    tokens, mask = padded(ids, filler)
    return torch.from_numpy(tokens), torch.from_numpy(mask)


_ANY_LENGTH = Most()


@torch.no_grad()
def infer(
    network: nn.Module,
    ids: Sequence[Sequence[int]],
    filler: int,
    function: Callable[[Tensor, Tensor], Tensor],
    tick: Callable[[float], None] = lambda fraction: None,
    most: Most = _ANY_LENGTH,
) -> Tensor:
    """Apply `function(ids, mask)` to all responses in batches of like length, without gradients.

    The network stays in the mode that it is in: `network.train()` draws new dropout at every call.

    Args:
        network: says where to compute.
        ids: token ids of each response.
        filler: token id that fills a batch.
        function: of a batch of token ids [b, t] and their attention mask [b, t], gives [b, d].
        tick: takes the fraction of the work that is done.
        most: how large a batch may be.

    Returns:
        [n, d] in the order of `ids`, on the CPU.
    """
    device = next(network.parameters()).device
    order: list[int] = []
    rows: list[Tensor] = []
    for batch in batches(ids, most):
        tokens, mask = pad([ids[i] for i in batch], filler)
        rows.append(function(tokens.to(device), mask.to(device)).float().cpu())
        order += batch
        tick(len(order) / len(ids))
    return torch.cat(rows)[torch.tensor(order).argsort()]

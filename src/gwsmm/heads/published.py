"""Re-tuning of the heads as the authors ran it."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.heads.fitting import Frozen
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PublishedHeads:
    """A few epochs of gradient descent on the linear layer only, from the original head.

    The whole training file is used, validation responses included; the frozen encoder runs with its
    dropout on. At the published learning rate the head hardly moves. For comparison, not for use.

    Attributes:
        learning_rate: 2e-5 published.
        epsilon: of AdamW.
        batch_size: 32 published.
        epochs: 10 published.

    Source: the authors' `model_merge.ipynb`.
    """

    learning_rate: Annotated[float, Field(gt=0)]
    epsilon: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]

    def __call__(self, frozen: Frozen) -> State:
        """Train the head from where it was; see `Heads`."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        from gwsmm.network import pad

        item, network = frozen.member.item, frozen.network
        ids = frozen.encoder.tokenize(item.train.texts + item.validation.texts)
        both = [torch.from_numpy(part.labels) for part in (item.train, item.validation)]
        device = network.head.weight.device
        labels = torch.cat(both).float().to(device)
        network.requires_grad_(False)
        network.head.requires_grad_(True)
        network.train()
        optimizer = torch.optim.AdamW(
            network.head.parameters(), lr=self.learning_rate, eps=self.epsilon, weight_decay=0.0
        )
        for epoch in range(self.epochs):
            for batch in torch.split(torch.randperm(len(ids)), self.batch_size):
                tokens, mask = pad([ids[i] for i in batch.tolist()], frozen.encoder.padding)
                logits = network(tokens.to(device), mask.to(device))
                loss = binary_cross_entropy_with_logits(logits, labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            frozen.tick((epoch + 1) / self.epochs)
        return network.part_state("head")

"""Re-tuning of the heads as the authors ran it."""

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.heads.fitting import Frozen
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PublishedHeads:
    """A few epochs of gradient descent on the linear layer only, from the original head.

    The whole training file is used, validation responses included; the frozen encoder runs with its
    dropout on. At the published learning rate the head hardly moves. For comparison, not for use:
    validation scores are those of responses that were trained on, so whatever is chosen by them
    (`decision`, `objective`, `grouping=validated`) is chosen by scores that are too good.

    Attributes:
        learning_rate: 2e-5 published.
        epsilon: of AdamW.
        batch_size: 32 published.
        epochs: 10 published.

    Source: the authors' `model_merge.ipynb`.
    """

    version: ClassVar[int] = 2

    learning_rate: Annotated[float, Field(gt=0)]
    epsilon: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]

    def __call__(self, frozen: Frozen) -> State:
        """Train the head from where it was; see `Heads`."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        from gwsmm.network import infer

        item, network = frozen.member.item, frozen.network
        ids = frozen.encoder.tokenize(item.train.texts + item.validation.texts)
        both = [torch.from_numpy(part.labels) for part in (item.train, item.validation)]
        device = network.head.weight.device
        labels = torch.cat(both).float().to(device)
        network.train()
        optimizer = torch.optim.AdamW(
            network.head.parameters(), lr=self.learning_rate, eps=self.epsilon, weight_decay=0.0
        )
        for epoch in range(self.epochs):
            # Dropout is drawn for each response by itself, so that batches of like length give what
            # shuffled ones do, with less padding; only the head's steps need the shuffled batches.
            features = infer(network, ids, frozen.encoder.padding, network.represent).to(device)
            for batch in torch.split(torch.randperm(len(ids)), self.batch_size):
                logits = network.head(network.dropout(features[batch]))
                loss = binary_cross_entropy_with_logits(logits, labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            frozen.tick((epoch + 1) / self.epochs)
        return network.part_state("head")

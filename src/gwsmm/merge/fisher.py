"""Fisher-weighted averaging: the member that is sure about a parameter decides on it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.merge.average import Average
from gwsmm.merge.learning import Learners
from gwsmm.merge.merging import PRETRAINED
from gwsmm.merge.reading import step, training_ids
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor

    from gwsmm.network import Network


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Fisher:
    """θ = Σ_i F_i θ_i / Σ_i F_i, entry by entry: the mode of the members' posteriors together.

    Each posterior is taken as normal around θ_i with precision F_i, the diagonal of the member's
    Fisher information on its item's training responses. The labels of a response are independent
    given the model, with probability p_l = σ(z_l); so the expectation over labels that the model
    itself would give is a sum, F = E_x Σ_l p_l (1 − p_l) (∂z_l / ∂θ)², and is computed as such: no
    label is drawn, none is read, the result is exact for the responses that are read. Equal F_i,
    such as those of responses that tell nothing, give the average; equal members are given back.

    Needs texts of training responses and gradients of the members: one backward pass for every
    label of every response. In memory: six encoders, whatever the number of members. Choose it
    where `average` is too coarse and the members differ in how sure they are.

    Attributes:
        normalised: divides each F_i by its root mean square over all tensors that are shared. Sure
            members have small F_i throughout, for p (1 − p) is small; without it the unsure ones
            outweigh them. The authors divide likewise, by the norm.
        floor: the smallest F_i of any entry, after that division: entries that no member's
            responses depend on are averaged.
        responses: of each member, spread evenly over its training responses; None: all.

    Source: Matena and Raffel (2022), "Merging models with Fisher-weighted averaging"; their code
    computes the same expectation for a softmax, and has a floor of 1e-6.
    """

    base: ClassVar[str] = PRETRAINED
    version: ClassVar[int] = 2

    normalised: bool
    floor: Annotated[float, Field(gt=0)]
    responses: Annotated[int, Field(ge=1)] | None

    def learn(self, learners: Learners) -> State:
        """Weigh the members, one at a time; see `LearnedMerge`."""
        group, device = learners.sorted_by_name(), learners.trainer.device
        average = group.merged_by(Average())
        means = {name: FisherMean(tensor, device) for name, tensor in average.items()}
        for i, (member, state) in enumerate(zip(group.members, group.states, strict=True)):
            ids = training_ids(group, member, self.responses)
            tick = step(group.tick, i, len(group.members))
            fisher = information(group.network(member), list(means), ids, tick)
            unit = _root_mean_square(list(fisher.values())) if self.normalised else 1.0
            for name, mean in means.items():
                mean.add(state[name], (fisher.pop(name) / unit).clamp(min=self.floor))
        return {name: mean.solve() for name, mean in means.items()}


class FisherMean:
    """Σ_i F_i θ_i / Σ_i F_i of one tensor, in fp32, taking one member after the other.

    Computed as the distance from a start, so that equal members are given back to the last bit.

    Args:
        start: the mean of the θ_i.
    """

    def __init__(self, start: "Tensor", device: str) -> None:
        import torch

        self._dtype = start.dtype
        self._start = start.to(device, torch.float32)
        self._pull = torch.zeros_like(self._start)
        self._total = torch.zeros_like(self._start)

    def add(self, tensor: "Tensor", fisher: "Tensor") -> None:
        """Take in a member's tensor and its Fisher information, which is positive everywhere."""
        fisher = fisher.to(self._start)
        self._pull += fisher * (tensor.to(self._start) - self._start)
        self._total += fisher

    def solve(self) -> "Tensor":
        """The mean, in the dtype of the start, on the CPU."""
        return (self._start + self._pull / self._total).to(self._dtype).cpu()


def information(
    network: "Network",
    names: Sequence[str],
    ids: Sequence[Sequence[int]],
    tick: Callable[[float], None] = lambda fraction: None,
) -> dict[str, "Tensor"]:
    """E_x Σ_l p_l (1 − p_l) (∂z_l / ∂θ)² of these tensors, under the network's own predictions.

    Zero for tensors that are no parameters or that no logit depends on.

    Args:
        network: in evaluation mode.
        names: of tensors, `trunk.…` or `pooler.…`.
        ids: token ids of each response.
        tick: takes the fraction that is done.
    """
    import torch
    from torch import nn

    from gwsmm.network import pad

    for module in network.modules():
        if isinstance(module, nn.Embedding):
            module.sparse = True  # a response moves a few rows: half of all time went to the others
    tensors = network.state_dict()
    sums = {name: torch.zeros_like(tensors[name], dtype=torch.float32) for name in names}
    own = {name: each for name, each in network.named_parameters() if name in sums}
    device = next(network.parameters()).device
    for n, row in enumerate(ids):
        tokens, mask = pad([row], 0)
        logits = network(tokens.to(device), mask.to(device))[0]
        probability = logits.detach().sigmoid()
        weights = (probability * (1 - probability) / len(ids)).tolist()
        for logit, weight in zip(logits, weights, strict=True):
            slopes = torch.autograd.grad(
                logit, list(own.values()), retain_graph=True, allow_unused=True
            )
            for name, slope in zip(own, slopes, strict=True):
                if slope is not None:
                    _add_square(sums[name], slope, weight)
        tick((n + 1) / len(ids))
    return sums


def _add_square(total: "Tensor", slope: "Tensor", weight: float) -> None:
    if slope.is_sparse:
        rows = slope.coalesce()
        total.index_add_(0, rows.indices()[0], rows.values().square(), alpha=weight)
    else:
        total.addcmul_(slope, slope, value=weight)


def _root_mean_square(tensors: Sequence["Tensor"]) -> float:
    """Over all entries of all tensors; 1 where all are zero, so that it can be divided by."""
    import torch

    squares = sum(
        float(torch.linalg.vector_norm(each, dtype=torch.float64)) ** 2 for each in tensors
    )
    return (squares / sum(each.numel() for each in tensors)) ** 0.5 or 1.0

"""RegMean: every linear layer answers its members' own inputs as they did."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import Member, State
from gwsmm.merge.average import Average
from gwsmm.merge.learning import Learners
from gwsmm.merge.merging import PRETRAINED
from gwsmm.merge.reading import step, training_ids
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RegMean:
    """W = argmin Σ_i ‖X_i Wᵀ − X_i W_iᵀ‖² / n_i = (Σ_i W_i G_i) (Σ_i G_i)⁻¹ for every linear layer.

    X_i [n_i, d] are the inputs of the layer in member i's own encoder, over the tokens of its
    item's training responses without padding, and G_i = X_iᵀ X_i / n_i, so that every item counts
    alike. The entries of G_i off the diagonal are scaled by α: this adds to the loss, entry by
    entry of W, the squared distance from W_i in units of its input, so that what few responses say
    of pairs of inputs is not believed too much. All other tensors (embeddings, LayerNorms, biases)
    are averaged, and so are directions of the inputs that no response has. Equal G_i give the
    average; equal members are given back.

    Needs texts of training responses, no labels, no gradients: one pass of every member over its
    own responses, and one inverse for every layer. In memory: two encoders, and for every layer
    three matrices in double precision, of [in, in] twice and of [out, in]. Choose it where there
    are responses, but no time to train.

    Attributes:
        alpha: α, of the entries off the diagonal; 1: the regression itself.
        responses: of each member, spread evenly over its training responses; None: all.

    Source: Jin et al. (2023), "Dataless knowledge fusion by merging weights of language models",
    algorithm 1; α = 0.9 and, for larger encoders, 0.1, from 1000 responses.
    """

    version: ClassVar[int] = 2
    base: ClassVar[str] = PRETRAINED

    alpha: Annotated[float, Field(ge=0, le=1)]
    responses: Annotated[int, Field(ge=1)] | None

    def learn(self, learners: Learners) -> State:
        """Average, and solve for the linear layers; see `LearnedMerge`."""
        from gwsmm.merge.grams import RegressionMean

        group = learners.sorted_by_name()
        merged = dict(group.merged_by(Average()))
        means: dict[str, RegressionMean] = {}
        for i, (member, state) in enumerate(zip(group.members, group.states, strict=True)):
            tick = step(group.tick, i, len(group.members))
            grams = self._grams(replace(group, tick=tick), member, merged)
            for name in list(grams):
                start = merged[f"{name}.weight"]
                mean = means.setdefault(name, RegressionMean(start, group.trainer.device))
                mean.add(state[f"{name}.weight"], grams.pop(name))
        for name in list(means):
            merged[f"{name}.weight"] = means.pop(name).solve()
        return merged

    def _grams(self, group: Learners, member: Member, shared: State) -> dict[str, "Tensor"]:
        """By linear layer G_i [in, in]; the network is gone from memory afterwards."""
        from gwsmm.merge.grams import linear_layers, second_moments, shrink

        network = group.network(member)
        layers = linear_layers(network, shared)
        ids = training_ids(group, member, self.responses)
        grams = second_moments(network, layers, ids, group.encoder.padding, tick=group.tick)
        for gram in grams.values():
            shrink(gram, self.alpha)
        return grams

"""RegMean: every linear layer answers its members' own inputs as they did."""

from collections.abc import Sequence
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

    from gwsmm.merge.grams import Part


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

    Needs texts of training responses, no labels, no gradients: every member reads its own
    responses, once for every few transformer layers and up to these, and there is one inverse for
    every linear layer. In memory: two encoders, and of these few transformer layers three matrices
    in double precision, of [in, in] twice and of [out, in]. Choose it where there are responses,
    but no time to train.

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
        from gwsmm.merge.grams import RegressionMean, linear_layers, parts, stages

        group = learners.sorted_by_name()
        merged = dict(group.merged_by(Average()))
        ids = [training_ids(group, member, self.responses) for member in group.members]
        network = group.network(group.members[0])
        order = parts(network, stages(network, linear_layers(network, merged), ids[0][0]))
        del network  # every member has its own
        for p, part in enumerate(order):
            starts = {name: merged[f"{name}.weight"] for name in part.layers}
            means = {name: RegressionMean(w, group.trainer.device) for name, w in starts.items()}
            for i, state in enumerate(group.states):
                tick = step(step(group.tick, p, len(order)), i, len(ids))
                grams = self._grams(replace(group, tick=tick), group.members[i], ids[i], part)
                for name, mean in means.items():
                    mean.add(state[f"{name}.weight"], grams.pop(name))
            for name in part.layers:
                merged[f"{name}.weight"] = means.pop(name).solve()
        return merged

    def _grams(
        self, group: Learners, member: Member, ids: Sequence[Sequence[int]], part: "Part"
    ) -> dict[str, "Tensor"]:
        """By linear layer G_i [in, in]; the network is gone from memory afterwards."""
        from gwsmm.merge.grams import second_moments, shrink

        network, filler = group.network(member), group.encoder.padding
        grams = second_moments(network, part.layers, ids, filler, until=part.until, tick=group.tick)
        for gram in grams.values():
            shrink(gram, self.alpha)
        return grams

"""RegMean++: RegMean on the inputs that the merged encoder will give."""

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.merge.average import Average
from gwsmm.merge.learning import Learners
from gwsmm.merge.merging import PRETRAINED
from gwsmm.merge.reading import step, training_ids
from gwsmm.types import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RegMeanPP:
    """`regmean`, layer by layer, each on what the merged layers below it make of the responses.

    RegMean solves for every linear layer as if the layers below it stayed the member's own; in the
    merged encoder they do not, and the errors add up. Here the embeddings are averaged first; then
    the transformer layers are merged from the lowest to the highest, and member i's inputs X_i of
    the linear layers in one of them come from its own layer on top of the merged ones. Everything
    else is as in `regmean`: Gram matrices shrunk by α, other tensors averaged, one inverse for
    every linear layer. Equal members are given back.

    Needs texts of training responses, no labels, no gradients. Every member reads its responses
    once for every transformer layer, up to that layer: for L layers about L / 2 times the passes of
    `regmean`. In memory: two encoders and the matrices of one transformer layer. Choose it instead
    of `regmean` where members differ much or encoders are deep, and there is time.

    Attributes:
        alpha: α, of the entries off the diagonal; 1: the regression itself.
        responses: of each member, spread evenly over its training responses; None: all.

    Source: Nguyen et al. (2025), "RegMean++: Enhancing effectiveness and generalization of
    regression mean for model merging".
    """

    version: ClassVar[int] = 2
    base: ClassVar[str] = PRETRAINED

    alpha: Annotated[float, Field(ge=0, le=1)]
    responses: Annotated[int, Field(ge=1)] | None

    def learn(self, learners: Learners) -> State:
        """Average, and solve for the linear layers from below; see `LearnedMerge`."""
        from gwsmm.merge.grams import (
            RegressionMean,
            linear_layers,
            second_moments,
            shrink,
            stages,
        )

        group, filler = learners.sorted_by_name(), learners.encoder.padding
        merged = dict(group.merged_by(Average()))
        ids = [training_ids(group, member, self.responses) for member in group.members]
        network = group.network(group.members[0], merged)
        order = stages(network, linear_layers(network, merged), ids[0][0])
        for s, stage in enumerate(order):
            inside = [name for name in merged if name.startswith(stage.prefix)]
            starts = {name: merged[f"{name}.weight"] for name in stage.layers}
            means = {name: RegressionMean(w, group.trainer.device) for name, w in starts.items()}
            for i, state in enumerate(group.states):
                network.load_state_dict({name: state[name] for name in inside}, strict=False)
                tick = step(step(group.tick, s, len(order)), i, len(ids))
                grams = second_moments(
                    network, stage.layers, ids[i], filler, until=stage.until, tick=tick
                )
                for name, mean in means.items():
                    shrink(grams[name], self.alpha)
                    mean.add(state[f"{name}.weight"], grams.pop(name))
            merged |= {f"{name}.weight": mean.solve() for name, mean in means.items()}
            network.load_state_dict({name: merged[name] for name in inside}, strict=False)
        return merged

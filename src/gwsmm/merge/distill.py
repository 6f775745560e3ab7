"""Distillation: one shared encoder learns to see each response as its item's own encoder does."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.artefact import State
from gwsmm.encoder import Encoder, Layered
from gwsmm.merge.learning import LearnedMerge, Learners
from gwsmm.merge.merging import Merge
from gwsmm.recipe import Recipe, Settled, Trainer, check_frozen
from gwsmm.types import STRICT

if TYPE_CHECKING:
    from torch import Tensor

    from gwsmm.merge.lesson import Lesson
    from gwsmm.merge.student import Seen, Student
    from gwsmm.scoring import Data, Loss

_STARTING = 0.05  # share of the work that is done with the start, roughly
_READING = 0.1  # and with the teachers' reading


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Distill:
    """θ = argmin mean over all responses x of D(student_θ(x), teacher_i(x)), i the item of x.

    Every member is the teacher of its own item. In a first phase D is the layer-wise error: the
    mean over layers of ‖h_l(x) − h_l^i(x)‖² / v_il, where h_l is the pooled vector of layer l and
    v_il the mean squared distance of teacher i's vectors from their mean, so that 1 is what a
    constant reaches. In the second it is KL(σ(z^i(x)) ‖ σ(z(x))), mean over labels, plus `features`
    times the same error of the vectors that the head sees. The logits z are those of the item's own
    head, which stays as it is; with `private=pooler` so does the item's own pooler.

    Pooled vectors stand for the hidden states of all tokens, which would ask for all teachers in
    memory or for gigabytes of what they see. Teachers read everything once, one after the other;
    their vectors are kept in memory, n · (K + 1) · d floats for n responses and K layers. Batches
    mix items, and the student runs once for a batch. No dropout.

    Looks at the texts of the items' own training responses, never at labels unless its start does;
    each phase ends with the weights of the lowest loss on validation responses, and what is not
    better there than its start is not taken. Needs gradients of one encoder, and about the time of
    fine-tuning all items. Choose it where one encoder must do for many items and a merge without
    data loses too much.

    Attributes:
        start: any other merge; it makes the student to begin with, of the members in the order of
            their names.
        layer_epochs: epochs of the first phase; 0: there is none.
        features: weight of the error of the head's input beside that of the logits.
        recipe: of both phases, with `epochs` of the second and `trunk_dropout: false`; nothing is
            learned at the head's rate.
        seed: of the order of the batches.

    Source: Hinton et al. (2015), "Distilling the knowledge in a neural network"; layer by layer as
    Romero et al. (2015), "FitNets", and in merging Xu et al. (2025), "Scalable model merging with
    progressive layer-wise distillation".
    """

    version: ClassVar[int] = 3

    start: Merge | LearnedMerge
    layer_epochs: Annotated[int, Field(ge=0)]
    features: Annotated[float, Field(ge=0)]
    recipe: Settled
    seed: Annotated[int, Field(ge=0)]

    def __post_init__(self) -> None:
        if self.recipe.trunk_dropout:
            raise ValueError("recipe.trunk_dropout: distillation is without dropout; give false")

    @property
    def base(self) -> str:
        """That of the merge to start from."""
        return self.start.base

    def check(self, encoder: Encoder) -> None:
        """Refuse to freeze more layers than there are."""
        if isinstance(self.start, Layered):
            self.start.check(encoder)
        check_frozen(self.recipe, encoder, "merge.recipe")

    def learn(self, learners: Learners) -> State:
        """Train the shared encoder; see `LearnedMerge`."""
        from gwsmm.merge.lesson import Responses, taught
        from gwsmm.merge.student import student_of

        group = learners.sorted_by_name()
        begin = replace(group, tick=partial(_tick, group.tick, 0.0, _STARTING))
        start, responses = begin.merged_by(self.start), Responses.of(group)
        read = partial(_tick, group.tick, _STARTING, _READING - _STARTING)
        lesson = taught(group, responses, read)
        student = student_of(group, group.members, start, self.recipe.frozen_layers)
        student.head.requires_grad_(False)

        whole, begun = self.layer_epochs + self.recipe.epochs, 0
        phases = (
            (partial(_layer_loss, student, lesson), self.layer_epochs),
            (partial(_logits_loss, student, lesson, self.features), self.recipe.epochs),
        )
        for loss, epochs in phases:
            if epochs:
                recipe = replace(self.recipe, epochs=epochs)
                part = (1 - _READING) / whole
                tick = partial(_tick, group.tick, _READING + part * begun, part * epochs)
                data = responses.data(group, recipe, self.seed)
                _improve(student, loss, data, recipe, group.trainer, tick)
                begun += epochs
        return student.shared_state()


def _layer_loss(
    student: "Student", lesson: "Lesson", ids: "Tensor", mask: "Tensor", rows: "Tensor"
) -> "Tensor":
    wanted = lesson.at(rows)
    seen = student(ids, mask, wanted.items)
    return _errors(seen, wanted)[:, :-1].mean()


def _logits_loss(
    student: "Student",
    lesson: "Lesson",
    features: float,
    ids: "Tensor",
    mask: "Tensor",
    rows: "Tensor",
) -> "Tensor":
    from gwsmm.merge.student import soft_loss

    wanted = lesson.at(rows)
    seen = student(ids, mask, wanted.items)
    loss = soft_loss(student, seen.logits, wanted.probabilities, wanted.items)
    return loss + features * _errors(seen, wanted)[:, -1].mean()


def _errors(seen: "Seen", wanted: "Lesson") -> "Tensor":
    """[b, K + 1]: squared distances from the teacher's vectors, as shares of their spread."""
    return (seen.vectors.float() - wanted.vectors).square().sum(-1) / wanted.spread


def _improve(
    student: "Student",
    loss: "Loss",
    data: "Data",
    recipe: Recipe,
    trainer: Trainer,
    tick: Callable[[float], None],
) -> None:
    """Train to the epoch of lowest validation loss, or not at all if none is below the start's."""
    from gwsmm.scoring import mean_loss, train

    start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    before = mean_loss(loss, data, recipe, trainer)
    curves = train(student, loss, data, recipe, trainer, tick)
    if not min(epoch["validation_loss"] for epoch in curves) < before:  # nor if it is NaN
        student.load_state_dict(start)
    student.to(trainer.device)  # Lightning leaves it on the CPU


def _tick(tick: Callable[[float], None], begun: float, share: float, done: float) -> None:
    tick(begun + share * done)

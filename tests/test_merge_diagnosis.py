"""The diagnosis of a group before its merge: what it refuses, measures and warns of."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gwsmm.artefact import Scorer
from gwsmm.merge.diagnosing import Diagnosing
from gwsmm.merge.diagnosis import Confidence, confidence, diagnose
from gwsmm.merge.matrices import effective_rank
from gwsmm.merge.merging import Group
from gwsmm.network import pad
from gwsmm.private.nothing import Nothing
from gwsmm.recipe import Trainer
from gwsmm.types import InputError

BASE = {
    "trunk.embeddings.weight": torch.zeros(30, 6),
    "trunk.layer.0.weight": torch.zeros(8, 6),
    "trunk.layer.0.bias": torch.zeros(8),
}


def moved(seed, by=1.0):
    draw = torch.Generator().manual_seed(seed)
    return {k: v + by * torch.randn(v.shape, generator=draw) for k, v in BASE.items()}


def diagnosed(members, base=BASE, share=0.5):
    return diagnose(base, members, lambda name: Confidence(entropy=share, of_frequencies=1))


def flat(state):
    return torch.cat([tensor.flatten() for tensor in state.values()]).double().numpy()


def test_norms_are_those_of_the_whole_task_vector():
    members = {"one": moved(1), "two": moved(2, by=2.0)}
    found = diagnosed(members)
    assert found.members == ("one", "two")
    wanted = [np.linalg.norm(flat(state)) for state in members.values()]
    assert found.norms == pytest.approx(wanted)
    assert found.norm_ratio == pytest.approx(wanted[1] / wanted[0])


def test_sign_conflict_by_hand():
    a, b = moved(1), moved(2)
    a["trunk.layer.0.bias"] = torch.zeros(8)  # what did not move has no sign
    found = diagnosed({"a": a, "b": b})
    x, y = flat(a), flat(b)
    opposite, both = x * y < 0, x * y != 0
    assert found.sign_conflict[0][1] == pytest.approx(opposite.sum() / both.sum())
    weights = np.abs(x * y)
    assert found.weighted_sign_conflict[1][0] == pytest.approx(
        weights[opposite].sum() / weights.sum()
    )
    for matrix in (found.sign_conflict, found.weighted_sign_conflict):
        assert np.allclose(matrix, np.transpose(matrix))
        assert np.allclose(np.diag(matrix), 0)


@pytest.mark.parametrize(("factor", "conflict"), [(2.0, 0.0), (-0.5, 1.0)])
def test_parallel_task_vectors_agree_and_opposite_ones_conflict_everywhere(factor, conflict):
    one = moved(1)
    found = diagnosed({"one": one, "two": {k: factor * v for k, v in one.items()}})
    assert found.sign_conflict[0][1] == pytest.approx(conflict)
    assert found.weighted_sign_conflict[0][1] == pytest.approx(conflict)


def test_sums_over_pieces_are_sums_over_the_tensor():
    draw = torch.Generator().manual_seed(0)
    base, one, two = ({"a": torch.randn(900, 601, generator=draw)} for _ in range(3))
    found = diagnosed({"one": one, "two": two}, base)
    x, y = ((each["a"].double() - base["a"].double()) for each in (one, two))
    assert found.norms == pytest.approx([float(x.norm()), float(y.norm())])
    assert found.sign_conflict[0][1] == pytest.approx(float((x * y < 0).double().mean()))


@pytest.mark.parametrize("shape", [(8, 8), (8, 30), (30, 8)])
def test_effective_rank_counts_directions(shape):
    u = torch.linalg.qr(torch.randn(shape[0], 8, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(shape[1], 8, dtype=torch.float64))[0]
    for rank in (1, 3, 8):
        assert effective_rank(5 * u[:, :rank] @ v[:, :rank].T) == pytest.approx(rank, rel=1e-5)
    s = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.25, 0.125, 0.125))
    assert effective_rank(u[:, :4] * s @ v[:, :4].T) == pytest.approx(math.exp(entropy), rel=1e-5)
    assert effective_rank(torch.zeros(shape, dtype=torch.float64)) == 0


def test_effective_ranks_are_told_for_every_linear_layer_and_member():
    line = {**BASE, "trunk.layer.0.weight": torch.ones(8, 6)}
    found = diagnosed({"one": moved(1), "two": line})
    assert list(found.effective_ranks) == ["trunk.layer.0.weight"]
    random, one = found.effective_ranks["trunk.layer.0.weight"]
    assert one == pytest.approx(1)
    assert 3 < random <= 6


@pytest.mark.parametrize(("by", "warns"), [(2.9, False), (3.1, True)])
def test_norms_over_three_times_apart_are_warned_of_with_the_remedy(by, warns):
    one = moved(1)
    members = {"short": one, "long": {k: by * v for k, v in one.items()}}
    found = diagnosed(members)
    assert bool(found.warnings) == warns
    for line in found.warnings:
        assert "moved long 3.1 times as far as short" in line
        assert "finetune.learning_rate" in line
        assert "\n" not in line


def test_members_that_equal_the_base_have_no_ratio():
    for members in ({"a": BASE, "b": moved(1)}, {"a": BASE, "b": BASE}):
        found = diagnosed(members)
        assert found.norm_ratio == 1
        assert found.warnings == ()
        assert found.sign_conflict[0][1] == 0
        json.loads(found.to_json())


def refused(base, members, *words):
    with pytest.raises(InputError) as error:
        diagnosed(members, base)
    line = str(error.value)
    assert all(word in line for word in words), line
    assert "\n" not in line


def test_a_tensor_that_one_lacks_is_named_with_both():
    one, two = moved(1), moved(2)
    lacking = {k: v for k, v in two.items() if k != "trunk.layer.0.bias"}
    refused(BASE, {"one": one, "two": lacking}, "trunk.layer.0.bias", "item one", "item two")
    base = {k: v for k, v in BASE.items() if k != "trunk.layer.0.bias"}
    rest = {k: v for k, v in one.items() if k in base}
    refused(base, {"one": rest, "two": two}, "trunk.layer.0.bias", "item two")
    more = {**two, "trunk.layer.1.bias": torch.zeros(8)}
    both = {"one": {**one, "trunk.layer.1.bias": torch.zeros(8)}, "two": more}
    refused(BASE, both, "trunk.layer.1.bias")


def test_a_tensor_of_another_shape_is_named_with_both_items():
    other = {**moved(2), "trunk.layer.0.weight": torch.zeros(6, 8)}
    other_base = {**BASE, "trunk.layer.0.weight": torch.zeros(6, 8)}
    refused(BASE, {"one": moved(1), "two": other}, "trunk.layer.0.weight", "(8, 6)", "(6, 8)")
    refused(other_base, {"two": other, "one": moved(1)}, "item one")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_by_item_and_tensor(bad):
    broken = {k: v.clone() for k, v in moved(2).items()}
    broken["trunk.layer.0.weight"][3, 2] = bad
    refused(BASE, {"one": moved(1), "two": broken}, "item two", "trunk.layer.0.weight", "1 of 48")
    refused(broken, {"one": moved(1), "two": moved(2)}, "the base", "trunk.layer.0.weight")


# How sure the models are


def test_confidence_by_hand():
    p = np.array([[0.5, 1.0], [0.0, 0.25]])
    labels = np.array([[1, 0], [0, 0], [0, 0], [1, 0]], dtype=np.uint8)
    found = confidence(p, labels)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found.entropy == pytest.approx((math.log(2) + quarter) / 4)
    assert found.of_frequencies == pytest.approx(math.log(2) / 2)
    assert found.share == pytest.approx((math.log(2) + quarter) / 2 / math.log(2))
    assert confidence(p, 0 * labels).share == 0  # nothing to be unsure of


@pytest.mark.parametrize(("share", "warns"), [(0.79, False), (0.81, True)])
def test_models_that_are_unsure_are_warned_of_with_the_remedy(share, warns):
    found = diagnosed({"one": moved(1), "two": moved(2)}, share=share)
    assert len(found.warnings) == 2 * warns
    for name, line in zip(("one", "two"), found.warnings, strict=False):
        assert f"the model of {name} is hardly surer" in line
        assert "81%" in line
        assert "finetune.epochs" in line
        assert "\n" not in line


# Through the stage


def stage(encoder, base="pretrained"):
    trainer = Trainer(accelerator="cpu", devices=1, strategy="auto")
    return Diagnosing(encoder=encoder, base=base, private=Nothing(), trainer=trainer)


def test_the_stage_writes_what_it_sees_of_weights_and_models(
    tiny, make_item, make_member, tmp_path
):
    group = [
        make_member(tiny, make_item(name), tmp_path, seed=i, noise=noise)
        for i, (name, noise) in enumerate([("calm", 0.01), ("wild", 0.1)])
    ]
    (tmp_path / "out").mkdir()
    stage(tiny)(Group(tuple(group), None), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert found["members"] == ["calm", "wild"]
    assert found["norm_ratio"] == pytest.approx(10, rel=0.01)
    assert "moved wild" in found["warnings"][0]
    assert found["sign_conflict"][0][1] == pytest.approx(0.5, abs=0.02)  # independent noise
    for member, sure in zip(group, found["confidences"], strict=True):
        network = tiny.network(len(member.item.labels))
        network.load_scorer(Scorer(*[member.made] * 3))
        ids, mask = pad(tiny.tokenize(member.item.validation.texts), tiny.padding)
        with torch.no_grad():
            p = network.eval()(ids, mask).sigmoid().double().numpy()
        entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()
        assert sure["entropy"] == pytest.approx(entropy, rel=1e-4)


@pytest.mark.parametrize("base", ["pretrained", "group_mean"])
def test_encoders_of_different_size_are_refused(tiny, make_item, make_member, tmp_path, base):
    wide = replace(tiny, random={**tiny.random, "intermediate_size": 96})
    group = [
        make_member(encoder, make_item(name), tmp_path, seed=1)
        for name, encoder in (("narrow", tiny), ("wide", wide))
    ]
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"item wide .*cannot be merged: the tensor trunk\."):
        stage(tiny, base)(Group(tuple(group), None), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.json"))

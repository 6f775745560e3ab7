"""The diagnosis of a group before its merge: what it refuses, measures and warns of."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gwsmm.merge.average import Average
from gwsmm.merge.diagnosis import diagnose
from gwsmm.merge.matrices import effective_rank
from gwsmm.merge.merging import Group, Merging
from gwsmm.private.nothing import Nothing
from gwsmm.types import InputError

BASE = {
    "trunk.embeddings.weight": torch.zeros(30, 6),
    "trunk.layer.0.weight": torch.zeros(8, 6),
    "trunk.layer.0.bias": torch.zeros(8),
}


def moved(seed, by=1.0):
    draw = torch.Generator().manual_seed(seed)
    return {k: v + by * torch.randn(v.shape, generator=draw) for k, v in BASE.items()}


def flat(state):
    return torch.cat([tensor.flatten() for tensor in state.values()]).double().numpy()


def test_norms_are_those_of_the_whole_task_vector():
    members = {"one": moved(1), "two": moved(2, by=2.0)}
    found = diagnose(BASE, members)
    assert found.members == ("one", "two")
    wanted = [np.linalg.norm(flat(state)) for state in members.values()]
    assert found.norms == pytest.approx(wanted)
    assert found.norm_ratio == pytest.approx(wanted[1] / wanted[0])


def test_sign_conflict_by_hand():
    a, b = moved(1), moved(2)
    a["trunk.layer.0.bias"] = torch.zeros(8)  # what did not move has no sign
    found = diagnose(BASE, {"a": a, "b": b})
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
    found = diagnose(BASE, {"one": one, "two": {k: factor * v for k, v in one.items()}})
    assert found.sign_conflict[0][1] == pytest.approx(conflict)
    assert found.weighted_sign_conflict[0][1] == pytest.approx(conflict)


def test_sums_over_pieces_are_sums_over_the_tensor():
    draw = torch.Generator().manual_seed(0)
    base, one, two = ({"a": torch.randn(900, 601, generator=draw)} for _ in range(3))
    found = diagnose(base, {"one": one, "two": two})
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
    found = diagnose(BASE, {"one": moved(1), "two": line})
    assert list(found.effective_ranks) == ["trunk.layer.0.weight"]
    random, one = found.effective_ranks["trunk.layer.0.weight"]
    assert one == pytest.approx(1)
    assert 3 < random <= 6


@pytest.mark.parametrize(("by", "warns"), [(2.9, False), (3.1, True)])
def test_norms_over_three_times_apart_are_warned_of_with_the_remedy(by, warns):
    one = moved(1)
    members = {"short": one, "long": {k: by * v for k, v in one.items()}}
    found = diagnose(BASE, members)
    assert bool(found.warnings) == warns
    for line in found.warnings:
        assert "moved long 3.1 times as far as short" in line
        assert "finetune.learning_rate" in line
        assert "\n" not in line


def test_members_that_equal_the_base_have_no_ratio():
    for members in ({"a": BASE, "b": moved(1)}, {"a": BASE, "b": BASE}):
        found = diagnose(BASE, members)
        assert found.norm_ratio == 1
        assert found.warnings == ()
        assert found.sign_conflict[0][1] == 0
        json.loads(found.to_json())


def refused(base, members, *words):
    with pytest.raises(InputError) as error:
        diagnose(base, members)
    line = str(error.value)
    assert all(word in line for word in words), line
    assert "\n" not in line


def test_a_tensor_that_one_lacks_is_named_with_both():
    one, two = moved(1), moved(2)
    lacking = {k: v for k, v in two.items() if k != "trunk.layer.0.bias"}
    refused(BASE, {"one": one, "two": lacking}, "trunk.layer.0.bias", "the base", "item two")
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


# Through the stage


def test_the_diagnosis_is_kept_beside_the_merge_and_its_warning_is_logged(
    tiny, make_item, make_member, tmp_path, caplog
):
    group = [
        make_member(tiny, make_item(name), tmp_path, seed=i, noise=noise)
        for i, (name, noise) in enumerate([("calm", 0.01), ("wild", 0.1)])
    ]
    (tmp_path / "out").mkdir()
    Merging(encoder=tiny, merge=Average(), private=Nothing())(
        Group(tuple(group), None), tmp_path / "out"
    )
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert found["members"] == ["calm", "wild"]
    assert found["norm_ratio"] == pytest.approx(10, rel=0.01)
    assert found["warnings"][0] in caplog.text
    assert found["sign_conflict"][0][1] == pytest.approx(0.5, abs=0.02)  # independent noise


def test_encoders_of_different_size_are_not_merged(tiny, make_item, make_member, tmp_path):
    wide = replace(tiny, random={**tiny.random, "intermediate_size": 96})
    group = [
        make_member(encoder, make_item(name), tmp_path, seed=1)
        for name, encoder in (("narrow", tiny), ("wide", wide))
    ]
    (tmp_path / "out").mkdir()
    stage = Merging(encoder=tiny, merge=Average(), private=Nothing())
    with pytest.raises(InputError, match=r"item wide cannot be merged: the tensor trunk\."):
        stage(Group(tuple(group), None), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))

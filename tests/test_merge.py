"""Merging: the authors' TIES as a golden value, and what every strategy must keep to."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from gwsmm.merge.average import Average
from gwsmm.merge.merging import (
    FIRST_ITEM,
    GROUP_MEAN,
    PRETRAINED,
    Group,
    Merging,
    check_base,
    group_for,
)
from gwsmm.merge.published import Published
from gwsmm.merge.ties import Ties, trim
from gwsmm.merge.weighted import Weighted
from gwsmm.private.nothing import Nothing
from gwsmm.private.pooler import Pooler
from gwsmm.types import InputError

SHAPES = {
    "trunk.embeddings.weight": (11, 4),
    "trunk.layer.bias": (7,),
    "trunk.scale": (),
    "pooler.weight": (4, 4),
    "pooler.bias": (4,),
}
SIZES = [120, 40, 300]
TIES = Ties(density=0.3, scale=0.5, base=PRETRAINED)
AUTHORS = Published(density=0.3, scale=0.5, largest_group=3)


def state(seed, dtype=torch.float32, steps=None):
    """Random tensors; with `steps`, on a grid of that many values, so that magnitudes tie."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {k: torch.randn(shape, generator=generator) for k, shape in SHAPES.items()}
    if steps:
        drawn = {k: (v * steps).round() / steps for k, v in drawn.items()}
    return {k: v.to(dtype) for k, v in drawn.items()}


def assert_close(one, other, tolerance=1e-6):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        got, wanted = np.asarray(tensor.float()), np.asarray(torch.as_tensor(other[name]).float())
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance, err_msg=name)


def ties_by_hand(base, states, density, scale):
    """The authors' `model_merge.ipynb` in plain numpy and double precision."""
    merged = {}
    for name, start in base.items():
        origin = start.numpy().astype(np.float64).ravel()
        trimmed = []
        for other in states:
            tau = other[name].numpy().astype(np.float64).ravel() - origin
            threshold = np.sort(np.abs(tau))[::-1][math.ceil(len(tau) * density) - 1]
            trimmed.append(np.where(np.abs(tau) >= threshold, tau, 0.0))
        elected = np.sign(np.round(sum(trimmed), 9))
        total, count = np.zeros_like(origin), np.zeros_like(origin)
        for tau in trimmed:
            agrees = (np.sign(tau) == elected) & (tau != 0)
            total[agrees] += tau[agrees]
            count[agrees] += 1
        mean = total / np.clip(count, 1, None)
        merged[name] = (origin + scale * mean).reshape(tuple(start.shape))
    return merged


@pytest.mark.parametrize("steps", [None, 4], ids=["distinct", "tied magnitudes"])
def test_published_merge_is_the_authors_calculation(steps):
    base, states = state(0, steps=steps), [state(s, steps=steps) for s in (1, 2, 3)]
    assert_close(AUTHORS(base, states, SIZES), ties_by_hand(base, states, 0.3, 0.5))


def test_the_first_item_adds_nothing_to_the_merge_of_its_own_group():
    first, others = state(0), [state(1), state(2)]
    merged = AUTHORS(first, [first, *others], SIZES)
    assert_close(merged, AUTHORS(first, others, SIZES[:2]))
    moved = (merged["trunk.embeddings.weight"] != first["trunk.embeddings.weight"]).float().mean()
    assert 0.3 < moved <= 0.65  # two members, each on three tenths of the entries


def test_published_merge_ignores_whoever_comes_after_the_third(caplog):
    base, states = state(0), [state(s) for s in range(1, 6)]
    merged = AUTHORS(base, states, [1] * 5)
    assert "only the first 3 of 5" in caplog.text
    assert_close(merged, AUTHORS(base, states[:3], [1] * 3), 0)
    changed = AUTHORS(base, [states[4], *states[1:4], states[0]], [1] * 5)
    assert not torch.equal(merged["pooler.weight"], changed["pooler.weight"])


@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.999, 1.0])
def test_trimming_keeps_the_largest(density):
    tau = torch.randn(101, generator=torch.Generator().manual_seed(5))
    kept = trim(tau, density)
    assert int((kept != 0).sum()) == math.ceil(101 * density)
    assert torch.equal(kept[kept != 0], tau[kept != 0])
    largest = tau.abs().sort(descending=True).values[: math.ceil(101 * density)]
    assert torch.equal(kept[kept != 0].abs().sort(descending=True).values, largest)


def test_trimming_keeps_every_tie():
    tied = torch.tensor([1.0, -1.0, 1.0, 0.5, 0.25])
    assert trim(tied, 0.2).tolist() == [1.0, -1.0, 1.0, 0.0, 0.0]


def test_ties_around_agreeing_members_at_full_density_is_the_mean():
    base, states = state(0), []
    for seed in (1, 2, 3):
        states.append({k: base[k] + v.abs() + 0.01 for k, v in state(seed).items()})
    merged = Ties(density=1.0, scale=1.0, base=PRETRAINED)(base, states, SIZES)
    assert_close(merged, Average()(base, states, SIZES))


def test_ties_goes_lambda_of_the_way():
    base, states = state(0), [state(1), state(2)]
    once, twice = (replace(TIES, scale=s)(base, states, [1, 1]) for s in (0.4, 0.8))
    for name in base:
        torch.testing.assert_close(2 * (once[name] - base[name]), twice[name] - base[name])


def test_weighted_mean_by_hand():
    states = [state(1), state(2)]
    merged = Weighted(power=1.0)({}, states, [30, 10])
    assert_close(merged, {k: 0.75 * states[0][k] + 0.25 * states[1][k] for k in SHAPES})
    root = Weighted(power=0.5)({}, states, [90, 10])
    assert_close(root, {k: 0.75 * states[0][k] + 0.25 * states[1][k] for k in SHAPES})
    assert_close(Weighted(power=0.0)({}, states, [30, 10]), Average()({}, states, [30, 10]))


@pytest.mark.parametrize("mean", [Average(), Weighted(power=1.0)], ids=["average", "weighted"])
def test_the_mean_of_equal_members_is_that_member_whatever_the_base(mean):
    assert_close(mean(state(0), [state(1)] * 3, SIZES), state(1))


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@DTYPES
def test_members_that_equal_the_base_give_the_base(any_merge, dtype):
    base = state(0, dtype)
    assert_close(any_merge(base, [state(0, dtype)] * 3, SIZES), base, torch.finfo(dtype).eps)


@DTYPES
def test_a_merge_keeps_names_shapes_and_dtypes_and_is_finite(any_merge, dtype):
    merged = any_merge(state(0, dtype), [state(s, dtype) for s in (1, 2, 3)], SIZES)
    assert {k: tuple(v.shape) for k, v in merged.items()} == SHAPES
    assert {v.dtype for v in merged.values()} == {dtype}
    assert all(v.isfinite().all() for v in merged.values())


def test_a_merge_in_half_precision_is_that_in_full_rounded_once(any_merge):
    half = [state(s, torch.bfloat16) for s in range(4)]
    full = [{k: v.float() for k, v in each.items()} for each in half]
    merged, exact = (any_merge(s[0], s[1:], SIZES) for s in (half, full))
    assert_close(merged, {k: v.bfloat16() for k, v in exact.items()}, 0)


def test_the_order_of_the_members_does_not_matter(any_merge):
    base, states = state(0), [state(s) for s in (1, 2, 3)]
    merged = any_merge(base, states, SIZES)
    for order in ([2, 0, 1], [1, 0, 2]):
        again = any_merge(base, [states[i] for i in order], [SIZES[i] for i in order])
        assert_close(again, merged)


def test_a_merge_depends_on_every_member_of_three(any_merge):
    base, states = state(0), [state(s) for s in (1, 2, 3)]
    merged = any_merge(base, states, SIZES)
    for i in range(3):
        others = [*states[:i], state(9), *states[i + 1 :]]
        changed = any_merge(base, others, SIZES)
        assert any(not torch.equal(changed[k], merged[k]) for k in SHAPES)


def test_what_is_merged_is_not_changed(any_merge):
    base, states = state(0), [state(s) for s in (1, 2, 3)]
    first = any_merge(base, states, SIZES)
    assert_close(base, state(0), 0)
    for seed, each in zip((1, 2, 3), states, strict=True):
        assert_close(each, state(seed), 0)
    for name, tensor in first.items():  # nor does the result share memory with what went in
        tensor.fill_(7.0)
        assert all(not torch.equal(each[name], tensor) for each in (base, *states))


@pytest.mark.parametrize(
    "wrong", [{"density": 0.0}, {"density": 1.1}, {"scale": 0.0}, {"lamda": 1}]
)
def test_ties_refuses_what_is_out_of_range(wrong):
    with pytest.raises(ValidationError):
        Ties(**({"density": 0.3, "scale": 1.0, "base": PRETRAINED} | wrong))


# The stage, through real files.


@pytest.fixture(scope="module")
def members(tiny, make_item, make_member, tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    sizes = {"one": 30, "two": 20, "three": 50}
    return [make_member(tiny, make_item(name, n=n), folder, seed=n) for name, n in sizes.items()]


def full(member, parts=("trunk", "pooler")):
    return {f"{part}.{k}": v for part in parts for k, v in member.state(part).items()}


def carried(folder, parts=("trunk", "pooler")):
    files = {part: load_file(folder / f"{part}.safetensors") for part in parts}
    return {f"{part}.{k}": v for part, tensors in files.items() for k, v in tensors.items()}


def test_the_paper_merges_trunk_and_pooler_around_the_first_item(
    tiny, members, configured, tmp_path
):
    merge = configured("merge", "experiment=paper")
    stage = Merging(encoder=tiny, merge=merge, private=configured("private", "experiment=paper"))
    stage(group_for(merge, members[1:], members), tmp_path)
    wanted = ties_by_hand(full(members[0]), [full(m) for m in members[1:]], 0.3, 0.5)
    assert_close(carried(tmp_path), wanted)


def base_of(name, tiny, members):
    if name == PRETRAINED:
        return dict(tiny.pretrained())
    return full({FIRST_ITEM: members[0], "three": members[2]}[name])


@pytest.mark.parametrize("base", [PRETRAINED, FIRST_ITEM, "three"])
def test_task_vectors_start_where_the_strategy_says(base, tiny, members, tmp_path):
    merge = replace(TIES, base=base)
    stage = Merging(encoder=tiny, merge=merge, private=Nothing())
    stage(group_for(merge, members[1:], members), tmp_path)
    states = [full(member) for member in members[1:]]
    assert_close(carried(tmp_path), ties_by_hand(base_of(base, tiny, members), states, 0.3, 0.5))


@pytest.mark.parametrize("n", [2, 3])
def test_around_the_group_mean_untrimmed_task_vectors_cancel(n, tiny, members, tmp_path):
    merge = Ties(density=1.0, scale=1.0, base=GROUP_MEAN)
    stage = Merging(encoder=tiny, merge=merge, private=Nothing())
    stage(group_for(merge, members[:n], members), tmp_path)
    states = [full(member) for member in members[:n]]
    assert_close(carried(tmp_path), {k: sum(s[k] for s in states) / n for k in states[0]})


def test_a_merge_weighs_by_training_responses(tiny, members, tmp_path):
    merge = Weighted(power=1.0)
    stage = Merging(encoder=tiny, merge=merge, private=Nothing())
    stage(group_for(merge, members[:2], members), tmp_path)
    one, two = full(members[0]), full(members[1])
    assert_close(carried(tmp_path), {k: 0.6 * one[k] + 0.4 * two[k] for k in one})


def test_exactly_the_shared_parts_are_written(any_private, any_merge, tiny, members, tmp_path):
    stage = Merging(encoder=tiny, merge=any_merge, private=any_private)
    stage(group_for(any_merge, members, members), tmp_path)
    written = {path.stem for path in tmp_path.glob("*.safetensors")}
    assert written == set(any_private.shared_parts)


def test_a_private_pooler_leaves_the_trunk_as_it_is_without(any_merge, tiny, members, tmp_path):
    trunks = []
    for private in (Nothing(), Pooler()):
        folder = tmp_path / type(private).__name__
        folder.mkdir()
        stage = Merging(encoder=tiny, merge=any_merge, private=private)
        stage(group_for(any_merge, members, members), folder)
        trunks.append((folder / "trunk.safetensors").read_bytes())
    assert trunks[0] == trunks[1]


def test_an_encoder_without_pooler_merges_without(tiny, make_item, make_member, tmp_path):
    plain = replace(tiny, pooler=False)
    group = [make_member(plain, make_item(name), tmp_path, seed=1) for name in ("a", "b")]
    (tmp_path / "out").mkdir()
    Merging(encoder=plain, merge=TIES, private=Nothing())(
        Group(tuple(group), None), tmp_path / "out"
    )
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["trunk.safetensors"]


def test_group_for_anchors_only_where_the_base_is_an_item(members):
    def anchor(base):
        return group_for(replace(TIES, base=base), members[1:], members).anchor

    assert (anchor(PRETRAINED), anchor(GROUP_MEAN)) == (None, None)
    assert anchor(FIRST_ITEM) is members[0]
    assert anchor("three") is members[2]


def test_a_base_that_is_no_item_is_refused_by_name():
    names = ["one", "two"]
    for base in (PRETRAINED, GROUP_MEAN, FIRST_ITEM, "two"):
        check_base(replace(TIES, base=base), names)
    with pytest.raises(InputError) as error:
        check_base(replace(TIES, base="tow"), names)
    line = str(error.value)
    assert line.startswith("merge.base=tow: ")
    assert all(word in line for word in ("group_mean", "one, two"))
    assert "\n" not in line


def test_every_shipped_merge_has_a_base_that_any_items_have(any_merge):
    check_base(any_merge, ["some item", "another"])

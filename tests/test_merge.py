"""Merging: the authors' TIES as a golden value, and what every strategy must keep to."""

import ctypes
import gc
import math
import re
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from gwsmm.merge.average import Average
from gwsmm.merge.dare import Dare
from gwsmm.merge.frozen import Frozen
from gwsmm.merge.iso import Iso
from gwsmm.merge.matrices import is_matrix
from gwsmm.merge.merging import (
    GROUP_MEAN,
    PRETRAINED,
    Group,
    Merging,
    check_base,
    group_for,
    weighted_mean,
)
from gwsmm.merge.published import Published, warn_of_truncation
from gwsmm.merge.task_arithmetic import TaskArithmetic
from gwsmm.merge.ties import Ties, smallest_kept, trim
from gwsmm.merge.tsv import Tsv
from gwsmm.merge.weighted import Weighted
from gwsmm.merge.wudi import Wudi
from gwsmm.private.nothing import Nothing
from gwsmm.private.pooler import Pooler
from gwsmm.recipe import Trainer
from gwsmm.types import InputError

CPU = Trainer(accelerator="cpu", devices=1, strategy="auto")
SHAPES = {
    "trunk.embeddings.weight": (11, 4),
    "trunk.layer.bias": (7,),
    "trunk.scale": (),
    "pooler.weight": (4, 4),
    "pooler.bias": (4,),
    "trunk.layer.0.weight": (9, 6),
    "trunk.layer.3.weight": (6, 9),
}
SIZES = [120, 40, 300]
TIES = Ties(density=0.3, scale=0.5, base=PRETRAINED)
AUTHORS = Published(density=0.3, scale=0.5, largest_group=3)
SUM = TaskArithmetic(scale=1.0, layers=None, base=PRETRAINED)
TSV = Tsv(scale=1.0, base=PRETRAINED)
ISO = Iso(scale=1.0, common=1.0, base=PRETRAINED)
WUDI = Wudi(scale=1.0, steps=None, learning_rate=1e-5, base=PRETRAINED)


def state(seed, dtype=torch.float32, steps=None):
    """Random tensors; with `steps`, on a grid of that many values, so that magnitudes tie."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {k: torch.randn(shape, generator=generator) for k, shape in SHAPES.items()}
    if steps:
        drawn = {k: (v * steps).round() / steps for k, v in drawn.items()}
    return {k: v.to(dtype) for k, v in drawn.items()}


def merged_by(merge, base, states, sizes=SIZES):
    """The whole state, merged in memory."""
    return {n: merge(n, base[n], [state[n] for state in states], sizes) for n in states[0]}


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


@pytest.mark.parametrize("density", [0.3, 1.0])  # at 1.0: the mean of those that agree in sign
@pytest.mark.parametrize("steps", [None, 4], ids=["distinct", "tied magnitudes"])
def test_published_merge_is_the_authors_calculation(steps, density):
    base, states = state(0, steps=steps), [state(s, steps=steps) for s in (1, 2, 3)]
    merged = merged_by(replace(AUTHORS, density=density), base, states)
    assert_close(merged, ties_by_hand(base, states, density, 0.5))


def test_the_first_item_adds_nothing_to_the_merge_of_its_own_group():
    first, others = state(0), [state(1), state(2)]
    merged = merged_by(AUTHORS, first, [first, *others])
    assert_close(merged, merged_by(AUTHORS, first, others, SIZES[:2]))
    moved = (merged["trunk.embeddings.weight"] != first["trunk.embeddings.weight"]).float().mean()
    assert 0.3 < moved <= 0.65  # two members, each on three tenths of the entries


def test_published_merge_ignores_whoever_comes_after_the_third(caplog):
    warn_of_truncation.cache_clear()
    base, states = state(0), [state(s) for s in range(1, 6)]
    merged = merged_by(AUTHORS, base, states, [1] * 5)
    assert caplog.text.count("only the first 3 of 5") == 1
    assert_close(merged, merged_by(AUTHORS, base, states[:3], [1] * 3), 0)
    changed = merged_by(AUTHORS, base, [states[4], *states[1:4], states[0]], [1] * 5)
    assert not torch.equal(merged["pooler.weight"], changed["pooler.weight"])


@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.999, 1.0])
def test_trimming_keeps_the_largest(density):
    tau = torch.randn(101, generator=torch.Generator().manual_seed(5))
    kept = trim(tau, smallest_kept(tau, density))
    assert int((kept != 0).sum()) == math.ceil(101 * density)
    assert torch.equal(kept[kept != 0], tau[kept != 0])
    largest = tau.abs().sort(descending=True).values[: math.ceil(101 * density)]
    assert torch.equal(kept[kept != 0].abs().sort(descending=True).values, largest)


def test_trimming_keeps_every_tie():
    tied = torch.tensor([1.0, -1.0, 1.0, 0.5, 0.25])
    assert trim(tied, smallest_kept(tied, 0.2)).tolist() == [1.0, -1.0, 1.0, 0.0, 0.0]


def test_ties_around_agreeing_members_at_full_density_is_the_mean():
    base, states = state(0), []
    for seed in (1, 2, 3):
        states.append({k: base[k] + v.abs() + 0.01 for k, v in state(seed).items()})
    merged = merged_by(Ties(density=1.0, scale=1.0, base=PRETRAINED), base, states)
    assert_close(merged, merged_by(Average(), base, states))


def test_ties_goes_lambda_of_the_way():
    base, states = state(0), [state(1), state(2)]
    once, twice = (merged_by(replace(TIES, scale=s), base, states) for s in (0.4, 0.8))
    for name in base:
        torch.testing.assert_close(2 * (once[name] - base[name]), twice[name] - base[name])


def test_weighted_mean_by_hand():
    base, states = state(0), [state(1), state(2)]
    merged = merged_by(Weighted(power=1.0), base, states, [30, 10])
    assert_close(merged, {k: 0.75 * states[0][k] + 0.25 * states[1][k] for k in SHAPES})
    root = merged_by(Weighted(power=0.5), base, states, [90, 10])
    assert_close(root, {k: 0.75 * states[0][k] + 0.25 * states[1][k] for k in SHAPES})
    plain = merged_by(Weighted(power=0.0), base, states, [30, 10])
    assert_close(plain, merged_by(Average(), base, states))


def test_a_weight_does_not_overflow_and_its_power_may_be_any():
    base, states = state(0), [state(1), state(2)]
    assert_close(merged_by(Weighted(power=200.0), base, states, [1200, 900]), states[0])


def test_a_factor_of_a_layer_is_finite():
    with pytest.raises(ValidationError):
        replace(SUM, layers={0: math.inf})


THIRD = TaskArithmetic(scale=1 / 3, layers=None, base=PRETRAINED)


def whole(merge, members):
    """The merge where it thins nothing and goes all the way of this many members."""
    settings = {"density": 1.0, "scale": 1 / members if isinstance(merge, TaskArithmetic) else 1.0}
    if isinstance(merge, Dare):
        settings["then"] = whole(merge.then, members)
    own = {field.name for field in fields(merge)}
    return replace(merge, **{name: value for name, value in settings.items() if name in own})


# Who does not promise it; every other merge in conf/ is held to it.
NOT_OF_ONE = {
    Frozen: "a reference: depends on no member",
    Iso: "flattens the spectrum of a single task matrix, too",
}
NOT_OF_EQUALS = NOT_OF_ONE | {Tsv: "gives 1/T of the singular values of T equal members"}


def test_equal_members_give_that_member(any_merge):
    if reason := NOT_OF_EQUALS.get(type(any_merge)):
        pytest.skip(reason)
    merged = merged_by(whole(any_merge, 3), state(0), [state(1)] * 3)
    assert_close(merged, state(1), 2e-6)


def test_a_group_of_one_gives_its_member(any_merge):
    if reason := NOT_OF_ONE.get(type(any_merge)):
        pytest.skip(reason)
    merged = merged_by(whole(any_merge, 1), state(0), [state(1)], [7])
    assert_close(merged, state(1), 2e-6)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@DTYPES
def test_members_that_equal_the_base_give_the_base(any_merge, dtype):
    base = state(0, dtype)
    merged = merged_by(any_merge, base, [state(0, dtype)] * 3)
    assert_close(merged, base, torch.finfo(dtype).eps)


@DTYPES
def test_a_merge_keeps_names_shapes_and_dtypes_and_is_finite(any_merge, dtype):
    merged = merged_by(any_merge, state(0, dtype), [state(s, dtype) for s in (1, 2, 3)])
    assert {k: tuple(v.shape) for k, v in merged.items()} == SHAPES
    assert {v.dtype for v in merged.values()} == {dtype}
    assert all(v.isfinite().all() for v in merged.values())


def test_a_merge_in_half_precision_is_that_in_full_rounded_once(any_merge):
    half = [state(s, torch.bfloat16) for s in range(4)]
    full = [{k: v.float() for k, v in each.items()} for each in half]
    merged, exact = (merged_by(any_merge, s[0], s[1:]) for s in (half, full))
    assert_close(merged, {k: v.bfloat16() for k, v in exact.items()}, 0)


def test_the_order_of_the_members_does_not_matter(any_merge):
    base, states = state(0), [state(s) for s in (1, 2, 3)]
    merged = merged_by(any_merge, base, states)
    for order in ([2, 0, 1], [1, 0, 2]):
        again = merged_by(any_merge, base, [states[i] for i in order], [SIZES[i] for i in order])
        assert_close(again, merged)


def around_the_mean(merge):
    """The merge with the members' mean as its base; None: it has no such base."""
    if isinstance(merge, Dare):
        then = around_the_mean(merge.then)
        return then and replace(merge, then=then)
    if isinstance(merge, Iso) or "base" not in {field.name for field in fields(merge)}:
        return None
    return replace(merge, base=GROUP_MEAN)


def test_nor_does_it_around_their_mean_which_has_a_rounding_of_its_own(any_merge):
    merge, start, size = around_the_mean(any_merge), state(0), 1e-3  # as fine-tuning leaves members
    if merge is None:
        pytest.skip("has a base of its own")
    states = [{k: v + size * state(s)[k] for k, v in start.items()} for s in (1, 2, 3)]

    def merged(order):
        chosen = [states[i] for i in order]
        base = {k: weighted_mean([each[k] for each in chosen], [1.0] * 3) for k in SHAPES}
        return merged_by(merge, base, chosen, [SIZES[i] for i in order])

    first = merged([0, 1, 2])
    for order in ([2, 0, 1], [1, 0, 2]):
        assert_close(merged(order), first, size / 500)


@pytest.mark.parametrize("common", [1.0, 0.5])
def test_iso_makes_no_direction_of_the_rounding_of_the_weights(common):
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    base = 0.05 * draw(96, 96)
    taus = [tau / tau.norm() / 100 for tau in (draw(96, 3) @ draw(3, 96) for _ in range(3))]
    members = [base + tau for tau in taus]
    merged = replace(ISO, common=common)("trunk.a", base, members, [1] * 3) - base
    values = torch.linalg.svdvals(merged.double())
    assert int((values > values[0] / 2).sum()) == 9
    space = torch.linalg.svd(sum(taus))[0][:, :9]
    assert float((space @ (space.T @ merged) - merged).norm() / merged.norm()) < 1e-3


def test_iso_refuses_the_mean_around_which_task_matrices_sum_to_zero():
    with pytest.raises(ValidationError, match=r"sum to zero.*give pretrained or the name of an"):
        replace(ISO, base=GROUP_MEAN)


def test_a_merge_depends_on_every_member_of_three(any_merge):
    if isinstance(any_merge, Frozen):
        pytest.skip("a reference: depends on no member")
    base, states = state(0), [state(s) for s in (1, 2, 3)]
    merged = merged_by(any_merge, base, states)
    for i in range(3):
        others = [*states[:i], state(9), *states[i + 1 :]]
        changed = merged_by(any_merge, base, others)
        assert any(not torch.equal(changed[k], merged[k]) for k in SHAPES)


def test_what_is_merged_is_not_changed(any_merge):
    base, states = state(0), [state(s) for s in (1, 2, 3)]
    first = merged_by(any_merge, base, states)
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


# What each strategy adds to these


def test_task_arithmetic_with_one_over_t_is_the_mean():
    base, states = state(0), [state(s) for s in (1, 2, 3)]
    assert_close(merged_by(THIRD, base, states), merged_by(Average(), base, states))


def test_task_arithmetic_scales_every_layer_by_the_line_through_those_named():
    named = {0: 0.2, 4: 1.0}  # 0.8 in layer 3; the shapes have no others
    base, states = state(0), [state(1), state(2)]
    merged = merged_by(TaskArithmetic(scale=0.5, layers=named, base=PRETRAINED), base, states)
    factors = {"trunk.layer.0.weight": 0.2, "trunk.layer.3.weight": 0.8}
    whole = merged_by(SUM, base, states)
    for name in SHAPES:
        factor = factors.get(name, 0.5)
        wanted = base[name] + factor * (whole[name] - base[name])
        torch.testing.assert_close(merged[name], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "depth", "factor"),
    [(None, 5, 0.5), ({3: 0.1}, 0, 0.1), ({3: 0.1}, 9, 0.1), ({9: 1, 1: 0}, 5, 0.5)],
)
def test_beyond_the_named_layers_the_scale_is_constant(layers, depth, factor):
    merge = TaskArithmetic(scale=0.5, layers=layers, base=PRETRAINED)
    zero, one = torch.zeros(3), torch.ones(3)
    for name in (f"trunk.encoder.layer.{depth}.x.weight", f"trunk.layers.{depth}.x"):
        assert torch.equal(merge(name, zero, [one], [1]), factor * one)


@pytest.mark.parametrize("then", [THIRD, TIES, TSV, ISO, WUDI, Average()])
def test_dare_that_drops_nothing_is_the_other_merge(then):
    base, states = state(0), [state(s) for s in (1, 2, 3)]
    dare = Dare(density=1.0, seed=0, then=then)
    assert dare.base == then.base
    assert_close(merged_by(dare, base, states), merged_by(then, base, states), 5e-6)


def test_dare_keeps_its_share_and_rescales_it():
    base, member = torch.zeros(400, 500), torch.full((400, 500), 3.0)
    thinned = Dare(density=0.25, seed=1, then=SUM)("trunk.a", base, [member], [1])
    assert set(thinned.unique().tolist()) == {0.0, 12.0}
    assert float((thinned != 0).float().mean()) == pytest.approx(0.25, abs=0.005)  # 5 sigma
    assert float(thinned.mean()) == pytest.approx(3.0, abs=0.06)


def test_what_dare_drops_depends_on_seed_name_and_member_and_on_nothing_else():
    base, one, two = torch.zeros(300), torch.ones(300), torch.full((300,), 2.0)
    dare = Dare(density=0.5, seed=0, then=SUM)
    alone = dare("trunk.a", base, [one], [1]), dare("trunk.a", base, [two], [1])
    assert torch.equal(dare("trunk.a", base, [one, two], [1, 1]), alone[0] + alone[1])
    assert torch.equal(dare("trunk.a", base, [one], [9]), alone[0])
    assert not torch.equal(dare("trunk.b", base, [one], [1]), alone[0])
    assert not torch.equal(replace(dare, seed=1)("trunk.a", base, [one], [1]), alone[0])
    assert not torch.equal(2 * alone[0], alone[1])


MATRICES = [name for name in SHAPES if name.endswith("weight") and "embed" not in name]


def matrices(base, states, name):
    return [(each[name] - base[name]).numpy().astype(np.float64) for each in states]


def polar(matrix):
    u, _, vh = np.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def tsv_by_hand(taus):
    """TSV-Merge as its authors lay it out, in plain numpy."""
    kept = min(taus[0].shape) // len(taus)
    us, ss, vs = zip(*(np.linalg.svd(tau, full_matrices=False) for tau in taus), strict=True)
    u = np.hstack([u[:, :kept] for u in us])
    v = np.vstack([v[:kept] for v in vs])
    return polar(u) @ np.diag(np.hstack([s[:kept] for s in ss])) @ polar(v)


def iso_by_hand(taus, common):
    """Iso-CTS as its authors lay it out, in plain numpy; Iso-C where nothing is task-specific."""
    rank = min(taus[0].shape)
    own = round((rank - int(rank * common)) / len(taus))
    shared = rank - own * len(taus)
    u, s, v = np.linalg.svd(sum(taus), full_matrices=False)
    us, ss, vs = [], [], []
    for tau in taus:
        outside = tau - u[:, :shared] @ u[:, :shared].T @ tau
        u_own, s_own, v_own = np.linalg.svd(outside, full_matrices=False)
        us.append(u_own[:, :own])
        ss.append(s_own[:own])
        vs.append(v_own[:own])
    left, right = np.hstack([*us, u[:, :shared]]), np.vstack([*vs, v[:shared]])
    return polar(left) * np.hstack([*ss, s[:shared]]).mean() @ polar(right)


@pytest.mark.parametrize(
    ("merge", "by_hand"),
    [
        (TSV, tsv_by_hand),
        (ISO, lambda taus: iso_by_hand(taus, 1.0)),
        (replace(ISO, common=0.6), lambda taus: iso_by_hand(taus, 0.6)),
    ],
    ids=["tsv", "iso-c", "iso-cts"],
)
def test_spectral_merges_are_their_authors_calculation(merge, by_hand):
    base, states = state(0), [state(1), state(2)]
    merged = merged_by(replace(merge, scale=0.7), base, states)
    mean = merged_by(Average(), base, states)
    for name in SHAPES:
        if name in MATRICES:
            wanted = base[name].numpy() + 0.7 * by_hand(matrices(base, states, name))
        else:  # the embeddings among them
            wanted = base[name] + 0.7 * (mean[name] - base[name])
        np.testing.assert_allclose(merged[name], wanted, rtol=2e-6, atol=2e-6, err_msg=name)


def test_embeddings_are_no_matrices():
    for name in ("embeddings.word_embeddings", "embeddings.tok_embeddings", "rel_embeddings"):
        assert not is_matrix(f"trunk.{name}.weight", torch.zeros(3, 4))
    assert is_matrix("trunk.encoder.layer.0.output.dense.weight", torch.zeros(3, 4))
    assert not is_matrix("trunk.encoder.layer.0.output.dense.bias", torch.zeros(3))


def apart(*shares, rows=8, columns=12, seed=0):
    """Task matrices of these ranks, whose row and column spaces are orthogonal to each other."""
    random = np.random.default_rng(seed)
    u = np.linalg.qr(random.normal(size=(rows, rows)))[0]
    v = np.linalg.qr(random.normal(size=(columns, columns)))[0].T
    at = np.cumsum([0, *shares])
    parts = [u[:, a:b] * random.uniform(1, 2, b - a) @ v[a:b] for a, b in pairwise(at)]
    return [torch.tensor(part, dtype=torch.float32) for part in parts]


@pytest.mark.parametrize("merge", [TSV, WUDI], ids=["tsv", "wudi"])
def test_task_matrices_that_do_not_interfere_are_added(merge):
    taus = apart(2, 2, 2)
    merged = merge("trunk.a", torch.zeros(8, 12), taus, [1] * 3)
    torch.testing.assert_close(merged, sum(taus), rtol=1e-5, atol=1e-5)


def test_tsv_keeps_one_third_of_the_spectrum_of_three_equal_members():
    (tau,) = apart(8)
    u, s, vh = torch.linalg.svd(tau, full_matrices=False)
    merged = TSV("trunk.a", torch.zeros(8, 12), [tau] * 3, [1] * 3)
    torch.testing.assert_close(merged, u[:, :2] * s[:2] @ vh[:2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("common", [1.0, 0.5])
def test_iso_gives_every_direction_the_same_weight(common):
    taus = [torch.randn(8, 12, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    iso = replace(ISO, common=common)
    values = torch.linalg.svdvals(iso("trunk.a", torch.zeros(8, 12), taus, [1, 1]))
    torch.testing.assert_close(values, values.mean().expand(8))
    if common == 1.0:
        assert float(values.sum()) == pytest.approx(float(torch.linalg.svdvals(sum(taus)).sum()))


def test_iso_gives_back_what_is_isotropic():
    (tau,) = apart(8)
    u, _, vh = torch.linalg.svd(tau, full_matrices=False)
    flat = 3 * u @ vh
    merged = ISO("trunk.a", torch.zeros(8, 12), [flat], [1])
    torch.testing.assert_close(merged, flat, rtol=1e-5, atol=1e-5)


def test_iso_with_directions_for_no_member_is_iso_in_the_common_space():
    base, states = state(0), [state(s) for s in (1, 2, 3)]
    almost = replace(ISO, common=0.9)  # of at most six directions less than one for each of three
    assert_close(merged_by(almost, base, states), merged_by(ISO, base, states), 0)


@pytest.mark.parametrize("merge", [TSV, ISO, replace(ISO, common=0.5), WUDI], ids=repr)
def test_a_member_that_did_not_move_brings_no_directions(merge):
    taus = apart(2, 2)
    still = torch.zeros_like(taus[0])
    merged = merge("trunk.a", still, [*taus, still], [1] * 3)
    again = merge("trunk.a", still, [still, *taus], [1] * 3)
    torch.testing.assert_close(merged, again)
    inside = torch.linalg.pinv(sum(taus)) @ sum(taus)
    torch.testing.assert_close(merged @ inside, merged, rtol=1e-4, atol=1e-5)


def disturbance(tau, taus):
    return sum(float(((tau - each) @ each.T).square().sum() / each.square().sum()) for each in taus)


def test_wudi_disturbs_least():
    random = torch.Generator().manual_seed(0)
    taus = [torch.randn(20, 8, generator=random) for _ in range(3)]
    zero = torch.zeros(20, 8)
    least = WUDI("trunk.a", zero, taus, [1] * 3)
    reached = disturbance(least, taus)
    for other in (sum(taus), sum(taus) / 3):
        assert reached < disturbance(other, taus)
    for _ in range(5):
        near = least + 0.01 * torch.randn(20, 8, generator=random)
        assert reached < disturbance(near, taus)
    adam = replace(WUDI, steps=2000, learning_rate=1e-2)("trunk.a", zero, taus, [1] * 3)
    torch.testing.assert_close(adam, least, rtol=1e-3, atol=1e-3)


def test_wudi_in_steps_starts_at_the_sum():
    base, states = state(0), [state(1), state(2)]
    merged = merged_by(replace(WUDI, steps=3, learning_rate=1e-4), base, states)
    whole = merged_by(SUM, base, states)
    for name in MATRICES:
        moved = (merged[name] - whole[name]).abs()
        assert 1e-4 < float(moved.max()) < 3.1e-4  # Adam goes at most its rate in a step


def test_one_seed_gives_the_same_bytes(any_merge):
    base, states = state(0), [state(s) for s in (1, 2, 3)]
    once = merged_by(any_merge, base, states)
    torch.manual_seed(99)  # nothing is drawn from the global generator
    assert_close(once, merged_by(any_merge, base, states), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_merging_in_pieces_is_merging_at_once(dtype):
    """A tensor of several pieces: the authors' calculation still."""
    draw = torch.Generator().manual_seed(0)
    base, *members = (torch.randn(700, 601, generator=draw).to(dtype) for _ in range(4))
    merged = AUTHORS("trunk.a", base, members, [1] * 3)
    floats = {"a": base.float()}, [{"a": each.float()} for each in members]
    wanted = torch.as_tensor(ties_by_hand(*floats, 0.3, 0.5)["a"])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(merged.double(), wanted, rtol=2 * eps, atol=1e-6)


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
    stage = Merging(
        encoder=tiny, merge=merge, private=configured("private", "experiment=paper"), trainer=CPU
    )
    stage(group_for(merge, members[1:], members), tmp_path)
    wanted = ties_by_hand(full(members[0]), [full(m) for m in members[1:]], 0.3, 0.5)
    assert_close(carried(tmp_path), wanted)


def base_of(name, tiny, members):
    if name == PRETRAINED:
        return dict(tiny.pretrained())
    return full({"three": members[2]}[name])


@pytest.mark.parametrize("base", [PRETRAINED, "three"])
def test_task_vectors_start_where_the_strategy_says(base, tiny, members, tmp_path):
    merge = replace(TIES, base=base)
    stage = Merging(encoder=tiny, merge=merge, private=Nothing(), trainer=CPU)
    stage(group_for(merge, members[1:], members), tmp_path)
    states = [full(member) for member in members[1:]]
    assert_close(carried(tmp_path), ties_by_hand(base_of(base, tiny, members), states, 0.3, 0.5))


@pytest.mark.parametrize("n", [2, 3])
def test_around_the_group_mean_untrimmed_task_vectors_cancel(n, tiny, members, tmp_path):
    merge = Ties(density=1.0, scale=1.0, base=GROUP_MEAN)
    stage = Merging(encoder=tiny, merge=merge, private=Nothing(), trainer=CPU)
    stage(group_for(merge, members[:n], members), tmp_path)
    states = [full(member) for member in members[:n]]
    assert_close(carried(tmp_path), {k: sum(s[k] for s in states) / n for k in states[0]})


def test_a_merge_weighs_by_training_responses(tiny, members, tmp_path):
    merge = Weighted(power=1.0)
    stage = Merging(encoder=tiny, merge=merge, private=Nothing(), trainer=CPU)
    stage(group_for(merge, members[:2], members), tmp_path)
    one, two = full(members[0]), full(members[1])
    assert_close(carried(tmp_path), {k: 0.6 * one[k] + 0.4 * two[k] for k in one})


def test_exactly_the_shared_parts_are_written(any_private, tiny, members, tmp_path):
    stage = Merging(encoder=tiny, merge=Average(), private=any_private, trainer=CPU)
    stage(Group(tuple(members), None), tmp_path)
    written = {path.stem for path in tmp_path.glob("*.safetensors")}
    assert written == set(any_private.shared_parts)


def test_a_private_pooler_leaves_the_trunk_as_it_is_without(any_merge, tiny, members, tmp_path):
    trunks = []
    for private in (Nothing(), Pooler()):
        folder = tmp_path / type(private).__name__
        folder.mkdir()
        stage = Merging(encoder=tiny, merge=any_merge, private=private, trainer=CPU)
        stage(group_for(any_merge, members, members), folder)
        trunks.append((folder / "trunk.safetensors").read_bytes())
    assert trunks[0] == trunks[1]


def test_an_encoder_without_pooler_merges_without(tiny, make_item, make_member, tmp_path):
    plain = replace(tiny, pooler=False)
    group = [make_member(plain, make_item(name), tmp_path, seed=1) for name in ("a", "b")]
    (tmp_path / "out").mkdir()
    Merging(encoder=plain, merge=TIES, private=Nothing(), trainer=CPU)(
        Group(tuple(group), None), tmp_path / "out"
    )
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["trunk.safetensors"]


def in_memory(any_merge, tiny, members, everyone):
    """The merged state without the stage: everything loaded."""
    states = [full(member) for member in members]
    base = full(everyone[0]) if type(any_merge) is Published else dict(tiny.pretrained())
    return merged_by(any_merge, base, states, [len(member.item.train) for member in members])


def test_streaming_from_files_is_merging_in_memory(any_merge, tiny, members, tmp_path):
    stage = Merging(encoder=tiny, merge=any_merge, private=Nothing(), trainer=CPU)
    stage(group_for(any_merge, members[1:], members), tmp_path)
    assert_close(carried(tmp_path), in_memory(any_merge, tiny, members[1:], members), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_merges_to_what_the_cpu_merges_to(any_merge, tiny, members, tmp_path):
    group, found = group_for(any_merge, members[1:], members), []
    for accelerator in ("cpu", "gpu"):
        trainer = replace(CPU, accelerator=accelerator)
        folder = tmp_path / accelerator
        folder.mkdir()
        Merging(encoder=tiny, merge=any_merge, private=Nothing(), trainer=trainer)(group, folder)
        found.append(carried(folder))
    assert_close(*found)


def test_a_damaged_member_is_not_merged(tiny, make_item, make_member, tmp_path):
    group = [make_member(tiny, make_item(name), tmp_path, seed=1) for name in ("a", "b")]
    path = group[1].made.path / "trunk.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="not what was written there"):
        Merging(encoder=tiny, merge=TIES, private=Nothing(), trainer=CPU)(
            Group(tuple(group), None), tmp_path
        )


M_MMAP_THRESHOLD = -3  # of malloc.h


def peak_memory(work):
    """The largest memory of this process, in bytes, while it does this work."""
    here = Path("/proc/self")
    gc.collect()
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 16)  # every tensor goes back as soon as it is freed
        libc.malloc_trim(0)  # what was freed before would hide what is taken now
        (here / "clear_refs").write_text("5")  # the peak starts anew
    except (OSError, AttributeError):
        pytest.skip("this machine does not tell the peak of a process")
    work()
    return int(re.search(r"VmHWM:\s+(\d+) kB", (here / "status").read_text())[1]) * 1024


@pytest.fixture(scope="module")
def sized(configured):
    """An encoder of so many words, layers and dimensions."""

    def made(words, layers, width, inner):
        sizes = {
            "vocab_size": words,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "intermediate_size": inner,
        }
        return replace(configured("encoder", "encoder=tiny"), random=sizes)

    return made


@pytest.fixture(scope="module")
def large(sized):
    """An encoder that is large beside any of its tensors, in little time."""
    return sized(words=1000, layers=12, width=96, inner=384)


@pytest.fixture(scope="module")
def wordy(sized):
    """An encoder that is hardly more than its words: one tensor of 10 MB, in little time."""
    return sized(words=20_000, layers=1, width=128, inner=256)


@pytest.fixture(scope="module")
def many(make_item, make_member, tmp_path_factory):
    """So many members of an encoder."""

    def made(encoder, n):
        folder = tmp_path_factory.mktemp("members")
        two = [make_member(encoder, make_item("item"), folder, seed=seed) for seed in (1, 2)]
        # the files of the third are those of the first, and are read again all the same
        return [replace(two[i % 2], item=make_item(f"item{i}")) for i in range(n)]

    return made


@pytest.fixture(scope="module")
def six(large, many):
    return many(large, 6)


@pytest.fixture(scope="module")
def twenty(wordy, many):
    return many(wordy, 20)


@pytest.fixture
def merged_memory(any_merge, tiny, members, tmp_path):
    """Bytes that a process holds at most which merges these members of an encoder."""

    def merge(encoder, group):
        folder = tmp_path / str(len(group))
        folder.mkdir()
        stage = Merging(encoder=encoder, merge=any_merge, private=Nothing(), trainer=CPU)
        stage(group_for(any_merge, group, group), folder)

    merge(tiny, members)  # what the libraries load once is not the merge's
    return lambda encoder, group: peak_memory(partial(merge, encoder, group))


def test_six_members_need_no_more_memory_than_two_encoders_and_a_tensor_of_each(
    merged_memory, large, six
):
    """What a merge holds beside its work is base and result, and the network the base is of."""
    size = sum(path.stat().st_size for path in six[0].made.path.glob("[tp]*.safetensors"))
    assert size > 5e6
    before = peak_memory(lambda: None)
    work = 27e6  # on pieces of 1 MB of each member; with all six in memory it would be 30e6 more
    assert merged_memory(large, six) < before + 3 * size + work


def test_twenty_members_need_no_more_memory_than_ten(merged_memory, wordy, twenty):
    few, all_of_them = (merged_memory(wordy, twenty[:n]) for n in (10, 20))
    # Pieces of all are as large for twenty as for ten; copies of the words of all are 102e6 more.
    assert all_of_them < few + 75e6


def test_group_for_anchors_only_where_the_base_is_an_item(members):
    def anchor(merge):
        return group_for(merge, members[1:], members).anchor

    assert anchor(TIES) is anchor(replace(TIES, base=GROUP_MEAN)) is None
    assert anchor(replace(TIES, base="three")) is members[2]
    assert anchor(AUTHORS) is members[0]  # no member of the group, which is their mistake


@pytest.mark.parametrize(
    ("merge", "setting"),
    [
        (replace(TIES, base="one"), "merge.base"),
        (Dare(density=0.5, seed=0, then=replace(ISO, base="one")), "merge.then.base"),
    ],
)
def test_a_base_outside_the_group_is_refused(merge, setting, members):
    with pytest.raises(InputError) as error:
        group_for(merge, members[1:], members)
    line = str(error.value)
    assert line.startswith(f"{setting}=one: ")
    assert all(word in line for word in ("two, three", f"{setting}=pretrained", "published"))
    assert "\n" not in line


@pytest.mark.parametrize("kind", [Ties, TaskArithmetic, Tsv, Iso, Wudi])
def test_the_first_item_is_a_base_for_the_published_merge_alone(kind):
    known = {Ties: TIES, TaskArithmetic: SUM, Tsv: TSV, Iso: ISO, Wudi: WUDI}[kind]
    with pytest.raises(ValidationError, match="merge=published alone"):
        replace(known, base="first_item")


def test_a_base_that_is_no_item_is_refused_by_name():
    names = ["one", "two"]
    for base in (PRETRAINED, GROUP_MEAN, "two"):
        check_base(replace(TIES, base=base), names)
    with pytest.raises(InputError) as error:
        check_base(replace(TIES, base="tow"), names)
    line = str(error.value)
    assert line.startswith("merge.base=tow: ")
    assert all(word in line for word in ("group_mean", "one, two"))
    assert "\n" not in line


def test_every_shipped_merge_has_a_base_that_any_items_have(any_merge):
    check_base(any_merge, ["some item", "another"])

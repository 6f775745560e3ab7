"""Private parts: what comes back of an item's own tensors, and what they take on disk."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONF, build
from hypothesis import given, settings
from hypothesis import strategies as st
from little import NAMES, TINY, TWO, counts, gwsmm, read_json, write_items
from pydantic import ValidationError
from safetensors.torch import load_file, save, save_file

from gwsmm.artefact import PRIVATE, Artefact, Coded, Scorer, load_state
from gwsmm.evaluate import Evaluation, Tested
from gwsmm.heads.fitting import HeadFitting, Moved
from gwsmm.heads.keep import Keep
from gwsmm.merge.merging import Merging, group_for
from gwsmm.private.coding import Coding, Owner, Pretrained
from gwsmm.private.delta import pack, unpack
from gwsmm.private.int import Int
from gwsmm.private.last_layers import LastLayers
from gwsmm.private.mask import Mask
from gwsmm.private.norms_and_biases import NormsAndBiases
from gwsmm.private.nothing import Nothing
from gwsmm.private.pooler import Pooler
from gwsmm.private.private import PrivateTrunk
from gwsmm.private.sign import Sign
from gwsmm.private.svd import Svd
from gwsmm.private.svd_error import SvdError
from gwsmm.private.svd_validated import SvdValidated
from gwsmm.store import Key, Store
from gwsmm.types import InputError

SHAPES = {
    "trunk.embeddings.weight": (50, 12),
    "trunk.encoder.layer.0.dense.weight": (12, 30),
    "trunk.encoder.layer.0.dense.bias": (12,),
    "trunk.encoder.layer.1.dense.weight": (30, 12),
    "trunk.encoder.layer.1.dense.bias": (30,),
    "trunk.scale": (),
    "pooler.weight": (12, 12),
    "pooler.bias": (12,),
}
TABLE, WIDE = "trunk.embeddings.weight", "trunk.encoder.layer.0.dense.weight"
MATRICES = [name for name, shape in SHAPES.items() if len(shape) == 2]
HALF = 2.0**-11  # relative precision of fp16
FIELDS = {"still": 0.0, "base": "merged", "pooler": "shared"}
FACTORS = FIELDS | {"bits": 16}


def state(seed, dtype=torch.float32, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        k: (size * torch.randn(shape, generator=generator)).to(dtype) for k, shape in SHAPES.items()
    }


def moved(base, seed, size=0.01):
    """A member that is a little away from the base, as fine-tuning leaves it."""
    return {k: (v + size * state(seed)[k]).to(v.dtype) for k, v in base.items()}


def no_loss(state):
    raise AssertionError("only a strategy that validates may ask for the loss")


def norm(one, other):
    return math.sqrt(sum(float((one[k] - other[k]).double().square().sum()) for k in other))


def error(codec, member, bases, loss=no_loss):
    """‖θ_i − what comes back‖ / ‖θ_i − θ_base‖."""
    found = codec.decode(codec.encode(member, bases, loss), bases)
    return norm(found, member) / norm(bases[0], member)


def same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


CODECS = [  # every strategy by which an item keeps something of the trunk
    path.stem
    for path in sorted(CONF.glob("private/*.yaml"))
    if isinstance(build("private", f"private={path.stem}"), PrivateTrunk)
]


@pytest.fixture(params=CODECS)
def codec(request):
    return build("private", f"private={request.param}")


def bases_for(codec, dtype=torch.float32):
    """Shared encoders: the pretrained one, and one that is merged of three members."""
    pretrained = state(0, dtype)
    members = [moved(pretrained, seed) for seed in (1, 2, 3)]
    merged = {k: (sum(m[k].float() for m in members) / 3).to(dtype) for k in pretrained}
    known = {"pretrained": pretrained, "merged": merged}
    return [known[base] for base in codec.bases], members[0]


# Every strategy


def test_a_strategy_shares_the_trunk_and_says_whether_the_pooler(any_private):
    assert any_private.shared_parts in (("trunk",), ("trunk", "pooler"))
    if hasattr(any_private, "pooler"):
        for pooler, shared in (("own", ("trunk",)), ("shared", ("trunk", "pooler"))):
            assert replace(any_private, pooler=pooler).shared_parts == shared


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_comes_back_has_the_names_shapes_and_dtypes_of_the_member(codec, dtype):
    bases, member = bases_for(codec, dtype)
    found = codec.decode(codec.encode(member, bases, lambda _: 0.0), bases)
    assert {k: tuple(v.shape) for k, v in found.items()} == SHAPES
    assert {v.dtype for v in found.values()} == {dtype}
    assert all(v.isfinite().all() for v in found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_member_that_did_not_move_comes_back_exactly(codec, dtype):
    bases, _ = bases_for(codec, dtype)
    code = codec.encode(dict(bases[0]), bases, lambda _: 0.0)
    same(codec.decode(code, bases), bases[0])
    if not isinstance(codec, LastLayers | NormsAndBiases):
        assert code == {}  # and costs nothing


def test_what_comes_back_is_nearer_to_the_member_than_what_is_shared(codec):
    bases, member = bases_for(codec)
    assert error(codec, member, bases, lambda _: 0.0) < 1


def test_what_goes_in_is_not_changed(codec):
    (bases, member), (again, copy) = bases_for(codec), bases_for(codec)
    code = codec.encode(member, bases, lambda _: 0.0)
    kept = {k: v.clone() for k, v in code.items()}
    codec.decode(code, bases)
    same(member, copy)
    same(code, kept)
    for one, other in zip(bases, again, strict=True):
        same(one, other)


def test_the_same_member_gives_the_same_bytes(codec):
    bases, member = bases_for(codec)
    one, two = (save(dict(codec.encode(member, bases, lambda _: 0.0))) for _ in range(2))
    assert one == two


def test_one_part_can_be_decoded_by_itself(codec):
    shared = replace(codec, pooler="shared")
    bases, member = bases_for(shared)
    code = shared.encode(member, bases, lambda _: 0.0)
    whole = shared.decode(code, bases)
    for part in ("trunk.", "pooler."):
        alone = [
            {k.removeprefix(part): v for k, v in each.items() if k.startswith(part)}
            for each in (code, whole, *bases)
        ]
        same(shared.decode(alone[0], alone[2:]), alone[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_that_only_rounding_moved_are_not_kept(codec, dtype):
    """Of the base in few bits, that is: fine-tuning decays such rows a little, and no more."""
    if isinstance(codec, LastLayers | NormsAndBiases):
        pytest.skip("keeps whole tensors")
    start, moves = state(0)[TABLE], state(1)[TABLE]
    member = start * (1 - 1e-6)
    member[7:12] += 0.1 * moves[7:12]
    bases = [{TABLE: (start + size * moves).to(dtype)} for size in (0, 1e-4)[: len(codec.bases)]]
    code = codec.encode({TABLE: member}, bases, lambda _: 0.0)
    assert unpack(code[f"{TABLE}:rows"], 1, len(start)).nonzero()[0].tolist() == [7, 8, 9, 10, 11]
    assert codec.encode({TABLE: start}, bases, lambda _: 0.0) == {}


# Layers, norms and biases


def test_own_layers_norms_and_biases_are_exact_and_the_rest_is_merged():
    merged, member = state(0), state(1)
    owns = {
        LastLayers(layers=1, pooler="shared"): {k for k in SHAPES if ".layer.1." in k},
        LastLayers(layers=2, pooler="shared"): {k for k in SHAPES if ".layer." in k},
        NormsAndBiases(pooler="shared"): set(SHAPES) - set(MATRICES),
    }
    for codec, own in owns.items():
        code = codec.encode(member, [merged], no_loss)
        assert set(code) == own
        found = codec.decode(code, [merged])
        same(found, {k: (member if k in own else merged)[k] for k in SHAPES})


@pytest.mark.parametrize(
    ("kept", "shared"),
    [
        ("encoder.layer.11.output.bias", "encoder.layer.1.output.bias"),
        ("transformer.layer.11.ffn.weight", "transformer.layer.10.ffn.weight"),
        ("layers.11.attn.weight", "layers.9.attn.weight"),
        ("layers.11.attn.weight", "embeddings.LayerNorm.weight"),
        ("final_norm.weight", "encoder.rel_embeddings.weight"),
    ],
)
def test_the_last_layers_are_found_in_every_architecture(kept, shared):
    top = "layers.11.mlp.weight"
    member = {name: torch.ones(2) for name in (f"trunk.{kept}", f"trunk.{shared}", f"trunk.{top}")}
    code = LastLayers(layers=1, pooler="own").encode(member, [member], no_loss)
    assert set(code) == {f"trunk.{kept}", f"trunk.{top}"}


def test_more_layers_than_there_are_cannot_be_kept():
    with pytest.raises(InputError, match=r"^private\.layers=3: the encoder has 2 layers"):
        LastLayers(layers=3, pooler="own").encode(state(0), [state(1)], no_loss)


# Low rank


def best(delta, rank):
    """The least error that any matrix of this rank can have: Eckart and Young."""
    return math.sqrt((np.linalg.svd(delta, compute_uv=False)[rank:] ** 2).sum())


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_factors_are_the_best_of_their_rank(rank):
    base, member = state(0), moved(state(0), 1)
    codec = Svd(rank=rank, **FACTORS)
    code = codec.encode(member, [base], no_loss)
    found = codec.decode(code, [base])
    for name in MATRICES:
        delta = (member[name] - base[name]).double().numpy()
        least, got = best(delta, rank), float((found[name] - member[name]).double().norm())
        assert got <= least + 4 * HALF * np.linalg.norm(delta), name
        if f"{name}:right" in code:  # else it is kept whole, as its factors would be larger
            assert got >= least * (1 - 1e-4), name


def test_the_error_falls_with_the_rank_to_that_of_fp16():
    base, member = state(0), moved(state(0), 1)
    errors = [error(Svd(rank=r, **FACTORS), member, [base]) for r in range(1, 13)]
    assert all(a > b for a, b in pairwise(errors[:9]))
    assert errors[-1] < HALF


def test_a_delta_of_low_rank_comes_back_whatever_its_size():
    for size in (1e-6, 1.0, 1e4):  # fp16 alone reaches from 6e-5 to 65504
        left, right = torch.randn(50, 2), size * torch.randn(12, 2)
        base = {TABLE: torch.zeros(50, 12)}
        member = {TABLE: left @ right.T}
        assert error(Svd(rank=2, **FACTORS), member, [base]) < 2 * HALF


def test_the_error_of_factors_falls_with_their_bits_to_that_of_fp16():
    base = state(0)
    left, right = torch.randn(50, 4), torch.randn(4, 12)
    member = base | {TABLE: base[TABLE] + left @ right}
    errors = [error(Svd(rank=4, **FACTORS | {"bits": b}), member, [base]) for b in range(3, 17)]
    assert all(a > b for a, b in pairwise(errors[:9]))
    assert errors[-1] < HALF
    assert errors[1] < 0.2  # 4 bits
    assert errors[5] < 0.01  # 8 bits


def test_at_few_bits_more_directions_are_nearer_in_as_many_bytes():
    base, member = state(0), moved(state(0), 1)
    few, many = (Svd(rank=rank, **FACTORS | {"bits": bits}) for rank, bits in ((3, 16), (6, 8)))
    assert error(many, member, [base]) < error(few, member, [base])
    sizes = [
        sum(
            v.numel() * v.element_size()
            for k, v in c.encode(member, [base], no_loss).items()
            if not k.endswith("_scale")
        )
        for c in (few, many)
    ]
    assert sizes[0] == sizes[1]


def ranks(code):
    return {name: code[f"{name}:right"].shape[1] for name in MATRICES if f"{name}:right" in code}


@pytest.mark.parametrize("bound", [0.5, 0.7, 0.9])
def test_every_matrix_has_the_smallest_rank_of_its_error(bound):
    base, member = state(0), moved(state(0), 1)
    found = ranks(SvdError(error=bound, **FACTORS).encode(member, [base], no_loss))
    assert found
    for name, rank in found.items():
        delta = (member[name] - base[name]).double().numpy()
        whole = np.linalg.norm(delta)
        assert best(delta, rank) <= bound * whole * (1 + 1e-6), name
        assert rank == 1 or best(delta, rank - 1) > bound * whole, name


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(2, 16), st.floats(0.001, 0.99), st.floats(0, 3), st.booleans(), st.integers(0, 99)
)
def test_what_is_decoded_keeps_the_error_whatever_the_bits(bits, bound, decay, wide, seed):
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.arange(1, 21) ** -decay
    delta = torch.linalg.qr(draw(40, 20))[0] * spectrum @ torch.linalg.qr(draw(20, 20))[0]
    member = {TABLE: delta.T if wide else delta}
    base = {TABLE: torch.zeros_like(member[TABLE])}
    assert error(SvdError(error=bound, **FACTORS | {"bits": bits}), member, [base]) <= bound + 1e-6


def test_validation_chooses_the_largest_error_whose_loss_is_near_enough(caplog):
    base, member = state(0), moved(state(0), 1)
    codec = SvdValidated(errors=[0.5, 0.9, 0.7], tolerance=0.1, **FACTORS)
    at = {e: SvdError(error=e, **FACTORS) for e in codec.errors}

    def chosen(allowed):
        """With a loss of 1 that rises to 1.1 at an error of `allowed`."""
        whole = norm(base, member)
        return codec.encode(member, [base], lambda s: 1 + 0.1 * norm(s, member) / whole / allowed)

    for each in at.values():
        found = chosen(error(each, member, [base]) * 1.001)
        same(found, each.encode(member, [base], no_loss))
    assert len(set(ranks(found).values())) > 1  # every matrix has its own
    assert not caplog.records
    none = chosen(error(at[0.5], member, [base]) * 0.9)
    same(none, at[0.5].encode(member, [base], no_loss))
    assert "even at private.errors=0.5 an item loses more" in caplog.text


# Bits


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(1, 16), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_packed_numbers_come_back_and_leave_no_gap(bits, n, seed):
    values = np.random.default_rng(seed).integers(0, 2**bits, n)
    packed = pack(values, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == math.ceil(n * bits / 8)
    np.testing.assert_array_equal(unpack(packed, bits, n), values)


def test_signs_are_scaled_by_least_squares():
    base, member = state(0), moved(state(0), 1)
    for scale in ("tensor", "row"):
        codec = Sign(scale=scale, **FIELDS)
        found = codec.decode(codec.encode(member, [base], no_loss), [base])
        for name in MATRICES:
            delta, got = member[name] - base[name], found[name] - base[name]
            assert torch.equal(got > 0, delta > 0)
            alpha = delta.abs().mean(1, keepdim=True) if scale == "row" else delta.abs().mean()
            torch.testing.assert_close(got.abs(), alpha.expand_as(got), rtol=2 * HALF, atol=1e-6)
            # the residual is orthogonal to what is scaled
            assert abs(float((got * (delta - got)).sum())) < 1e-3 * float(got.square().sum())
    normal = {"trunk.weight": torch.randn(300, 100)}
    zero = {"trunk.weight": torch.zeros(300, 100)}
    got = error(Sign(scale="tensor", **FIELDS), normal, [zero])
    assert got == pytest.approx(math.sqrt(1 - 2 / math.pi), abs=0.01)


def test_the_error_falls_with_the_bits_to_that_of_fp16():
    base, member = state(0), moved(state(0), 1)
    errors = [error(Int(bits=b, group=8, **FIELDS), member, [base]) for b in range(2, 17)]
    assert all(a > b for a, b in pairwise(errors[:9]))
    assert errors[0] < 0.5
    assert errors[-1] < HALF


def test_a_quantised_weight_is_a_whole_multiple_of_its_scale_and_near():
    base, member = {TABLE: torch.zeros(50, 12)}, {TABLE: state(1)[TABLE]}
    codec = Int(bits=4, group=7, **FIELDS)  # 600 weights: the last group holds five
    code = codec.encode(member, [base], no_loss)
    found = codec.decode(code, [base])[TABLE].flatten()
    every = code[f"{TABLE}:scales"].float() * code[f"{TABLE}:scales_scale"]
    scales = every.repeat_interleave(7)[:600]
    steps = found / scales
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert steps.abs().max() <= 7.001
    off = (found - member[TABLE].flatten()).abs()
    clipped = member[TABLE].flatten().abs() > 7 * scales
    assert (off[~clipped] <= scales[~clipped] * 0.5001).all()


def test_a_mask_by_hand():
    pretrained = {"trunk.weight": torch.zeros(1, 4), "trunk.bias": torch.zeros(2)}
    merged = {"trunk.weight": torch.tensor([[1.0, 1.0, -1.0, 2.0]]), "trunk.bias": torch.ones(2)}
    member = {
        "trunk.weight": torch.tensor([[0.25, 2.0, 1.0, 2.0]]),
        "trunk.bias": torch.tensor([1.0, -0.5]),
    }
    own, tau = member["trunk.weight"], merged["trunk.weight"]
    signs, near = torch.tensor([[1.0, 1, 0, 1]]), torch.tensor([[0.0, 1, 0, 1]])
    masks = {
        ("sign", "magnitude"): (5.25 / 4) * signs,
        ("sign", "least_squares"): (0.25 + 2 + 4) / 6 * signs,
        ("sign", "none"): signs,
        ("near", "magnitude"): (5.25 / 3) * near,
        ("near", "none"): near,
    }
    for (keep, rescale), scaled in masks.items():
        codec = Mask(keep=keep, rescale=rescale, still=0.0, pooler="own")
        found = codec.decode(
            codec.encode(member, [pretrained, merged], no_loss), [pretrained, merged]
        )
        torch.testing.assert_close(found["trunk.weight"], scaled * tau)
        assert torch.equal(found["trunk.bias"], member["trunk.bias"])  # fp16 holds these
    assert float((own - near * tau).norm()) <= float((own - signs * tau).norm())


def test_a_mask_gives_back_a_member_that_is_the_merge():
    pretrained, merged = state(0), moved(state(0), 1)
    for keep in ("sign", "near"):
        for rescale in ("magnitude", "least_squares", "none"):
            codec = Mask(keep=keep, rescale=rescale, still=0.0, pooler="own")
            assert error(codec, merged, [pretrained, merged]) < HALF


# Rows that did not move


def decayed(moving):
    """A table of which only some rows moved, and the others by weight decay alone."""
    base = {TABLE: state(0)[TABLE]}
    table = base[TABLE] * (1 - 1e-5)
    table[moving] += 0.1 * state(1)[TABLE][moving]
    return base, {TABLE: table}


@pytest.mark.parametrize(
    "codec",
    [
        Svd(rank=2, **FACTORS),
        SvdError(error=0.3, **FACTORS),
        Sign(scale="row", **FIELDS),
        Int(bits=4, group=8, **FIELDS),
    ],
    ids=lambda codec: type(codec).__name__,
)
def test_rows_that_only_decayed_stay_those_of_the_base_and_cost_a_bit_each(codec):
    moving = [0, 7, 8, 20, 49]
    base, member = decayed(moving)
    code = replace(codec, still=0.01).encode(member, [base], no_loss)
    found = codec.decode(code, [base])[TABLE]
    still = [row for row in range(50) if row not in moving]
    assert torch.equal(found[still], base[TABLE][still])
    assert not torch.equal(found[moving], base[TABLE][moving])
    # the rows that moved are coded as if there were no others
    alone = replace(codec, still=0.0).encode(
        {TABLE: member[TABLE][moving]}, [{TABLE: base[TABLE][moving]}], no_loss
    )
    same({k: v for k, v in code.items() if not k.endswith(":rows")}, alone)
    assert code[f"{TABLE}:rows"].numel() == math.ceil(50 / 8)


def test_rows_of_zeros_are_never_kept():
    base = {TABLE: state(0)[TABLE]}
    member = {TABLE: base[TABLE].clone()}
    member[TABLE][[3, 4]] += 1.0
    code = Sign(scale="row", **FIELDS).encode(member, [base], no_loss)
    assert code[f"{TABLE}:signs"].numel() == 2 * 12 / 8


# Bytes


def bits_per_weight(codec, member, base):
    code = codec.encode(member, [base], no_loss)
    return 8 * sum(v.numel() * v.element_size() for v in code.values()) / base[TABLE].numel()


@pytest.mark.parametrize(
    ("codec", "wanted"),
    [
        (Sign(scale="tensor", **FIELDS), 1 + (16 + 32) / 64_000),
        (Sign(scale="row", **FIELDS), 1 + 16 / 64 + 32 / 64_000),
        (Int(bits=2, group=64, **FIELDS), 2 + 16 / 64 + 32 / 64_000),
        (Int(bits=3, group=32, **FIELDS), 3 + 16 / 32 + 32 / 64_000),
        (Int(bits=16, group=1000, **FIELDS), 16 + 16 / 1000 + 32 / 64_000),
        (Svd(rank=5, **FACTORS), 5 * (16 * (1000 + 64) + 2 * 32) / 64_000),
        (Svd(rank=64, **FACTORS), 16 + 64 * 32 / 64_000),  # dense, as the factors are larger
        (SvdError(error=0.0, **FACTORS), 16 + 64 * 32 / 64_000),
    ],
    ids=str,
)
def test_a_weight_takes_the_bits_that_the_arithmetic_says(codec, wanted):
    base, member = {TABLE: torch.zeros(1000, 64)}, {TABLE: torch.randn(1000, 64)}
    assert bits_per_weight(codec, member, base) == pytest.approx(wanted, rel=1e-9)


def test_a_mask_takes_one_bit_per_weight():
    base, member = {TABLE: torch.zeros(1000, 64)}, {TABLE: torch.randn(1000, 64)}
    codec = Mask(keep="sign", rescale="magnitude", still=0.0, pooler="own")
    code = codec.encode(member, [base, {TABLE: torch.randn(1000, 64)}], no_loss)
    assert sum(v.numel() * v.element_size() for v in code.values()) == 64_000 / 8 + 4


def test_a_strategy_refuses_what_is_out_of_range():
    for codec, wrong in (
        (Svd(rank=1, **FACTORS), {"rank": 0}),
        (Svd(rank=1, **FACTORS), {"still": 1.0}),
        (Svd(rank=1, **FACTORS), {"base": "group_mean"}),
        (SvdError(error=0.1, **FACTORS), {"error": 1.0}),
        (SvdValidated(errors=[0.1], tolerance=0.1, **FACTORS), {"errors": []}),
        (SvdValidated(errors=[0.1], tolerance=0.1, **FACTORS), {"errors": [1.0]}),
        (Int(bits=4, group=8, **FIELDS), {"bits": 1}),
        (Int(bits=4, group=8, **FIELDS), {"bits": 17}),
        (Int(bits=4, group=8, **FIELDS), {"group": 0}),
        (LastLayers(layers=1, pooler="own"), {"layers": 0}),
        (NormsAndBiases(pooler="own"), {"pooler": "merged"}),
    ):
        with pytest.raises(ValidationError):
            replace(codec, **wrong)


# The stages, through real files


@pytest.fixture(scope="module")
def members(tiny, make_item, make_member, tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    sizes = {"one": 30, "two": 20, "three": 50}
    made = [
        make_member(tiny, make_item(name, n=n), folder, seed=n, noise=0.02)
        for name, n in sizes.items()
    ]
    return made, [make_item(name, n=n) for name, n in sizes.items()]


@pytest.fixture(scope="module")
def pretrained(tiny, carry_out, tmp_path_factory):
    return carry_out(Pretrained(encoder=tiny), None, tmp_path_factory.mktemp("pretrained"))


def kept(tensors, folder, name):
    """An artefact of these parts."""

    def write(result: Path) -> None:
        for part, state in tensors.items():
            save_file(dict(state), result / f"{part}.safetensors")

    return Store(folder).fetch("shared", Key(name), write)


def test_the_pretrained_encoder_is_kept_as_fine_tuning_starts_from_it(tiny, pretrained):
    found = {
        f"{p}.{k}": v for p in ("trunk", "pooler") for k, v in load_state(pretrained, p).items()
    }
    same(found, dict(tiny.pretrained()))


def coded(codec, member, bases, tools, folder):
    """The member's trunk as a scorer holds it."""
    tiny, cpu, carry_out = tools
    stage = Coding(encoder=tiny, private=codec, trainer=cpu)
    code = carry_out(stage, Owner(member, tuple(bases)), folder)
    assert [path.name for path in code.path.glob("*.safetensors")] == [PRIVATE]
    return Coded(code, tuple(bases), codec)


@pytest.fixture(scope="module")
def tools(tiny, cpu, carry_out):
    return tiny, cpu, carry_out


def probabilities(item, scorer, tools, folder):
    tiny, cpu, carry_out = tools
    made = carry_out(Evaluation(encoder=tiny, trainer=cpu), Tested(item, scorer), folder)
    return load_file(made.file("probabilities.safetensors"))["probabilities"]


@pytest.mark.parametrize("pooler", ["own", "shared"])
def test_a_member_whose_private_part_loses_nothing_is_scored_as_before(
    codec, pooler, members, tools, tmp_path
):
    """What is shared is the member but for what the strategy keeps exactly."""
    codec, member, item = replace(codec, pooler=pooler), members[0][0], members[1][0]
    parts = {part: dict(member.state(part)) for part in codec.shared_parts}
    exact = {
        LastLayers: lambda name, tensor: "layer.1." in name,
        NormsAndBiases: lambda name, tensor: tensor.ndim == 1,
    }.get(type(codec), lambda name, tensor: False)
    other = {
        part: {k: v + 0.5 if exact(k, v) else v for k, v in state.items()}
        for part, state in parts.items()
    }
    bases = [kept(other, tmp_path, "other")] * len(codec.bases)
    trunk = coded(codec, member, bases, tools, tmp_path)
    stage = HeadFitting(encoder=tools[0], heads=Keep(), trainer=tools[1], seed=0)
    shared = trunk if pooler == "shared" else member.made
    head = tools[2](stage, Moved(member, trunk, shared), tmp_path)
    before = probabilities(item, Scorer(*[member.made] * 3), tools, tmp_path)
    after = probabilities(item, Scorer(trunk, shared, head), tools, tmp_path)
    assert torch.equal(before, after)
    if isinstance(codec, LastLayers | NormsAndBiases):
        without = Scorer(bases[0], shared if pooler == "own" else bases[0], head)
        assert not torch.equal(before, probabilities(item, without, tools, tmp_path))


def test_sixteen_bits_and_full_rank_score_as_before_to_fp16(members, pretrained, tools, tmp_path):
    member, item = members[0][0], members[1][0]
    before = probabilities(item, Scorer(*[member.made] * 3), tools, tmp_path)
    for codec in (Int(bits=16, group=32, **FIELDS), Svd(rank=10_000, **FACTORS)):
        trunk = coded(codec, member, [pretrained], tools, tmp_path)
        after = probabilities(item, Scorer(trunk, trunk, member.made), tools, tmp_path)
        torch.testing.assert_close(after, before, atol=1e-3, rtol=0)


def test_the_error_is_validated_on_the_items_own_responses(members, pretrained, tools, tmp_path):
    """Under its own head, with the tensors that the strategy asks about."""
    member, tiny, cpu = members[0][0], tools[0], tools[1]
    codec = SvdValidated(errors=[0.2, 0.5, 0.9], tolerance=0.0, **FACTORS)
    stage = Coding(encoder=tiny, private=codec, trainer=cpu)
    validation = replace(member.item, test=member.item.validation)
    labels = torch.from_numpy(validation.test.labels).double()
    for made in (member.made, pretrained):
        tensors = {
            f"{p}.{k}": v for p in ("trunk", "pooler") for k, v in load_state(made, p).items()
        }
        said = probabilities(validation, Scorer(made, made, member.made), tools, tmp_path).double()
        wanted = -(labels * said.log() + (1 - labels) * (1 - said).log()).mean()
        assert stage._loss(member, tensors) == pytest.approx(float(wanted), abs=1e-5)
    generous = replace(codec, tolerance=1e6)
    files = [
        coded(each, member, [pretrained], tools, tmp_path).private.path / PRIVATE
        for each in (generous, SvdError(error=0.9, **FACTORS))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture(scope="module")
def merged(tools, members, tmp_path_factory):
    """What one merge makes of two members; each merge once for all private parts."""
    folder, (tiny, cpu, carry_out) = tmp_path_factory.mktemp("merged"), tools

    def merge(strategy):
        stage = Merging(encoder=tiny, merge=strategy, private=Nothing(), trainer=cpu)
        return carry_out(stage, group_for(strategy, members[0][:2], members[0]), folder)

    return merge


@pytest.mark.parametrize("name", ["norms_and_biases", "sign", "mask"])  # every way to keep a part
def test_a_private_part_goes_with_every_merge(
    name, any_merge, merged, members, pretrained, tools, tmp_path
):
    """And brings what comes back nearer to the member than the merge alone is."""
    codec = replace(build("private", f"private={name}"), pooler="shared")
    known = {"merged": merged(any_merge), "pretrained": pretrained}
    member = members[0][0]
    trunk = coded(codec, member, [known[b] for b in codec.bases], tools, tmp_path)
    for part in ("trunk", "pooler"):
        own, found = member.state(part), load_state(trunk, part)
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in found.items()}
        assert all(tensor.isfinite().all() for tensor in found.values())
        if name != "mask":
            assert norm(found, own) < norm(load_state(known["merged"], part), own)


def test_an_encoder_without_pooler_has_private_parts_without(
    codec, tiny, cpu, make_item, make_member, carry_out, tmp_path
):
    plain = replace(tiny, pooler=False)
    member = make_member(plain, make_item("a"), tmp_path, seed=1)
    base = carry_out(Pretrained(encoder=plain), None, tmp_path)
    assert not base.has("pooler.safetensors")
    tools = plain, cpu, carry_out
    trunk = coded(
        replace(codec, pooler="shared"), member, [base] * len(codec.bases), tools, tmp_path
    )
    assert load_state(trunk, "pooler") == {}
    assert load_state(trunk, "trunk").keys() == member.state("trunk").keys()
    item = make_item("a")
    assert probabilities(item, Scorer(trunk, trunk, member.made), tools, tmp_path).isfinite().all()


def test_a_damaged_private_part_is_noticed(members, pretrained, tools, tmp_path):
    trunk = coded(Svd(rank=1, **FACTORS), members[0][0], [pretrained], tools, tmp_path)
    path = trunk.private.path / PRIVATE
    path.write_bytes(path.read_bytes()[:-1])
    fresh = Coded(Artefact(trunk.private.path, trunk.digest), trunk.bases, trunk.codec)
    with pytest.raises(InputError, match="not what was written"):
        load_state(fresh, "trunk")


# The whole program


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_items(root / "data")
    return root


def carried(world, name, *overrides):
    """A run of a plan of two encoders, one of which is shared by at least two items."""
    folder = world / "runs" / name
    where = ["items=pasta", f"items.path={world / 'data'}", f"store={world / 'store'}"]
    ended = gwsmm("run", *TINY, TWO, *where, f"hydra.run.dir={folder}", *overrides)
    assert ended.code == 0, ended.err
    return read_json(folder / "results.json"), counts(folder)


@pytest.fixture(scope="module")
def plain(world):
    return carried(world, "plain", "private=pooler")


def size_of(world, pattern):
    return [path.stat().st_size for path in sorted((world / "store").glob(pattern))]


def test_without_a_private_trunk_nothing_is_coded_and_a_pass_serves_a_group(plain):
    results, found = plain
    assert not {"private", "pretrained"} & set(found)
    storage = results["storage"]
    assert storage["passes_before"] == storage["encoders_before"] == len(NAMES)
    assert storage["passes_after"] == storage["encoders_after"] == 2


@pytest.mark.parametrize("name", ["norms_and_biases", "svd_validated", "mask"])
def test_a_run_codes_what_shares_an_encoder_and_merges_as_without(name, world, plain):
    codec = build("private", f"private={name}")
    results, found = carried(world, name, f"private={name}", "private.pooler=own")
    assert found["merge"] == (0, plain[1]["merge"][0])
    shared = sum(len(group) for group in results["plan"]["groups"] if len(group) > 1)
    assert found["private"] == found["heads"] == (shared, 0)
    storage = results["storage"]
    assert storage["passes_after"] == len(NAMES)  # every trunk is another
    assert storage["encoders_after"] == 2 + ("pretrained" in codec.bases)
    assert storage["bytes_before"] == plain[0]["storage"]["bytes_before"]
    # as with an own pooler, the heads included, and a part for each that shares
    codes = storage["bytes_after"] - plain[0]["storage"]["bytes_after"]
    if "pretrained" in codec.bases:
        codes -= size_of(world, "pretrained/*/trunk.safetensors")[0]
    assert codes in sums(size_of(world, f"private/*/{PRIVATE}"), shared)


PARTS = ("trunk", "pooler", "head")


def sums(sizes, n):
    """Every sum of n of the files that there are."""
    found = {0: {0}}
    for size in sizes:
        for count in range(n, 0, -1):
            if count - 1 in found:
                added = {total + size for total in found[count - 1]}
                found[count] = found.get(count, set()) | added
    return found[n]


def test_over_the_pretrained_encoder_nothing_is_merged_and_one_trunk_serves_all(world, plain):
    results, found = carried(
        world, "pretrained", "private=int", "private.base=pretrained", "private.bits=6"
    )
    assert "merge" not in found
    assert found["pretrained"][0] + found["pretrained"][1] == 1
    assert found["private"] == found["heads"] == (len(NAMES), 0)
    storage = results["storage"]
    assert (storage["encoders_after"], storage["passes_after"]) == (1, len(NAMES))
    assert results["plan"] == plain[0]["plan"]
    trunk, pooler, head = (size_of(world, f"finetune/*/{part}.safetensors")[0] for part in PARTS)
    codes = storage["bytes_after"] - trunk - len(NAMES) * (pooler + head)
    assert codes in sums(size_of(world, f"private/*/{PRIVATE}"), len(NAMES))


def test_the_merge_of_a_strategy_is_that_of_a_private_or_a_shared_pooler(codec):
    assert replace(codec, pooler="own").shared_parts == Pooler().shared_parts
    assert replace(codec, pooler="shared").shared_parts == Nothing().shared_parts

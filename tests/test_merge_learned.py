"""Merges that solve for the encoder from what its members make of their training responses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CONF, build
from little import TINY, gwsmm, read_json, write_items
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from gwsmm.artefact import Member
from gwsmm.merge.average import Average
from gwsmm.merge.fisher import Fisher, FisherMean, information
from gwsmm.merge.grams import (
    RegressionMean,
    linear_layers,
    parts,
    second_moments,
    shrink,
    stages,
)
from gwsmm.merge.learning import LearnedMerge, Learners
from gwsmm.merge.reading import step, training_ids
from gwsmm.merge.regmean import RegMean
from gwsmm.merge.regmean_pp import RegMeanPP
from gwsmm.network import pad
from gwsmm.store import Key, Store

# trained by gradients; test_merge_trained.py has what these keep to
TRAINED = {"adamerging", "distill", "joint"}
SOLVED = sorted(
    name
    for name in {path.stem for path in CONF.glob("merge/*.yaml")} - TRAINED
    if isinstance(build("merge", f"merge={name}"), LearnedMerge)
)
WORDS = {"two": ("gas", "heat"), "one": ("salt",), "three": ("iron", "rust", "air")}
FIRST = "trunk.encoder.layer.0."


@pytest.fixture(params=SOLVED)
def merge(request):
    return build("merge", f"merge={request.param}")


@pytest.fixture(scope="module")
def members(tiny, make_item, make_member, tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    items = [make_item(name, words, n=12 + i) for i, (name, words) in enumerate(WORDS.items())]
    return [make_member(tiny, item, folder, seed=s) for s, item in enumerate(items)]


@pytest.fixture(scope="module")
def gather(tiny, cpu):
    """What a merge is given for these members."""

    def learners(members, parts=("trunk", "pooler"), encoder=tiny, tick=lambda done: None):
        base = {k: v for k, v in encoder.pretrained().items() if k.split(".")[0] in parts}
        return Learners(members, base, encoder, cpu, tick)

    return learners


@pytest.fixture
def cast(tmp_path):
    """A member as it would be if its tensors were changed in this way."""

    def changed(member, change, name="changed"):
        def write(folder):
            for part in ("trunk", "pooler", "head"):
                tensors = {k: change(part, k, v) for k, v in member.state(part).items()}
                save_file(tensors, folder / f"{part}.safetensors")

        made = Store(tmp_path).fetch("finetune", Key(f"{name}-{member.item.name}"), write)
        return Member(member.item, made)

    return changed


def assert_close(one, other, tolerance=1e-6):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        wanted = other[name].float()
        torch.testing.assert_close(
            tensor.float(),
            wanted,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def differs(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)


# What all of them keep to.


@pytest.mark.parametrize("parts", [("trunk", "pooler"), ("trunk",)], ids="+".join)
def test_a_merge_keeps_names_shapes_and_dtypes_and_looks_at_every_member(
    merge, parts, members, gather
):
    learners = gather(members, parts)
    merged = merge.learn(learners)
    assert {k: (v.shape, v.dtype) for k, v in merged.items()} == {
        k: (v.shape, v.dtype) for k, v in learners.base.items()
    }
    assert all(tensor.isfinite().all() for tensor in merged.values())
    assert differs(merged, learners.merged_by(Average()))
    for i in range(3):
        assert differs(merged, merge.learn(gather(members[:i] + members[i + 1 :], parts)))


def test_equal_members_give_that_member(merge, members, gather, make_item):
    items = [make_item(name, WORDS["two"], seed=s) for s, name in enumerate("pq", start=4)]
    others = [Member(item.without_test(), members[0].made) for item in items]
    learners = gather([members[0], *others])
    assert_close(merge.learn(learners), dict(learners.states[0]))


def test_a_group_of_one_gives_its_member_to_the_last_bit(merge, members, gather):
    learners = gather(members[:1])
    assert_close(merge.learn(learners), dict(learners.states[0]), 0)


def test_one_input_gives_the_same_bytes_whatever_the_order_of_the_members(merge, members, gather):
    once = merge.learn(gather(members))
    torch.manual_seed(99)
    assert_close(merge.learn(gather([members[i] for i in (2, 0, 1)])), once, 0)


def test_what_is_merged_is_not_changed_and_shares_no_memory(merge, members, gather):
    learners = gather(members)
    before = [{k: v.clone() for k, v in each.items()} for each in (learners.base, *learners.states)]
    for tensor in merge.learn(learners).values():
        tensor.fill_(7.0)
    for each, kept in zip((learners.base, *learners.states), before, strict=True):
        assert_close(dict(each), kept, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_merge_in_half_precision_is_that_in_full_rounded_once(
    merge, dtype, members, gather, cast
):
    half = [cast(each, lambda part, k, v: v.to(dtype), "half") for each in members[:2]]
    full = [cast(each, lambda part, k, v: v.float(), "full") for each in half]
    merged, exact = (merge.learn(gather(each)) for each in (half, full))
    assert {tensor.dtype for tensor in merged.values()} == {dtype}
    # the average that is started from is rounded too
    assert_close(merged, {k: v.to(dtype) for k, v in exact.items()}, 2 * torch.finfo(dtype).eps)


def test_labels_are_not_looked_at(merge, members, gather):
    def wrong(member):
        train = member.item.train
        return Member(
            replace(member.item, train=replace(train, labels=1 - train.labels)), member.made
        )

    merged = merge.learn(gather([wrong(each) for each in members]))
    assert_close(merged, merge.learn(gather(members)), 0)


def test_what_is_done_grows_up_to_one(merge, members, gather):
    done = []
    merge.learn(gather(members, tick=done.append))
    assert done == sorted(done)
    assert done[0] > 0
    assert done[-1] == pytest.approx(1)


def test_steps_fill_the_whole():
    seen = []
    for i in range(2):
        for j in range(4):
            step(step(seen.append, i, 2), j, 4)(1.0)
    np.testing.assert_allclose(seen, np.arange(1, 9) / 8)


def test_responses_are_spread_over_the_table(members, gather, tiny):
    learners, member = gather(members), members[0]
    every = tiny.tokenize(member.item.train.texts)
    for most in (None, 12, 99):
        assert training_ids(learners, member, most) == every
    assert training_ids(learners, member, 3) == [every[0], every[6], every[11]]
    assert training_ids(learners, member, 1) == every[:1]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (RegMean, {"alpha": 1.1}),
        (RegMean, {"responses": 0}),
        (RegMeanPP, {"alpha": -0.1}),
        (Fisher, {"floor": 0.0}),
        (Fisher, {"alpha": 0.5}),
    ],
)
def test_what_is_out_of_range_is_refused(kind, wrong):
    settings = {
        Fisher: {"normalised": True, "floor": 1e-6, "responses": None},
        RegMean: {"alpha": 0.9, "responses": None},
        RegMeanPP: {"alpha": 0.9, "responses": None},
    }[kind]
    kind(**settings)
    with pytest.raises(ValidationError):
        kind(**settings | wrong)


# The regression, by itself.


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solved(weights, grams):
    mean = RegressionMean(sum(weights) / len(weights), "cpu")
    for weight, gram in zip(weights, grams, strict=True):
        mean.add(weight, gram)
    return mean.solve()


def test_regmean_of_identity_grams_is_the_average():
    weights = [draw(5, 7, seed=s) for s in range(3)]
    torch.testing.assert_close(solved(weights, [torch.eye(7)] * 3), sum(weights) / 3)
    torch.testing.assert_close(solved(weights, [torch.zeros(7, 7)] * 3), sum(weights) / 3)


def test_regmean_of_equal_grams_is_the_average():
    weights, x = [draw(5, 7, seed=s) for s in range(3)], draw(40, 7, seed=9)
    torch.testing.assert_close(solved(weights, [x.T @ x] * 3), sum(weights) / 3)


@pytest.mark.parametrize("rows", [40, 3], ids=["enough", "singular"])
def test_regmean_is_the_least_squares_solution(rows):
    weights = [draw(5, 9, seed=s) for s in range(2)]
    xs = [draw(rows, 9, seed=10 + s) * torch.logspace(-3, 3, 9) for s in range(2)]
    merged = solved(weights, [x.T @ x for x in xs])
    stacked = torch.cat(xs).numpy()
    answers = torch.cat([x @ w.T for x, w in zip(xs, weights, strict=True)]).numpy()
    wanted = np.linalg.lstsq(stacked, answers, rcond=None)[0].T
    np.testing.assert_allclose(stacked @ merged.numpy().T, stacked @ wanted.T, rtol=1e-6, atol=1e-6)
    if rows == 40:
        np.testing.assert_allclose(merged, wanted, rtol=1e-6, atol=1e-9)
        for s in range(5):  # and nothing near it does better
            near = merged + 1e-3 * draw(5, 9, seed=s)
            assert loss(merged, weights, xs) < loss(near, weights, xs)


def loss(merged, weights, xs):
    return sum(float((x @ (merged - w).T).square().sum()) for x, w in zip(xs, weights, strict=True))


def test_inputs_that_nobody_has_keep_the_average():
    weights, x = [draw(5, 6, seed=s) for s in range(2)], draw(50, 6)
    x[:, 4:] = 0
    merged = solved(weights, [x.T @ x, 3 * x.T @ x])
    torch.testing.assert_close(merged[:, 4:], (sum(weights) / 2)[:, 4:])
    torch.testing.assert_close(merged[:, :4], (weights[0] + 3 * weights[1])[:, :4] / 4)


def test_shrinking_keeps_the_diagonal():
    gram = draw(4, 4)
    for alpha in (0.0, 0.3, 1.0):
        wanted = gram * alpha
        wanted.diagonal().copy_(gram.diagonal())
        found = gram.clone()
        shrink(found, alpha)
        torch.testing.assert_close(found, wanted)


# What the regressions are made of.


@pytest.fixture(scope="module")
def read(members, gather, tiny):
    """A member's network, its shared linear layers and its responses."""
    learners = gather(members)
    network = learners.network(members[0])
    return network, linear_layers(network, learners.base), training_ids(learners, members[0], None)


def test_all_linear_layers_but_the_head_are_merged_by_regression(read):
    _, layers, _ = read
    wanted = {
        f"{FIRST.replace('0', str(i))}{name}"
        for i in range(2)
        for name in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        )
    }
    assert set(layers) == {*wanted, "pooler"}


def test_grams_are_those_of_the_tokens_without_padding(read, tiny):
    network, layers, ids = read
    assert len({len(row) for row in ids}) > 1  # there is padding
    grams = second_moments(network, layers, ids, tiny.padding)
    tokens = sum(len(row) for row in ids)
    alone = {name: torch.zeros_like(gram) for name, gram in grams.items()}
    for row in ids:
        for name, gram in second_moments(network, layers, [row], tiny.padding).items():
            alone[name] += gram * (1 if name == "pooler" else len(row))
    counts = {name: len(ids) if name == "pooler" else tokens for name in layers}
    for name, gram in grams.items():
        torch.testing.assert_close(
            gram,
            alone[name] / counts[name],
            rtol=1e-4,
            atol=1e-5,
            msg=lambda m, n=name: f"{n}: {m}",
        )
    other = second_moments(network, layers, ids, tiny.padding + 5)  # whatever fills the batch
    assert_close(grams, other, 1e-5)


def test_grams_of_the_first_layer_by_hand(read, tiny):
    network, layers, ids = read
    tokens, mask = pad(ids, tiny.padding)
    with torch.no_grad():
        embedded = network.hidden(tokens, mask, -3)[mask.bool()].double()
    gram = second_moments(network, layers, ids, tiny.padding)[f"{FIRST}attention.self.query"]
    torch.testing.assert_close(gram, embedded.T @ embedded / len(embedded), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gram, gram.T, rtol=0, atol=0)


def test_stages_go_from_below_and_stop_where_they_are_told(read, tiny):
    network, layers, ids = read
    order = stages(network, layers, ids[0])
    assert [stage.prefix for stage in order] == [FIRST, FIRST.replace("0", "1"), "pooler."]
    assert sorted(name for stage in order for name in stage.layers) == sorted(layers)
    whole = second_moments(network, layers, ids, tiny.padding)
    part = second_moments(network, layers, ids, tiny.padding, until=order[1].layers[0])
    for name in layers:
        if name.startswith(FIRST):
            assert torch.equal(part[name], whole[name])
        else:
            assert not part[name].any()
    again = second_moments(network, layers, ids, tiny.padding)  # no hook is left behind
    assert_close(again, whole, 0)


# RegMean and RegMean++


@pytest.mark.parametrize("kind", [RegMean, RegMeanPP])
def test_other_tensors_are_averaged(kind, members, gather, read):
    learners = gather(members).sorted_by_name()
    merged = kind(alpha=0.9, responses=None).learn(learners)
    average, solved_for = learners.merged_by(Average()), {f"{name}.weight" for name in read[1]}
    for name, tensor in merged.items():
        assert torch.equal(tensor, average[name]) == (name not in solved_for), name


def test_regmean_is_the_regression_on_every_layer(members, gather, tiny):
    learners = gather(members)
    merged = RegMean(alpha=1.0, responses=None).learn(learners)
    grams = []
    for member in members:
        network, ids = learners.network(member), training_ids(learners, member, None)
        grams.append(second_moments(network, ["pooler"], ids, tiny.padding)["pooler"])
    weights = [state["pooler.weight"].double() for state in learners.states]
    wanted = torch.linalg.lstsq(  # as one problem, by the square roots of the Gram matrices
        torch.cat([root(gram) for gram in grams]),
        torch.cat([root(gram) @ w.T for gram, w in zip(grams, weights, strict=True)]),
    ).solution.T
    residual = sum(map(float, (excess(merged["pooler.weight"].double(), weights, grams))))
    best = sum(map(float, excess(wanted, weights, grams)))
    assert residual <= best * (1 + 1e-4)
    average = sum(map(float, excess(sum(weights) / 3, weights, grams)))
    assert residual < 0.9 * average


def test_regmean_is_the_same_however_few_layers_fit_into_memory(members, gather, read, monkeypatch):
    network, layers, ids = read
    order = stages(network, layers, ids[0])
    learners, merge = gather(members), RegMean(alpha=0.9, responses=None)
    assert parts(network, order) == [(layers, None)]
    at_once = merge.learn(learners)
    monkeypatch.setattr("gwsmm.merge.grams._HELD", 0)
    firsts = [stage.layers[0] for stage in order]
    assert [part.layers for part in parts(network, order)] == [stage.layers for stage in order]
    assert [part.until for part in parts(network, order)] == [*firsts[1:], None]
    apart = merge.learn(learners)
    assert all(torch.equal(tensor, apart[name]) for name, tensor in at_once.items())


def root(gram):
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


def excess(weight, weights, grams):
    for w, gram in zip(weights, grams, strict=True):
        yield ((weight - w) @ gram @ (weight - w).T).trace()


def test_the_first_layer_of_regmean_pp_is_that_of_regmean_on_equal_embeddings(
    members, gather, cast
):
    """Below it there is nothing that was merged."""
    embeddings = members[0].state("trunk")

    def same(part, name, tensor):
        return embeddings[name] if name.startswith("embeddings") else tensor

    learners = gather([cast(each, same) for each in members])
    one = RegMean(alpha=0.9, responses=None).learn(learners)
    other = RegMeanPP(alpha=0.9, responses=None).learn(learners)
    first = [name for name in one if name.startswith(FIRST)]
    assert_close({k: one[k] for k in first}, {k: other[k] for k in first}, 1e-6)
    second = f"{FIRST.replace('0', '1')}output.dense.weight"
    assert not torch.allclose(one[second], other[second], rtol=1e-3, atol=1e-3)


def test_regmean_pp_solves_on_what_the_merged_layers_give(members, gather, tiny):
    learners = gather(members)
    merged = RegMeanPP(alpha=1.0, responses=None).learn(learners)
    grams = []
    for member in members:  # the pooler's input comes from the merged trunk
        network, ids = learners.network(member, merged), training_ids(learners, member, None)
        grams.append(second_moments(network, ["pooler"], ids, tiny.padding)["pooler"])
    weights = [state["pooler.weight"].double() for state in learners.states]
    wanted = solved(weights, grams)
    reached = sum(map(float, excess(merged["pooler.weight"].double(), weights, grams)))
    assert reached == pytest.approx(sum(map(float, excess(wanted, weights, grams))), rel=1e-4)


# Fisher


def fisher_mean(tensors, fishers):
    mean = FisherMean(sum(tensors) / len(tensors), "cpu")
    for tensor, fisher in zip(tensors, fishers, strict=True):
        mean.add(tensor, fisher)
    return mean.solve()


def test_fisher_with_equal_weights_is_the_average():
    tensors = [draw(4, 3, seed=s).float() for s in range(3)]
    for fisher in (torch.ones(4, 3), draw(4, 3).abs() + 0.1):
        merged = fisher_mean(tensors, [fisher] * 3)
        torch.testing.assert_close(merged, sum(tensors) / 3)


def test_fisher_is_the_weighted_mean_and_goes_to_the_member_that_is_sure():
    one, two = torch.zeros(3), torch.ones(3)
    weights = torch.tensor([3.0, 1.0, 1e-6]), torch.tensor([1.0, 3.0, 1e6])
    merged = fisher_mean([one, two], weights)
    torch.testing.assert_close(merged, torch.tensor([0.25, 0.75, 1.0]))


def test_responses_that_tell_nothing_give_the_average(members, gather, cast):
    """Heads of zeros: no logit depends on the encoder."""
    blind = [
        cast(each, lambda part, k, v: torch.zeros_like(v) if part == "head" else v)
        for each in members
    ]
    learners = gather(blind)
    merged = build("merge", "merge=fisher").learn(learners)
    assert_close(merged, learners.merged_by(Average()))


@pytest.mark.parametrize("normalised", [True, False])
def test_a_member_whose_answers_do_not_depend_on_its_encoder_gives_way(
    normalised, members, gather, cast
):
    blind = cast(members[0], lambda part, k, v: torch.zeros_like(v) if part == "head" else v)
    learners = gather([blind, members[1]])
    merge = Fisher(normalised=normalised, floor=1e-12, responses=None)
    merged, sure = merge.learn(learners), learners.states[1]
    for name in ("pooler.weight", "pooler.bias"):
        torch.testing.assert_close(merged[name], sure[name], rtol=1e-3, atol=1e-3)


def test_embeddings_of_words_that_nobody_says_are_averaged(members, gather, tiny):
    learners = gather(members)
    merged = build("merge", "merge=fisher").learn(learners)
    name = "trunk.embeddings.word_embeddings.weight"
    said = {i for each in members for row in training_ids(learners, each, None) for i in row}
    silent = [i for i in range(len(merged[name])) if i not in said]
    average = learners.merged_by(Average())[name]
    torch.testing.assert_close(merged[name][silent], average[silent], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(merged[name][list(said)], average[list(said)], atol=1e-3)


def test_normalising_undoes_the_scale_of_a_members_information(members, gather, cast):
    """A head of twice the weight with logits near zero: four times the information."""

    def scaled(factor):
        def change(part, name, tensor):
            small = 1e-4 * factor if name == "weight" else 0.0
            return small * tensor if part == "head" else tensor

        return change

    merge = Fisher(normalised=True, floor=1e-12, responses=None)
    one, two, louder = (
        cast(member, scaled(factor), f"by{factor}")
        for member, factor in ((members[0], 1), (members[1], 1), (members[1], 2))
    )
    calm = merge.learn(gather([one, two]))
    assert_close(merge.learn(gather([one, louder])), calm, 1e-4)
    raw = replace(merge, normalised=False, floor=1e-30)
    assert differs(raw.learn(gather([one, louder])), raw.learn(gather([one, two])))


def test_information_is_the_expected_square_of_the_score(members, gather):
    """Over all labels that the model could give, each with the probability that it gives it."""
    learners, member = gather(members), members[2]  # three labels
    network, ids = learners.network(member), training_ids(learners, member, 2)
    names = ["pooler.weight", f"{FIRST}output.dense.bias"]
    own = [dict(network.named_parameters())[name] for name in names]
    wanted = [torch.zeros_like(each) for each in own]
    for row in ids:
        tokens, mask = pad([row], 0)
        for code in range(8):
            labels = torch.tensor([float(code >> i & 1) for i in range(3)])
            logits = network(tokens, mask)[0]
            log = -torch.nn.functional.binary_cross_entropy_with_logits(
                logits, labels, reduction="sum"
            )
            for total, slope in zip(wanted, torch.autograd.grad(log, own), strict=True):
                total += log.exp().item() * slope.square() / len(ids)
    found = information(network, names, ids)
    for name, total in zip(names, wanted, strict=True):
        torch.testing.assert_close(found[name], total, rtol=1e-4, atol=1e-9)


# The whole program.


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_items(root / "data", items=3)
    return root


@pytest.mark.parametrize("name", SOLVED)
def test_a_run_merges_with_the_help_of_the_responses(name, world):
    where = [f"items.path={world / 'data'}", f"store={world / 'store'}"]
    run = [f"hydra.run.dir={world / name}", f"merge={name}", "grouping=all", "private=nothing"]
    ended = gwsmm("run", *TINY, "items=pasta", *where, *run)
    assert ended.code == 0, ended.err
    assert read_json(world / name / "results.json")
    merged = list((world / "store" / "merge").glob("*/trunk.safetensors"))
    assert all(v.isfinite().all() for path in merged for v in load_file(path).values())

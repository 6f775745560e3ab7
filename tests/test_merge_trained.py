"""Merges that train, and the references beside them, on a tiny encoder with few responses."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import build
from little import TINY, counts, gwsmm, read_json, write_items
from pydantic import ValidationError
from torch.nn.functional import binary_cross_entropy_with_logits

from gwsmm import batching
from gwsmm.merge import adamerging
from gwsmm.merge.adamerging import AdaMerging, binary_entropy
from gwsmm.merge.average import Average
from gwsmm.merge.distill import Distill
from gwsmm.merge.frozen import Frozen
from gwsmm.merge.joint import Joint
from gwsmm.merge.learning import Learners, Learning
from gwsmm.merge.lesson import Responses, taught
from gwsmm.merge.merging import Group, base_state, group_for
from gwsmm.merge.stored import Stored
from gwsmm.merge.student import soft_loss, student_of
from gwsmm.merge.task_arithmetic import TaskArithmetic
from gwsmm.merge.ties import Ties
from gwsmm.network import infer, pad
from gwsmm.private.nothing import Nothing
from gwsmm.types import InputError

RECIPE = replace(build("finetune"), learning_rate=2e-3, batch_size=8, epochs=3, precision="fp32")
DISTILL = Distill(start=Average(), layer_epochs=2, features=1.0, recipe=RECIPE, seed=0)
JOINT = Joint(recipe=replace(RECIPE, head_learning_rate=1e-2), seed=0)
TIES = Ties(density=0.3, scale=1.0, base="pretrained")
ADA = AdaMerging(
    initial=0.3,
    steps=8,
    learning_rate=2e-2,
    batch_size=6,
    precision="fp32",
    base="pretrained",
    seed=0,
)
WORDS = {"one": ("gas", "heat"), "two": ("sugar", "water", "salt"), "three": ("iron",)}
REGMEAN = "{_target_: gwsmm.merge.regmean.RegMean, alpha: 0.9, responses: 99}"
SHARED = pytest.mark.parametrize("parts", [("trunk", "pooler"), ("trunk",)], ids="+".join)


@pytest.fixture(scope="module")
def members(tiny, make_item, make_member, tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    items = [make_item(name, words, n=18 + len(words)) for name, words in WORDS.items()]
    return [make_member(tiny, item, folder, seed=s) for s, item in enumerate(items)]


@pytest.fixture(scope="module")
def gather(tiny, cpu):
    """What a merge is given for these members."""

    def learners(merge, members, parts=("trunk", "pooler"), encoder=tiny, tick=lambda done: None):
        base = base_state(merge.base, encoder, group_for(merge, members, members), parts)
        return Learners(members, base, encoder, cpu, tick)

    return learners


def quick(merge):
    """The merge with the least work that is still all of its work."""
    if isinstance(merge, AdaMerging):
        return replace(merge, steps=3, precision="fp32")
    if isinstance(merge, Distill | Joint):
        return replace(merge, recipe=replace(merge.recipe, epochs=2, precision="fp32"))
    return merge


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def differs(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)


# What every merge keeps to that looks at responses.


@SHARED
def test_a_merge_keeps_names_shapes_and_dtypes_and_is_finite(
    any_merge_learned, parts, members, gather
):
    learners = gather(any_merge_learned, members, parts)
    merged = quick(any_merge_learned).learn(learners)
    assert {k: (v.shape, v.dtype) for k, v in merged.items()} == {
        k: (v.shape, v.dtype) for k, v in learners.base.items()
    }
    assert all(tensor.isfinite().all() for tensor in merged.values())
    assert differs(merged, learners.base)


def test_an_encoder_without_pooler_is_merged_without(
    any_merge_learned, tiny, gather, make_item, make_member, tmp_path
):
    plain = replace(tiny, pooler=False)
    two = [make_member(plain, make_item(name), tmp_path, seed=i) for i, name in enumerate("ab")]
    merged = quick(any_merge_learned).learn(gather(any_merge_learned, two, encoder=plain))
    assert merged
    assert all(name.startswith("trunk.") for name in merged)


def test_one_seed_gives_the_same_bytes_whatever_the_order_of_the_members(
    any_merge_learned, members, gather
):
    merge = quick(any_merge_learned)
    once = merge.learn(gather(merge, members))
    torch.manual_seed(99)  # what is drawn from the global generator is of no account
    again = merge.learn(gather(merge, [members[i] for i in (2, 0, 1)]))
    assert_equal(once, again)


def test_another_seed_gives_others(any_merge_learned, members, gather):
    if not hasattr(any_merge_learned, "seed"):
        pytest.skip("draws nothing")
    merge = quick(any_merge_learned)
    learners = gather(merge, members)
    other = replace(merge, seed=merge.seed + 1)
    assert differs(merge.learn(learners), other.learn(learners))


def test_what_is_merged_is_not_changed(any_merge_learned, members, gather):
    merge = quick(any_merge_learned)
    learners = gather(merge, members)
    before = {name: tensor.clone() for name, tensor in learners.base.items()}
    merged = merge.learn(learners)
    for tensor in merged.values():
        tensor.fill_(7.0)
    assert_equal(learners.base, before)


def test_what_is_done_grows_up_to_one(any_merge_learned, members, gather):
    merge = quick(any_merge_learned)
    for tried in (merge, replace(quick(DISTILL), start=merge)):
        done = []
        tried.learn(gather(tried, members, tick=done.append))
        assert all(one <= other for one, other in pairwise(done))
        assert all(0 <= each <= 1 + 1e-9 for each in done)


def test_a_group_of_one_is_merged_too(any_merge_learned, members, gather):
    merge = quick(any_merge_learned)
    if isinstance(merge, Joint):
        pytest.skip("trains on labels, whatever the member is")
    if isinstance(merge, Distill):
        merge = replace(merge, start=Average())
    alone = gather(merge, members[:1])
    merged, own = merge.learn(alone), Stored(members[0], ("trunk", "pooler"))
    assert merged.keys() == own.keys()
    if isinstance(merge, Distill):  # the start is the member, and nothing is nearer to it
        assert all(torch.equal(merged[name], own[name]) for name in own)
    else:  # between the base and the member
        for name, start in alone.base.items():
            tau, moved = own[name] - start, merged[name] - start
            share = (tau * moved).sum() / (tau**2).sum()
            assert 0 <= share <= 1
            torch.testing.assert_close(moved, share * tau, atol=1e-6, rtol=1e-4)


@pytest.fixture(scope="module")
def unmoved(tiny, make_item, make_member, tmp_path_factory):
    """Members whose shared tensors are the pretrained ones."""
    folder = tmp_path_factory.mktemp("unmoved")
    return [make_member(tiny, make_item(n), folder, seed=s, noise=0.0) for s, n in enumerate("ab")]


@pytest.mark.parametrize("parts", [("trunk", "pooler"), ("trunk",)], ids="+".join)
def test_members_that_equal_the_base_give_the_base(any_merge_learned, parts, unmoved, gather):
    if isinstance(any_merge_learned, Joint):
        pytest.skip("trains on labels, whatever the members are")
    merge = quick(any_merge_learned)
    learners = gather(merge, unmoved, parts)
    merged = merge.learn(learners)
    for name, base in learners.base.items():
        torch.testing.assert_close(merged[name], base, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("merge", [DISTILL, ADA], ids=lambda merge: type(merge).__name__)
def test_merges_that_promise_it_look_at_no_label(merge, members, gather):
    wrong = []
    for member in members:
        item = member.item
        parts = {s: replace(item.split(s), labels=1 - item.split(s).labels) for s in SPLITS}
        wrong.append(replace(member, item=replace(item, **parts)))
    merge = quick(merge)
    assert_equal(merge.learn(gather(merge, members)), merge.learn(gather(merge, wrong)))


SPLITS = ("train", "validation")


# The student and its teachers.


@SHARED
def test_a_student_sees_a_mixed_batch_as_each_items_own_network_does(parts, members, gather, tiny):
    learners = gather(JOINT, members, parts)
    student = student_of(learners, members, learners.base)
    texts = [member.item.train.texts[i] for i in (0, 1) for member in members]
    items = torch.tensor([0, 1, 2, 0, 1, 2])
    batch = pad(tiny.tokenize(texts), tiny.padding)
    with torch.no_grad():
        seen = student(*batch, items)
        for i, member in enumerate(members):
            network, own = learners.network(member, learners.base), items == i
            logits = seen.logits[own][:, student.owns[i]]
            torch.testing.assert_close(seen.vectors[own, -1], network.represent(*batch)[own])
            torch.testing.assert_close(logits, network(*batch)[own])
            for layer in (1, 2):
                hidden = network.hidden(*batch, layer)
                mean = (hidden * batch[1][..., None]).sum(1) / batch[1].sum(1, keepdim=True)
                torch.testing.assert_close(seen.vectors[own, layer - 1], mean[own])


@SHARED
def test_teachers_see_their_own_responses(parts, members, gather, tiny):
    learners = gather(JOINT, members, parts)
    responses = Responses.of(learners)
    done = []
    lesson = taught(learners, responses, done.append)
    assert done == pytest.approx([1 / 3, 2 / 3, 1])
    assert responses.train == sum(len(member.item.train) for member in members)
    columns = np.cumsum([0, *(len(words) for words in WORDS.values())])
    for i, member in enumerate(members):
        own = responses.items == i
        network = learners.network(member)
        ids = tiny.tokenize(member.item.train.texts + member.item.validation.texts)
        assert [responses.ids[row] for row in own.nonzero().flatten()] == ids
        probabilities = infer(network, ids, tiny.padding, network).sigmoid()
        part = lesson.probabilities[own]
        torch.testing.assert_close(part[:, columns[i] : columns[i + 1]], probabilities)
        assert int((part != 0).sum()) == probabilities.numel()
        vectors = infer(network, ids, tiny.padding, network.represent)
        torch.testing.assert_close(lesson.vectors[own, -1], vectors)
        spread = len(vectors) * lesson.spread[own, -1]  # of all, which the mean explains
        about = (vectors - vectors.mean(0)).square().sum()
        torch.testing.assert_close(spread, about.expand(len(vectors)), rtol=1e-4, atol=0)


def test_the_loss_is_zero_where_probabilities_are_met_and_else_the_cross_entropy_above_it(
    members, gather
):
    learners = gather(JOINT, members)
    student = student_of(learners, members, learners.base)
    logits, items = torch.randn(5, 6), torch.tensor([0, 1, 2, 1, 0])
    assert float(soft_loss(student, logits, logits.sigmoid(), items)) == pytest.approx(0, abs=1e-6)
    labels = (torch.rand(5, 6) < 0.5).float()
    by_hand = torch.stack(
        [
            binary_cross_entropy_with_logits(z[own], y[own])
            for z, y, own in zip(logits, labels, student.owns[items], strict=True)
        ]
    ).mean()
    torch.testing.assert_close(soft_loss(student, logits, labels, items), by_hand)


# Distillation.


def losses(learners, state):
    """How far a state is from the teachers on validation responses: by layers, by logits."""
    group = learners.sorted_by_name()
    responses = Responses.of(group)
    lesson = taught(group, responses, lambda done: None)
    student = student_of(group, group.members, state)
    rows = torch.arange(responses.train, len(responses.ids))
    wanted = lesson.at(rows)
    ids, mask = pad([responses.ids[row] for row in rows], learners.encoder.padding)
    with torch.no_grad():
        seen = student(ids, mask, wanted.items)
        logits = float(soft_loss(student, seen.logits, wanted.probabilities, wanted.items))
    error = (seen.vectors - wanted.vectors).square().sum(-1) / wanted.spread
    return float(error[:, :-1].mean()), logits + float(error[:, -1].mean())


@SHARED
@pytest.mark.parametrize("layer_epochs", [0, 2])
def test_the_student_comes_closer_to_its_teachers(layer_epochs, parts, members, gather):
    merge = replace(DISTILL, layer_epochs=layer_epochs)
    learners = gather(merge, members, parts)
    start, taught = learners.merged_by(Average()), merge.learn(learners)
    assert losses(learners, taught)[1] < 0.8 * losses(learners, start)[1]


@SHARED
def test_what_equal_teachers_taught_already_stays(parts, members, gather):
    equal = [replace(members[0], item=replace(members[0].item, name=name)) for name in "abc"]
    learners = gather(DISTILL, equal, parts)
    assert_equal(DISTILL.learn(learners), learners.merged_by(Average()))


def test_a_student_is_never_worse_than_its_start(members, gather):
    wild = replace(DISTILL, recipe=replace(RECIPE, learning_rate=3.0, clip=None, warmup=0.0))
    learners = gather(wild, members)
    assert_equal(wild.learn(learners), learners.sorted_by_name().merged_by(Average()))


@pytest.mark.parametrize("start", [Frozen(), TIES], ids=lambda start: type(start).__name__)
def test_distillation_starts_where_it_is_told(start, members, gather):
    still = replace(RECIPE, learning_rate=1e-9, epochs=1)
    merge = replace(DISTILL, start=start, layer_epochs=0, recipe=still)
    learners = gather(merge, members)
    assert merge.base == start.base
    begun, ended = learners.sorted_by_name().merged_by(start), merge.learn(learners)
    for name in begun:
        torch.testing.assert_close(ended[name], begun[name], rtol=1e-4, atol=1e-6)


def test_distillation_starts_from_any_other_merge_that_looks_at_responses(
    any_merge_learned, members, gather
):
    start = quick(any_merge_learned)
    still = replace(RECIPE, learning_rate=1e-9, epochs=1)
    merge = replace(DISTILL, start=start, layer_epochs=0, recipe=still)
    learners = gather(merge, members)
    begun, ended = start.learn(learners), merge.learn(learners)
    assert differs(begun, learners.merged_by(Average()))
    for name in begun:
        torch.testing.assert_close(ended[name], begun[name], rtol=1e-4, atol=1e-6)


def test_what_the_start_needs_of_the_encoder_is_checked(members, gather):
    start = replace(JOINT, recipe=replace(RECIPE, frozen_layers=3))
    with pytest.raises(InputError, match=r"frozen_layers=3: "):
        replace(DISTILL, start=start).check(gather(DISTILL, members).encoder)


@pytest.mark.parametrize("merge", [DISTILL, JOINT], ids=lambda merge: type(merge).__name__)
def test_frozen_layers_stay_as_they_were(merge, members, gather):
    merge = replace(merge, recipe=replace(RECIPE, frozen_layers=1))
    learners = gather(merge, members)
    group = learners.sorted_by_name()
    start = learners.base if isinstance(merge, Joint) else group.merged_by(Average())
    merged = merge.learn(learners)
    moved = {name for name in merged if not torch.equal(merged[name], start[name])}
    assert any(".layer.1." in name for name in moved)
    assert not any(".layer.0." in name or "embeddings" in name for name in moved)
    with pytest.raises(InputError, match=r"merge\.recipe\.frozen_layers=3: "):
        replace(merge, recipe=replace(RECIPE, frozen_layers=3)).check(learners.encoder)


@pytest.mark.parametrize("inside", [True, False])
def test_joint_training_has_dropout_where_its_recipe_says(inside, members, gather, monkeypatch):
    modes = set()

    def untrained(student, *_):
        modes.add((student.dropout.training, student.trunk.training))

    monkeypatch.setattr("gwsmm.scoring.train", untrained)
    joint = replace(JOINT, recipe=replace(JOINT.recipe, trunk_dropout=inside))
    joint.learn(gather(joint, members))
    assert modes == {(True, inside)}


def test_distillation_is_without_dropout():
    with pytest.raises(ValidationError, match="without dropout; give false"):
        replace(DISTILL, recipe=replace(RECIPE, trunk_dropout=True))


def test_auto_is_settled_when_the_strategy_is_built():
    merge = replace(DISTILL, recipe=replace(RECIPE, precision="auto"))
    assert merge.recipe.precision in ("fp32", "bf16")


@pytest.mark.parametrize(
    "wrong", [{"layer_epochs": -1}, {"features": -0.1}, {"start": RECIPE}, {"seed": -1}]
)
def test_distill_refuses_what_is_out_of_range(wrong):
    with pytest.raises(ValidationError):
        replace(DISTILL, **wrong)


# AdaMerging.


@SHARED
def test_adamerging_without_a_step_is_task_arithmetic(parts, members, gather):
    learners = gather(ADA, members, parts)
    merged = replace(ADA, steps=0).learn(learners)
    wanted = learners.merged_by(TaskArithmetic(scale=0.3, layers=None, base="pretrained"))
    for name in wanted:
        torch.testing.assert_close(merged[name], wanted[name], rtol=1e-5, atol=1e-5)


def test_every_tensor_goes_along_the_task_vectors(members, gather):
    learners = gather(ADA, members)
    merged = ADA.learn(learners)
    coefficients = []
    for name, base in learners.base.items():
        taus = torch.stack([(state[name] - base).flatten() for state in learners.states], 1)
        found = torch.linalg.lstsq(taus, (merged[name] - base).flatten()[:, None])
        rest = taus @ found.solution - (merged[name] - base).flatten()[:, None]
        assert float(rest.abs().max()) < 1e-4
        coefficients.append(found.solution.flatten())
    table = torch.stack(coefficients)
    assert float((table - 0.3).abs().max()) <= ADA.steps * ADA.learning_rate * 1.01
    assert len(table.unique(dim=0)) > len(table) // 2  # each its own


def test_adamerging_learns_from_the_parts_of_a_batch_what_it_learns_from_the_whole(
    members, gather, monkeypatch
):
    parts = []

    def counted(ids, most):
        found = list(batching.batches(ids, most))
        parts.append(len(found))
        return found

    monkeypatch.setattr(adamerging, "batches", counted)
    in_parts = ADA.learn(gather(ADA, members))
    assert len(parts) == ADA.steps
    assert min(parts) > 1
    monkeypatch.setattr(batching, "PADDING", float("inf"))
    whole = ADA.learn(gather(ADA, members))
    assert set(parts[ADA.steps :]) == {1}
    for name in whole:
        torch.testing.assert_close(in_parts[name], whole[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adamerging_makes_the_models_surer(members, gather, precision):
    def entropy(merge):
        learners = gather(merge, members)
        merged, found = merge.learn(learners), []
        for member in members:
            network = learners.network(member, merged)
            ids = learners.encoder.tokenize(member.item.train.texts)
            logits = infer(network, ids, learners.encoder.padding, network)
            found.append(float(binary_entropy(logits).mean()))
        return np.mean(found)

    learned, start = (replace(ADA, steps=steps, precision=precision) for steps in (40, 0))
    assert entropy(learned) < entropy(start) - 1e-3


def test_binary_entropy_by_hand():
    p = torch.tensor([0.5, 0.1, 0.9, 0.02], dtype=torch.float64)
    by_hand = -(p * p.log() + (1 - p) * (1 - p).log())
    torch.testing.assert_close(binary_entropy(p.logit()), by_hand)
    far = torch.tensor([-500.0, 500.0], requires_grad=True)
    entropy = binary_entropy(far)
    entropy.sum().backward()
    assert entropy.tolist() == [0, 0]
    assert far.grad.tolist() == [0, 0]


@pytest.mark.parametrize(
    "wrong", [{"initial": 1.1}, {"steps": -1}, {"learning_rate": 0}, {"batch_size": 0}]
)
def test_adamerging_refuses_what_is_out_of_range(wrong):
    with pytest.raises(ValidationError):
        replace(ADA, **wrong)


# References.


def test_joint_training_learns_what_can_be_learned(tiny, gather, make_item, make_member, tmp_path):
    """The members know nothing; labels are what is learned from."""
    words = {"a": ("gas", "heat"), "b": ("sugar", "water")}
    two = [
        make_member(tiny, make_item(name, said, n=120, seed=i), tmp_path, seed=i)
        for i, (name, said) in enumerate(words.items())
    ]
    joint = replace(JOINT, recipe=replace(JOINT.recipe, epochs=8, patience=8))
    learners = gather(joint, two)
    merged = joint.learn(learners)
    for member in two:
        features = {}
        for split in SPLITS:
            network = learners.network(member, merged)
            ids = tiny.tokenize(member.item.split(split).texts)
            features[split] = infer(network, ids, tiny.padding, network.represent)
        labels = {split: torch.tensor(member.item.split(split).labels).float() for split in SPLITS}
        ones = [torch.cat([f, torch.ones(len(f), 1)], 1) for f in features.values()]
        head = torch.linalg.lstsq(ones[0], labels["train"], driver="gelsd").solution
        decided = (ones[1] @ head > 0.5).float()
        assert float((decided == labels["validation"]).float().mean()) > 0.85


def test_a_merge_that_diverges_is_refused_and_nothing_of_it_is_kept(
    tiny, cpu, members, carry_out, tmp_path
):
    huge = replace(RECIPE, learning_rate=1e30, warmup=0.0, epochs=1)
    joint = Joint(recipe=huge, seed=0)
    stage = Learning(encoder=tiny, merge=joint, private=Nothing(), trainer=cpu)
    says = (
        r"^items one, two, three: their merge diverged, the tensor trunk\.\S+ is not finite; give"
    )
    with pytest.raises(InputError, match=says) as error:
        carry_out(stage, Group(tuple(members), None), tmp_path)
    assert "\n" not in str(error.value)
    assert [path.suffix for path in (tmp_path / "merge").iterdir()] == [".lock"]


def test_joint_training_needs_no_member_but_for_its_own_pooler(members, gather, unmoved):
    other = [replace(each, made=members[0].made) for each in unmoved]  # heads of other members
    shared, own = ("trunk", "pooler"), ("trunk",)
    joint = quick(JOINT)
    assert_equal(joint.learn(gather(joint, unmoved, shared)), joint.learn(gather(joint, other)))
    assert differs(joint.learn(gather(joint, unmoved, own)), joint.learn(gather(joint, other, own)))


def test_frozen_is_the_pretrained_encoder(members, gather, tiny):
    frozen = gather(Frozen(), members).merged_by(Frozen())
    assert_equal(frozen, dict(tiny.pretrained()))


# The whole program.


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_items(root / "data", items=3)
    return root


@pytest.mark.parametrize(
    ("name", "less"),
    [
        ("distill", ["merge.recipe.epochs=1"]),
        ("distill", ["merge.recipe.epochs=1", "~merge.start", f"+merge.start={REGMEAN}"]),
        ("adamerging", ["merge.steps=2"]),
        ("joint", ["merge.recipe.epochs=1"]),
        ("frozen", ["private=nothing"]),
    ],
)
def test_a_run_takes_the_merge_from_its_name(name, less, world):
    where = [f"items.path={world / 'data'}", f"store={world / 'store'}"]
    folder = world / f"{name}{len(less)}"
    run = [f"hydra.run.dir={folder}", f"merge={name}", "grouping=all"]
    ended = gwsmm("run", *TINY, "items=pasta", *where, *run, *less)
    assert ended.code == 0, ended.err
    assert counts(folder)["merge"] == (1, 0)
    assert read_json(folder / "results.json")

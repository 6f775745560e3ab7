"""Fine-tuning, features and heads on a tiny encoder and responses that a word tells apart."""

import json
import math
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from conftest import build
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits, scaled_dot_product_attention

from gwsmm.artefact import Member
from gwsmm.batching import PADDING, Most, batches
from gwsmm.distance.subjects import CloudOf
from gwsmm.features import Extraction, Features, common_readings, own_readings
from gwsmm.finetune import Finetuning
from gwsmm.heads import l2_sp, refit
from gwsmm.heads.fitting import Frozen, HeadFitting, Moved
from gwsmm.heads.keep import Keep
from gwsmm.heads.l2_sp import L2SP
from gwsmm.heads.published import PublishedHeads
from gwsmm.heads.refit import Refit
from gwsmm.heads.surgery import Surgery
from gwsmm.merge.average import Average
from gwsmm.merge.merging import Group, Merging
from gwsmm.network import infer, pad, pool
from gwsmm.private.nothing import Nothing
from gwsmm.recipe import Recipe
from gwsmm.scoring import Data, ScoringModel, mean_loss, train
from gwsmm.types import InputError, Label, Responses

RECIPE = replace(
    build("finetune"),
    frozen_layers=0,
    trunk_dropout=True,
    learning_rate=3e-3,
    head_learning_rate=1e-2,
    epsilon=1e-8,
    weight_decay=0.01,
    no_decay=["bias", "LayerNorm"],
    schedule="linear",
    warmup=0.1,
    clip=1.0,
    batch_size=8,
    by_length=True,
    epochs=8,
    patience=8,
    precision="fp32",
)
PARTS = ("trunk", "pooler", "head")


@pytest.fixture(scope="module")
def finetune(tiny, cpu, carry_out):
    """The member of an item, trained in this folder."""

    def run(item, folder, recipe=RECIPE, seed=0):
        stage = Finetuning(encoder=tiny, recipe=recipe, trainer=cpu, seed=seed)
        return Member(item.without_test(), carry_out(stage, item.without_test(), folder))

    return run


@pytest.fixture(scope="module")
def member(finetune, make_item, tmp_path_factory):
    return finetune(make_item("one", n=120), tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def other(finetune, make_item, tmp_path_factory):
    item = make_item("two", words=("sugar", "water"), n=120, seed=1)
    return finetune(item, tmp_path_factory.mktemp("two"))


def curves(member):
    return json.loads(member.made.file("training.json").read_text())


def network_of(encoder, member, trunk=None, head=None):
    """The network of a member, where given with the trunk, pooler and head of other results."""
    network = encoder.network(len(member.item.labels))
    for part in PARTS:
        made = {"trunk": trunk, "pooler": trunk, "head": head}[part] or member.made
        network.load_part(part, load_file(made.file(f"{part}.safetensors")))
    return network.eval()


def logits_of(encoder, network, responses):
    return infer(network.eval(), encoder.tokenize(responses.texts), encoder.padding, network)


def represented(encoder, network, responses):
    ids = encoder.tokenize(responses.texts)
    return infer(network.eval(), ids, encoder.padding, network.represent)


def loss_of(encoder, network, responses):
    logits = logits_of(encoder, network, responses)
    return float(binary_cross_entropy_with_logits(logits, torch.tensor(responses.labels).float()))


def contradicted(item, part="validation"):
    """The item with labels in one part that are the opposite of what can be learned."""
    responses = getattr(item, part)
    return replace(item, **{part: Responses(responses.texts, 1 - responses.labels)})


# Fine-tuning.


def test_training_learns_what_can_be_learned(tiny, member, make_item):
    epochs = curves(member)["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert epochs[-1]["train_loss"] < 0.3 * epochs[0]["train_loss"]
    assert min(epoch["validation_loss"] for epoch in epochs) < 0.3
    test = make_item("one", n=120).test
    decided = logits_of(tiny, network_of(tiny, member), test).numpy() > 0
    assert (decided == test.labels).mean() > 0.85 > test.labels.mean() + 0.2


def test_the_saved_state_is_that_of_the_lowest_validation_loss(tiny, member):
    found = curves(member)
    losses = [epoch["validation_loss"] for epoch in found["epochs"]]
    assert found["best_epoch"] == int(np.argmin(losses)) + 1
    again = loss_of(tiny, network_of(tiny, member), member.item.validation)
    assert again == pytest.approx(min(losses), rel=1e-5)


def test_training_stops_when_validation_has_had_enough(tiny, finetune, make_item, tmp_path):
    item = contradicted(make_item("one"))
    stopped = finetune(item, tmp_path, replace(RECIPE, epochs=15, patience=2))
    found = curves(stopped)
    losses = [epoch["validation_loss"] for epoch in found["epochs"]]
    assert len(losses) == found["best_epoch"] + 2 < 15
    # The best is not the last here, and still it is what was kept.
    again = loss_of(tiny, network_of(tiny, stopped), item.validation)
    assert again == pytest.approx(losses[found["best_epoch"] - 1], rel=1e-5)
    assert again < losses[-1] - 1e-3


def contents(member):
    files = [f"{part}.safetensors" for part in PARTS] + ["training.json"]
    return [member.made.file(name).read_bytes() for name in files]


@pytest.mark.parametrize("change", [{}, {"by_length": False, "clip": None, "schedule": "constant"}])
def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(
    change, finetune, make_item, tmp_path
):
    recipe, item = replace(RECIPE, epochs=2, **change), make_item("one")
    first, again, third = (
        contents(finetune(item, tmp_path / name, recipe, seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert all(one != two for one, two in zip(first, third, strict=True))


@pytest.mark.parametrize(
    ("batch_size", "precision", "says"),
    [
        (8, "bf16", r"the tensor trunk\.\S+ is not finite; .* learning_rate or precision=fp32\."),
        (100, "fp32", r"its validation loss is not finite; give finetune a lower learning_rate\."),
    ],
)
def test_a_training_that_diverges_is_refused_and_nothing_of_it_is_kept(
    finetune, make_item, tmp_path, batch_size, precision, says
):
    """In one step of huge weights the loss is none before the weights are none."""
    recipe = replace(
        RECIPE,
        batch_size=batch_size,
        precision=precision,
        epochs=1,
        warmup=0.0,
        learning_rate=1e30,
        head_learning_rate=1e30,
    )
    with pytest.raises(
        InputError, match=rf"^item 'one': its fine-tuning diverged, {says}"
    ) as error:
        finetune(make_item("one"), tmp_path, recipe)
    assert "\n" not in str(error.value)
    assert [path.suffix for path in (tmp_path / "finetune").iterdir()] == [".lock"]


def test_adapters_move_only_linear_layers_and_only_by_their_rank(
    tiny, finetune, make_item, configured, tmp_path
):
    lora = configured("finetune", "finetune=lora")
    recipe = replace(lora, rank=3, recipe=replace(lora.recipe, epochs=3, warmup=0.0))
    item = make_item("one", n=120)
    made = finetune(item, tmp_path, recipe)
    start, trunk = tiny.network(1).part_state("trunk"), made.state("trunk")
    assert trunk.keys() == start.keys()
    moved = {name for name in trunk if not torch.equal(trunk[name], start[name])}
    linear = {name for name in trunk if name.startswith("encoder.") and trunk[name].ndim == 2}
    assert moved == linear
    for name in moved:
        delta = (trunk[name] - start[name]).double()
        assert torch.linalg.matrix_rank(delta, rtol=1e-4) == 3, name
    best = min(epoch["validation_loss"] for epoch in curves(made)["epochs"])
    assert loss_of(tiny, network_of(tiny, made), item.validation) == pytest.approx(best, rel=1e-4)
    first = curves(made)["epochs"][0]
    assert curves(made)["epochs"][-1]["train_loss"] < first["train_loss"]


def test_layers_cannot_be_frozen_under_adapters(configured):
    lora = configured("finetune", "finetune=lora")
    with pytest.raises(InputError, match=r"finetune\.recipe\.frozen_layers=1: .* give 0"):
        replace(lora, recipe=replace(lora.recipe, frozen_layers=1))


def test_without_peft_adapters_are_refused_with_the_command_that_installs_it(
    configured, monkeypatch
):
    recipe = configured("finetune", "finetune=lora")
    monkeypatch.setattr("gwsmm.lora.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'gwsmm\[lora\]'"):
        replace(recipe, rank=4)


def test_a_low_precision_run_is_kept_in_full_precision(finetune, make_item, tmp_path):
    half = finetune(make_item("one"), tmp_path, replace(RECIPE, epochs=1, precision="bf16"))
    for part in PARTS:
        for name, tensor in half.state(part).items():
            assert tensor.dtype == torch.float32
            assert tensor.isfinite().all(), name


@pytest.mark.parametrize("random", [True, False], ids=["random", "pretrained"])
@pytest.mark.parametrize("inside", [True, False])
def test_dropout_inside_the_trunk_is_as_the_recipe_says_wherever_it_came_from(
    inside, random, tiny, cpu, make_item, tmp_path, monkeypatch
):
    modes = []

    def untrained(network, *_):
        modes.extend(
            (name.startswith("trunk."), each.training)
            for name, each in network.named_modules()
            if isinstance(each, torch.nn.Dropout)
        )
        return [{"epoch": 1, "validation_loss": 0.0}]

    monkeypatch.setattr("gwsmm.scoring.train", untrained)
    encoder = tiny if random else replace(tiny, random=None)
    recipe = replace(RECIPE, trunk_dropout=inside)
    stage = Finetuning(encoder=encoder, recipe=recipe, trainer=cpu, seed=0)
    stage(make_item().without_test(), tmp_path)
    assert set(modes) == {(True, inside), (False, True)}


@pytest.mark.parametrize("inside", [True, False])
def test_the_trunk_is_in_its_mode_in_every_epoch(inside, tiny, cpu):
    network = tiny.network(2).train()
    network.trunk.train(inside)
    seen = []

    def loss(ids, mask, labels):
        seen.append((network.dropout.training, network.trunk.training))
        return binary_cross_entropy_with_logits(network(ids, mask).float(), labels)

    ids, labels = tiny.tokenize(["gas", "heat"]), torch.eye(2)
    data = Data(ids, labels, ids, labels, filler=0, batch_size=2, by_length=False, seed=0)
    train(network, loss, data, replace(RECIPE, epochs=2), cpu, lambda done: None)
    assert seen == [(True, inside), (False, False)] * 2


@pytest.mark.parametrize(
    ("precision", "layers"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_attention_is_in_fp32_whatever_the_layers_are_in(precision, layers, tiny, cpu):
    network, seen = tiny.network(2), set()
    query = torch.ones(1, 1, 2, 4, dtype=layers)
    open_to = torch.zeros(1, 1, 2, 2, dtype=layers)

    def loss(ids, mask, labels):
        attended = scaled_dot_product_attention(query, query, query, attn_mask=open_to)
        logits = network(ids, mask)
        seen.add((logits.dtype, attended.dtype))
        return binary_cross_entropy_with_logits(logits.float(), labels)

    ids, labels = tiny.tokenize(["gas", "heat"]), torch.eye(2)
    data = Data(ids, labels, ids, labels, filler=0, batch_size=2, by_length=False, seed=0)
    once = replace(RECIPE, epochs=1, precision=precision)
    train(network, loss, data, once, cpu, lambda done: None)
    mean_loss(loss, data, once, cpu)
    assert seen == {(layers, torch.float32)}


def test_an_encoder_without_pooler_leaves_none(tiny, cpu, carry_out, make_item, tmp_path):
    plain, item = replace(tiny, pooler=False), make_item("one").without_test()
    recipe = replace(RECIPE, epochs=1)
    stage = Finetuning(encoder=plain, recipe=recipe, trainer=cpu, seed=0)
    made = carry_out(stage, item, tmp_path)
    assert made.has("trunk.safetensors")
    assert not made.has("pooler.safetensors")
    assert Member(item, made).state("pooler") == {}


# The recipe.


def no_loss(ids, mask, targets):
    raise AssertionError("nothing is trained here")


def groups_of(encoder, recipe, steps=100):
    """(learning rate, decay) by parameter name, and the schedule."""
    model = ScoringModel(encoder.network(2), no_loss, recipe, steps)
    configured = model.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]
    names = {id(weight): name for name, weight in model.network.named_parameters()}
    groups = {
        names[id(weight)]: (group["initial_lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    assert groups.keys() == set(names.values())
    assert schedule["interval"] == "step"
    assert {group["eps"] for group in optimizer.param_groups} == {recipe.epsilon}
    return groups, schedule["scheduler"].lr_lambdas[0]


def test_decay_and_learning_rate_are_those_of_the_recipe(any_finetune, tiny):
    recipe = any_finetune.training
    groups, _ = groups_of(tiny, recipe)
    for name, (rate, decay) in groups.items():
        free = any(part in name for part in recipe.no_decay)
        head = name.startswith("head.")
        assert decay == (0 if free else recipe.weight_decay)
        assert rate == (recipe.head_learning_rate if head else recipe.learning_rate)
    assert {decay for _, decay in groups.values()} == {0, recipe.weight_decay}


def test_a_schedule_rises_and_falls_within_bounds(any_finetune, tiny):
    recipe = any_finetune.training
    _, factor = groups_of(tiny, recipe, steps=200)
    factors = np.array([factor(step) for step in range(200)])
    assert ((factors > 0) & (factors <= 1)).all()
    warm = round(200 * recipe.warmup)
    assert (np.diff(factors[: warm + 1]) > 0).all()
    assert factors[warm] == pytest.approx(1, abs=0.01)
    after = np.diff(factors[warm:])
    assert (after == 0).all() if recipe.schedule == "constant" else (after < 0).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_before_training_is_computed_as_those_of_its_epochs(
    precision, tiny, cpu, make_item
):
    item, network = make_item(), tiny.network(2).eval()
    still = replace(RECIPE, learning_rate=1e-12, head_learning_rate=1e-12, precision=precision)
    parts = item.train, item.validation
    ids = [tiny.tokenize(part.texts) for part in parts]
    labels = [torch.tensor(part.labels).float() for part in parts]
    data = Data(
        ids[0], labels[0], ids[1], labels[1], filler=0, batch_size=8, by_length=False, seed=0
    )

    def loss(ids, mask, labels):
        network.eval()
        return binary_cross_entropy_with_logits(network(ids, mask).float(), labels)

    before = mean_loss(loss, data, still, cpu)
    epoch, *_ = train(network, loss, data, replace(still, epochs=1), cpu, lambda done: None)
    assert before == pytest.approx(epoch["validation_loss"], abs=1e-6)


def test_the_linear_schedule_by_hand(tiny):
    _, factor = groups_of(tiny, replace(RECIPE, warmup=0.2), steps=10)
    assert [factor(step) for step in (0, 1)] == pytest.approx([1 / 3, 2 / 3])
    assert [factor(step) for step in (2, 3, 9, 10)] == pytest.approx([1, 7 / 8, 1 / 8, 0])


@pytest.mark.parametrize(("clip", "norm"), [(0.5, 0.5), (1e9, None), (None, None)])
def test_gradients_are_clipped_to_a_norm(clip, norm, tiny):
    model = ScoringModel(tiny.network(2), no_loss, replace(RECIPE, clip=clip), steps=1)
    for weight in model.network.parameters():
        weight.grad = torch.ones_like(weight)
    before = sum(weight.numel() for weight in model.network.parameters()) ** 0.5
    model.on_before_optimizer_step(model.configure_optimizers()["optimizer"])
    after = torch.cat([weight.grad.flatten() for weight in model.network.parameters()]).norm()
    assert float(after) == pytest.approx(norm or before, rel=1e-3)


def test_the_paper_was_trained_as_published(configured, tiny):
    recipe = configured("finetune", "experiment=paper")
    published = {
        "learning_rate": 2e-5,
        "head_learning_rate": 2e-5,
        "epsilon": 1e-6,
        "weight_decay": 0.01,
        "no_decay": ["bias", "gamma", "beta"],
        "schedule": "constant",
        "warmup": 0.0,
        "clip": None,
        "batch_size": 32,
        "by_length": False,
        "epochs": 20,
        "patience": 3,
        "precision": "fp32",
        "frozen_layers": 0,
        "trunk_dropout": True,
    }
    assert vars(recipe) == published
    encoder = configured("encoder", "experiment=paper")
    assert encoder.model == "google-bert/bert-base-uncased"
    assert (encoder.max_length, encoder.pooling, encoder.pooler) == (100, "cls", True)
    groups, factor = groups_of(tiny, recipe)
    assert {factor(step) for step in range(100)} == {1.0}
    free = {name for name, (_, decay) in groups.items() if not decay}
    assert free == {name for name in groups if name.endswith("bias")}
    assert any("LayerNorm.weight" in name for name in groups.keys() - free)  # as the authors' code


def test_the_rest_of_the_paper_is_as_published(configured):
    split = configured("split", "experiment=paper")
    assert (split.validation, split.seed) == (0.1, 2020)
    merge = configured("merge", "experiment=paper")
    assert (merge.density, merge.scale, merge.largest_group) == (0.3, 0.5, 3)
    assert merge.base == "first_item"
    heads = configured("heads", "experiment=paper")
    assert heads == PublishedHeads(learning_rate=2e-5, epsilon=1e-6, batch_size=32, epochs=10)
    assert configured("private", "experiment=paper") == Nothing()
    distance = configured("distance", "experiment=paper")
    fields = (distance.cost, distance.normalisation, distance.quantity)
    assert fields == ("euclidean", "none", "loss")
    grouping = configured("grouping", "experiment=paper")
    assert (grouping.method, grouping.encoders, grouping.threshold) == ("average", 5, None)
    features = configured("features", "experiment=paper")
    assert (features.vector, features.layer, features.split) == ("cls", -1, "train")
    assert features.size is None


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"learning_rate": 0}, {"warmup": 1.5}, {"schedule": "cosine"}, {"lr": 1e-4}],
    ids=str,
)
def test_a_recipe_refuses_what_is_out_of_range(wrong):
    with pytest.raises(ValidationError):
        Recipe(**(vars(RECIPE) | wrong))


# Batches.

N = 203


def data(*, by_length, seed=0, lengths=None):
    """Responses of random lengths whose label is their number."""
    lengths = np.random.default_rng(5).integers(1, 60, N) if lengths is None else lengths
    ids = [[i + 1] * int(length) for i, length in enumerate(lengths)]
    numbers = torch.arange(float(len(ids)))[:, None]
    return Data(
        ids, numbers, ids[:10], numbers[:10], filler=0, batch_size=8, by_length=by_length, seed=seed
    )


def epoch(loader):
    """The numbers of the responses, batch by batch, after a look at the padding."""
    batches = []
    for ids, mask, numbers in loader:
        assert torch.equal(mask, (ids > 0).long())
        assert torch.equal(ids.amax(1), numbers[:, 0].long() + 1)
        assert mask.sum(1).max() == ids.shape[1]
        batches.append(numbers[:, 0].int().tolist())
    return batches


@pytest.mark.parametrize("by_length", [True, False])
def test_an_epoch_holds_every_response_once_and_no_two_are_alike(by_length):
    which = data(by_length=by_length)
    loader = which.train_dataloader()
    one, two = epoch(loader), epoch(loader)
    for drawn in (one, two):
        assert sorted(chain.from_iterable(drawn)) == list(range(N))
        assert sorted(map(len, drawn)) == [N % 8] + [8] * (N // 8)
        assert len(drawn) == len(which.batches)
    assert one != two
    assert {frozenset(b) for b in one} != {frozenset(b) for b in two}  # other batches, not order
    again = data(by_length=by_length).train_dataloader()
    assert [epoch(again), epoch(again)] == [one, two]
    assert epoch(data(by_length=by_length, seed=1).train_dataloader()) != one


def test_batches_of_like_length_need_little_padding():
    lengths = np.random.default_rng(5).integers(1, 60, N)

    def filled(by_length):
        batches = epoch(data(by_length=by_length).train_dataloader())
        return sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum() - 1

    assert filled(True) < 0.2 * filled(False)


@given(
    lengths=st.lists(st.integers(0, 90), max_size=40),
    most=st.builds(Most, st.integers(1, 9), st.sampled_from([1.0, 64.0, math.inf])),
)
def test_batches_to_look_at_hold_every_response_once_and_little_padding(lengths, most):
    ids = [[7] * length for length in lengths]
    found = list(batches(ids, most))
    order = list(chain.from_iterable(found))
    assert sorted(order) == list(range(len(ids)))
    assert [lengths[i] for i in order] == sorted(lengths)

    def fits(batch):
        padded = len(batch) * max(lengths[i] for i in batch)
        room = min(most.tokens, (1 + PADDING) * sum(lengths[i] for i in batch))
        return len(batch) <= most.responses and padded <= room

    assert all(len(batch) == 1 or fits(batch) for batch in found)
    assert not any(fits([*batch, following[0]]) for batch, following in pairwise(found))


def test_validation_responses_come_in_order():
    assert epoch(data(by_length=True).val_dataloader()) == [list(range(8)), [8, 9]]


# Features.


def read(encoder, trainer, features, member, carry_out, folder):
    chosen = {"vector": features.vector, "layer": features.layer}
    stage = Extraction(encoder=encoder, trainer=trainer, **chosen)
    return carry_out(stage, own_readings(features, [member])[0], folder)


@pytest.fixture(scope="module")
def cloud(tiny, cpu, member, carry_out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clouds")

    def extract(**switches):
        fields = {"vector": "cls", "layer": -1, "split": "train", "size": None, "common": 9}
        features = Features(**(fields | {"seed": 0} | switches))
        return CloudOf("one", read(tiny, cpu, features, member, carry_out, folder)).load()

    return extract


def test_every_choice_of_features_gives_one_vector_per_response(
    any_features, tiny, cpu, member, carry_out, tmp_path
):
    made, again = (
        read(tiny, cpu, any_features, member, carry_out, tmp_path / name) for name in "ab"
    )
    found = CloudOf("one", made).load()
    assert found.name == "one"
    assert found.points.shape == (len(member.item.split(any_features.split)), 32)
    assert found.points.dtype == np.float64
    assert np.isfinite(found.points).all()
    assert found.weights.sum() == pytest.approx(1)
    assert (found.weights == found.weights[0]).all()
    file = "cloud.safetensors"
    assert made.file(file).read_bytes() == again.file(file).read_bytes()


@pytest.mark.parametrize("vector", ["cls", "mean"])
@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_vectors_are_those_of_the_members_own_encoder(vector, layer, tiny, member, cloud):
    network, texts = network_of(tiny, member), member.item.train.texts
    wanted = []
    with torch.inference_mode():
        for text in texts:
            ids, mask = pad(tiny.tokenize([text]), 0)
            wanted.append(pool(network.hidden(ids, mask, layer), mask, vector)[0])
    found = cloud(vector=vector, layer=layer).points
    np.testing.assert_allclose(found, torch.stack(wanted).numpy(), atol=1e-5)


def test_the_pooler_vector_is_what_the_head_sees(tiny, member, cloud):
    network = network_of(tiny, member)
    found = torch.from_numpy(cloud(vector="pooler", split="validation").points).float()
    logits = found @ network.head.weight.T + network.head.bias
    wanted = logits_of(tiny, network, member.item.validation)
    torch.testing.assert_close(logits.detach(), wanted, atol=1e-4, rtol=1e-4)


def test_a_subsample_is_drawn_without_replacement_by_its_seed(cloud):
    everything = cloud().points

    def rows(points):  # padding to another batch moves the last digits
        gaps = np.abs(points[:, None] - everything[None]).max(-1)
        assert (gaps.min(1) < 1e-5).all()
        return gaps.argmin(1).tolist()

    drawn = cloud(size=12)
    assert rows(drawn.points) == sorted(set(rows(drawn.points)))
    assert len(drawn.points) == 12
    assert drawn.weights.tolist() == pytest.approx([1 / 12] * 12)
    assert rows(cloud(size=12, seed=1).points) != rows(drawn.points)
    for size in (120, 1000):
        assert np.array_equal(cloud(size=size).points, everything)


def test_the_split_is_the_one_that_is_asked_for(cloud, member):
    train, validation = cloud(split="train"), cloud(split="validation")
    assert (len(train.points), len(validation.points)) == (120, 30)
    assert np.abs(train.points[:30] - validation.points).max() > 0.1


@pytest.mark.parametrize("wrong", [{"layer": 0}, {"vector": "max"}, {"split": "test"}, {"size": 1}])
def test_features_refuse_what_is_out_of_range(wrong, cloud):
    with pytest.raises(ValidationError):
        cloud(**wrong)


# Heads on a merged encoder.


@pytest.fixture(scope="module")
def merged(tiny, cpu, member, other, carry_out, tmp_path_factory):
    """The mean of two encoders: neither item's head knows it."""
    stage = Merging(encoder=tiny, merge=Average(), private=Nothing(), trainer=cpu)
    return carry_out(stage, Group((member, other), None), tmp_path_factory.mktemp("merged"))


@pytest.fixture(scope="module")
def fit(tiny, cpu, merged, carry_out, tmp_path_factory):
    store = tmp_path_factory.mktemp("heads")  # what one test has fitted, the others find there

    def fitted(heads, member, seed=0, folder=store, trunk=merged):
        stage = HeadFitting(encoder=tiny, heads=heads, trainer=cpu, seed=seed)
        return carry_out(stage, Moved(member, trunk, trunk), folder)

    return fitted


def head(made):
    return load_file(made.file("head.safetensors"))


def test_every_head_fits_its_item_and_leaves_the_encoder(any_heads, fit, merged, member, tmp_path):
    made = fit(any_heads, member)
    assert [path.name for path in made.path.glob("*.safetensors")] == ["head.safetensors"]
    found = head(made)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    assert shapes == {"weight": (2, 32), "bias": (2,)}
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    for part in ("trunk", "pooler"):
        merged.file(f"{part}.safetensors")  # raises if it is not what was written
    again = fit(any_heads, member, folder=tmp_path / "again")
    assert again.file("head.safetensors").read_bytes() == (
        made.file("head.safetensors").read_bytes()
    )


def frozen(encoder, member, merged):
    return Frozen(network_of(encoder, member, trunk=merged), encoder, member, lambda done: None)


def test_no_strategy_changes_the_encoder_it_is_given(any_heads, tiny, member, merged):
    given = frozen(tiny, member, merged)
    before = given.network.shared_state()
    any_heads(given)
    for name, tensor in given.network.shared_state().items():
        assert torch.equal(tensor, before[name]), name


def test_no_strategy_is_worse_than_the_old_head_on_the_merged_encoder(
    any_heads, tiny, fit, member, other, merged
):
    for each in (member, other):
        losses = [
            loss_of(tiny, network_of(tiny, each, merged, made), each.item.validation)
            for made in (fit(any_heads, each), fit(Keep(), each))
        ]
        assert losses[0] <= losses[1] + 1e-6


def test_keep_is_the_identity(fit, member):
    kept = fit(Keep(), member).file("head.safetensors").read_bytes()
    assert kept == member.made.file("head.safetensors").read_bytes()


def seen(encoder, network, responses):
    """[n, d] in double precision: what the head sees."""
    ids = encoder.tokenize(responses.texts)
    return infer(network.eval(), ids, encoder.padding, network.represent).double().numpy()


@pytest.mark.parametrize("strength", [0.003, 0.1, 3.0])
def test_refit_ends_where_the_gradient_of_its_objective_is_zero(
    strength, tiny, fit, member, merged
):
    fitted = head(fit(Refit(strengths=[strength]), member))
    found = {name: tensor.double().numpy() for name, tensor in fitted.items()}
    features = seen(tiny, network_of(tiny, member, merged), member.item.train)
    spread = features.std(0)
    standard, labels = (features - features.mean(0)) / spread, member.item.train.labels
    logits = features @ found["weight"].T + found["bias"]
    error = (1 / (1 + np.exp(-logits)) - labels) / len(labels)
    # Mean cross-entropy + strength / 2 · ‖w‖², w on standardised features; the bias goes free.
    by_weight = error.T @ standard + strength * found["weight"] * spread
    assert np.abs(by_weight).max() < 3e-4
    assert np.abs(error.sum(0)).max() < 3e-4
    at_zero = np.abs((0.5 - labels).T @ standard / len(labels)).max()
    assert at_zero > 0.1  # and it was not zero before


def test_refit_takes_the_strength_of_lowest_validation_loss(tiny, fit, member, merged):
    strengths = [0.001, 0.1, 10.0]

    def loss(chosen):
        made = fit(Refit(strengths=chosen), member)
        return loss_of(tiny, network_of(tiny, member, merged, made), member.item.validation)

    alone = [loss([strength]) for strength in strengths]
    assert loss(strengths) == pytest.approx(min(alone), rel=1e-6)
    assert max(alone) > min(alone) + 0.05


def test_refit_improves_clearly_on_a_head_that_does_not_fit(tiny, fit, configured, member, merged):
    refit = configured("heads", "heads=refit")
    new, old = (
        loss_of(tiny, network_of(tiny, member, merged, fit(h, member)), member.item.validation)
        for h in (refit, Keep())
    )
    assert new < 0.8 * old


def exchanged(item):
    """The item with validation texts that belong to other labels."""
    return replace(item, validation=Responses(item.validation.texts[::-1], item.validation.labels))


def with_other_validation(heads, fit, member, folder, change=contradicted):
    """The head's weights, and those if the validation responses were others."""
    changed = Member(change(member.item), member.made)
    # A real member's key changes with its item, so the two would never share a store.
    made = fit(heads, member), fit(heads, changed, folder=folder / "contradicted")
    return [head(each)["weight"] for each in made]


def test_refit_with_one_strength_looks_at_training_responses_alone(fit, member, tmp_path):
    one, two = with_other_validation(Refit(strengths=[0.1]), fit, member, tmp_path)
    assert torch.equal(one, two)


def test_refit_chooses_between_strengths_on_validation_responses(fit, member, tmp_path):
    one, two = with_other_validation(Refit(strengths=[0.01, 10.0]), fit, member, tmp_path)
    assert one.norm() > 2 * two.norm()  # what misleads is held down


def with_constant_labels(item):
    """The item with one more label that is always 1, and one that is always 0."""

    def widen(part):
        ones = np.ones((len(part), 1), dtype=np.uint8)
        return Responses(part.texts, np.hstack([part.labels, ones, 0 * ones]))

    labels = (*item.labels, Label("always"), Label("never"))
    parts = {name: widen(getattr(item, name)) for name in ("train", "validation", "test")}
    return replace(item, labels=labels, **parts)


def test_labels_that_are_constant_in_training_are_sure_and_finite(
    any_heads, tiny, fit, make_item, make_member, merged, tmp_path
):
    item = with_constant_labels(make_item("one"))
    constant = make_member(tiny, item, tmp_path, seed=4)
    made = fit(any_heads, constant)
    found = head(made)
    assert found["weight"].shape == (4, 32)
    assert all(tensor.isfinite().all() for tensor in found.values())
    if isinstance(any_heads, Refit | L2SP):
        network = network_of(tiny, constant, merged, made)
        said = logits_of(tiny, network, item.test).sigmoid()
        assert said[:, 2].min() > 0.999
        assert said[:, 3].max() < 0.001
        assert found["weight"][:2].any(1).all()
        assert not found["weight"][2:].any()


def test_a_head_leans_on_no_unit_that_only_its_rounding_moves(any_heads, tiny, member, merged):
    given = frozen(tiny, member, merged)
    with torch.no_grad():
        given.network.pooler.bias[:8] = 8.7  # tanh is 1 or the number in fp32 below it
    train = member.item.train
    features = represented(tiny, given.network, train)
    assert 0 < features.std(0)[:8].max() < 1e-6
    found = any_heads(given)
    assert found["weight"].abs().max() < 1e4
    in_double = features.double() @ found["weight"].double().T + found["bias"].double()
    in_single = features @ found["weight"].T + found["bias"]
    torch.testing.assert_close(in_single.double(), in_double, rtol=0, atol=1e-3)


def test_l2_sp_goes_from_the_own_head_to_the_free_optimum(fit, member):
    own = member.state("head")["weight"]
    fitted = [head(fit(L2SP(strengths=[s]), member))["weight"] for s in (1e6, 1.0, 1e-2)]
    moved = [float((each - own).norm()) for each in fitted]
    assert moved[0] < 1e-4 < moved[1] < moved[2]


def test_a_strong_l2_sp_is_the_own_head_but_for_biases_and_labels_that_are_constant():
    random = np.random.default_rng(0)
    features, own = random.normal(size=(60, 5)), (random.normal(size=(3, 5)), np.array([3.0, 1, 1]))
    labels = np.column_stack([random.random(60) < 0.5, np.ones(60), np.zeros(60)]).astype("u1")
    weight, bias = l2_sp._fit(own, features, labels, 1e9)
    np.testing.assert_allclose(weight, own[0] * [[1], [0], [0]], atol=1e-6)
    said = 1 / (1 + np.exp(-features @ weight[0] - bias[0]))
    assert said.mean() == pytest.approx(labels[:, 0].mean(), abs=1e-4)  # where its bias is best
    assert bias[1:].tolist() == [10, -10]


def test_l2_sp_around_a_head_of_zeros_is_refit():
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 5)) * np.arange(1, 6) + 3
    labels = (features @ random.normal(size=(5, 3)) + random.normal(size=(60, 3)) > 0).astype("u1")
    zero = np.zeros((3, 5)), np.zeros(3)
    for found, wanted in zip(
        l2_sp._fit(zero, features, labels, 0.05), refit._fit(features, labels, 0.05), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=5e-3)  # scikit-learn stops there


def test_l2_sp_is_where_no_step_lowers_its_objective(fit, tiny, member, merged):
    """Its gradient vanishes, with the features and the penalty as the docstring has them."""
    made = head(fit(L2SP(strengths=[0.1]), member))
    network = network_of(tiny, member, trunk=merged)
    features = represented(tiny, network, member.item.train).double()
    spread = features.std(0, correction=0) + 1e-8
    standard = (features - features.mean(0)) / spread
    own = member.state("head")["weight"].double()
    logits = features @ made["weight"].double().T + made["bias"].double()
    slope = (logits.sigmoid() - torch.from_numpy(member.item.train.labels)) / len(features)
    penalty = 0.1 * (made["weight"].double() - own) * spread
    torch.testing.assert_close(slope.T @ standard + penalty, 0 * own, rtol=0, atol=1e-5)
    torch.testing.assert_close(slope.sum(0), torch.zeros(2).double(), rtol=0, atol=1e-5)


@pytest.fixture
def surgery(configured):
    return configured("heads", "heads=surgery")


def test_surgery_on_the_own_encoder_changes_nothing(fit, surgery, member):
    made, own = head(fit(surgery, member, trunk=member.made)), member.state("head")
    for name, tensor in own.items():
        torch.testing.assert_close(made[name], tensor, rtol=0, atol=1e-5)


def test_surgery_brings_the_logits_nearer_to_those_of_the_own_encoder(
    fit, surgery, tiny, member, merged
):
    part = member.item.train
    wanted = logits_of(tiny, network_of(tiny, member, member.made), part)
    kept, corrected = (
        float((logits_of(tiny, network_of(tiny, member, merged, made), part) - wanted).norm())
        for made in (fit(Keep(), member), fit(surgery, member))
    )
    assert corrected < 0.7 * kept


def test_surgery_looks_at_no_label(fit, surgery, member, tmp_path):
    for part in ("train", "validation"):
        change = partial(contradicted, part=part)
        one, two = with_other_validation(surgery, fit, member, tmp_path / part, change)
        assert torch.equal(one, two)


def test_surgery_is_where_no_step_lowers_its_objective(fit, tiny, member, merged):
    """Its gradient vanishes, with the features and the penalty as the docstring has them."""
    made = head(fit(Surgery(strengths=[0.1]), member))
    part, own = member.item.train, member.state("head")["weight"].double()
    features = represented(tiny, network_of(tiny, member, trunk=merged), part).double()
    spread = features.std(0, correction=0) + 1e-8
    standard = (features - features.mean(0)) / spread
    wanted = logits_of(tiny, network_of(tiny, member, member.made), part).double()
    wrong = features @ made["weight"].double().T + made["bias"].double() - wanted
    penalty = 0.1 * (made["weight"].double() - own) * spread
    torch.testing.assert_close(wrong.T @ standard / len(part) + penalty, 0 * own, rtol=0, atol=1e-4)
    torch.testing.assert_close(wrong.sum(0), torch.zeros(2).double(), rtol=0, atol=1e-3)


@pytest.fixture
def published(configured):
    return configured("heads", "heads=published")


def test_published_heads_hardly_move(published, fit, member):
    before, after = member.state("head"), head(fit(published, member))
    responses = len(member.item.train) + len(member.item.validation)
    steps = published.epochs * -(-responses // published.batch_size)
    for name in ("weight", "bias"):
        move = (after[name] - before[name]).abs()
        assert move.min() > 0
        assert move.max() <= 1.5 * steps * published.learning_rate  # Adam steps by its rate


@pytest.mark.parametrize("change", [contradicted, exchanged])
def test_published_heads_train_on_validation_responses_too(
    change, published, fit, member, tmp_path
):
    one, two = with_other_validation(published, fit, member, tmp_path, change)
    assert not torch.equal(one, two)


def test_published_heads_hang_on_the_seed_by_dropout_and_order(published, fit, member):
    one, two = (head(fit(published, member, seed=seed)) for seed in (0, 1))
    assert not torch.equal(one["weight"], two["weight"])


def test_published_heads_learn_at_a_rate_that_is_large_enough(published, tiny, fit, member, merged):
    faster = replace(published, learning_rate=0.03)
    slow, fast = (
        loss_of(tiny, network_of(tiny, member, merged, fit(heads, member)), member.item.train)
        for heads in (published, faster)
    )
    assert fast < 0.8 * slow


@pytest.mark.parametrize("wrong", [{"strengths": []}, {"strengths": [0.0]}, {"strength": [1.0]}])
def test_refit_refuses_what_is_out_of_range(wrong):
    with pytest.raises(ValidationError):
        Refit(**wrong)


def test_a_stage_leaves_no_file_of_its_progress(member, merged):
    for made in (member.made, merged):
        names = {path.stem for path in made.path.iterdir()}
        assert names <= {*PARTS, "training", "manifest", "origin"}


def test_common_responses_are_the_same_for_every_member(make_item, make_member, tiny, tmp_path):
    fields = {"vector": "cls", "layer": -1, "split": "train", "size": None, "seed": 0}
    features = Features(common=9, **fields)
    items = [make_item(f"i{seed}", seed=seed) for seed in range(3)]
    members = [make_member(tiny, item, tmp_path, seed=0) for item in items]
    readings = common_readings(features, members)
    assert len({reading.texts for reading in readings}) == 1
    texts = readings[0].texts
    assert len(texts) == 9
    for item in items:
        assert sum(text in item.train.texts for text in texts) >= 3
    assert len({reading.digest for reading in readings}) == 3

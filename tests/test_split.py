"""Every split: a partition, reproducible, near its fraction; and what is special to each."""

import string
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import ValidationError
from sklearn.model_selection import train_test_split

from gwsmm.items.published_split import PublishedSplit
from gwsmm.items.split import assemble, fingerprint
from gwsmm.items.stratified import Stratified
from gwsmm.types import InputError, Label, Responses

CONF = Path(__file__).parents[1] / "conf" / "split"
STRATIFIED = Stratified(validation=0.1, test=0.2, seed=7)
PUBLISHED = PublishedSplit(validation=0.1, test=0.2, seed=2020)
BOTH = pytest.mark.parametrize("split", [STRATIFIED, PUBLISHED], ids=["stratified", "published"])


def sample(n, chances, seed=0, copies=0):
    """n responses with distinct texts; then `copies` of them repeated in another dress."""
    random = np.random.default_rng(seed)
    texts = [f"Answer, number {i}!" for i in range(n)]
    texts += [f"  answer number   {i}" for i in random.integers(n, size=copies)]
    labels = (random.random((n + copies, len(chances))) < chances).astype(np.uint8)
    order = random.permutation(n + copies)
    return Responses(tuple(texts[i] for i in order), labels[order])


def item(train, split=STRATIFIED, name="an item", **parts):
    labels = [Label(f"E{i + 1}") for i in range(train.labels.shape[1])]
    given_parts = {"test": None, "validation": None} | parts
    return assemble(name, labels, "multilabel", train=train, split=split, **given_parts)


def pairs(*parts):
    return sorted((t, tuple(row)) for p in parts for t, row in zip(p.texts, p.labels, strict=True))


@BOTH
def test_a_split_is_a_partition_and_reproducible(split):
    everything = sample(300, [0.5, 0.2, 0.05], copies=40)
    rest, part = split.divide(everything, 0.2)
    assert pairs(rest, part) == pairs(everything)
    again = split.divide(everything, 0.2)
    assert (rest.digest, part.digest) == (again[0].digest, again[1].digest)


@BOTH
def test_another_seed_gives_another_split(split):
    everything = sample(300, [0.5, 0.2])
    other = type(split)(validation=0.1, test=0.2, seed=split.seed + 1)
    assert split.divide(everything, 0.2)[1].digest != other.divide(everything, 0.2)[1].digest


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(20, 250),
    copies=st.integers(0, 150),
    chances=st.lists(st.floats(0.02, 0.98), min_size=1, max_size=8),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 2**32),
)
def test_stratified_keeps_copies_together_and_its_size(n, copies, chances, fraction, seed):
    everything = sample(n, chances, seed, copies)
    split = Stratified(validation=0.1, test=0.2, seed=seed)
    rest, part = split.divide(everything, fraction)
    assert pairs(rest, part) == pairs(everything)
    assert not set(map(fingerprint, rest.texts)) & set(map(fingerprint, part.texts))
    prints = list(map(fingerprint, everything.texts))
    largest = max(map(prints.count, prints))
    assert abs(len(part) - fraction * len(everything)) <= 1 + largest / 2


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), fraction=st.sampled_from([0.1, 0.2, 0.5]))
def test_stratified_gives_every_label_vector_its_share(seed, fraction):
    everything = sample(400, [0.6, 0.3, 0.1, 0.05], seed)
    _, part = Stratified(validation=0.1, test=0.2, seed=seed).divide(everything, fraction)
    for length in (1, 2, 3, 4):  # vectors with the same first labels are neighbours in the line
        for vector in np.unique(everything.labels[:, :length], axis=0):
            whole = (everything.labels[:, :length] == vector).all(axis=1).sum()
            taken = (part.labels[:, :length] == vector).all(axis=1).sum()
            assert abs(taken - fraction * whole) <= 1


def test_stratified_does_not_take_a_cluster_larger_than_the_part():
    blank = Responses(("I don't know",) * 60, np.zeros((60, 1), np.uint8))
    others = sample(40, [0.5])
    everything = Responses(
        blank.texts + others.texts, np.concatenate([blank.labels, others.labels])
    )
    _, part = STRATIFIED.divide(everything, 0.1)
    assert len(part) in range(9, 12)
    assert "I don't know" not in part.texts


def test_a_rare_vector_is_taken_as_often_as_any_other():
    labels = np.zeros((50, 1), np.uint8)
    labels[0] = 1
    everything = Responses(tuple(map(str, range(50))), labels)
    taken = [
        "0" in Stratified(validation=0.1, test=0.2, seed=s).divide(everything, 0.2)[1].texts
        for s in range(400)
    ]
    assert 0.13 < np.mean(taken) < 0.27


@pytest.mark.parametrize("seed", range(5))
def test_published_split_is_the_authors_calculation(seed):
    everything = sample(200, [0.7, 0.2, 0.1, 0.05, 0.5], seed)
    vectors = everything.labels.tolist()
    once = [i for i, v in enumerate(vectors) if vectors.count(v) == 1]
    frequent = [i for i, v in enumerate(vectors) if vectors.count(v) > 1]
    rest, part = train_test_split(
        frequent, test_size=0.2, random_state=2020, stratify=[vectors[i] for i in frequent]
    )
    ours = PUBLISHED.divide(everything, 0.2)
    assert ours[0].texts == everything.rows(rest + once).texts
    assert ours[1].texts == everything.rows(part).texts


@pytest.mark.parametrize("n", [0, 1, 12])
def test_published_split_says_what_to_do_when_it_cannot(n):
    few = Responses(tuple(map(str, range(n))), np.eye(16, 12, dtype=np.uint8)[:n])
    with pytest.raises(InputError, match="set split=stratified") as error:
        PUBLISHED.divide(few, 0.1)
    assert "\n" not in str(error.value)


def test_the_item_is_named_when_a_split_fails():
    few = Responses(tuple(map(str, range(12))), np.eye(12, dtype=np.uint8))
    with pytest.raises(InputError, match=r"^item 'an item': the published split"):
        item(few, PUBLISHED)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("It's   FROZEN.", "its frozen", True),
        ("ﬁne", "fine", True),
        ("it is one\ttwo\n", "it is one two", True),
        ("1/2 < 3/4", "1/2 > 3/4", False),
        ("a b", "ab", False),
    ],
)
def test_fingerprint(one, other, same):
    assert (fingerprint(one) == fingerprint(other)) is same


@given(st.text())
def test_fingerprint_of_any_text_has_no_case_and_no_spare_space(text):
    assert fingerprint(f" {text}\n!") == fingerprint(text)


def test_assemble_divides_what_is_missing():
    everything = sample(500, [0.5, 0.2])
    made = item(everything)
    assert [len(made.train), len(made.validation), len(made.test)] == [360, 40, 100]
    assert pairs(made.train, made.validation, made.test) == pairs(everything)
    assert made.notes == ()


def test_assemble_keeps_what_is_given():
    train, validation, test = (sample(50, [0.5], seed) for seed in (1, 2, 3))
    made = item(train, validation=validation, test=test)
    assert (made.train, made.validation, made.test) == (train, validation, test)
    assert made.notes == ("50 of 50 test responses have the same text as one outside the test",)


def test_constant_labels_are_noted_and_logged(caplog):
    made = item(sample(100, [0.0, 1.0, 0.5]))
    expected = ("label E1 is always 0 in training", "label E2 is always 1 in training")
    assert made.notes == expected
    assert [record.getMessage() for record in caplog.records] == [
        f"item an item: {note}" for note in expected
    ]
    assert "every label is constant" in item(sample(100, [0.0, 1.0])).notes[-1]


@pytest.mark.parametrize(
    ("n", "parts", "message"),
    [
        (13, {}, r"^item 'an item' has 9 training responses and needs 10"),
        (0, {}, r"^item 'an item' has 0 training responses"),
        (40, {"test": sample(0, [0.5])}, r"^item 'an item' has no test responses"),
        (40, {"validation": sample(0, [0.5])}, r"^item 'an item' has no validation responses"),
    ],
)
def test_too_few_responses(n, parts, message):
    with pytest.raises(InputError, match=message) as error:
        item(sample(n, [0.5]), Stratified(validation=0.1, test=0.2, seed=1), **parts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["../up", "a/b", "a\\b", "", ".hidden", "a..b", "x" * 81, "a\n", "a\0", "C:", "-rf", "a.", "~"],
)
def test_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(InputError, match="cannot be a file name") as error:
        item(sample(50, [0.5]), name=name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["1", "dry_ice", "Dry ice 2.1", "Größe-3"])
def test_a_plain_name_is_taken(name):
    assert item(sample(50, [0.5]), name=name).name == name


@pytest.mark.parametrize("strategy", [Stratified, PublishedSplit])
@pytest.mark.parametrize(
    "wrong", [{"test": 0.0}, {"validation": 1.0}, {"seed": -1}, {"sed": 1}, {"test": "many"}]
)
def test_values_out_of_range_are_refused_when_built(strategy, wrong):
    with pytest.raises(ValidationError):
        strategy(**({"validation": 0.1, "test": 0.2, "seed": 1} | wrong))


@pytest.mark.parametrize(
    ("file", "strategy"), [("stratified", Stratified), ("published", PublishedSplit)]
)
def test_the_yaml_sets_every_field(file, strategy):
    config = OmegaConf.load(CONF / f"{file}.yaml")
    config.seed = 3 if file == "stratified" else config.seed  # ${seed} stands in the root
    target, *names = config
    assert config[target] == f"{strategy.__module__}.{strategy.__qualname__}"
    assert names == [field.name for field in fields(strategy)]
    strategy(**{name: config[name] for name in names})


def test_punctuation_is_what_unicode_calls_so():
    kept = set(string.punctuation) - set("$+<=>^`|~")
    assert fingerprint("".join(sorted(kept))) == ""

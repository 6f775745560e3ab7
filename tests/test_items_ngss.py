"""The generated item set: sizes, shares, families, difficulty, and that a seed fixes every byte."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from gwsmm.items.ngss import FAMILIES, Ngss
from gwsmm.items.ngss.bank import load_bank, load_common
from gwsmm.items.ngss.grammar import compile_template
from gwsmm.types import Item, Responses

# name: labels, train, test, test positives (None: not published), as in the paper's data
PUBLISHED = {
    "anna_vs_carla": ("E1 E2 E4 E5", 955, 239, [201, 16, 37, 10]),
    "breaking_down_hydrogen_peroxide": ("E1 E2 E3 E4", 666, 167, [94, 68, 34, 17]),
    "carlos_javier_atomic_model": ("E1 E2 E3 E4 E5", 956, 240, [160, 123, 42, 38, 121]),
    "dry_ice_model": ("E1 E2 E4", 1111, 278, [68, 53, 52]),
    "gas_filled_balloons": ("E1 E2 E4", 958, 240, None),
    "layers_in_test_tube": (
        "E1 E2 E3 E4 E5 E6 E7 E8 E9 E10",
        956,
        240,
        [182, 94, 122, 114, 115, 54, 42, 55, 58, 25],
    ),
    "model_for_making_water": ("E1 E2 E3 E4 E5", 836, 210, [46, 50, 88, 45, 28]),
    "namis_careful_experiment": ("E1 E2 E3 E4 E5 E7", 653, 164, [131, 89, 114, 30, 38, 25]),
    "natural_sugar": ("E1 E2 E3 E4 E5", 956, 239, [83, 79, 105, 49, 47]),
}


@dataclass(frozen=True)
class Tail:
    """A split that parts the last responses, so that the order can be seen."""

    validation: float = 0.1
    test: float = 0.2

    def divide(self, responses: Responses, fraction: float) -> tuple[Responses, Responses]:
        cut = len(responses) - round(fraction * len(responses))
        return responses.rows(range(cut)), responses.rows(range(cut, len(responses)))


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    return Ngss(seed=42, limit=None)(Tail())


def rated(item: Item) -> tuple[tuple[str, ...], np.ndarray]:
    """The training and validation responses, in the generated order."""
    return (
        item.train.texts + item.validation.texts,
        np.concatenate([item.train.labels, item.validation.labels]),
    )


def test_a_seed_fixes_every_byte_in_any_process() -> None:
    code = """
from gwsmm.items.ngss import Ngss
from gwsmm.items.stratified import Stratified
items = Ngss(seed=42, limit=50)(Stratified(validation=0.1, test=0.2, seed=1))
print(*[item.digest for item in items])
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": salt, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for salt in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(FAMILIES)


def test_another_seed_gives_other_responses(items: tuple[Item, ...]) -> None:
    for item, other in zip(items, Ngss(seed=43, limit=None)(Tail()), strict=True):
        shared = set(rated(item)[0]) & set(rated(other)[0])
        assert len(shared) < 0.05 * len(item.train)
        assert not np.array_equal(item.test.labels, other.test.labels)


def test_names_sizes_and_labels_are_the_papers(items: tuple[Item, ...]) -> None:
    seen = {
        item.name: (
            " ".join(label.name for label in item.labels),
            len(item.train) + len(item.validation),
            len(item.test),
        )
        for item in items
    }
    assert seen == {name: row[:3] for name, row in PUBLISHED.items()}
    assert list(seen) == list(PUBLISHED)


def test_shares_of_positives_are_the_papers(items: tuple[Item, ...]) -> None:
    for item in items:
        positives = PUBLISHED[item.name][3]
        if positives is None:
            assert (item.test.labels.mean(axis=0) > 0.1).all()
        else:
            assert item.test.labels.sum(axis=0) == pytest.approx(positives, abs=2)
        train, test = rated(item)[1].mean(axis=0), item.test.labels.mean(axis=0)
        assert train == pytest.approx(test, abs=0.02)


def test_items_say_what_they_are(items: tuple[Item, ...]) -> None:
    for item in items:
        for part in (item.train, item.validation, item.test):
            assert part.labels.shape == (len(part.texts), len(item.labels))
            assert set(np.unique(part.labels)) == {0, 1}
        assert item.synthetic
        assert "generated responses, not written by students" in item.notes
        assert len(item.prompt.split()) > 30
        assert all(len(label.description.split()) > 6 for label in item.labels)


def test_texts_are_clean_varied_and_of_a_students_length(items: tuple[Item, ...]) -> None:
    for item in items:
        texts = rated(item)[0] + item.test.texts
        assert not [text for text in texts if set(text) & set("{}|$<>@[]") or "  " in text]
        assert 1 - len(set(texts)) / len(texts) < 0.03
        lengths = np.array([len(text.split()) for text in texts])
        assert 30 <= lengths.mean() <= 52
        assert 15 <= lengths.std() <= 30
        assert (lengths < 8).sum() >= 5


def test_some_words_are_misspelled(items: tuple[Item, ...]) -> None:
    words = Counter(
        word.strip(".,") for item in items for t in rated(item)[0] for word in t.split()
    )
    assert words["because"] > words["becuase"] + words["cuz"] > 10


def test_labels_hang_together_by_ability(items: tuple[Item, ...]) -> None:
    for item in items:
        correlation = np.corrcoef(rated(item)[1].T)
        mean = correlation[np.triu_indices_from(correlation, k=1)].mean()
        assert 0.05 < mean < 0.4


def test_items_of_a_family_share_their_words(items: tuple[Item, ...]) -> None:
    assert set(FAMILIES) == set(PUBLISHED)
    texts = [text for item in items for text in item.train.texts[:300]]
    rows = TfidfVectorizer().fit_transform(texts)
    centres = np.stack([rows[i * 300 : (i + 1) * 300].mean(axis=0).A1 for i in range(9)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    family = np.array([FAMILIES[item.name] for item in items])
    near = (centres @ centres.T)[np.triu_indices(9, k=1)]
    same = (family[:, None] == family)[np.triu_indices(9, k=1)]
    assert same.sum() == 5
    assert near[same].mean() > near[~same].mean() + 0.1


def test_difficulty_leaves_room_above_a_bag_of_words(items: tuple[Item, ...]) -> None:
    scores, majority = [], []
    for item in items:
        texts, labels = rated(item)
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        train, test = words.fit_transform(texts), words.transform(item.test.texts)
        model = LogisticRegression(C=10, solver="liblinear")
        found = np.stack([model.fit(train, y).predict(test) for y in labels.T], axis=1)
        common = np.tile(labels.mean(axis=0) > 0.5, (len(item.test), 1))
        scores.append(f1_score(item.test.labels, found, average="micro"))
        majority.append(f1_score(item.test.labels, common, average="micro", zero_division=0))
    sizes = [len(item.test) for item in items]
    assert min(scores) > 0.65
    assert max(scores) < 0.93
    assert 0.72 < np.average(scores, weights=sizes) < 0.88
    assert np.average(majority, weights=sizes) < np.average(scores, weights=sizes) - 0.2


def test_limit_keeps_the_first_training_responses(items: tuple[Item, ...]) -> None:
    for item, small in zip(items, Ngss(seed=42, limit=50)(Tail()), strict=True):
        texts, labels = rated(small)
        assert texts == rated(item)[0][:50]
        assert np.array_equal(labels, rated(item)[1][:50])
        assert small.test.texts == item.test.texts[: 50 // 4]


@pytest.mark.parametrize("fields", [{"limit": 19}, {"seed": -1}, {"sede": 1}, {"limit": "all"}])
def test_a_wrong_field_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        Ngss(**({"seed": 1, "limit": None} | fields))


def test_banks_are_rich_and_their_conditions_name_labels() -> None:
    for name, family in FAMILIES.items():
        bank = load_bank(name, family)
        names = {idea.name for idea in bank.ideas}
        for idea in bank.ideas:
            for lines in (idea.yes, idea.wrong, idea.partial):
                assert {needed for line in lines for needed, _ in line.needs} <= names
            assert len(set(idea.yes)) >= 7
            assert len(set(idea.wrong) | set(idea.partial)) >= 9
    spelling = load_common().spelling
    assert [word for word, variants in spelling.items() if word in variants] == []


@pytest.mark.parametrize("text", ["{a|b", "a|b", "a}", "{a|{b}", "$unknown"])
def test_a_broken_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Expected"):
        compile_template(text, {"known": "a|b"})

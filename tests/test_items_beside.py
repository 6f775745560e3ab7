"""A second rater and subgroups: every response keeps its own, and no model depends on them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from little import TINY, TWO, counts, documented, gwsmm
from omegaconf import OmegaConf

from gwsmm.evaluate import majority
from gwsmm.items.stratified import Stratified
from gwsmm.items.table import Table
from gwsmm.results import MODELS, Outcome, predictions_frame
from gwsmm.types import InputError, Item, Responses

CONF = Path(__file__).parents[1] / "conf" / "items"
SPLIT = Stratified(validation=0.1, test=0.2, seed=1)
SECRET = "my secret answer"  # stands in every response: no message may hold it
GROUPS = ("girls", "boys", None)
SCORES = {"score": "mark", "second": "mark2"}
LABELS = {"labels": ("E1", "E2"), "second": ("R1", "R2")}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(path: str, **changed: object) -> Table:
    config = OmegaConf.to_container(OmegaConf.load(CONF / "table.yaml"))
    del config["_target_"]
    return Table(**(config | {"path": path} | changed))


def records(n: int = 240, seed: int = 0) -> list[dict]:
    """Rows of two items; every text stands thrice, and some cells are empty."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(n):
        mark, mark2 = random.integers(0, 3, 2)
        e1, e2, r1, r2 = random.integers(0, 2, 4)
        made.append(
            {
                # the three differ in their spaces alone, so that a split may keep them together
                "text": f"{SECRET} {i // 3}".replace(" ", " " * (i % 3 + 1)),
                "item": f"item{i // 3 % 2}",
                "part": "test" if i // 3 % 4 == 0 else "train",
                "mark": None if i % 17 == 0 else int(mark),
                "mark2": None if i % 5 == 0 else int(mark2),
                "E1": -1 if i % 19 == 0 else int(e1),
                "E2": int(e2),
                "R1": int(r1),
                "R2": None if i % 7 == 0 else int(r2),
                "sex": GROUPS[random.integers(3)],
            }
        )
    return made


def write(path: str, rows: list[dict]) -> None:
    if path.endswith(".csv"):
        pd.DataFrame(rows, dtype=object).to_csv(path, index=False)  # 1 stays 1 beside None
    elif path.endswith(".parquet"):
        pd.DataFrame(rows).to_parquet(path)
    else:
        Path(path).write_text("\n".join(map(json.dumps, rows)))


def expected(row: dict, options: dict) -> list[int] | None:
    """The second rater's labels of a row of `records`."""
    if "score" in options:
        return None if row["mark2"] is None else [int(row["mark2"] >= k) for k in (1, 2)]
    return None if row["R2"] is None else [row["R1"], row["R2"]]


def outcomes(items: tuple[Item, ...]) -> list[Outcome]:
    """As if every model gave the majority's answers."""
    return [
        Outcome(item, dict.fromkeys(MODELS, majority(item)), {}, None, None, {}, {})
        for item in items
    ]


# ---- from the table to the predictions


@pytest.mark.parametrize("options", [SCORES, LABELS], ids=["ordinal", "multilabel"])
@pytest.mark.parametrize("more", [{}, {"limit": 60}, {"split": "part"}], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_every_response_keeps_its_own(any_split, options, more, seed):
    rows = records(seed=seed)
    write("all.csv", rows)
    of = {row["text"]: row for row in rows}
    items = table("all.csv", item="item", group="sex", **options, **more)(any_split)
    assert len(items) == 2
    for item in items:
        for part in (item.train, item.validation, item.test):
            assert len(part.second) == len(part.groups) == len(part) > 0
            for text, second, group in zip(part.texts, part.second, part.groups, strict=True):
                assert second.tolist() == (expected(of[text], options) or [-1, -1])
                assert group == of[text]["sex"]

    frame = predictions_frame(outcomes(items))
    assert len(frame) == len(MODELS) * 2 * sum(len(item.test) for item in items)
    test = {item.name: item.test.texts for item in items}
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        source = of[test[row["item"]][row["response"]]]
        second = expected(source, options)
        step = {"E1": 0, "score>=1": 0, "E2": 1, "score>=2": 1}[row["label"]]
        assert row["second"] == (None if second is None else second[step])
        assert row["group"] == source["sex"]
        if "score" in options:
            assert row["score_truth"] == source["mark"]
            assert row["score_second"] == source["mark2"]


@given(st.data())
def test_rows_stay_in_step(data):
    n = data.draw(st.integers(0, 20))
    chosen = data.draw(st.lists(st.integers(0, n - 1), max_size=30)) if n else []
    column = np.arange(n)[:, None]
    everything = Responses(
        tuple(map(str, range(n))),
        column.astype(np.uint8),
        column.astype(np.int8),
        tuple(map(str, range(n))),
    )
    part = everything.rows(chosen)
    assert part.texts == part.groups == tuple(map(str, chosen))
    assert part.labels.ravel().tolist() == part.second.ravel().tolist() == chosen


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_every_format_gives_the_same(ending):
    rows = [
        {**row, "sex": None if row["sex"] is None else i % 2} for i, row in enumerate(records())
    ]
    write("a.csv", rows)
    write(f"b{ending}", rows)
    one, other = (
        table(path, item="item", group="sex", **SCORES)(SPLIT) for path in ("a.csv", f"b{ending}")
    )
    for left, right in zip(one, other, strict=True):
        assert left.digest == right.digest
        np.testing.assert_array_equal(left.train.second, right.train.second)
        assert left.train.groups == right.train.groups
        assert set(left.train.groups) == {"0", "1", None}


def test_an_item_without_a_second_rating_or_a_group_has_them_missing():
    rows = [{**row, "mark2": -1 if row["item"] == "item1" else 0} for row in records()]
    write("all.jsonl", [row | {"sex": " boys " if row["item"] == "item0" else " "} for row in rows])
    frame = predictions_frame(
        outcomes(table("all.jsonl", item="item", group="sex", **SCORES)(SPLIT))
    ).set_index("item")
    added = ["group", "second", "score_second"]
    assert (frame.loc["item0", added] == ["boys", 0, 0]).all(axis=None)
    assert frame.loc["item1", added].isna().all(axis=None)


def test_a_label_of_another_item_takes_its_second_column_along():
    rows = records()
    for row in rows:
        row |= {"E1": None, "R1": None} if row["item"] == "item0" else {"E2": None, "R2": None}
    write("all.jsonl", rows)
    one, other = table("all.jsonl", item="item", **LABELS)(SPLIT)
    of = {row["text"]: row for row in rows}
    for item, column in ((one, "R2"), (other, "R1")):
        given = [of[text][column] for text in item.train.texts]
        assert item.train.second.tolist() == [[-1 if v is None else v] for v in given]


@pytest.mark.parametrize("options", [SCORES, LABELS], ids=["ordinal", "multilabel"])
def test_no_result_of_the_store_depends_on_them(options):
    rows = records()
    write("all.csv", rows)
    plain = {key: value for key, value in options.items() if key != "second"}
    one = table("all.csv", item="item", group="sex", **options)(SPLIT)
    write("all.csv", [{**row, "mark2": 1, "R1": 0, "R2": None, "sex": "x"} for row in rows])
    for changed in (
        table("all.csv", item="item", group="sex", **options),
        table("all.csv", item="item", **plain),
    ):
        for before, after in zip(one, changed(SPLIT), strict=True):
            assert (before.digest, before.notes) == (after.digest, after.notes)


# ---- what is wrong with them


WRONG = {
    "word": (
        "mark2",
        "fine",
        SCORES,
        r"line 4, column 'mark2': 'fine' is no whole score from 0 to",
    ),
    "response": (
        "mark2",
        f"{SECRET}!",
        SCORES,
        r"column 'mark2': a text of 17 characters is no wh",
    ),
    "above": ("mark2", 3, SCORES, r"line 4, column 'mark2': 3 is above 2, the highest score that"),
    "label": ("R1", 2, LABELS, r"line 4, column 'R1': 2 is not 0 or 1: correct it, write -1"),
    "long group": (
        "sex",
        SECRET * 6,
        SCORES,
        r"line 4, column 'sex': a text of 96 characters names",
    ),
    "list": ("sex", [SECRET], SCORES, r"column 'sex': list names no subgroup: write at most 80"),
    "half a character": ("sex", "\ud83d", SCORES, r"column 'sex': '\\ud83d' names no subgroup"),
}


@pytest.mark.parametrize(("column", "value", "options", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_cell_ends_in_one_line(column, value, options, message):
    rows = records()
    rows[3][column] = value
    write("all.jsonl", rows)
    load = table("all.jsonl", item="item", group="sex", **options)
    refused(lambda: load(SPLIT), message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**SCORES, "second": "Mark_2"}, r"'Mark_2' \(did you mean 'mark2'\?\): set items\.second"),
        (
            {**LABELS, "second": ("R1", "r2")},
            r"no column 'r2' \(did you mean 'R2'\?\): set items\.s",
        ),
        (
            {**SCORES, "group": "sexe"},
            r"no column 'sexe' \(did you mean 'sex'\?\): set items\.group",
        ),
    ],
)
def test_a_column_that_is_not_there_is_named_with_its_nearest(given, message):
    write("all.csv", records())
    refused(lambda: table("all.csv", item="item", **given)(SPLIT), message)


def refused(load: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load()
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


# ---- a whole run


def test_a_run_shows_them_and_trains_nothing_when_they_change():
    write("all.csv", records())
    options = ["items=table", "items.path=all.csv", "items.item=item", "items.score=mark"]
    beside = ["items.second=mark2", "items.group=sex"]

    def run(name: str, *more: str) -> pd.DataFrame:
        ended = gwsmm("run", *TINY, TWO, *options, *more, "store=store", f"hydra.run.dir={name}")
        assert ended.code == 0, ended.err
        return pd.read_parquet(f"{name}/predictions.parquet")

    plain, both = run("plain"), run("both", *beside)
    write("all.csv", [{**row, "mark2": 2, "sex": "x"} for row in records()])
    changed = run("changed", *beside)

    added = documented("second rater and subgroups of predictions.parquet")
    assert set(plain) == documented("predictions.parquet")
    assert set(both) == set(changed) == set(plain) | added
    for frame in (both, changed):
        pd.testing.assert_frame_equal(frame[list(plain)], plain)
    assert set(changed["score_second"]) == {2}
    assert set(changed["group"]) == {"x"}
    results = {Path(name, "results.json").read_bytes() for name in ("plain", "both", "changed")}
    assert len(results) == 1
    for name in ("both", "changed"):
        assert all(computed == 0 for computed, _ in counts(Path(name)).values())

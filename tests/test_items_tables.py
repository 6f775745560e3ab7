"""Items from tables: the same items from every format, and one line for whatever is wrong."""

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import ValidationError

from gwsmm.items import ordinal
from gwsmm.items.pasta import Pasta
from gwsmm.items.reading import read
from gwsmm.items.stratified import Stratified
from gwsmm.items.table import Table
from gwsmm.types import InputError, Item

CONF = Path(__file__).parents[1] / "conf" / "items"
SPLIT = Stratified(validation=0.1, test=0.2, seed=1)
SECRET = "my secret answer"  # stands in every response: no message may hold it


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(path, **changed):
    config = OmegaConf.to_container(OmegaConf.load(CONF / "table.yaml"))
    del config["_target_"]
    return Table(**(config | {"path": path} | changed))


def pasta(path, limit=None):
    return Pasta(path=path, limit=limit)


def refused(load: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load()
    line = str(error.value)
    assert "\n" not in line
    assert "secret" not in line
    assert len(line) < 500


def rows(n=40, seed=0):
    random = np.random.default_rng(seed)
    return [
        {"text": f'{SECRET}, "{i}"\nsecond é line', "E1": i % 2, "E2": int(random.random() < 0.3)}
        for i in range(n)
    ]


def write(path: str, records: list[dict], **options) -> None:
    frame = pd.DataFrame(records)
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in {".csv", ".tsv"}:
        frame.to_csv(file, index=False, sep="," if file.suffix == ".csv" else "\t", **options)
    elif file.suffix == ".parquet":
        frame.to_parquet(file)
    else:
        file.write_text("\n".join(json.dumps(record) for record in records))


def simple(n=40, header="text,E1,E2"):
    lines = [f"{SECRET} {i},{i % 2},{int(i % 3 == 0)}" for i in range(n)]
    return "\n".join([header, *lines]) + "\n"


def same(one: Item, other: Item) -> bool:
    return one.digest == other.digest and one.notes == other.notes


# ---- formats


@pytest.mark.parametrize("ending", [".tsv", ".jsonl", ".ndjson", ".json", ".parquet"])
def test_every_format_gives_the_same_item(ending):
    records = rows()
    records[3]["E1"] = None
    write("a/water.csv", records)
    write(f"b/water{ending}", records)
    (one,), (other,) = table("a")(SPLIT), table(f"b/water{ending}")(SPLIT)
    assert same(one, other)
    assert one.notes == ("1 training rows without a rating on every label were left out",)


# What a text file cannot hold or a strategy would count as empty is left to the cases below.
TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30
).filter(str.strip)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXT, min_size=20, max_size=30))
def test_texts_survive_every_format_unchanged(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(
            [["text", "E1"], *([t, 1] for t in texts)]
        )
    records = [{"text": text, "E1": 1} for text in texts]
    for ending in (".jsonl", ".parquet"):
        write(f"{folder}/a{ending}", records)
    for ending in (".csv", ".jsonl", ".parquet"):
        sheet = read(folder / f"a{ending}")
        assert [row.cells["text"] for row in sheet.rows] == texts


def test_a_byte_order_mark_and_windows_line_ends_are_accepted():
    Path("a.csv").write_text(simple())
    Path("b.csv").write_bytes(b"\xef\xbb\xbf" + simple().replace("\n", "\r\n").encode())
    (one,), (other,) = table("a.csv")(SPLIT), table("b.csv")(SPLIT)
    assert one.train.digest == other.train.digest


def test_a_huge_field_is_read():
    Path("a.csv").write_text(simple() + f'"{"long " * 100_000}",1,0\n')
    (item,) = table("a.csv")(SPLIT)
    assert sum(map(len, (item.train, item.validation, item.test))) == 41


def test_blank_lines_are_passed_over_and_lines_are_counted_as_an_editor_does():
    Path("a.csv").write_text('\ntext,E1\n"two\nlines",1\n\nthird,0\n')
    assert [row.where for row in read(Path("a.csv")).rows] == ["a.csv line 3", "a.csv line 6"]


def test_another_delimiter_and_plain_quotes():
    Path("a.tsv").write_text("text|E1\n" + "".join(f'say "{i}|{i % 2}\n' for i in range(40)))
    (item,) = table("a.tsv", delimiter="|", quoting=False)(SPLIT)
    assert all(text.startswith('say "') for text in item.train.texts)


def test_the_index_that_pandas_stores_is_no_label():
    frame = pd.DataFrame(rows())
    frame.index = pd.Index(range(100, 140), name=None)
    frame.iloc[::-1].to_parquet("a.parquet")
    assert [label.name for label in table("a.parquet")(SPLIT)[0].labels] == ["E1", "E2"]


# ---- table


def test_wide_items_are_named_for_their_files():
    for name in ("b.csv", "a.jsonl", "ignored.json", ".hidden.csv"):
        write(f"data/{name}", rows())
    assert [item.name for item in table("data")(SPLIT)] == ["a", "b"]
    assert [item.name for item in table("data/*.csv")(SPLIT)] == ["b"]
    assert [item.name for item in table(["data/b.csv", "data/a.jsonl"])(SPLIT)] == ["b", "a"]
    assert len(table(["data", "data/b.csv"])(SPLIT)) == 2


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("a.csv", rows())
    assert table("~/a.csv")(SPLIT)[0].name == "a"


def test_long_items_have_their_own_labels():
    one = [{**row, "E2": None, "item": "frozen"} for row in rows()]
    two = [{**row, "E1": None, "item": "boiling"} for row in rows()]
    write("all.csv", [row for pair in zip(one, two, strict=True) for row in pair])
    frozen, boiling = table("all.csv", item="item")(SPLIT)
    assert [(i.name, [label.name for label in i.labels]) for i in (frozen, boiling)] == [
        ("frozen", ["E1"]),
        ("boiling", ["E2"]),
    ]
    assert frozen.notes == boiling.notes == ()
    write("frozen.csv", [{"text": row["text"], "E1": row["E1"]} for row in one])
    assert same(frozen, table("frozen.csv")(SPLIT)[0])


def test_long_items_may_stand_in_several_files():
    records = [{**row, "item": i % 2} for i, row in enumerate(rows(80))]
    write("all.jsonl", records)
    write("parts/1.jsonl", records[:30])
    write("parts/2.jsonl", records[30:])
    together, apart = (table(p, item="item")(SPLIT) for p in ("all.jsonl", "parts"))
    assert [item.name for item in together] == ["0", "1"]
    assert all(map(same, together, apart))


def test_a_label_without_any_rating_is_left_out_and_noted():
    write("a.csv", [{**row, "E3": -1} for row in rows()])
    (item,) = table("a.csv")(SPLIT)
    assert [label.name for label in item.labels] == ["E1", "E2"]
    assert item.notes == ("label E3 has no rating at all and was left out",)


def test_chosen_labels_prompt_and_split():
    names = ["train", "Training", "dev", "test", "valid", "train"]
    write(
        "a.csv",
        [
            {**row, "id": i, "part": names[i % 6], "question": "Why?"}
            for i, row in enumerate(rows(60))
        ],
    )
    (item,) = table("a.csv", labels=["E2"], prompt="question", split="part")(SPLIT)
    assert item.prompt == "Why?"
    assert [len(p) for p in (item.train, item.validation, item.test)] == [30, 20, 10]
    assert [label.name for label in item.labels] == ["E2"]


def test_parts_that_no_row_names_are_divided_off():
    write(
        "a.csv", [{**row, "part": "test" if i < 20 else "train"} for i, row in enumerate(rows(70))]
    )
    (item,) = table("a.csv", split="part")(SPLIT)
    assert [len(p) for p in (item.train, item.validation, item.test)] == [45, 5, 20]


def test_scores_become_cumulative_steps():
    scores = [0, 1, 3, 1.0, -1, None] * 20
    write("a.parquet", [{"text": f"a {i}", "mark": s} for i, s in enumerate(scores)])
    (item,) = table("a.parquet", score="mark")(SPLIT)
    assert item.kind == "ordinal"
    assert [label.name for label in item.labels] == ["score>=1", "score>=2", "score>=3"]
    assert item.notes == ("40 training rows without a rating on every label were left out",)
    for part in (item.train, item.validation, item.test):
        expected = [scores[int(text[2:])] for text in part.texts]
        assert ordinal.decode(part.labels).tolist() == expected


def test_the_highest_score_may_stand_in_the_test_alone():
    records = [{"text": f"a {i}", "mark": i % 2, "part": "train"} for i in range(30)]
    write("a.csv", [*records, {"text": "best", "mark": 2, "part": "test"}])
    (item,) = table("a.csv", score="mark", split="part")(SPLIT)
    assert ordinal.decode(item.test.labels).tolist() == [2]
    assert item.notes == ("label score>=2 is always 0 in training",)


@given(st.lists(st.integers(0, 7), max_size=30), st.integers(0, 3))
def test_decode_is_the_inverse_of_encode(scores, more):
    most = max(scores, default=1) + more
    binaries = ordinal.encode(np.array(scores, np.int64), most)
    assert binaries.shape == (len(scores), most)
    assert (np.diff(binaries.astype(int), axis=1) <= 0).all()
    assert ordinal.decode(binaries).tolist() == scores
    assert len(ordinal.steps(most)) == most


def test_limit_is_of_training_responses():
    write(
        "a.csv", [{**row, "part": "test" if i < 20 else "train"} for i, row in enumerate(rows(90))]
    )
    (item,) = table("a.csv", split="part", limit=30)(SPLIT)
    assert [len(p) for p in (item.train, item.validation, item.test)] == [27, 3, 20]
    (item,) = table("a.csv", labels=["E1"], limit=50)(SPLIT)
    assert [len(p) for p in (item.train, item.validation, item.test)] == [36, 4, 10]


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": ["E1"], "score": "mark"},
        {"labels": []},
        {"text": "E1", "labels": ["E1"]},
        {"item": "text"},
        {"second": "E2"},
        {"second": "E2", "labels": ["E1", "E3"]},
        {"second": ["E2", "E3"], "score": "mark"},
        {"second": "mark", "score": "mark"},
        {"group": "text"},
        {"limit": 0},
        {"delimiter": ";;"},
        {"delimiter": '"'},
        {"txt": "text"},
    ],
)
def test_what_cannot_be_meant_is_refused_when_built(wrong):
    with pytest.raises(ValidationError):
        table("a.csv", **wrong)


@pytest.mark.parametrize(("file", "strategy"), [("pasta", Pasta), ("table", Table)])
def test_the_yaml_sets_every_field(file, strategy):
    target, *names = config = OmegaConf.load(CONF / f"{file}.yaml")
    assert config[target] == f"{strategy.__module__}.{strategy.__qualname__}"
    assert names == [field.name for field in fields(strategy)]


# ---- what is wrong with a table

FILES = {
    "empty": (b"", r"a\.csv is empty: "),
    "blank": (b" \n\n", r"a\.csv is empty"),
    "mark only": (b"\xef\xbb\xbf", r"a\.csv is empty"),
    "header only": (b"text,E1\n", r"a\.csv has a header and no rows: "),
    "latin": (b"text,E1\nfine,1\ncaf\xe9,0\n", r"a\.csv line 3 is not UTF-8: save"),
    "utf-16": (simple().encode("utf-16"), r"a\.csv line 1 is not UTF-8"),
    "nul": (b"text,E1\nfine,1\nb\0d,0\n", r"a\.csv line 3 holds a NUL byte"),
    "no name": (b"text,,E1\nfine,1,0\n", r"a\.csv line 1: column 2 has no name"),
    "same names": (b"text,E1,E1\nfine,1,0\n", r"a\.csv line 1: 2 columns are named 'E1'"),
    "no header": (f"{SECRET},0,1\n".encode(), r"a\.csv line 1 looks like a row of data"),
    "no header, scores": (
        b"secret,5,3\nmy secret,2,2\n",
        r"a\.csv line 1 looks like a row of data",
    ),
    "semicolon": (b"text;E1\nfine;1\n", r"a\.csv line 1 is separated by ';' and not by ','"),
    "few fields": (b"text,E1\nfine,1\n\nfine\n", r"a\.csv line 4 has 1 fields and the header 2"),
    "many fields": (
        b"text,E1\nmy secret, answer,1\n",
        r"line 2 has 3 fields and the header 2: put",
    ),
    "open quote": (b'text,E1\nfine,1\n"my secret,1\nx,0\n', r"a\.csv line 3: a quote opens here"),
    "stray quote": (b'text,E1\nfine,1\n"my" secret,1\n', r"a\.csv line 3: a quote opens here"),
    "far quote": (b'text,E1\n"a\nb",1\n"my secret,1\nx,0\n"y",1\n', r"line 4: a quote opens here"),
    "inner quote": (b'text,E1,E2\n"a\nb",1,"secret\nx,0\n', r"line 3: a quote opens here"),
    "no text": (
        simple(header="Txet,E1,E2").encode(),
        r"no column 'text' \(did you mean 'Txet'\?\)",
    ),
    "case": (simple(header="TEXT,E1,E2").encode(), r"did you mean 'TEXT'\?\): set items\.text to"),
    "not binary": (
        b"text,E1\nfine,1\nmy secret,2\n",
        r"a\.csv line 3, column 'E1': '2' is not 0 or",
    ),
    "word": (b"text,E1\nfine,1\nmy secret,yes\n", r"line 3, column 'E1': 'yes' is not 0 or 1"),
    "half": (b"text,E1\nfine,0.5\n", r"line 2, column 'E1': '0\.5' is not 0 or 1"),
    "infinite": (b"text,E1\nfine,inf\n", r"line 2, column 'E1': 'inf' is not 0 or 1"),
    "text as label": (
        b"E1,text\nsecret answer,1\n",
        r"column 'E1': a text of 13 characters is not",
    ),
    "empty text": (b"text,E1\nfine,1\n,0\n  ,1\n", r"line 3, column 'text': .* \(in 2 of 3 rows"),
    "no rating": (b"text,E1\nfine,\nfine,-1\n", r"item 'a' has no rating in 'E1': name"),
    "no labels": (b"text\nfine\n", r"item 'a' has no rating in any other column"),
    "few rows": (simple(12).encode(), r"item 'a' has 9 training responses and needs 10"),
    "never both": (
        b"text,E1,E2\nfine,1,\nfine,,1\n",
        r"none of the 2 rows .* a\.csv line 2 is fully",
    ),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_broken_csv_ends_in_one_line(content, message):
    Path("a.csv").write_bytes(content)
    refused(lambda: table("a.csv")(SPLIT), message)


JSON = {
    "broken": (
        '{"text": "a", "E1": 1}\n\n{"text": "my secret',
        r"a\.jsonl line 3 is not JSON at ch",
    ),
    "list": ('["my secret"]', r"a\.jsonl line 1 is of type list: write one JSON object per line"),
    "pretty": ('{\n"text": "my secret"}', r"a\.jsonl line 1 is not JSON at character"),
    "repeated": ('{"text": "a", "text": "my secret"}', r"a\.jsonl line 1 repeats a name"),
    "deep": ("[" * 100_000, r"a\.jsonl line 1 .*(nests too deeply|not JSON)"),
    "huge": ('{"text": "a", "E1": 1%s}' % ("0" * 5000), r"a\.jsonl line 1 .* a huge number"),
    "large": ('{"text": "a", "E1": 1%s}' % ("0" * 500), r"a\.jsonl line 1, column 'E1': 10{15,}"),
    "number": ('{"text": 17, "E1": 1}', r"line 1, column 'text': a value of type int is no text:"),
    "no row": ("17", r"a\.jsonl line 1 is of type int: write one"),
    "null": ('{"text": null, "E1": 1}', r"a\.jsonl line 1, column 'text': the response is empty"),
    "missing": (
        '{"text": "a", "E1": 1}\n{"E1": 0}',
        r"a\.jsonl line 2, column 'text': .* is empty",
    ),
    "surrogate": (
        '{"text": "my secret \\ud83d", "E1": 1}',
        r"line 1, column 'text' holds a NUL or h",
    ),
    "nul": ('{"text": "my secret \\u0000", "E1": 1}', r"line 1, column 'text' holds a NUL or half"),
    "nested": ('{"text": "a", "E1": ["my secret"]}', r"line 1, column 'E1': list is not 0 or 1"),
    "no columns": ("{}\n{}", r"a\.jsonl has no columns"),
}


@pytest.mark.parametrize(("content", "message"), JSON.values(), ids=JSON)
def test_a_broken_json_lines_file_ends_in_one_line(content, message):
    Path("a.jsonl").write_text(content)
    refused(lambda: table("a.jsonl")(SPLIT), message)


def test_a_damaged_parquet_file_ends_in_one_line():
    write("a.parquet", rows())
    whole = Path("a.parquet").read_bytes()
    for damaged in (b"", b"PAR1", whole[:-20], whole[: len(whole) // 2], b"x" * 100):
        Path("a.parquet").write_bytes(damaged)
        refused(lambda: table("a.parquet")(SPLIT), r"a\.parquet is no parquet file or is damaged")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_file_it_is_read_or_refused_in_one_line(data, tmp_path_factory):
    ending = data.draw(st.sampled_from([".csv", ".jsonl", ".parquet"]))
    path = tmp_path_factory.mktemp("any") / f"a{ending}"
    if ending == ".parquet" and data.draw(st.booleans()):
        frame = io.BytesIO()
        pd.DataFrame(rows()).to_parquet(frame)
        content = bytearray(frame.getvalue())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        pieces = [
            "text",
            "E1",
            ",",
            '"',
            "\n",
            "\r",
            "0",
            "1",
            "\0",
            "é",
            "{",
            "}",
            ":",
            "\x1c",
            "[",
            " ",
        ]
        content = "".join(data.draw(st.lists(st.sampled_from(pieces), max_size=40))).encode()
    path.write_bytes(content)
    assert "\n" not in outcome(table(str(path)))


def outcome(source):
    """What is said of it: nothing, or the one line."""
    try:
        source(SPLIT)
    except InputError as error:
        return str(error)
    return ""


SCORES = {
    "half": ("0.5", r"a\.csv line 3, column 'mark': '0\.5' is no whole score from 0 to 100"),
    "word": ("good", r"line 3, column 'mark': 'good' is no whole score"),
    "negative": ("-2", r"line 3, column 'mark': '-2' is no whole score"),
    "enormous": ("1e9", r"line 3, column 'mark': '1e9' is no whole score"),
    "zeros": ("0", r"item 'a' has no score above 0"),
    "none": ("-1", r"item 'a' has no score above 0"),
}


@pytest.mark.parametrize(("score", "message"), SCORES.values(), ids=SCORES)
def test_a_wrong_score_ends_in_one_line(score, message):
    Path("a.csv").write_text(f"text,mark\n{SECRET},0\n{SECRET},{score}\n")
    refused(lambda: table("a.csv", score="mark")(SPLIT), message)


def test_wrong_paths():
    Path("empty").mkdir()
    Path("notes.docx").write_text(SECRET)
    for path, message in {
        "none.csv": r"none\.csv does not exist: relative paths start at /",
        "notes.docx": r"notes\.docx is no table: the name must end in one of \.csv, ",
        "empty": r"folder empty holds no table",
        "*.csv": r"no file matches \*\.csv",
        "~nobody-of-this-name/a.csv": r"no such home folder",
        "notes.docx/a.csv": r"cannot be read \(Not a directory\)",
        "long" * 100: r"cannot be read \(File name too long\)",
    }.items():
        refused(lambda path=path: table(path)(SPLIT), message)


def test_two_files_of_one_name():
    for path in ("one/Water.csv", "two/water.tsv"):
        write(path, rows())
    refused(lambda: table(["one", "two"])(SPLIT), "two items are named 'Water' and 'water'")
    write("other/Water.csv", rows())
    refused(lambda: table(["one", "other"])(SPLIT), "two items are named 'Water' and 'Water'")


def test_wrong_long_tables():
    good = [{**row, "item": "a", "part": "train"} for row in rows()]
    for changed, options, message in [
        ({"item": None}, {}, r"a\.jsonl line 40, column 'item' names no item"),
        ({"item": "../a"}, {}, r"item name '\.\./a' cannot be a file name"),
        ({"item": "A"}, {}, r"two items are named 'a' and 'A'"),
        ({"item": ["a"]}, {}, r"column 'item' names no item"),
        ({"part": "exam"}, {"split": "part"}, r"line 40, column 'part': 'exam' is no part: write"),
        ({"part": None}, {"split": "part"}, r"line 40, column 'part': NoneType is no part"),
        ({"item": "b", "part": "test"}, {"split": "part"}, r"item 'b' has no row whose 'part' is"),
    ]:
        write("a.jsonl", [*good[:-1], {**good[-1], **changed}])
        load = table("a.jsonl", item="item", labels=["E1"], **options)
        refused(lambda load=load: load(SPLIT), message)
    write("b.csv", [{**row, "E9": 1} for row in good])
    load = table(["a.jsonl", "b.csv"], item="item")
    refused(lambda: load(SPLIT), r"b\.csv and a\.jsonl differ in their columns \('E9'\)")


# ---- the authors' layout


def write_pasta(name, train=60, test=20, **columns):
    for part, n in (("train", train), ("test", test)):
        records = [{"Any name": row.pop("text") + part, **row, **columns} for row in rows(n)]
        write(f"data/{name}_{part}.csv", records)


def test_pasta_items_stand_in_alphabetical_order():
    for name in ("b item", "C", "a"):
        write_pasta(name, Group="x")
    Path("data/._a_train.csv").write_text("what a Mac leaves behind")
    items = pasta("data")(SPLIT)
    assert [item.name for item in items] == ["a", "b item", "C"]
    assert [label.name for label in items[0].labels] == ["E1", "E2"]
    assert [len(p) for p in (items[0].train, items[0].validation, items[0].test)] == [54, 6, 20]
    (limited, *_) = pasta("data", limit=20)(SPLIT)
    assert [len(p) for p in (limited.train, limited.validation, limited.test)] == [18, 2, 20]


def test_a_pasta_folder_that_cannot_be_looked_into_is_refused():
    refused(lambda: pasta("long" * 100)(SPLIT), r"cannot be read \(File name too long\)")


def test_pasta_rows_with_minus_one_are_dropped_and_noted():
    write_pasta("a")
    for part in ("train", "test"):
        with Path(f"data/a_{part}.csv").open("a") as file:
            file.write(f"{SECRET},-1,1\n{SECRET},0,-1\n,-1,-1\n")
    (item,) = pasta("data")(SPLIT)
    assert [len(p) for p in (item.train, item.validation, item.test)] == [54, 6, 20]
    assert [note[:15] for note in item.notes] == ["3 training rows", "3 test rows wit"]


def test_pasta_test_columns_may_stand_in_another_order():
    write_pasta("a")
    (item,) = pasta("data")(SPLIT)
    frame = pd.read_csv("data/a_test.csv")
    frame[["Any name", "E2", "E1"]].to_csv("data/a_test.csv", index=False)
    assert same(item, pasta("data")(SPLIT)[0])


def test_pasta_descriptions():
    write_pasta("a")
    write_pasta("b")
    about = [{"item": "a", "question": "Why?", "labels": {"E2": "says why", "E9": "?"}, "more": 1}]
    Path("data/items.json").write_text(json.dumps(about))
    a, b = pasta("data")(SPLIT)
    assert (a.prompt, [x.description for x in a.labels]) == ("Why?", ["", "says why"])
    assert (b.prompt, [x.description for x in b.labels]) == ("", ["", ""])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"items\.json is empty"),
        ("[{", r"data/items\.json: Invalid JSON"),
        ("{}", r"data/items\.json: Input should be a valid array: write a list of"),
        ('[{"item": "a"}, {"question": "?"}]', r"items\.json\[1\]\['item'\]: Field required"),
        ('[{"item": "a", "labels": {"E1": 1}}]', r"\[0\]\['labels'\]\['E1'\]: Input should be a v"),
    ],
)
def test_broken_descriptions_end_in_one_line(content, message):
    write_pasta("a")
    Path("data/items.json").write_text(content)
    refused(lambda: pasta("data")(SPLIT), message)


PASTA = {
    "unnamed": (f",E1\n{SECRET},1\n", r"a_train\.csv line 1: column 1 has no name"),
    "text last": (f"E1,text\n1,{SECRET}\n", r"the first column 'E1' holds ratings"),
    "no labels": (f"text,Group\n{SECRET},x\n", r"a_train\.csv has no label column beside 'text'"),
    "other labels": (
        f"text,E1,E3\n{SECRET},1,1\n",
        r"a_test\.csv and a_train\.csv differ in their l",
    ),
    "not binary": (
        f"text,E1,E2\n{SECRET},1,7\n",
        r"a_train\.csv line 2, column 'E2': '7' is not 0",
    ),
    "unrated": (f"text,E1,E2\n{SECRET},-1,1\n", r"none of the 1 rows that begin at .* line 2"),
}


@pytest.mark.parametrize(("content", "message"), PASTA.values(), ids=PASTA)
def test_a_broken_pasta_file_ends_in_one_line(content, message):
    write_pasta("a")
    Path("data/a_train.csv").write_text(content)
    refused(lambda: pasta("data")(SPLIT), message)


def test_wrong_pasta_folders():
    refused(lambda: pasta("none")(SPLIT), r"none is no folder .*: set items\.path to")
    Path("data").mkdir()
    refused(lambda: pasta("data")(SPLIT), r"data holds no <item>_train\.csv and <item>_test\.csv")
    write_pasta("a")
    write_pasta("A")
    refused(lambda: pasta("data")(SPLIT), r"two items are named 'A' and 'a'")
    Path("data/a_test.csv").unlink()
    refused(lambda: pasta("data")(SPLIT), r"data/a_train\.csv lacks its partner: add a_test\.csv")


# ---- real answers, where they are at hand

DATA = Path(os.environ.get("GWSMM_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()


@pytest.mark.skipif(not (DATA / "map9").is_dir(), reason="no map9 under GWSMM_DATA")
def test_map9():
    items = pasta(str(DATA / "map9"))(SPLIT)
    assert len(items) == 9
    assert all(653 <= len(i.train) + len(i.validation) <= 1111 for i in items)
    assert all(i.prompt and all(label.description for label in i.labels) for i in items)


@pytest.mark.skipif(not (DATA / "asap_sas").is_dir(), reason="no asap_sas under GWSMM_DATA")
def test_asap_sas():
    load = table(
        str(DATA / "asap_sas" / "train.tsv"),
        text="EssayText",
        item="EssaySet",
        score="Score1",
        quoting=False,
    )
    items = load(SPLIT)
    assert [item.name for item in items] == [str(n) for n in range(1, 11)]
    assert sum(len(p) for i in items for p in (i.train, i.validation, i.test)) == 17_026
    assert all(len(i.labels) in (2, 3) for i in items)

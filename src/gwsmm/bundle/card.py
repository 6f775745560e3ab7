"""The model card: what a bundle is, how well it scores and how it is used."""

from collections.abc import Mapping, Sequence
from typing import Any

from gwsmm.bundle.manifest import Architecture, Bundled

_COLUMNS = ("micro_f1", "macro_f1", "exact_match", "label_accuracy")
_MODELS = ("majority", "individual", "merged")


def card(
    results: Mapping[str, Any],
    items: Sequence[Bundled],
    encoder: Architecture,
    added: Sequence[Mapping[str, Any]],
) -> str:
    """The text of `README.md`; it holds no response.

    Args:
        results: the content of `results.json`.
        items: as in the manifest.
        encoder: as in the manifest.
        added: the content of `added.json`.
    """
    named = f"`{encoder.model}`"
    storage, plan = results["storage"], results["plan"]
    passes = len({item.trunk for item in items})
    s, es = "s" * (len(items) > 1), "es" * (passes > 1)
    drawn = ", but with random weights" if encoder.random else ""
    origin = (
        f"The weights began as random numbers; the tokenizer is that of {named}, whose licence\n"
        "applies to it. The weights learned from the"
        if encoder.random
        else f"The weights are derived from {named}, whose licence applies to them, and from the"
    )
    synthetic = (
        "The responses these models were trained on are synthetic: generated, not written by "
        "students.\n\n"
        if results["synthetic"]
        else ""
    )
    groups = "\n".join(
        f"{number}. {', '.join(group)}" for number, group in enumerate(plan["groups"], start=1)
    )
    return f"""\
# Scoring models for {len(items)} item{s}, merged by gwsmm

This folder scores written responses to {len(items)} assessment item{s}. It was made of one
fine-tuned encoder per item: the items of a group share what was merged of their encoders, and every
item has its own head. A table that mixes all items takes {passes} encoder pass{es}, with individual
models {len(items)}; the models take {storage["factor"]:.1f} times fewer bytes than those.

{synthetic}- Encoder: {named}{drawn}, {encoder.pooling} pooling
- Longest response: {encoder.max_length} tokens, what follows is not read
- Experiment: `{results["name"]}`, seed {results["seed"]}

## Use

```
gwsmm score FOLDER table.csv --out scores.csv
gwsmm score FOLDER table.csv --probabilities
```

The table is CSV, TSV, JSON lines or parquet, with a column `item` that holds one of the names below
and a column `text` that holds the response. Nothing is downloaded and nothing in this folder is
executed.

## Groups

{plan["source"]}

{groups}

{_added(added)}## Items

{_labels(items)}

## Scores

On each item's test responses, which no choice has seen. `merged` is what this folder holds;
`individual` is one encoder per item; `majority` gives every response the labels that most have.

{_scores(results)}

## Limits

- The scores hold for responses like those of the test: the same items, population and raters.
- The item of a response must be known; other items cannot be scored.
- The models repeat the raters' judgements, their errors and biases included. Have people check
  decisions that matter to a student.

## Licence

{origin}
responses, whose terms may restrict what the weights may be used for.
"""


def _added(added: Sequence[Mapping[str, Any]]) -> str:
    """How items that were added found their place."""
    if not added:
        return ""
    rows = [
        [
            each["item"],
            ", ".join(each["nearest"]),
            f"{each['distance']:.4g}",
            *(f"{each['validation'][name]:.4f}" for name in ("alone", "joined", "tolerance")),
            "shared" if each["accepted"] else "its own",
        ]
        for each in added
    ]
    header = ["item", "nearest group", "distance", "alone", "joined", "tolerance", "encoder"]
    return f"""\
These items were added later. An item joins the encoder of its nearest group, which stays as it is,
if its micro F1 on validation responses falls by no more than the tolerance below that of its own
encoder, and keeps its own otherwise. No other item's files changed.

{_table(header, rows)}

"""


def _labels(items: Sequence[Bundled]) -> str:
    rows = [
        [item.name, item.kind, label.name, label.description]
        for item in items
        for label in item.labels
    ]
    return _table(["item", "kind", "label", "meaning"], rows)


def _scores(results: Mapping[str, Any]) -> str:
    rows = [
        [where, model, *(f"{scores[model][column]:.4f}" for column in _COLUMNS)]
        for where, scores in (
            ("all items", results["overall"]),
            *((item["name"], item["scores"]) for item in results["items"]),
        )
        for model in _MODELS
    ]
    return _table(["", "model", *(column.replace("_", " ") for column in _COLUMNS)], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

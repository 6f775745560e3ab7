"""Scoring by gwsmm and by what people use today, side by side.

Every side runs in processes of its own, one after the other in turns; a side's memory is the
largest of its process.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from bench_parts import Row, alone

from gwsmm.artefact import Member

BATCH = 64  # responses


def scoring(
    experiment: Callable[..., Any], repeats: int, rows: list[Row], keys: dict[str, object]
) -> None:
    """`gwsmm score` against one transformers pipeline per item, all loaded together.

    Args:
        experiment: makes the experiment of further overrides.
        repeats: of both sides, in turns.
        rows: take the results.
        keys: take the ratios.
    """
    with TemporaryDirectory() as folder:
        where = Path(folder)
        alone(deployed, experiment, where)
        sides: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(repeats):
            for name, work in (("gwsmm score", by_bundle), ("nine pipelines", by_pipelines)):
                (loading, rate), memory = alone(work, where)
                sides.setdefault(name, []).append((loading, rate, float(memory)))
                print(name, sides[name][-1], flush=True)
        found = {name: np.median(of, axis=0) for name, of in sides.items()}
        for name, place in (("gwsmm score", "bundle"), ("nine pipelines", "models")):
            size = sum(path.stat().st_size for path in (where / place).rglob("*.*"))
            loading, rate, memory = found[name]
            rows.append(
                {
                    "part": "scoring",
                    "program": name,
                    "rows a second": f"{rate:.0f}",
                    "seconds to load": f"{loading:.1f}",
                    "peak memory, MB": f"{memory / 1e6:.0f}",
                    "MB on disk": f"{size / 1e6:.0f}",
                }
            )
    ours, theirs = found["gwsmm score"], found["nine pipelines"]
    keys["score_speedup"] = float(ours[1] / theirs[1])
    keys["score_memory_ratio"] = float(ours[2] / theirs[2])


def deployed(experiment: Callable[..., Any], folder: Path) -> None:
    """A bundle of one trunk, a model per item for transformers, and a table of 10,000 rows."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from gwsmm.bundle.writing import write_bundle
    from gwsmm.pipeline import prepare, run

    x = experiment("grouping=all", "merge=average")
    done = run(x, prepare(x))
    write_bundle(
        folder / "bundle", done, encoder=x.encoder, private=x.private, device=x.trainer.device
    )
    for each in done.outcomes:
        config = AutoConfig.from_pretrained(
            x.encoder.folder, num_labels=len(each.item.labels), **(x.encoder.random or {})
        )
        model = AutoModelForSequenceClassification.from_config(config)
        trunk = Member(each.item, each.before.trunk).state("trunk")
        model.base_model.load_state_dict(trunk, strict=False)  # its pooler costs what ours would
        model.save_pretrained(folder / "models" / each.item.name)
        x.encoder.write_architecture(folder / "tokenizer")
    texts = [
        (each.item.name, text)
        for each in done.outcomes
        for part in (each.item.train, each.item.validation, each.item.test)
        for text in part.texts
    ]
    order = np.random.default_rng(0).permutation(len(texts))[:10_000]
    table = "\n".join(json.dumps(dict(zip(("item", "text"), texts[i], strict=True))) for i in order)
    (folder / "table.jsonl").write_text(table)


def by_bundle(folder: Path) -> tuple[float, float]:
    """Seconds until all is loaded, and rows a second from then on."""
    started = time.perf_counter()
    from gwsmm.bundle.reading import open_bundle
    from gwsmm.bundle.table import Columns, read_table, score_table, write_table

    bundle, columns = open_bundle(folder / "bundle", "cpu"), Columns("item", "text")
    asked = read_table(folder / "table.jsonl", columns, list(bundle.items))
    bundle.score(asked.names[:1], asked.texts[:1], batch=BATCH)  # what loads when it is needed
    loaded = time.perf_counter()
    scored = score_table(bundle, asked, columns, probabilities=True, batch=BATCH)
    write_table(folder / "scores.csv", scored)
    return loaded - started, len(asked.texts) / (time.perf_counter() - loaded)


def by_pipelines(folder: Path) -> tuple[float, float]:
    """The same with a pipeline per item, each given all of its rows."""
    started = time.perf_counter()
    from transformers import pipeline

    models = {
        path.name: pipeline(
            "text-classification",
            model=str(path),
            tokenizer=str(folder / "tokenizer"),
            top_k=None,
            function_to_apply="sigmoid",
        )
        for path in (folder / "models").iterdir()
    }
    rows = [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]
    loaded = time.perf_counter()
    for name, model in models.items():
        texts = [row["text"] for row in rows if row["item"] == name]
        model(texts, batch_size=BATCH, truncation=True, max_length=100)
    return loaded - started, len(rows) / (time.perf_counter() - loaded)

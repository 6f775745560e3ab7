"""Scoring by gwsmm and by what people use today, side by side.

Every side runs in processes of its own, one after the other in turns, that import nothing but what
the side needs; its memory is the largest of its process.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench_memory import peak_memory

if TYPE_CHECKING:
    from bench_parts import Row

BATCH = 64  # responses, as `gwsmm score` takes
STARTED = time.perf_counter()


def scoring(
    experiment: Callable[..., Any], repeats: int, rows: "list[Row]", keys: dict[str, object]
) -> None:
    """`gwsmm score` against one transformers pipeline per item, all loaded together.

    Args:
        experiment: makes the experiment of further overrides.
        repeats: of both sides, in turns.
        rows: take the results.
        keys: take the ratios.
    """
    import numpy as np
    from bench_parts import alone

    with TemporaryDirectory() as folder:
        where = Path(folder)
        alone(deployed, experiment, where)
        sides: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(repeats):
            for name, work in (("gwsmm score", by_bundle), ("nine pipelines", by_pipelines)):
                sides.setdefault(name, []).append(apart(work, where))
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
    import numpy as np
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from gwsmm.artefact import Member
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


def apart(side: Callable[[Path], tuple[float, float]], folder: Path) -> tuple[float, float, float]:
    """What a side returns in a fresh process, and that process's peak memory in bytes."""
    command = [sys.executable, __file__, side.__name__, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    loading, rate, memory = json.loads(done.stdout.splitlines()[-1])
    return loading, rate, memory


def by_bundle(folder: Path) -> tuple[float, float]:
    """Seconds until all is loaded, and rows a second from then on, by `gwsmm score`.

    The command runs twice: a table of one row takes what loading takes.
    """
    from gwsmm.cli.main import main

    def seconds(table: Path, began: float) -> float:
        out = str(folder / "scores.csv")
        main(["score", str(folder / "bundle"), str(table), "--probabilities", "--out", out])
        return time.perf_counter() - began

    rows = (folder / "table.jsonl").read_text().splitlines()
    (folder / "row.jsonl").write_text(rows[0])
    loading = seconds(folder / "row.jsonl", STARTED)
    whole = seconds(folder / "table.jsonl", time.perf_counter())  # reads the weights again
    return loading, len(rows) / whole


def by_pipelines(folder: Path) -> tuple[float, float]:
    """The same with a pipeline per item, each given all of its rows."""
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
    return loaded - STARTED, len(rows) / (time.perf_counter() - loaded)


if __name__ == "__main__":
    found = {side.__name__: side for side in (by_bundle, by_pipelines)}[sys.argv[1]](
        Path(sys.argv[2])
    )
    print(json.dumps([*found, peak_memory()]))

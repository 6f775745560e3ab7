"""The same work by gwsmm and by what people use today, side by side: merging, and scoring.

Every side runs in processes of its own, one after the other in turns; a side's memory is the
largest of its process.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gwsmm.artefact import MANIFEST, Artefact, Member, checksum
from gwsmm.types import Item, Label, Responses

Row = dict[str, object]
DENSITY = 0.5  # of an even number of entries: both sides keep the same half
BATCH = 64  # responses


def alone(work: Callable[..., Any], *arguments: object) -> tuple[Any, float, int]:
    """What a function returns in a fresh process, the seconds of that process and its memory."""
    started = time.perf_counter()
    with get_context("spawn").Pool(1) as pool:
        result, memory = pool.apply(_with_memory, (work, arguments))
    return result, time.perf_counter() - started, memory


def _with_memory(work: Callable[..., Any], arguments: Sequence[object]) -> tuple[Any, int]:
    result = work(*arguments)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def command(arguments: Sequence[str]) -> tuple[float, int]:
    """The seconds of a program, and its memory."""
    started = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{arguments[0]} ended with {process.returncode}: {said.decode()[-2000:]}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


# Merging nine encoders of BERT-base's size.


def mergekit(program: str | None, repeats: int, rows: list[Row], keys: dict[str, object]) -> None:
    """Linear, task arithmetic and TIES by both tools, on the same nine checkpoints."""
    if program is None:
        rows.append({"part": "mergekit", "method": "give --mergekit PATH/TO/mergekit-yaml"})
        return
    with TemporaryDirectory() as folder:
        alone(checkpoints, Path(folder))
        ratios: dict[str, list[float]] = {"time": [], "memory": []}
        for method in METHODS:
            rows.append(_both(method, program, Path(folder), repeats, ratios))
            print(rows[-1], flush=True)
    for name, of in ratios.items():
        keys[f"mergekit_{name}_ratio"] = max(of)  # ours over theirs, of the worst method


METHODS: dict[str, tuple[dict[str, object], str]] = {
    "linear": ({"weight": 1.0}, "average.Average"),
    "task_arithmetic": ({"weight": 0.1}, "task_arithmetic.TaskArithmetic"),
    "ties": ({"weight": 1.0, "density": DENSITY}, "ties.Ties"),
}


def _both(
    method: str, program: str, folder: Path, repeats: int, ratios: dict[str, list[float]]
) -> Row:
    parameters, _ = METHODS[method]
    recipe: dict[str, object] = {
        "merge_method": method,
        "dtype": "float32",
        "models": [
            {"model": str(path), "parameters": parameters}
            for path in sorted(folder.glob("member*"))
        ],
    }
    if method != "linear":
        recipe["base_model"] = str(folder / "base")
    if method == "task_arithmetic":
        recipe["parameters"] = {"normalize": False}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    out = folder / f"theirs-{method}"
    theirs, ours = [], []
    for _ in range(repeats):
        theirs.append(command([program, str(folder / "recipe.yaml"), str(out)]))
        _, seconds, memory = alone(merge, method, folder)
        ours.append((seconds, memory))
    seconds, memory = zip(*(np.median(side, axis=0) for side in (ours, theirs)), strict=True)
    ratios["time"].append(float(seconds[0] / seconds[1]))
    ratios["memory"].append(float(memory[0] / memory[1]))
    return {
        "part": "mergekit",
        "method": method,
        "seconds, gwsmm": f"{seconds[0]:.1f}",
        "seconds, mergekit": f"{seconds[1]:.1f}",
        "peak GB, gwsmm": f"{memory[0] / 1e9:.2f}",
        "peak GB, mergekit": f"{memory[1] / 1e9:.2f}",
        "largest difference": f"{alone(difference, folder / f'ours-{method}', out)[0]:.1e}",
    }


def checkpoints(folder: Path) -> None:
    """A base and nine members in the hub's format, each a little apart from the base."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder / "base")
    base = load_file(folder / "base" / "model.safetensors")
    for i in range(9):
        member = folder / f"member{i}"
        member.mkdir()
        (member / "config.json").write_text((folder / "base" / "config.json").read_text())
        moved = {k: v + 0.01 * torch.randn_like(v) for k, v in base.items()}
        save_file(moved, member / "model.safetensors", metadata={"format": "pt"})
        # The same as fine-tuning here leaves it: the pooler in a file of its own.
        parts = {
            "pooler": {
                k.removeprefix("pooler.dense."): v for k, v in moved.items() if "pooler" in k
            },
            "trunk": {k: v for k, v in moved.items() if "pooler" not in k},
        }
        for part, state in parts.items():
            save_file(state, member / f"{part}.safetensors")
        sums = {f"{part}.safetensors": checksum(member / f"{part}.safetensors") for part in parts}
        (member / MANIFEST).write_text(json.dumps({"sha256": sums}))


def merge(method: str, folder: Path) -> None:
    """The same by the pipeline's own stage, checks and diagnosis included."""
    from gwsmm.encoder import Encoder
    from gwsmm.merge.average import Average
    from gwsmm.merge.merging import Group, Merging
    from gwsmm.merge.task_arithmetic import TaskArithmetic
    from gwsmm.merge.ties import Ties
    from gwsmm.private.nothing import Nothing

    strategy = {
        "linear": Average(),
        "task_arithmetic": TaskArithmetic(scale=0.1, layers=None, base="pretrained"),
        "ties": Ties(density=DENSITY, scale=1.0, base="pretrained"),
    }[method]
    encoder = Encoder(
        model=str(folder / "base"),
        revision=None,
        random=None,
        pooling="cls",
        pooler=True,
        max_length=100,
    )
    members = tuple(_member(path) for path in sorted(folder.glob("member*")))
    out = folder / f"ours-{method}"
    out.mkdir(exist_ok=True)
    Merging(encoder=encoder, merge=strategy, private=Nothing())(Group(members, None), out)


def _member(path: Path) -> Member:
    nothing = Responses(("",), np.zeros((1, 1), np.uint8))
    item = Item(path.name, (Label("a"),), "multilabel", nothing, nothing, nothing)
    return Member(item, Artefact(path, path.name))


def difference(ours: Path, theirs: Path) -> float:
    """The largest of all entries."""
    from safetensors.torch import load_file

    state = load_file(ours / "trunk.safetensors")
    pooler = load_file(ours / "pooler.safetensors")
    state |= {f"pooler.dense.{name}": tensor for name, tensor in pooler.items()}
    other = {k: v for file in theirs.glob("*.safetensors") for k, v in load_file(file).items()}
    if set(state) != set(other):
        sys.exit(f"not the same tensors: {sorted(set(state) ^ set(other))}")
    return max(float((state[name] - other[name]).abs().max()) for name in state)


# Scoring a table that mixes items.


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
                (loading, rate), _, memory = alone(work, where)
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
        config = AutoConfig.from_pretrained(x.encoder.folder, num_labels=len(each.item.labels))
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
    import transformers  # noqa: F401 - the time of the library belongs to loading on both sides

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

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

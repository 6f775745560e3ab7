"""Merging by gwsmm and by mergekit, side by side, on nine checkpoints of BERT-base's size.

Every side runs in processes of its own, one after the other in turns; a side's seconds are those of
its whole process, its memory the largest of it. mergekit cannot live beside our transformers, so it
has an environment of its own, made once.
"""

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from bench_parts import BENCH, Row, alone

from gwsmm.artefact import MANIFEST, Artefact, Member, checksum
from gwsmm.types import Item, Label, Responses

if TYPE_CHECKING:
    from torch import Tensor

HOME = BENCH.with_name("mergekit")  # of its environment
WANTED = ("mergekit==0.1.4", "transformers<5")
DENSITY = 0.5  # of an even number of entries: both sides keep the same half


def mergekit(program: str | None, repeats: int, rows: list[Row], keys: dict[str, object]) -> None:
    """Linear, task arithmetic and TIES by both tools.

    Args:
        program: mergekit-yaml; None: that of an environment which is made for it.
        repeats: of both sides, in turns.
        rows: take the results.
        keys: take the ratios, ours to theirs, of the method at which we are worst.
    """
    program = program or _installed()
    if program is None:
        print("mergekit cannot be installed, see above: left out", flush=True)
        return
    with TemporaryDirectory() as folder:
        alone(checkpoints, Path(folder))
        ratios: dict[str, list[float]] = {"time": [], "memory": []}
        for method in METHODS:
            rows.append(_both(method, program, Path(folder), repeats, ratios))
            print(rows[-1], flush=True)
    for name, of in ratios.items():
        keys[f"mergekit_{name}_ratio"] = max(of)


def _installed() -> str | None:
    """mergekit-yaml in an environment of its own; None if pip cannot install it."""
    program, pip = (HOME / "bin" / name for name in ("mergekit-yaml", "pip"))
    if not program.exists():
        print(f"Installing mergekit into {HOME} (once, some minutes) ...", flush=True)
        venv.create(HOME, with_pip=True)
        torch = f"torch=={version('torch').partition('+')[0]}"  # the build that is known to run
        subprocess.run([pip, "install", "--quiet", torch, *WANTED], check=False)
    return str(program) if program.exists() else None


def _command(arguments: Sequence[str]) -> tuple[float, int]:
    """The seconds of a program, and its memory."""
    started = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{arguments[0]} ended with {process.returncode}: {said.decode()[-2000:]}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


METHODS: dict[str, dict[str, float]] = {  # and what mergekit calls its parameters
    "linear": {"weight": 1.0},
    "task_arithmetic": {"weight": 0.1},
    "ties": {"weight": 1.0, "density": DENSITY},
}


def _both(
    method: str, program: str, folder: Path, repeats: int, ratios: dict[str, list[float]]
) -> Row:
    recipe: dict[str, object] = {
        "merge_method": method,
        "dtype": "float32",
        "models": [
            {"model": str(path), "parameters": METHODS[method]}
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
        theirs.append(_command([program, str(folder / "recipe.yaml"), str(out)]))
        started = time.perf_counter()
        _, largest = alone(merge, method, folder)
        ours.append((time.perf_counter() - started, largest))
    seconds, memory = zip(*(np.median(side, axis=0) for side in (ours, theirs)), strict=True)
    ratios["time"].append(float(seconds[0] / seconds[1]))
    ratios["memory"].append(float(memory[0] / memory[1]))
    (largest, left_out), _ = alone(difference, method, folder)
    return {
        "part": "mergekit",
        "method": method,
        "seconds, gwsmm": f"{seconds[0]:.1f}",
        "seconds, mergekit": f"{seconds[1]:.1f}",
        "peak GB, gwsmm": f"{memory[0] / 1e9:.2f}",
        "peak GB, mergekit": f"{memory[1] / 1e9:.2f}",
        "largest difference": f"{largest:.1e}",
        "entries left out": left_out,
    }


def checkpoints(folder: Path) -> None:
    """A base and nine members in the hub's format, each a little apart from the base."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder / "base")
    base = load_file(folder / "base" / "model.safetensors")
    # mergekit 0.1.4 stops with a TypeError at the optional tensors of the BERT that it knows; of an
    # architecture that it does not know, it takes the tensors as they are.
    config = json.loads((folder / "base" / "config.json").read_text())
    config["architectures"] = ["Encoder"]
    (folder / "base" / "config.json").write_text(json.dumps(config))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]  # nothing is tokenized
    (folder / "base" / "vocab.txt").write_text("\n".join(words))
    for i in range(9):
        member = folder / f"member{i}"
        member.mkdir()
        (member / "config.json").write_text(json.dumps(config))
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
    """The same by the pipeline's own stage; its diagnosis is another, which mergekit has not."""
    from gwsmm.encoder import Encoder
    from gwsmm.merge.average import Average
    from gwsmm.merge.merging import Group, Merging
    from gwsmm.merge.task_arithmetic import TaskArithmetic
    from gwsmm.merge.ties import Ties
    from gwsmm.private.nothing import Nothing
    from gwsmm.recipe import Trainer

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
    cpu = Trainer(accelerator="cpu", devices=1, strategy="auto")
    stage = Merging(encoder=encoder, merge=strategy, private=Nothing(), trainer=cpu)
    stage(Group(members, None), out)


def _member(path: Path) -> Member:
    nothing = Responses(("",), np.zeros((1, 1), np.uint8))
    item = Item(path.name, (Label("a"),), "multilabel", nothing, nothing, nothing)
    return Member(item, Artefact(path, path.name))


def difference(method: str, folder: Path) -> tuple[float, int]:
    """The largest of all entries at which the definitions agree, and at how many they do not.

    TIES keeps the largest entries of a task vector and elects the sign of their sum. Where several
    are as large as the last that is kept, gwsmm keeps all of them and mergekit some; where the sum
    is nothing but rounding, gwsmm elects no sign and mergekit the positive one.
    """
    from safetensors.torch import load_file

    ours, theirs = folder / f"ours-{method}", folder / f"theirs-{method}"
    state = load_file(ours / "trunk.safetensors")
    pooler = load_file(ours / "pooler.safetensors")
    state |= {f"pooler.dense.{name}": tensor for name, tensor in pooler.items()}
    other = {k: v for file in theirs.glob("*.safetensors") for k, v in load_file(file).items()}
    if set(state) != set(other):
        sys.exit(f"not the same tensors: {sorted(set(state) ^ set(other))}")
    largest, left_out = 0.0, 0
    for name in state:
        apart = (state[name] - other[name]).abs()
        if method == "ties":
            undecided = _undecided(folder, name)
            apart[undecided] = 0
            left_out += int(undecided.sum())
        largest = max(largest, float(apart.max()))
    return largest, left_out


def _undecided(folder: Path, name: str) -> "Tensor":
    """[...] of a tensor's shape: where the two definitions of TIES differ."""
    import torch
    from safetensors import safe_open

    from gwsmm.merge.ties import rounding, smallest_kept, trim

    def read(path: Path) -> "Tensor":
        with safe_open(path / "model.safetensors", framework="pt") as file:
            return file.get_tensor(name)

    base, members = read(folder / "base"), [read(path) for path in sorted(folder.glob("member*"))]
    undecided = torch.zeros(base.shape, dtype=torch.bool)
    total = torch.zeros_like(base)
    for member in members:
        tau = member - base
        smallest = smallest_kept(tau, DENSITY)
        at = tau.abs() == smallest
        if int((tau.abs() >= smallest).sum()) > int(DENSITY * tau.numel()):
            undecided |= at
        total += trim(tau, smallest)
    return undecided | (total.abs() <= rounding(members))

"""What many items take on many machines: measured unit costs, stated assumptions, arithmetic.

Unit costs are the seconds that a store's results took, each in one process of one thread.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

BENCH = Path(__file__).parents[1] / "outputs" / "bench"
# How many results of a stage an item needs; a network takes most of the time of all of these.
PER_ITEM = {"finetune": 1, "features": 1, "heads": 1, "decision": 2, "evaluate": 2}


@dataclass(frozen=True)
class Measured:
    """Unit costs of a store.

    Attributes:
        seconds: of one result, by stage, with how many there are.
        pair: seconds of one solved pair.
        cell: bytes that the matrix of distances takes for each ordered pair.
        model: bytes of a fine-tuned model.
    """

    seconds: dict[str, tuple[float, int]]
    pair: float
    cell: float
    model: float


def measured(store: Path) -> Measured:
    """The means over all results of the store."""
    seconds, pairs, cells = defaultdict(list), [], []
    for path in store.glob("*/*/origin.json"):
        if (stage := path.parents[1].name) != "pairs":  # pieces, whose seconds others count
            seconds[stage].append(json.loads(path.read_text())["seconds"])
    for path in store.glob("distances/*/distances.safetensors"):
        arrays = load_file(path)
        above = np.triu(~arrays["estimated"].astype(bool), 1)
        pairs += arrays["seconds"][above].tolist()
        cells.append(path.stat().st_size / arrays["value"].size)
    if not {"finetune", "distances"} <= set(seconds):
        raise SystemExit(f"{store}: no run that fine-tunes and compares has filled this store")
    models = [
        sum(file.stat().st_size for file in path.parent.iterdir())
        for path in store.glob("finetune/*/origin.json")
    ]
    return Measured(
        {stage: (float(np.mean(each)), len(each)) for stage, each in seconds.items()},
        float(np.mean(pairs)),
        float(np.mean(cells)),
        float(np.mean(models)),
    )


def span(seconds: float) -> str:
    """Seconds in the largest unit of which there is one at least."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def size(count: float) -> str:
    """Bytes in the largest unit of which there is one at least."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def column(n: int, unit: Measured, given: argparse.Namespace) -> dict[str, str]:
    """What n items take, row by row."""
    rows, whole = {}, 0.0
    rounds = -(-n // given.gpus)  # no two GPUs share an item, so the last round counts in full
    for stage, times in PER_ITEM.items():
        if stage in unit.seconds:
            took = rounds * times * unit.seconds[stage][0] / given.gpu_factor
            whole += took
            rows[f"{stage}, {times} for each item"] = span(took)
    pools = -(-n // given.pool)
    cores = given.gpus * given.cores
    for name, pairs in {
        "pairs of all items": n * (n - 1) / 2,
        f"pairs within pools of {given.pool:,}": pools * given.pool * (given.pool - 1) / 2,
    }.items():
        rows[f"{name}: number"] = f"{pairs:,.0f}"
        rows[f"{name}: every one solved"] = span(pairs * unit.pair / cores)
        screened = pairs * given.solved * unit.pair / cores
        rows[f"{name}: {given.solved:.0%} solved"] = span(screened)
    rows["all but the merge, screened within pools"] = span(whole + screened)
    rows["models before the merge"] = size(n * unit.model)
    rows["distances of all items, in one matrix"] = size(n * n * unit.cell)
    rows[f"distances of a pool of {given.pool:,}"] = size(min(n, given.pool) ** 2 * unit.cell)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="of a finished run")
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--cores", type=int, default=8, help="beside each GPU, for the distances")
    parser.add_argument("--gpu-factor", type=float, default=20, help="a GPU against one thread")
    parser.add_argument("--solved", type=float, default=0.09, help="pairs that no bound drops")
    parser.add_argument("--pool", type=int, default=1000, help="items that may share an encoder")
    given = parser.parse_args()
    unit = measured(given.store)
    costs = pd.DataFrame(
        [
            *(
                {"measured": f"seconds of one result of `{stage}`", "value": f"{mean:.3f}", "of": n}
                for stage, (mean, n) in sorted(unit.seconds.items())
            ),
            {"measured": "seconds of one pair", "value": f"{unit.pair:.4f}", "of": "all solved"},
            {"measured": "fine-tuned model", "value": size(unit.model), "of": "the mean"},
        ]
    )
    assumed = pd.DataFrame(
        {
            "assumed": ["GPUs", "cores beside each", "a GPU, times one thread", "pairs solved"],
            "value": [given.gpus, given.cores, f"{given.gpu_factor:g}", f"{given.solved:.0%}"],
        }
    )
    columns = {f"{n:,} items": column(n, unit, given) for n in given.items}
    table = pd.DataFrame(columns).rename_axis("computed").reset_index()
    text = "\n\n".join(frame.to_markdown(index=False) for frame in (costs, assumed, table))
    BENCH.mkdir(parents=True, exist_ok=True)
    (BENCH / "scaling.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()

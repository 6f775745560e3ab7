"""Accuracy, speed, stability and scale of the distances, on the features of real answers.

Every part compares both sides in one run. The published procedure is rebuilt plainly: all ordered
pairs with the diagonal, cost matrices by a double loop for each pair, one start.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pandas as pd
from bench_parts import BENCH, ROOT, Row, carry_out, configured
from safetensors.numpy import save_file
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

from gwsmm.artefact import Artefact
from gwsmm.comparing import compared
from gwsmm.distance.pairwise import Pairwise, load_distances
from gwsmm.distance.subjects import CloudOf
from gwsmm.execute import Processes, Serial
from gwsmm.grouping.linkage import cut, into
from gwsmm.pipeline import prepare, trained
from gwsmm.store import Key, Store
from gwsmm.types import Cloud, Distances

TWO = Processes(jobs=2, threads=1)


def main() -> None:
    asked = arguments()
    x = configured(
        *asked.overrides, *(["items=pasta", f"items.path={asked.items}"] if asked.items else [])
    )
    clouds = [each.load() for each in compared(x, trained(x, prepare(x)))]
    sizes = [len(cloud.points) for cloud in clouds]
    print(f"{len(clouds)} items of {min(sizes)} to {max(sizes)} responses", flush=True)
    rows: list[Row] = []
    keys: dict[str, object] = {}
    parts: dict[str, Callable[[], None]] = {
        "speed": lambda: speed(clouds, asked.repeats, rows, keys),
        "accuracy": lambda: accuracy(rows, keys),
        "stability": lambda: stability(clouds, rows, keys),
        "choice": lambda: choice(clouds, rows),
        "sizes": lambda: sizes_of_clouds(clouds, rows),
        "screen": lambda: screen(clouds, asked.many, rows, keys),
        "device": lambda: device(clouds, asked.device, rows),
    }
    carry_out(BENCH / "distances.json", parts, asked.only, rows, keys)
    order = {name: at for at, name in enumerate(parts)}
    rows.sort(key=lambda row: order[str(row["part"])])
    table = pd.DataFrame(rows).drop(columns="part").to_markdown(index=False)
    (BENCH / "distances.md").write_text(table + "\n")
    print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--items", help="folder of <item>_train.csv and <item>_test.csv; without: generated items"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="of each timed side; medians are printed"
    )
    parser.add_argument("--many", type=int, default=1000, help="items of the screened matrix")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--only", nargs="*", default=[], help="parts: speed, accuracy, stability, …"
    )
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. seed=1")
    return parser.parse_args()


def strategy(name: str, *overrides: str):
    return configured(f"distance={name}", *overrides).distance


def even(name: str, points: np.ndarray) -> Cloud:
    return Cloud(name, points, np.full(len(points), 1 / len(points)))


def matrix(distance, clouds: list[Cloud], execute=TWO) -> tuple[Distances, float]:
    """The matrix by the pipeline's own stage, and the seconds from clouds on disk to the file."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        subjects = [CloudOf(cloud.name, stored(store, cloud)) for cloud in clouds]
        started = time.perf_counter()
        made = store.once(Pairwise(distance=distance), subjects, execute)
        seconds = time.perf_counter() - started
        return load_distances([cloud.name for cloud in clouds], made, distance), seconds


def stored(store: Store, cloud: Cloud) -> Artefact:
    def write(result: Path) -> None:
        save_file({"points": cloud.points, "weights": cloud.weights}, result / "cloud.safetensors")

    return store.fetch("features", Key(cloud.name), write)


# 1 and 2: against the published procedure and against a plain vectorised loop.


def published_costs(points: np.ndarray) -> np.ndarray:
    costs = np.zeros((len(points), len(points)))
    for i in range(len(points)):
        for j in range(len(points)):
            costs[i, j] = np.linalg.norm(points[i] - points[j])
    return costs


def published_solve(one: np.ndarray, other: np.ndarray) -> float:
    import ot

    p, q = (np.full(len(each), 1 / len(each)) for each in (one, other))
    return float(ot.gromov.gromov_wasserstein2(one, other, p, q, "square_loss"))


def timed(work: Callable[[], object]) -> tuple[object, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def speed(clouds: list[Cloud], repeats: int, rows: list[Row], keys: dict[str, object]) -> None:
    n, pairs = len(clouds), list(combinations(range(len(clouds)), 2))
    ours_at = strategy("gw_exact", "distance.cost=euclidean")  # the published costs
    plain, published, ours, values = [], [], [], np.zeros((n, n))
    warm = [even(cloud.name, cloud.points[:20]) for cloud in clouds]
    matrix(ours_at, warm)  # libraries are loaded on both sides before the clock starts
    published_solve(*(squareform(pdist(cloud.points)) for cloud in warm[:2]))
    for _ in range(repeats):
        found, seconds = matrix(ours_at, clouds)
        ours.append(seconds)
        costs, fast = zip(
            *[timed(lambda c=c: squareform(pdist(c.points))) for c in clouds], strict=True
        )
        # A double loop takes the same time at every repetition of the procedure: measured on a
        # tenth of the rows of each item.
        loops = [
            timed(lambda c=c: [np.linalg.norm(a - b) for a in c.points[::10] for b in c.points])[1]
            * len(c.points)
            / len(c.points[::10])
            for c in clouds
        ]
        solves = np.zeros((n, n))
        for i, j in [*pairs, *((i, i) for i in range(n))]:
            values[i, j], solves[i, j] = timed(partial(published_solve, costs[i], costs[j]))
        plain.append(sum(fast) + sum(solves[pair] for pair in pairs))
        both_orders = 2 * sum(solves[pair] for pair in pairs) + np.trace(solves)
        published.append(both_orders + 2 * n * sum(loops))
        print(
            f"ours {ours[-1]:.1f} s, plain loop {plain[-1]:.0f} s, published {published[-1]:.0f} s",
            flush=True,
        )
    upper = np.triu_indices(n, 1)
    ratio = found.values[upper] / values[upper]
    keys |= {
        "speedup_published": float(np.median(published) / np.median(ours)),
        "speedup_vectorised": float(np.median(plain) / np.median(ours)),
        "pairs_not_worse": int((ratio <= 1 + 1e-9).sum()),
        "pairs_better": int((ratio < 1 - 1e-3).sum()),
    }
    gap = np.nanmedian(found.gap[upper])
    part = {"part": "speed"}
    rows += [
        part
        | {
            "what": "published procedure, all ordered pairs, 2 threads",
            "result": f"{np.median(published):.0f} s",
        },
        part
        | {
            "what": "plain vectorised loop over the pairs, one start, 2 threads",
            "result": f"{np.median(plain):.0f} s",
        },
        part
        | {
            "what": "`gw_exact` at the same costs, 2 processes of 1 thread",
            "result": f"{np.median(ours):.1f} s",
        },
        part
        | {"what": "times faster than published", "result": f"{keys['speedup_published']:.0f}"},
        part
        | {
            "what": "times faster than the plain loop",
            "result": f"{keys['speedup_vectorised']:.1f}",
        },
        part
        | {
            "what": f"pairs of {len(pairs)} with a loss at or below one start's",
            "result": str(keys["pairs_not_worse"]),
        },
        part
        | {
            "what": f"pairs of {len(pairs)} more than 0.1 % below",
            "result": str(keys["pairs_better"]),
        },
        part
        | {
            "what": "loss over one start's, median and least",
            "result": f"{np.median(ratio):.3f}, {ratio.min():.3f}",
        },
        part
        | {"what": "proven relative gap, (loss - bound) / loss, median", "result": f"{gap:.2f}"},
        part | {"what": "repetitions", "result": str(repeats)},
    ]


# 3: against the truth.


def accuracy(rows: list[Row], keys: dict[str, object]) -> None:
    distance, random, optimal = strategy("gw_exact"), np.random.default_rng(0), 0
    for _ in range(100):
        n, d = int(random.integers(3, 8)), int(random.integers(1, 4))
        a, b = (distance.prepare(even("x", random.normal(size=(n, d)))) for _ in range(2))
        one, other = a.space.costs, b.space.costs
        best = min(
            ((one - other[np.ix_(order, order)]) ** 2).mean()
            for order in map(list, permutations(range(n)))
        )
        optimal += distance(a, b).value <= best * (1 + 1e-9)
    keys["brute_force_optimal"] = int(optimal)
    rows.append(
        {
            "part": "accuracy",
            "what": "optimal of 100 random cases, brute force over all permutations, n ≤ 7",
            "result": str(optimal),
        }
    )


# 4: two disjoint halves of the same items.


def stability(clouds: list[Cloud], rows: list[Row], keys: dict[str, object]) -> None:
    upper = np.triu_indices(len(clouds), 1)
    random = np.random.default_rng(0)
    halves: list[list[Cloud]] = [[], []]
    for cloud in clouds:
        order = random.permutation(len(cloud.points))
        for half, part in zip(halves, np.array_split(order, 2), strict=True):
            half.append(even(cloud.name, cloud.points[part]))
    default = strategy("gw_exact")
    for name, distance in {
        "gw_exact": default,
        "gw_exact, costs divided by their mean": strategy(
            "gw_exact", "distance.normalisation=mean"
        ),
        "published": strategy("published"),
    }.items():
        one, other = (matrix(distance, half)[0].values[upper] for half in halves)
        rank = float(spearmanr(one, other).statistic)
        if distance is default:
            keys["stability_spearman"] = rank
        rows.append(
            {
                "part": "stability",
                "what": f"`{name}`: Spearman over the pairs of two disjoint half-samples",
                "result": f"{rank:.3f}",
            }
        )


# What each strategy costs and finds, for the picture.


def choice(clouds: list[Cloud], rows: list[Row]) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("Agg")
    random = np.random.default_rng(0)
    small = [even(c.name, random.permutation(c.points)[:300]) for c in clouds]
    upper = np.triu_indices(len(clouds), 1)
    above = ["published", "gw_exact", "gw_quantized", "gw_batched", "gw_entropic", "gw_lowrank"]
    below = ["gw_tlb", "gw_slb", "gw_flb", "gw_spectral"]
    alike = "distance.cost=euclidean"
    distances = {name: strategy(name, alike) for name in above + below}
    distances["gw_quantized, lifted"] = strategy("gw_quantized", alike, "distance.lift=true")
    found = {name: matrix(each, small, Serial(threads=1)) for name, each in distances.items()}
    best = np.min([found[name][0].values[upper] for name in above], axis=0)
    axes = Figure(figsize=(7, 4.5), layout="constrained").subplots()
    for name, (each, _) in found.items():
        values = each.values[upper]
        seconds = float(np.median(each.details["seconds"][upper]))
        over, rank = float(np.median(values / best)), float(spearmanr(values, best).statistic)
        rows.append(
            {
                "part": "choice",
                "what": f"`{name}`, n = 300: seconds a pair, value / best, Spearman with best",
                "result": f"{seconds:.3f}, {over:.2f}, {rank:.2f}",
            }
        )
        marker = "o" if name in above else "^" if name in below else "s"
        axes.scatter(seconds, over, label=name, marker=marker)
    axes.set_xscale("log")
    axes.set_xlabel("seconds a pair, 300 points each, one thread")
    axes.set_ylabel("value / best value found (median over pairs)")
    axes.axhline(1, color="grey", lw=0.8)
    axes.legend(fontsize=8, loc="center left")
    (ROOT / "docs").mkdir(exist_ok=True)
    axes.figure.savefig(ROOT / "docs" / "distances.png", dpi=130)


# 5: more points, more items.


def sizes_of_clouds(clouds: list[Cloud], rows: list[Row]) -> None:
    distance, random = strategy("gw_exact"), np.random.default_rng(0)
    pooled = np.concatenate([cloud.points for cloud in clouds])

    def pair(n: int) -> float:
        a, b = (distance.prepare(even("x", random.permutation(pooled)[:n])) for _ in range(2))
        return timed(partial(distance, a, b))[1]

    pair(20)  # loads the libraries
    for n in (100, 300, 1000, 2000, 4000):
        if n > len(pooled):
            break
        seconds = pair(n)
        rows.append(
            {
                "part": "sizes",
                "what": f"`gw_exact`, one pair of {n} points each, 2 threads",
                "result": f"{seconds:.2f} s",
            }
        )


def families(clouds: list[Cloud], n: int, each: int, points: int) -> tuple[list[Cloud], list[int]]:
    """n items in families of `each`: mixtures of two real clouds, stretched and perturbed."""
    random, made, truth = np.random.default_rng(0), [], []
    for family in range(n // each):
        one, other = (clouds[k].points for k in random.choice(len(clouds), 2, replace=False))
        share, stretch = random.uniform(0, 1), random.uniform(0.7, 1.4)
        axes = np.exp(random.normal(scale=0.4, size=one.shape[1]))
        for member in range(each):
            first = round(points * share)
            drawn = np.concatenate(
                [random.permutation(one)[:first], random.permutation(other)[: points - first]]
            )
            noise = random.normal(scale=0.02 * drawn.std(), size=drawn.shape)
            made.append(even(f"f{family}-{member}", stretch * axes * drawn + noise))
            truth.append(family)
    return made, truth


def screen(clouds: list[Cloud], many: int, rows: list[Row], keys: dict[str, object]) -> None:
    def groups(distances: Distances, count: int) -> list[int]:
        plan = cut(1 - distances.similarity(), distances.names, into(count, "average"), "")
        where = {name: at for at, group in enumerate(plan.groups) for name in group}
        return [where[name] for name in distances.names]

    part = {"part": "screen"}
    distance = strategy("screened")
    few, truth = families(clouds, 60, 5, 200)
    plans = {
        name: groups(matrix(each, few)[0], 12)
        for name, each in {
            "screened": distance,
            "exhaustive": distance.distance,
            "`gw_exact`": strategy("gw_exact"),
        }.items()
    }
    plans["true"] = truth
    for one, other in combinations(plans, 2):
        agreed = float(adjusted_rand_score(plans[one], plans[other]))
        what = f"60 items: adjusted Rand index of the {one} and the {other} plan"
        rows.append(part | {"what": what, "result": f"{agreed:.3f}"})
        if (one, other) == ("screened", "exhaustive"):
            keys["screen_rand_index"] = agreed
    for n in sorted({9, 50, 200, many}):
        items, truth = families(clouds, n, min(10, n // 3), 200)
        started = time.perf_counter()
        found, _ = matrix(distance, items)
        plan = groups(found, len(set(truth)))
        minutes = (time.perf_counter() - started) / 60
        upper = np.triu_indices(len(items), 1)
        solved = 1 - float(found.details["estimated"][upper].mean())
        dropped = int((~found.converged & found.details["estimated"])[upper].sum())
        right = adjusted_rand_score(plan, truth)
        rows.append(
            part
            | {
                "what": f"{len(items)} items of 200 points: minutes to the plan, pairs solved, "
                "dropped without proof, adjusted Rand with the truth",
                "result": f"{minutes:.2f}, {solved:.3f}, {dropped}, {right:.2f}",
            }
        )
        if n == many:
            own, child = (
                resource.getrusage(who).ru_maxrss
                for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            )
            keys["thousand_items_minutes"] = minutes
            keys["thousand_items_gib"] = (own + 2 * child) / 2**20
            rows.append(
                part
                | {
                    "what": f"{many} items: peak memory, this process and two workers",
                    "result": f"{keys['thousand_items_gib']:.1f} GiB",
                }
            )


# 6: an accelerator, where there is one.


def device(clouds: list[Cloud], name: str, rows: list[Row]) -> None:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        rows.append(
            {"part": "device", "what": "`gw_batched` on cuda", "result": "no such device here"}
        )
        return
    random = np.random.default_rng(0)
    small = [even(c.name, random.permutation(c.points)[:300]) for c in clouds]
    _, seconds = matrix(strategy("gw_batched", f"distance.device={name}"), small, Serial(threads=2))
    rows.append(
        {
            "part": "device",
            "what": f"`gw_batched` on {name}: the matrix of {len(clouds)} items, n = 300",
            "result": f"{seconds:.1f} s",
        }
    )


if __name__ == "__main__":
    main()

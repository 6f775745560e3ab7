"""What every merge keeps of the scores and at which storage, on the items of a folder.

Gain kept is (merged - frozen) / (individual - frozen) of micro F1, where `frozen` is the pretrained
encoder for all items with refitted heads: what merging keeps of what fine-tuning gave. Whatever is
chosen is chosen on validation responses; test scores are only reported.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory

import pandas as pd
from bench_mergekit import mergekit
from bench_parts import BENCH, CONF, ROOT, Row, alone, carry_out, configured, write
from bench_peers import scoring
from scipy.stats import t as student

from gwsmm.experiment import Experiment
from gwsmm.measuring import measured
from gwsmm.merge.learning import LearnedMerge, Learning
from gwsmm.merge.merging import Merging, group_for
from gwsmm.metrics import METRICS
from gwsmm.pipeline import prepare, run, trained
from gwsmm.private.pooler import Pooler
from gwsmm.results import Run
from gwsmm.types import InputError

PLANS = {
    "one trunk": ["grouping=all"],
    "3 trunks": ["grouping=linkage", "grouping.encoders=3"],
    "5 trunks": ["grouping=linkage", "grouping.encoders=5"],
}
KINDS = ("reference", "step", "merge", "codec")
TRAINED = ("distill", "joint", "adamerging")  # each costs about as much as fine-tuning did
PARTS = ("mergekit", "scoring", "scores", "costs")
FROZEN = "frozen"
PUBLISHED = "published merge, heads and pooler"
HALF = ("merge=ties", "merge.scale=0.5")  # as far as the published merge goes
NEAR = "heads=l2_sp"
OWN = "heads=keep"
SHARED = "private=nothing"
PRETRAINED = "private.base=pretrained"
FINE = {  # so near to the item's own encoder that its own head stays
    **{
        f"svd, rank {rank}, {bits} bits": [
            "private=svd",
            f"private.rank={rank}",
            f"private.bits={bits}",
            OWN,
        ]
        for rank, bits in ((64, 8), (80, 6), (96, 5), (120, 4))
    },
    "svd, validated, 8 bits": ["private=svd_validated", "private.bits=8", OWN],
    "3 bits": ["private=int", "private.bits=3", OWN],
}
COARSE = {
    **{
        f"svd, rank {rank}, 8 bits": ["private=svd", f"private.rank={rank}", "private.bits=8", NEAR]
        for rank in (16, 32)
    },
    "2 bits": ["private=int", "private.bits=2", NEAR],
    "sign": ["private=sign", NEAR],
}
CODECS = FINE | COARSE
SMALL = "svd, rank 16, 8 bits"  # where the trunk is near, little is left to code
LORA = ["finetune=lora", "private=svd", "private.rank=8", "private.base=pretrained", OWN]


@dataclass(frozen=True)
class Setting:
    """One row of the table: a plan, what makes its encoders, and the overrides that say so."""

    kind: str
    plan: str
    name: str
    overrides: tuple[str, ...]

    @property
    def long(self) -> bool:
        """Whether it trains for as long as fine-tuning did, and is not the one trunk for all."""
        trained = [name for name in TRAINED if f"merge={name}" in self.overrides]
        first = trained == ["distill"] and self.plan == "one trunk"
        return "finetune=lora" in self.overrides or (bool(trained) and not first)


def main() -> None:
    asked = arguments()
    data = ["stability.repeats=0", "numbers=float16"]  # of both sides of every saving
    data += [f"items.path={asked.items}", "items=pasta"] if asked.items else []
    rows: list[Row] = []
    keys: dict[str, object] = {}
    file = BENCH / f"{asked.name}.json"
    parts: dict[str, Callable[[], None]] = {  # what takes minutes, then what takes hours
        "mergekit": lambda: mergekit(asked.mergekit, asked.repeats, rows, keys),
        "scoring": lambda: scoring(
            partial(configured, *data, *asked.overrides), asked.repeats, rows, keys
        ),
        "scores": lambda: scores(asked, data, rows, keys, partial(write, file, rows, keys)),
        "costs": lambda: costs(asked, data, rows),
    }
    carry_out(file, parts, asked.only, rows, keys)
    for name in dict.fromkeys(str(row["part"]) for row in rows):
        of = [row for row in rows if row["part"] == name]
        table = pd.DataFrame(of).drop(columns="part").to_markdown(index=False)
        (BENCH / f"{asked.name}_{name}.md").write_text(table + "\n")
        print(f"{table}\n")
    for key, value in keys.items():  # what was chosen on validation, and its figures
        print(f"{key}: {value}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--items", help="folder of <item>_train.csv and <item>_test.csv; without: generated items"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=list(PLANS))
    merges = sorted(path.stem for path in CONF.glob("merge/*"))
    parser.add_argument("--merges", nargs="+", default=merges, choices=merges)
    parser.add_argument(
        "--trained-plans",
        nargs="+",
        default=list(PLANS),
        choices=list(PLANS),
        help="those at which the merges that train are measured: " + ", ".join(TRAINED),
    )
    parser.add_argument("--codecs", nargs="+", default=list(CODECS), choices=list(CODECS))
    parser.add_argument("--name", default="merge", help="of the files in outputs/bench")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="of rows")
    parser.add_argument("--lora", action="store_true", help="train adapters too, as a reference")
    parser.add_argument("--repeats", type=int, default=3, help="of what is timed side by side")
    parser.add_argument(
        "--mergekit",
        metavar="PROGRAM",
        help="its mergekit-yaml; without: mergekit is installed, in an environment of its own",
    )
    parser.add_argument("--only", nargs="*", default=[], choices=PARTS)
    parser.add_argument(
        "overrides", nargs="*", help="of the configuration, after --, e.g. -- finetune.epochs=9"
    )
    return parser.parse_args()


# What is kept of the scores.


def settings(asked: argparse.Namespace) -> list[Setting]:
    """Every row, the frozen encoder first."""
    plans, merges = asked.plans, asked.merges
    frozen = [*PLANS["one trunk"], f"merge={FROZEN}"]
    found = [Setting("reference", "one trunk", FROZEN, tuple(frozen))]
    steps = {  # each takes over what the one before it has
        PUBLISHED: ["merge=published", "heads=published", SHARED],
        "… around the pretrained encoder": [*HALF, "heads=published", SHARED],
        "… with refitted heads": [*HALF, "heads=refit", SHARED],
        "… and private poolers": [*HALF, "heads=refit"],
        "… going the whole way": ["merge=ties", "heads=refit"],
    }
    if "tsv" in merges:
        steps["… merged by singular vectors"] = ["merge=tsv", "heads=refit"]
    if "distill" in merges and "5 trunks" in asked.trained_plans:
        steps["… by distillation, own heads"] = ["merge=distill", OWN]
    found += [
        Setting("step", "5 trunks", name, (*PLANS["5 trunks"], *of)) for name, of in steps.items()
    ]
    found += [
        Setting("merge", plan, merge, (*PLANS[plan], f"merge={merge}"))
        for plan in plans
        for merge in merges
        if merge != FROZEN and (merge not in TRAINED or plan in asked.trained_plans)
    ]
    found += [  # which learns the features that the items' own heads were trained on
        Setting("merge", plan, "distill, own heads", (*PLANS[plan], "merge=distill", OWN))
        for plan in asked.trained_plans
        if "distill" in merges and plan in plans
    ]
    found += [
        Setting("codec", "pretrained", name, (*PLANS["one trunk"], *of, PRETRAINED))
        for name, of in CODECS.items()
        if name in asked.codecs
    ]
    found += [
        Setting("codec", plan, SMALL, (*PLANS[plan], *CODECS[SMALL]))
        for plan in plans
        if SMALL in asked.codecs
    ]
    if asked.lora:
        found.append(Setting("reference", "one trunk", "LoRA", (*PLANS["one trunk"], *LORA)))
    return [each for each in found if each.name == FROZEN or each.kind in asked.kinds]


def scores(
    asked: argparse.Namespace,
    data: list[str],
    rows: list[Row],
    keys: dict[str, object],
    save: Callable[[], None],
) -> None:
    found: dict[Setting, list[Row]] = {}
    frozen: dict[int, Row] = {}
    others = [row for row in rows if row["part"] not in ("scores", "steps")]
    for longest, seed in product((False, True), asked.seeds):  # what takes hours comes last
        common = [*data, *asked.overrides, f"seed={seed}"]
        items = prepare(configured(*common))
        for setting in settings(asked):
            if setting.long is not longest:
                continue
            try:
                one = configured(*common, *setting.overrides)
                row = scored(one, run(one, items))
            except InputError as error:
                print(f"{setting.plan}, {setting.name}: left out: {error}", flush=True)
                continue
            base = frozen.setdefault(seed, row)
            row |= {f"individual_{name}": base[f"individual_{name}"] for name in METRICS}
            if setting.plan == "one trunk":  # all are merged: of adapters too, against no adapter
                row["individual_merged_only_micro_f1"] = row["individual_micro_f1"]
            least, individual = float(base["micro_f1"]), float(row["individual_micro_f1"])
            row["gain_kept"] = (float(row["micro_f1"]) - least) / (individual - least)
            row["seed"] = seed
            found.setdefault(setting, []).append(row)
            kept = row["micro_f1"] / row["individual_micro_f1"]
            print(f"{seed} {setting.plan}, {setting.name}: {kept:.4f}", flush=True)
            rows[:] = [*others, *(table_row(each, of) for each, of in found.items())]
            rows += step_gains(found)
            keys |= chosen(found)
            save()
    docs = ROOT / "docs" / "frontier.png"
    frontier(found, docs if asked.name == "merge" else BENCH / f"{asked.name}.png")


def scored(x: Experiment, done: Run) -> Row:
    """The scores of a run on test responses, and the validation score that decides."""
    content = done.results
    row: Row = {}
    for who, prefix in (("merged", ""), ("individual", "individual_")):
        row |= {f"{prefix}{name}": content["overall"][who][name] for name in METRICS}
        if content["merged_only"]:
            only = content["merged_only"][who]["micro_f1"]
            row[f"{prefix}merged_only_micro_f1"] = only
    storage = content["storage"]
    row |= {
        "bytes": storage["bytes_after"],
        "saving": storage["factor"],
        "passes": storage["passes_after"],
    }
    return row | {"validation_micro_f1": measured(x, done).micro_f1}


def share(of: list[Row], name: str) -> list[float]:
    """The score as a share of the individual models', seed by seed."""
    return [float(row[name]) / float(row[f"individual_{name}"]) for row in of if name in row]


def interval(values: Sequence[float]) -> str:
    """The mean, with the half-width of its 95 % interval where there are several."""
    text = f"{100 * mean(values):.1f}" if values else "–"
    if len(values) > 1:
        width = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
        text += f" ± {100 * width:.1f}"
    return text


def average(of: list[Row], name: str) -> float:
    return mean(float(row[name]) for row in of)


def table_row(setting: Setting, of: list[Row]) -> Row:
    return {
        "part": "scores",
        "plan": setting.plan,
        "kind": setting.kind,
        "what": setting.name,
        **{f"{name} kept, %": interval(share(of, name)) for name in METRICS},
        "merged items only, %": interval(share(of, "merged_only_micro_f1")),
        "gain kept, %": interval([float(row["gain_kept"]) for row in of]),
        "MB": f"{average(of, 'bytes') / 1e6:.1f}",
        "times less": f"{average(of, 'saving'):.1f}",
        "passes": f"{average(of, 'passes'):.0f}",
        "seeds": len(of),
    }


def step_gains(found: dict[Setting, list[Row]]) -> list[Row]:
    """What each step of the decomposition gives beside the one before it, seed by seed."""
    rows: list[Row] = []
    for before, after in pairwise(each for each in found if each.kind == "step"):
        earlier = {row["seed"]: row for row in found[before]}
        pairs = [(earlier[row["seed"]], row) for row in found[after] if row["seed"] in earlier]
        rows.append(
            {
                "part": "steps",
                "step": after.name,
                **{
                    f"{name} kept, points": interval(
                        [share([b], name)[0] - share([a], name)[0] for a, b in pairs]
                    )
                    for name in METRICS
                },
                "gain kept, points": interval(
                    [float(b["gain_kept"]) - float(a["gain_kept"]) for a, b in pairs]
                ),
                "seeds": len(pairs),
            }
        )
    return rows


def chosen(found: dict[Setting, list[Row]]) -> dict[str, object]:
    """The figures of the settings that validation chooses under each limit of storage."""

    keys: dict[str, object] = {}
    references = ("published", "joint")  # are no merges to be chosen
    limits: dict[str, tuple[Callable[[Setting], bool], float]] = {
        "codec": (lambda s: s.kind == "codec", 5.5),
        "trunk": (lambda s: s.kind == "merge" and s.name not in references, 2.0),
        "single_trunk": (
            lambda s: s.kind == "merge" and s.plan == "one trunk" and s.name not in references,
            1.0,
        ),
    }
    for name, (allowed, saving) in limits.items():
        candidates = [
            s for s, of in found.items() if allowed(s) and average(of, "saving") >= saving
        ]
        if not candidates:
            continue
        setting = max(candidates, key=lambda s: average(found[s], "validation_micro_f1"))
        of = found[setting]
        keys |= {
            f"{name}_choice": f"{setting.plan}, {setting.name}",
            f"{name}_micro_kept": mean(share(of, "micro_f1")),
            f"{name}_macro_kept": mean(share(of, "macro_f1")),
            f"{name}_gain_kept": average(of, "gain_kept"),
            f"{name}_saving": average(of, "saving"),
        }
    by_name = {setting.name: of for setting, of in found.items() if setting.kind != "merge"}
    keys["frozen_micro_kept"] = mean(share(by_name[FROZEN], "micro_f1"))
    if PUBLISHED in by_name:
        keys["published_micro_kept"] = mean(share(by_name[PUBLISHED], "micro_f1"))
    return keys


def frontier(found: dict[Setting, list[Row]], path: Path) -> None:
    """The picture of what is kept at which bytes and passes; what nothing beats has a name."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("Agg")
    figure = Figure(figsize=(11, 5), layout="constrained")
    kept = {setting: 100 * mean(share(of, "micro_f1")) for setting, of in found.items()}
    markers = {"merge": "o", "codec": "s", "reference": "^", "step": "x"}
    costs = {"bytes": "MB of all encoders, heads and codes", "passes": "encoder passes of a batch"}
    for axes, (cost, label) in zip(figure.subplots(1, 2, sharey=True), costs.items(), strict=True):
        at = {s: average(of, cost) / (1e6 if cost == "bytes" else 1) for s, of in found.items()}
        for kind, marker in markers.items():
            these = [setting for setting in found if setting.kind == kind]
            axes.scatter([at[s] for s in these], [kept[s] for s in these], 22, marker=marker)
        best = [s for s in found if not any(kept[o] > kept[s] and at[o] <= at[s] for o in found)]
        for setting in best:
            right = 2 * at[setting] > max(at.values()) + min(at.values())  # where there is no room
            axes.annotate(
                f"{setting.name} ({setting.plan})",
                (at[setting], kept[setting]),
                (-4 if right else 4, 3),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=7,
            )
        axes.axhline(100, color="grey", lw=0.8)
        axes.set_xlabel(label)
        axes.set_ylim(min(90, max(70, min(kept.values()) - 1)))
    figure.axes[0].set_ylabel("micro F1, % of the individual models'")
    figure.legend(list(markers), loc="outside upper center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=130)


# What a merge costs: one trunk of all members, each in a process of its own.


def costs(asked: argparse.Namespace, data: list[str], rows: list[Row]) -> None:
    for merge in sorted(asked.merges, key=lambda merge: merge in TRAINED):  # the long ones last
        overrides = [*data, *asked.overrides, f"seed={asked.seeds[0]}", f"merge={merge}"]
        seconds, memory = alone(cost, overrides)
        rows.append(
            {
                "part": "costs",
                "merge": merge,
                "seconds": f"{seconds:.1f}",
                "peak memory, MB": f"{memory / 1e6:.0f}",
            }
        )
        print(merge, rows[-1], flush=True)


def cost(overrides: list[str]) -> float:
    """Median seconds of three merges of all items; of one that trains."""
    x = configured(*overrides)
    members = trained(x, prepare(x))
    group = group_for(x.merge, members, members)
    kind = Learning if isinstance(x.merge, LearnedMerge) else Merging
    stage = kind(encoder=x.encoder, merge=x.merge, private=Pooler(), trainer=x.trainer)
    seconds = []
    for _ in range(1 if isinstance(x.merge, LearnedMerge) else 3):
        with TemporaryDirectory() as folder:
            started = time.perf_counter()
            stage(group, Path(folder))
            seconds.append(time.perf_counter() - started)
    return median(seconds)


if __name__ == "__main__":
    main()

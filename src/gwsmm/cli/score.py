"""`gwsmm score`: a table of responses to any of a bundle's items → their scores."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from gwsmm.cli.parsing import OneLine, input_errors

_EPILOG = """\
The table is CSV, TSV, JSON lines or parquet and may mix items. Its rows come back in their order,
with its columns but for the response; beside them one column of 0 and 1 per label (empty where the
row's item has no such label), and `score` for items that have whole scores.
"""

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, of AMD, of either in WSL


def score_command(arguments: Sequence[str]) -> None:
    """Score the table that the arguments name; ends with 2 on bad input."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # a bundle has all that is needed
    with input_errors():
        _score(_parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = OneLine(
        prog="gwsmm score",
        description="Score a table of responses with a bundle.",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="folder that gwsmm bundle wrote")
    parser.add_argument("table", type=Path, help="file of responses")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=".csv or .parquet; else CSV on the terminal"
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="also a column LABEL probability each"
    )
    parser.add_argument(
        "--batch-size", type=_count, default=64, metavar="N", help="responses in a batch (64)"
    )
    parser.add_argument("--item", default="item", metavar="COLUMN", help="of the item's name")
    parser.add_argument("--text", default="text", metavar="COLUMN", help="of the response")
    parser.add_argument(
        "--delimiter", type=_delimiter, metavar="C", help="of CSV and TSV (a comma and a tab)"
    )
    parser.add_argument(
        "--no-quoting", action="store_true", help="double quotes are plain characters"
    )
    return parser


def _score(given: argparse.Namespace) -> None:
    from gwsmm.bundle.manifest import read_manifest
    from gwsmm.bundle.table import Columns, check_out, read_table

    columns = Columns(given.item, given.text)
    if given.out is not None:
        check_out(given.out, given.table)
    manifest = read_manifest(given.bundle)
    asked = read_table(
        given.table,
        columns,
        [item.name for item in manifest.items],
        delimiter=given.delimiter,
        quoting=not given.no_quoting,
    )

    from gwsmm.bundle.reading import open_bundle
    from gwsmm.bundle.table import new_columns, score_table, to_csv, write_table

    hidden = set(new_columns(manifest.items, given.probabilities)) & set(asked.sheet.columns)
    if hidden - {columns.item}:
        names = ", ".join(sorted(hidden))
        sys.stderr.write(f"gwsmm: {given.table}: its own {names} is replaced by what is scored\n")
    done, rows = [0.0], len(asked.texts)
    with _shown(rows, lambda: done[-1] * rows):
        scored = score_table(
            open_bundle(given.bundle, _device()),
            asked,
            columns,
            probabilities=given.probabilities,
            batch=given.batch_size,
            tick=done.append,
        )
    if given.out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as a file, whatever a terminal is set to
        sys.stdout.write(to_csv(scored))
    else:
        write_table(given.out, scored)


def _shown(rows: int, done: Callable[[], float]) -> AbstractContextManager[None]:
    if not sys.stderr.isatty():
        return nullcontext()
    from gwsmm.progress import bar

    return bar("score", rows, done)


def _device() -> str:
    """Where to compute; torch, which takes long to load, is asked only where there may be a GPU."""
    if sys.platform != "win32" and not any(Path(driver).exists() for driver in _DRIVERS):
        return "cpu"
    from gwsmm.recipe import Trainer

    return Trainer(accelerator="auto", devices=1, strategy="auto").device


def _delimiter(text: str) -> str:
    if len(text) != 1 or text in '"\r\n':
        raise argparse.ArgumentTypeError(f"{text!r} is no single character other than a quote")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)

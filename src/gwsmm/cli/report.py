"""`gwsmm report`: finished runs → their tables, pictures and page."""

from collections.abc import Sequence
from pathlib import Path

from gwsmm.cli.finished import users_errors
from gwsmm.cli.parsing import OneLine
from gwsmm.types import InputError


def report_command(arguments: Sequence[str]) -> None:
    """Report the runs that the arguments name; ends with 2 on bad input."""
    parser = OneLine(
        prog="gwsmm report",
        description="Compare finished runs in tables, pictures and one page. Runs that differ in "
        "nothing but the seed are taken together.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", help="folders of finished runs; a multirun's stands for all"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder to write into, made if it is not there; of one folder without it: that one",
    )
    given = parser.parse_args(arguments)
    with users_errors("the report may not be whole: the same command writes it again"):
        _report(given.runs, given.out)


def _report(folders: Sequence[Path], out: Path | None) -> None:
    if out is None and len(folders) > 1:
        raise InputError("several runs: say where their report goes with --out DIR")
    where = out or folders[0]

    from gwsmm.report.run import summary, write_report
    from gwsmm.study.conditions import conditions
    from gwsmm.study.reading import read_runs

    found = conditions(read_runs(folders))
    try:
        where.mkdir(parents=True, exist_ok=True)
        tables = write_report(where, found)
    except OSError as error:
        raise InputError(f"--out {where}: cannot be written: {error.strerror}") from error
    summary(where, found, tables["performance"], [])

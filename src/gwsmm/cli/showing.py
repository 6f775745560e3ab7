"""Tables on the terminal of the commands that say how things stand.

Names and settings in them may be of others, so that no control character of a text is shown.
"""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gwsmm.cli.parsing import harmless


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> None:
    """Show a table on the standard output.

    Args:
        columns: their names.
        rows: a cell for each column.
        texts: so many columns at the left are texts, the others numbers.
    """
    shown = Table(box=SIMPLE_HEAD)
    for number, name in enumerate(columns):
        shown.add_column(name, justify="left" if number < texts else "right", overflow="fold")
    for row in rows:
        shown.add_row(*map(harmless, row))
    terminal().print(shown, markup=False)


def say(line: str) -> None:
    """Show one line, broken by nobody."""
    terminal().print(harmless(line), markup=False, highlight=False, soft_wrap=True)


def terminal() -> Console:
    """The standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width to respect
    return console


def amount(size: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

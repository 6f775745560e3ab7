"""Cells that a spreadsheet would take for formulas."""

_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n")


def plain(cell: object) -> object:
    """The cell; a text that a spreadsheet would run gets an apostrophe before it, a number none.

    Source: OWASP, CSV Injection.
    """
    return f"'{cell}" if isinstance(cell, str) and _runs(cell) else cell


def _runs(text: str) -> bool:
    if not text.startswith(_BEGINS):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return "\n" in text or "\r" in text or "\t" in text

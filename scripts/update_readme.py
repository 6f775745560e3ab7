#!/usr/bin/env python3
"""Fill the generated parts of the pages: scripts/update_readme.py NAME=FILE ...

A Markdown file goes in as it is, any other file as a block of text.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    for argument in sys.argv[1:]:
        name, _, file = argument.partition("=")
        content = Path(file).read_text(encoding="utf-8").strip()
        block = content if file.endswith(".md") else f"```\n{content}\n```"
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        found = 0
        for page in PAGES:
            text, here = re.subn(
                pattern,
                lambda m, block=block: f"{m[1]}{block}\n{m[2]}",
                page.read_text(encoding="utf-8"),
                flags=re.DOTALL,
            )
            found += here
            page.write_text(text, encoding="utf-8")
        if not found:
            sys.exit(f"no page has a part that is generated as {name!r}")


if __name__ == "__main__":
    main()

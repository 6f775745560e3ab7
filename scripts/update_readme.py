#!/usr/bin/env python3
"""Fill the generated parts of README.md from files: scripts/update_readme.py NAME=FILE ...

A Markdown file goes in as it is, any other file as a block of text.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    for argument in sys.argv[1:]:
        name, _, file = argument.partition("=")
        content = Path(file).read_text(encoding="utf-8").strip()
        block = content if file.endswith(".md") else f"```\n{content}\n```"
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        text, found = re.subn(
            pattern, lambda m, block=block: f"{m[1]}{block}\n{m[2]}", text, flags=re.DOTALL
        )
        if not found:
            sys.exit(f"README.md has no part that is generated as {name!r}")
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Fail where an installed package has a published vulnerability that a newer version mends.

What cannot be known, because the advisories cannot be reached, is said and fails nothing.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PATIENCE = 600  # seconds


def main() -> None:
    with TemporaryDirectory() as place:
        found = audited(Path(place) / "found.json")
    if isinstance(found, str):
        print(f"WARNING: the packages were not audited: {found}")
        return
    unknown = [each["name"] for each in found if "skip_reason" in each]
    if len(unknown) == len(found):
        print("WARNING: the packages were not audited: no advisory could be had for any of them")
        return
    mended, others = judged(found)
    for line in others:
        print(f"WARNING: {line}: no version without it yet")
    print(f"{len(found) - len(unknown)} packages audited, {len(unknown)} unknown to the advisories")
    if mended:
        sys.exit("\n".join(mended))


def audited(out: Path) -> list[dict[str, Any]] | str:
    """What pip-audit says of every installed package, or why it says nothing."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable"]
    options = ["--progress-spinner", "off", "--format", "json", "--output", str(out)]
    try:
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {PATIENCE} s"
    if not out.exists():
        # The last word of an error is what happened; before it may stand an address.
        return next(iter(done.stderr.split(":")), "").strip()[:80] or "pip-audit said nothing"
    packages: list[dict[str, Any]] = json.loads(out.read_text())["dependencies"]
    return packages


def judged(packages: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Lines on vulnerabilities that a newer version mends, and on the others."""
    mended, others = list[str](), list[str]()
    for package in packages:
        for each in package.get("vulns", []):
            line = f"{package['name']} {package['version']}: {each['id']}"
            if each["fix_versions"]:
                mended.append(f"{line}: take {' or '.join(each['fix_versions'])}")
            else:
                others.append(line)
    return mended, others


if __name__ == "__main__":
    main()

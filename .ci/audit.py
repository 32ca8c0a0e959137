"""Looks up known vulnerabilities of the pinned dependencies, where the data can be reached: ``make audit``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PINNED = Path(__file__).resolve().parents[1] / "constraints.txt"
SECONDS = 300


def verdict(dependencies: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """Return the exit code and what to say of pip-audit's findings.

    Parameters
    ----------
    dependencies
        The entries of its JSON: name, version, ``vulns`` and, of those it could not look up, ``skip_reason``.
    """
    skipped = [dependency["name"] for dependency in dependencies if "skip_reason" in dependency]
    if len(skipped) == len(dependencies):
        return (
            0,
            "Audit skipped: no dependency could be looked up, so there is nothing to say of any. Is PyPI in reach?",
        )
    found = [
        f"  {dependency['name']} {dependency['version']}: {vulnerability['id']}"
        f"{' (mended in ' + ', '.join(fixes) + ')' if (fixes := vulnerability.get('fix_versions')) else ''}"
        for dependency in dependencies
        for vulnerability in dependency.get("vulns", ())
    ]
    looked_up = f"{len(dependencies) - len(skipped)} of {len(dependencies)} dependencies looked up"
    unknown = f"; not found: {', '.join(skipped)}" if skipped else ""
    if found:
        return 1, "\n".join([f"Known vulnerabilities ({looked_up}{unknown}):", *found])
    return 0, f"No known vulnerabilities ({looked_up}{unknown})."


def main() -> int:
    """Run pip-audit, and say what it found."""
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(PINNED), "--disable-pip", "--no-deps",
        "--format", "json", "--progress-spinner", "off", "--timeout", "10",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        dependencies = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        said = "" if isinstance(error, subprocess.TimeoutExpired) else done.stderr.strip().splitlines()[-1:]
        sys.stdout.write(f"Audit skipped: pip-audit has no answer ({said or 'it took too long'}).\n")
        return 0
    code, text = verdict(dependencies)
    sys.stdout.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

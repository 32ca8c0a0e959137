"""The audit of dependencies: what was looked up, what was found, and that what could not be looked up is not clean."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from sessions import PROJECT

CLEAN = {"name": "zict", "version": "3.0.0", "vulns": []}
UNKNOWN = {"name": "yarl", "skip_reason": "Dependency not found on PyPI and could not be audited: yarl (1.25.1)"}
BAD = {"name": "jinja2", "version": "2.4.1", "vulns": [{"id": "PYSEC-2014-8", "fix_versions": ["2.7.2"]}]}


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", PROJECT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("dependencies", "code", "text"),
    [
        ([CLEAN], 0, "No known vulnerabilities (1 of 1 dependencies looked up)."),
        ([CLEAN, UNKNOWN], 0, "No known vulnerabilities (1 of 2 dependencies looked up; not found: yarl)."),
        ([BAD, CLEAN], 1, "  jinja2 2.4.1: PYSEC-2014-8 (mended in 2.7.2)"),
        ([UNKNOWN, UNKNOWN], 0, "Audit skipped: no dependency could be looked up"),
        ([], 0, "Audit skipped"),
    ],
)
def test_verdict(audit: Any, dependencies: list[dict[str, Any]], code: int, text: str) -> None:
    found, said = audit.verdict(dependencies)
    assert found == code
    assert text in said

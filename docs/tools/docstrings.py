"""Docstrings as Markdown reads them: references of reStructuredText as code, its tables in fixed width."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`(~?)([^`]+)`")
_RULE = re.compile(r"^=+(?: +=+)+$")


def markdown_of(text: str) -> str:
    """Return a docstring's text with roles as code and tables fenced.

    >>> markdown_of(":func:`find_hubs` takes :class:`~tissue_crosstalk.core.hubs.Hubs`.")
    '`find_hubs` takes `Hubs`.'
    """
    lines: list[str] = []
    rules = 0  # of a simple table there are three: above, below its head, below
    for line in text.splitlines():
        if _RULE.match(line.strip()):
            if rules % 3 == 0:
                lines.append("```text")
            lines.append(line)
            rules += 1
            if rules % 3 == 0:
                lines.append("```")
        else:
            lines.append(line if rules % 3 else _ROLE.sub(_code, line))
    return "\n".join(lines)


def _code(match: re.Match[str]) -> str:
    name = match[2].rpartition(".")[2] if match[1] else match[2]
    return f"`{name}`"


class MarkdownDocstrings(Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value)

"""What was warned of while a result was made is told again where the result is used again."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def collected(logger: logging.Logger) -> Iterator[list[str]]:
    """Collect what is warned of in the block, which is told as ever.

    Parameters
    ----------
    logger
        By which the block warns, or its children do, where it does not warn by :mod:`warnings`.

    Yields
    ------
    list
        The messages, in their order; those of :mod:`warnings` are there, and told, when the block ends.
    """
    messages: list[str] = []
    handler = _Collector(messages)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(), warnings_of_this_thread() as found:
            yield messages
    finally:
        logger.removeHandler(handler)
        for one in found:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    messages.extend(str(one.message) for one in found)


@contextmanager
def warnings_of_this_thread() -> Iterator[list[warnings.WarningMessage]]:
    """Keep back what is warned of by the thread that asks for it, for it to be told later.

    Others may be at work at the same time: MLflow, for one, loads parts of itself that warn, sooner or later.
    """
    found: list[warnings.WarningMessage] = []
    shown, own = warnings.showwarning, threading.get_ident()

    def keep(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if threading.get_ident() == own:
            found.append(warnings.WarningMessage(message, category, filename, lineno, file, line))
        else:
            shown(message, category, filename, lineno, file, line)

    warnings.showwarning = keep
    try:
        yield found
    finally:
        warnings.showwarning = shown


def tell(logger: logging.Logger, messages: list[str]) -> None:
    """Warn again of what was collected."""
    for message in messages:
        logger.warning("%s", message)


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

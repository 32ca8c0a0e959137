"""Log messages are text: nothing in them is read as markup, and nothing steers the terminal."""

from __future__ import annotations

import logging

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from rich.logging import RichHandler

from tissue_crosstalk.core.errors import printable


class LiteralLogs:
    """Has Kedro's log handler write messages as they are.

    It reads markup in every message: a cell type called ``[red]`` would colour it, one called ``[/]`` end the run.
    """

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:  # noqa: ARG002 - what Kedro calls it with
        """Change the handlers that there are; Kedro has set them up by now."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, RichHandler):
                write_literally(handler)


def write_literally(handler: RichHandler) -> None:
    """Have a handler write messages as text, but for those that are coloured by whoever logs them."""
    if _no_markup not in handler.filters:
        handler.addFilter(_no_markup)
    if handler.formatter is None:  # else the user has chosen one
        handler.setFormatter(_Printable("%(message)s"))


def _no_markup(record: logging.LogRecord) -> bool:
    if not hasattr(record, "rich_format") and not hasattr(record, "markup"):
        record.markup = False
    return True


def without_news_of_plugins() -> None:
    """Leave out what MLflow says of a class of kedro-mlflow's at the start of every command.

    MLflow sets a filter of warnings of its own for it, so that it can be held back only where it is logged.
    """
    logging.getLogger("py.warnings").addFilter(_is_no_news_of_plugins)


def _is_no_news_of_plugins(record: logging.LogRecord) -> bool:
    return "Add type hints to the `predict` method" not in record.getMessage()


class _Printable(logging.Formatter):
    """Writes a message with escapes for what cannot be seen."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the message."""
        return printable(super().formatMessage(record))

"""What is refused on purpose is one message."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable

from kedro.framework.hooks import hook_impl
from kedro.io import DatasetError

from tissue_crosstalk.core.errors import CrosstalkError
from tissue_crosstalk.core.files import disk_advice


class PlainErrors:
    """Shows what this project, or Kedro, refuses on purpose as one message, without a traceback of their insides.

    ``CROSSTALK_TRACEBACK=1`` shows the traceback, too.
    """

    @hook_impl(tryfirst=True)  # whatever the others refuse; of those that are first, the last registered is
    def after_context_created(self) -> None:
        """Show errors that end the process so."""
        if not isinstance(sys.excepthook, _PlainHook):
            sys.excepthook = _PlainHook(sys.excepthook)
        logging.getLogger(_STORE_LOGGER).addFilter(_is_news)  # the same one again changes nothing


_STORE_LOGGER = "mlflow.store.db.utils"


def _is_news(record: logging.LogRecord) -> bool:
    """Return False of a traceback of MLflow's for want of room: the error is raised as well, and told in one line."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or disk_advice(error) is None or bool(os.environ.get("CROSSTALK_TRACEBACK"))


def _is_refused_by_kedro(error: BaseException) -> bool:
    """Return whether Kedro says that there is no such environment, pipeline, node or dataset."""
    from kedro.config import MissingConfigException

    raised_in = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, MissingConfigException) or (
        isinstance(error, ValueError)
        and raised_in[-1:] in (["kedro.framework.session.session"], ["kedro.pipeline.pipeline"])
    )


class _PlainHook:
    """An excepthook that leaves all but expected errors to another one."""

    def __init__(self, other: Callable[..., object]) -> None:
        self._other = other

    def __call__(self, kind: type[BaseException], error: BaseException, trace: object) -> None:
        from kedro.validation.exceptions import ParameterValidationError

        advice = None if isinstance(error, CrosstalkError) else disk_advice(error)
        is_expected = (
            advice
            or issubclass(kind, CrosstalkError | DatasetError | ParameterValidationError)
            or _is_refused_by_kedro(error)
        )
        if is_expected and not os.environ.get("CROSSTALK_TRACEBACK"):
            sys.stderr.write(f"{kind.__name__}: {error}\n" + (f"{advice}\n" if advice else ""))
        else:
            self._other(kind, error, trace)

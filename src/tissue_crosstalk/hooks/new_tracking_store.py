"""MLflow's store is made whole."""

from __future__ import annotations

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from omegaconf.errors import OmegaConfBaseException

from tissue_crosstalk.tracking_store import make_store


class NewTrackingStore:
    """Makes MLflow's store before kedro-mlflow does: whole, or not at all."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Make it where it is a file that is not there."""
        try:
            uri = context.config_loader["mlflow"]["server"]["mlflow_tracking_uri"]
        except (MissingConfigException, KeyError, TypeError, OmegaConfBaseException):
            return  # kedro-mlflow says what is wrong, or has a default
        make_store(str(uri))

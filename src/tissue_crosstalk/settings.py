"""Project settings that Kedro reads."""

from __future__ import annotations

import os

from kedro.config import OmegaConfigLoader

from tissue_crosstalk.hooks import (
    NewTrackingStore,
    OneRunPerStudy,
    ParameterChecks,
    ParameterTracking,
    PlainErrors,
    Provenance,
    RunRecord,
)
from tissue_crosstalk.logs import LiteralLogs, without_news_of_plugins
from tissue_crosstalk.resolvers import RESOLVERS

# Threads that share an operation wait for each other: busily, unless OpenMP is told otherwise before it is loaded.
# Where another program has a core, that takes several times as long as to wait at rest.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

without_news_of_plugins()  # Kedro loads them after the settings

RECORD = RunRecord()
HOOKS = (
    NewTrackingStore(),
    OneRunPerStudy(),
    ParameterChecks(),
    ParameterTracking(),
    RECORD,
    Provenance(RECORD),
    LiteralLogs(),
    PlainErrors(),
)

CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "custom_resolvers": RESOLVERS,
    "config_patterns": {"mlflow": ["mlflow*", "mlflow*/**", "**/mlflow*"]},  # as kedro-mlflow has them, later
    # What an environment leaves out of a block stays as in base. By default Kedro replaces whole blocks, also by a
    # single run-time parameter: --env=paper --params=demo.training.max_epochs=9 would lose the rest of demo.
    "merge_strategy": {"parameters": "soft"},
}

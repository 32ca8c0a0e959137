"""Stage ``hubs``."""

from tissue_crosstalk.pipelines.hubs.pipeline import create_pipeline

__all__ = ["create_pipeline"]

"""Stage ``reporting``."""

from tissue_crosstalk.pipelines.reporting.pipeline import create_pipeline

__all__ = ["create_pipeline"]

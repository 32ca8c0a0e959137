"""Stage ``contributions``."""

from tissue_crosstalk.pipelines.contributions.pipeline import create_pipeline

__all__ = ["create_pipeline"]

"""Stage ``extraction``."""

from tissue_crosstalk.pipelines.extraction.pipeline import create_pipeline

__all__ = ["create_pipeline"]

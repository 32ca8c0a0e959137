"""Stage ``flavoring``."""

from tissue_crosstalk.pipelines.flavoring.pipeline import create_pipeline

__all__ = ["create_pipeline"]

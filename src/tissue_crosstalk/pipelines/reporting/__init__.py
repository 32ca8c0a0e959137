"""Stage ``reporting``."""

from tissue_crosstalk.pipelines.reporting.pipeline import create_pipeline, create_report_of_interpretation

__all__ = ["create_pipeline", "create_report_of_interpretation"]

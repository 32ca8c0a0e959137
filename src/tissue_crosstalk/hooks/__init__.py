"""What happens around a run: parameters are checked before it, and what it came from is tracked with it."""

from tissue_crosstalk.hooks.new_tracking_store import NewTrackingStore
from tissue_crosstalk.hooks.one_run_per_study import OneRunPerStudy
from tissue_crosstalk.hooks.parameter_checks import ParameterChecks
from tissue_crosstalk.hooks.parameter_tracking import ParameterTracking
from tissue_crosstalk.hooks.plain_errors import PlainErrors
from tissue_crosstalk.hooks.provenance import Provenance
from tissue_crosstalk.hooks.run_record import RunRecord

__all__ = [
    "NewTrackingStore",
    "OneRunPerStudy",
    "ParameterChecks",
    "ParameterTracking",
    "PlainErrors",
    "Provenance",
    "RunRecord",
]

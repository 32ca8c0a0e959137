"""Who computes the shards, apart from doing so: reading the settings imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from tissue_crosstalk.core.errors import ParameterError, is_whole

LOCAL: Final = "local"


@dataclass(frozen=True)
class ClusterSettings:
    """Who computes the shards.

    Parameters
    ----------
    scheduler
        None: this process. ``local``: a Dask cluster on this machine, for as long as the stage runs. Otherwise the
        address of a Dask scheduler (``tcp://host:8786``), or the path of its scheduler file (``.json``).
    n_workers
        Worker processes of a local cluster; None: one for each core.
    memory_limit
        Memory of each worker of a local cluster, such as ``4GiB``, beyond which Dask replaces it; ``auto``: an equal
        share of the machine's.
    timeout
        Seconds to wait for the scheduler, and for its first worker.

    Raises
    ------
    ParameterError
        If a value is out of range.
    """

    scheduler: str | None = None
    n_workers: int | None = None
    memory_limit: str = "auto"
    timeout: float = 60.0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        scheduler = self.scheduler
        if scheduler is not None and not (scheduler == LOCAL or "://" in scheduler or scheduler.endswith(".json")):
            raise ParameterError(
                "cluster.scheduler must be null, local, an address such as tcp://host:8786, or the path of a scheduler "
                f"file (.json). Got {scheduler!r} instead."
            )
        if self.n_workers is not None and not (is_whole(self.n_workers) and self.n_workers >= 1):
            raise ParameterError(f"cluster.n_workers must be at least 1, or null. Got {self.n_workers!r} instead.")
        if not self.timeout > 0:
            raise ParameterError(f"cluster.timeout must be positive. Got {self.timeout!r} instead.")

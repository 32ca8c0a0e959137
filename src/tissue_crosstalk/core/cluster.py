"""Shards done by a Dask cluster: each worker reads its own rows and writes its own files.

The scheduler sees nothing but names of files and numbers of shards. A worker that dies is replaced, or its shards are
done by another one. dask and distributed are imported where a cluster is asked for, and not needed otherwise.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tissue_crosstalk import __version__
from tissue_crosstalk.core.cluster_settings import LOCAL, ClusterSettings
from tissue_crosstalk.core.errors import ClusterError, ParameterError
from tissue_crosstalk.core.shard_jobs import RunShards, ShardJob, compute_and_write, run_here

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)


@contextmanager
def shard_runner(settings: ClusterSettings) -> Iterator[RunShards]:
    """Give what does the shards: this process, or a cluster that is connected to, and left, here.

    Raises
    ------
    ClusterError
        If there is no such cluster, it has no worker, or Dask is not installed.
    """
    if settings.scheduler is None:
        yield run_here
        return
    with connect(settings) as client:
        yield functools.partial(run_on, client)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Dask, which is imported, say what is wrong, but not each step that it takes; here and in its workers."""
    import dask

    chatty = logging.getLogger("distributed")
    before = chatty.level
    chatty.setLevel(logging.WARNING)
    environment = "distributed.nanny.pre-spawn-environ"  # of workers: their loggers are made as they start
    quiet = dict(dask.config.get(environment)) | {"DASK_LOGGING__DISTRIBUTED": "warning"}
    try:
        with dask.config.set({environment: quiet}):
            yield
    finally:
        chatty.setLevel(before)


@contextmanager
def connect(settings: ClusterSettings) -> Iterator[Client]:
    """Connect to a cluster, or start one on this machine.

    Raises
    ------
    ClusterError
        If that fails; the message says what to set.
    """
    try:
        import dask.utils
        import distributed
    except ImportError as error:
        raise ClusterError(
            f"cluster.scheduler is {settings.scheduler!r}, which needs Dask: install tissue-crosstalk[dask], or set "
            "cluster.scheduler=null to compute in this process."
        ) from error
    if settings.scheduler == LOCAL:
        try:
            if settings.memory_limit != "auto":
                dask.utils.parse_bytes(settings.memory_limit)
        except (ValueError, TypeError) as error:
            raise ParameterError(
                f"cluster.memory_limit must be auto, or an amount such as 4GiB. Got {settings.memory_limit!r} instead."
            ) from error
        with (
            _quiet(),
            distributed.LocalCluster(
                n_workers=settings.n_workers,
                threads_per_worker=1,  # of Dask's: a shard keeps one core busy
                processes=True,
                memory_limit=settings.memory_limit,
                dashboard_address="127.0.0.1:0",  # any free port: somebody else may have the usual one
            ) as cluster,
            distributed.Client(cluster, timeout=settings.timeout) as client,
        ):
            yield client
        return
    where = str(settings.scheduler)
    given: dict[str, Any] = {"scheduler_file": where} if where.endswith(".json") else {"address": where}
    if where.endswith(".json") and not Path(where).exists():
        raise ClusterError(f"there is no scheduler file {where!r} (cluster.scheduler). Is the cluster started?")
    try:
        client = distributed.Client(**given, timeout=settings.timeout)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {where!r} (cluster.scheduler) within {settings.timeout:g} s: {error}. Start "
            "it, or set cluster.scheduler=null to compute in this process."
        ) from error
    with _quiet(), client:
        try:
            client.wait_for_workers(1, timeout=settings.timeout)
        except TimeoutError as error:
            raise ClusterError(
                f"the Dask scheduler at {where!r} has no worker after {settings.timeout:g} s. Start workers, or raise "
                "cluster.timeout."
            ) from error
        yield client


def run_on(client: Client, job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
    """Do shards on a cluster, and yield the number of each when its files are written.

    Parameters
    ----------
    client
        Connected to the cluster. Its workers must see the same folders, under the same names.
    job
        What to do.
    numbers
        Shards to do.

    Raises
    ------
    ClusterError
        If workers do not see the folders, have another version of this package, or die on the same shard again and
        again.
    CrosstalkError
        What a shard raises.
    """
    from concurrent.futures import CancelledError

    from distributed import KilledWorker, as_completed
    from distributed.comm import CommClosedError

    if not numbers:
        return
    _check_workers(client, job)
    futures = client.map(
        functools.partial(_work, __version__, job), list(numbers), pure=False, key=f"{type(job).__name__}-shard"
    )
    number_of = {future.key: number for future, number in zip(futures, numbers, strict=True)}
    try:
        for future in as_completed(futures):
            try:
                future.result()
            except (CancelledError, CommClosedError) as error:
                said = " ".join(str(error).split())
                raise ClusterError(
                    f"the connection to the Dask cluster was lost ({said}). Start it again, and run again: what is "
                    "finished is kept."
                ) from error
            except KilledWorker as error:
                raise ClusterError(
                    f"shard {number_of[future.key]} was given to several workers, and all died: they seem to lack "
                    "memory. Lower extraction.cells_per_shard, or give workers more. What is finished is kept."
                ) from error
            yield number_of[future.key]
            future.release()  # nobody needs the result
    finally:
        client.cancel(futures)  # where this process gives up


def _work(version: str, job: ShardJob, number: int) -> int:
    """Do one shard on a worker, which may have joined only now."""
    if version != __version__:
        raise ClusterError(_OTHER_VERSION.format(worker="a Dask worker", theirs=__version__, ours=version))
    return compute_and_write(job, number)


_OTHER_VERSION = "{worker} has tissue-crosstalk {theirs}, this run {ours}. Use the same environment for both."


def _check_workers(client: Client, job: ShardJob) -> None:
    """Raise unless all workers have this package, and see the folders that the shards are written to."""
    folder = str(job.store.workspace.folder.resolve())
    try:
        answers = client.run(_what_a_worker_has, folder)
    except Exception as error:  # whatever a worker without this package, or without some other one, says
        raise ClusterError(
            f"the Dask workers cannot run tissue-crosstalk: {error}. Use the same environment for them as for this run."
        ) from error
    for address, (version, sees) in answers.items():
        if version != __version__:
            worker = f"the Dask worker {address}"
            raise ClusterError(_OTHER_VERSION.format(worker=worker, theirs=version, ours=__version__))
        if not sees:
            raise ClusterError(
                f"the Dask worker {address} does not see the folder {folder!r}. Workers and this process need a common "
                "file system, with the same paths: set root to a folder there."
            )


def _what_a_worker_has(folder: str) -> tuple[str, bool]:
    return __version__, Path(folder).is_dir()

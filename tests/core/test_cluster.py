"""Shards on a real Dask cluster of several processes: as in one process, also when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import pyarrow as pa
import pytest
from naive import random_model
from test_extraction import MODEL, NEIGHBORS, TISSUE, contents, extract, flavor

from tissue_crosstalk.core import cluster
from tissue_crosstalk.core.cluster import connect, run_on, shard_runner
from tissue_crosstalk.core.cluster_settings import ClusterSettings
from tissue_crosstalk.core.errors import ClusterError, ParameterError
from tissue_crosstalk.core.extraction import ExtractionJob
from tissue_crosstalk.core.files import Workspace
from tissue_crosstalk.core.model_input import to_anndata
from tissue_crosstalk.core.shard_jobs import ShardJob, ShardStore, run_here
from tissue_crosstalk.core.tissue_file import open_tissue

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # sockets of workers that were killed


WORKERS = 2  # each takes seconds to start


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Any]:
    with connect(ClusterSettings(scheduler="local", n_workers=WORKERS)) as connected:
        yield connected


@pytest.fixture
def client(own_cluster: Any) -> Any:
    """A client of worker processes: one that an earlier test killed is waited for until it is back."""
    own_cluster.wait_for_workers(WORKERS, timeout=60)
    return own_cluster


@pytest.fixture
def model_input(tmp_path: Path) -> ad.AnnData:
    to_anndata(TISSUE, NEIGHBORS).write_h5ad(tmp_path / "model_input.h5ad")
    return open_tissue(tmp_path / "model_input.h5ad")


@pytest.fixture
def expected(tmp_path: Path, model_input: ad.AnnData) -> dict[str, bytes]:
    """What one process writes."""
    extract(tmp_path / "here", model_input, cells_per_shard=10)
    flavor(tmp_path / "here")
    return contents(tmp_path / "here")


@dataclass
class On:
    """Does shards on a cluster, and notes which; may wrap the job."""

    client: Any
    wrap: Any = None

    def __post_init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
        for number in run_on(self.client, self.wrap(job) if self.wrap else job, numbers):
            self.numbers.append(number)
            yield number


@dataclass(frozen=True)
class Deadly:
    """A job that kills the process which computes some shard, the first time or always."""

    job: ExtractionJob
    kills_at: int
    always: bool = False

    @property
    def store(self) -> ShardStore:
        return self.job.store

    def compute(self, number: int) -> Iterator[tuple[Path, pa.Table | Path]]:
        files = list(self.job.compute(number))
        yield files[0]  # is written: what is left of a shard is not taken for the whole
        mark = self.store.workspace.folder.parent / "killed"
        if number == self.kills_at and (self.always or not mark.exists()):
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        yield from files[1:]


@dataclass(frozen=True)
class Signed:
    """A job that notes by which process each shard was done."""

    job: ExtractionJob

    @property
    def store(self) -> ShardStore:
        return self.job.store

    def compute(self, number: int) -> Iterator[tuple[Path, pa.Table | Path]]:
        (self.store.workspace.folder / f"by-{number}").write_text(str(os.getpid()))
        time.sleep(0.2)  # long enough for the others to come
        yield from self.job.compute(number)


@pytest.mark.slow
def test_the_same_bytes_as_in_one_process(
    client: Any, tmp_path: Path, model_input: ad.AnnData, expected: dict[str, bytes]
) -> None:
    assert sorted(extract(tmp_path / "there", model_input, On(client), cells_per_shard=10)) == [*range(9)]
    assert sorted(flavor(tmp_path / "there", run=On(client))) == [*range(9)]
    assert contents(tmp_path / "there") == expected


@pytest.mark.slow
def test_several_processes_do_it(client: Any, tmp_path: Path, model_input: ad.AnnData) -> None:
    workers = set(client.run(os.getpid).values())
    assert len(workers) == WORKERS
    assert os.getpid() not in workers
    extract(tmp_path, model_input, On(client, Signed), cells_per_shard=10)
    pids = {int(file.read_text()) for file in tmp_path.glob("by-*")}
    assert pids <= workers
    assert len(pids) > 1


@pytest.mark.slow
def test_the_next_run_of_a_study_on_the_same_cluster_is_of_its_own_files(
    client: Any, tmp_path: Path, model_input: ad.AnnData
) -> None:
    """Their names are the same: workers that live on must not take one model's, or one norm's, for the next one's."""
    other = random_model(TISSUE, 7)
    other.network.attention_layer.W_Q.mul_(1.5)
    other.network.attention_layer.W_V.mul_(2.0)
    for model in (MODEL, other):
        extract(tmp_path / "there", model_input, On(client), model, cells_per_shard=10)
        flavor(tmp_path / "there", run=On(client))
        extract(tmp_path / "here", model_input, model=model, cells_per_shard=10)
        flavor(tmp_path / "here")
        assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.slow
def test_a_scheduler_that_dies_is_named(tmp_path: Path, model_input: ad.AnnData) -> None:
    from distributed import LocalCluster

    cluster_of_another = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0")

    class Ends(On):
        def __call__(self, job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
            for number in super().__call__(job, numbers):
                yield number
                cluster_of_another.close()

    with (
        connect(ClusterSettings(scheduler=cluster_of_another.scheduler_address, timeout=5)) as own,
        pytest.raises(ClusterError, match=r"the connection to the Dask cluster was lost .* what is finished is kept"),
    ):
        extract(tmp_path / "there", model_input, Ends(own), cells_per_shard=2)


@pytest.mark.slow
def test_a_killed_worker_is_survived(
    client: Any, tmp_path: Path, model_input: ad.AnnData, expected: dict[str, bytes]
) -> None:
    before = set(client.run(os.getpid).values())
    run = On(client, lambda job: Deadly(job, kills_at=4))
    assert sorted(extract(tmp_path / "there", model_input, run, cells_per_shard=10)) == [*range(9)]
    killed = int((tmp_path / "killed").read_text())
    assert killed in before
    assert killed not in set(client.run(os.getpid).values())
    flavor(tmp_path / "there", run=On(client))
    assert contents(tmp_path / "there") == expected


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_is_named_and_the_others_are_kept(
    tmp_path: Path, model_input: ad.AnnData
) -> None:
    with (
        connect(ClusterSettings(scheduler="local", n_workers=2)) as own,
        pytest.raises(ClusterError, match=r"shard 8 was given to several workers, and all died: .*cells_per_shard"),
    ):
        extract(tmp_path / "there", model_input, On(own, lambda job: Deadly(job, 8, always=True)), cells_per_shard=10)
    done = extract(tmp_path / "there", model_input, cells_per_shard=10)
    assert 8 in done
    assert len(done) < 9


@pytest.mark.slow
def test_an_interrupted_run_on_a_cluster_goes_on_in_one_process(
    client: Any, tmp_path: Path, model_input: ad.AnnData, expected: dict[str, bytes]
) -> None:
    class Stops(On):
        def __call__(self, job: ShardJob, numbers: Sequence[int]) -> Iterator[int]:
            for number in super().__call__(job, numbers):
                yield number
                if len(self.numbers) == 4:
                    raise KeyboardInterrupt

    run = Stops(client)
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "there", model_input, run, cells_per_shard=10)
    done = extract(tmp_path / "there", model_input, cells_per_shard=10)
    assert not set(done) & set(run.numbers)
    flavor(tmp_path / "there")
    assert contents(tmp_path / "there") == expected


@pytest.mark.slow
@pytest.mark.parametrize("how", ["address", "file"])
def test_a_cluster_that_runs_elsewhere(
    how: str, client: Any, tmp_path: Path, model_input: ad.AnnData, expected: dict[str, bytes]
) -> None:
    file, address = tmp_path / "scheduler.json", client.scheduler.address
    file.write_text(json.dumps({"type": "Scheduler", "address": address}))  # as dask scheduler --scheduler-file does
    with connect(ClusterSettings(scheduler=address if how == "address" else str(file))) as other:
        assert other is not client
        extract(tmp_path / "there", model_input, On(other), cells_per_shard=10)
        flavor(tmp_path / "there", run=On(other))
    assert contents(tmp_path / "there") == expected
    assert client.status == "running"  # others' connections are left alone


@pytest.mark.slow
def test_an_error_of_a_shard_is_the_users(client: Any, tmp_path: Path, model_input: ad.AnnData) -> None:
    """As it would be in one process, and the cluster goes on."""
    from tissue_crosstalk.core.errors import CheckpointError

    def lose_model(job: ExtractionJob) -> ExtractionJob:
        return replace(job, model=tmp_path / "nowhere")

    with pytest.raises(CheckpointError, match="nowhere"):
        extract(tmp_path / "there", model_input, On(client, lose_model), cells_per_shard=10)
    client.wait_for_workers(WORKERS, timeout=60)  # one may have been lost before this test and be counted late
    assert len(client.run(os.getpid)) == WORKERS


# --- Clusters that are none


def test_without_a_cluster_shards_are_done_here() -> None:
    with shard_runner(ClusterSettings()) as run:
        assert run is run_here
    assert ClusterSettings().scheduler is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scheduler": "here"}, r"cluster.scheduler must be null, local, an address such as tcp://host:8786, .*'here'"),
        ({"n_workers": 0}, r"cluster.n_workers must be at least 1, or null\. Got 0"),
        ({"timeout": 0}, r"cluster.timeout must be positive\. Got 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        ClusterSettings(**settings)


def test_nobody_at_the_address() -> None:
    settings = ClusterSettings(scheduler="tcp://127.0.0.1:9", timeout=0.5)
    with (
        pytest.raises(ClusterError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:9' \(cluster.scheduler\)"),
        shard_runner(settings),
    ):
        pass


def test_a_limit_that_is_no_amount() -> None:
    settings = ClusterSettings(scheduler="local", memory_limit="lots")
    with pytest.raises(ParameterError, match=r"cluster.memory_limit must be auto, .*'lots'"), connect(settings):
        pass


def test_no_scheduler_file(tmp_path: Path) -> None:
    settings = ClusterSettings(scheduler=str(tmp_path / "scheduler.json"))
    with pytest.raises(ClusterError, match=r"there is no scheduler file .*scheduler.json"), shard_runner(settings):
        pass


@pytest.mark.slow
def test_a_cluster_without_workers() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty:
        settings = ClusterSettings(scheduler=empty.scheduler_address, timeout=0.5)
        with pytest.raises(ClusterError, match=r"has no worker after 0.5 s\. Start workers"), shard_runner(settings):
            pass


def test_without_dask_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"install tissue-crosstalk\[dask\]"), connect(ClusterSettings("local")):
        pass


@dataclass(frozen=True)
class Nothing:
    """A job whose folder is given."""

    store: ShardStore

    def compute(self, number: int) -> Iterator[tuple[Path, pa.Table | Path]]:
        raise AssertionError("no shard is begun")


@pytest.mark.slow
def test_workers_that_do_not_see_the_folder(client: Any, tmp_path: Path) -> None:
    job = Nothing(ShardStore(Workspace(tmp_path / "not shared"), ("a",), "f", 1))
    with pytest.raises(
        ClusterError, match=r"worker tcp://.* does not see the folder .*not shared.* common file system"
    ):
        list(run_on(client, job, [0]))


@pytest.mark.slow
def test_workers_of_another_version(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "__version__", "99")
    job = Nothing(ShardStore(Workspace(tmp_path), ("a",), "f", 1))
    with pytest.raises(ClusterError, match=r"has tissue-crosstalk 0.1.0, this run 99\. Use the same environment"):
        list(run_on(client, job, [0]))

"""Grids on a cluster of two workers: the rows are those of one process, also where a worker is killed on the way."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from joblib import Parallel, delayed, parallel_config

from gunlearn.bench import GridConfig, cluster, run_grid
from gunlearn.bench.grid import run_cell
from gunlearn.bench.store import RowStore, locked
from gunlearn.cli import main
from gunlearn.errors import InvalidInputError, MissingExtraError
from tests.bench.cases import RECIPE, same

CONFIG = GridConfig(
    "karate", ("utu", "npo:default"), count=6, seeds=(0, 1, 2), recipe=RECIPE, method_args=("epochs=3",), threads=1
)


def keys(out: Path) -> list[str]:
    """Of every line of the file, damaged ones included."""
    return [json.loads(line)["key"] for line in (out / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("serial")
    return out, run_grid(CONFIG, out)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Of two worker processes, forked from one that has imported what they need."""
    pytest.importorskip("distributed", reason="needs dask: pip install 'gunlearn[dask]'")
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context()  # sets its own list first
        get_mp_context().set_forkserver_preload(["distributed", "gunlearn.bench.grid"])
        options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        with LocalCluster(**options) as workers, Client(workers) as client:
            yield client


def dies_once(name: str, after: bool, marker: Path) -> Callable[[], None]:
    """Makes, in a worker, the first call among all workers of `gunlearn.bench.grid.<name>` its last."""

    def patch() -> None:
        from gunlearn.bench import grid

        function = getattr(grid, name)

        def dying(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs) if after else None
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                return result if after else function(*args, **kwargs)
            return os.kill(os.getpid(), signal.SIGKILL)

        setattr(grid, name, dying)

    return patch


@pytest.mark.parametrize(("name", "after"), [("run_method", False), ("run_cell", True)], ids=["mid-cell", "unreported"])
def test_a_killed_worker_loses_and_doubles_nothing(
    name: str, after: bool, grid: tuple[Path, list[dict[str, Any]]], client: Any, tmp_path: Path
) -> None:
    client.wait_for_workers(2)
    before, marker = set(client.run(os.getpid).values()), tmp_path / "died"
    client.run(dies_once(name, after, marker))
    with parallel_config("dask", client=client):
        rows = run_grid(CONFIG, tmp_path / "out")
    client.wait_for_workers(2)
    assert marker.exists()
    assert len(before - set(client.run(os.getpid).values())) == 1
    assert same(rows) == same(grid[1])
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == rows
    assert Counter(keys(tmp_path / "out")) == Counter(row["key"] for row in rows)  # each once
    assert RowStore(tmp_path / "out" / "rows.jsonl").read() == {row["key"]: row for row in rows}
    kept = [path for path in (tmp_path / "out" / "models").iterdir() if path.suffix != ".lock"]
    assert len(kept) == 9  # base and two references per seed, no leftovers but locks


def test_on_the_command_line(client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client.wait_for_workers(2)
    address = client.scheduler.address
    words = "run --dataset karate --methods utu --count 4 --seeds 0 1 --epochs 5 --hidden-channels 4 --threads 1"
    main([*words.split(), "--out", str(tmp_path), "--backend", "dask", "--address", address])
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [(row["seed"], row["method"]) for row in rows] == [
        (seed, method) for seed in (0, 1) for method in ("original", "retrain", "utu")
    ]
    assert "report.html" in capsys.readouterr().out


def test_two_workers_on_the_same_cell(grid: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    """As where a worker only seemed dead: both take part in every race, one row and one model are left of each."""
    config = replace(CONFIG, seeds=(0,), models=tmp_path / "models")
    (cell,) = config.cells()
    first, second = Parallel(n_jobs=2)(delayed(run_cell)(cell, config, tmp_path) for _ in range(2))
    assert first == second  # seconds too: both say what stands in the file
    assert same(first) == same(grid[1][:4])
    assert keys(tmp_path) == [row["key"] for row in first]
    assert len([path for path in (tmp_path / "models").iterdir() if path.suffix != ".lock"]) == 3


def test_threads_take_turns(grid: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    with parallel_config("threading", n_jobs=2):  # also the threads of one Dask worker
        assert same(run_grid(CONFIG, tmp_path)) == same(grid[1])


@pytest.fixture
def store(tmp_path: Path) -> RowStore:
    return RowStore(tmp_path / "rows.jsonl")


def test_a_row_is_added_once_unless_it_failed(store: RowStore) -> None:
    assert store.add({"key": "a", "error": "no", "n": 1})["n"] == 1
    assert store.add({"key": "a", "error": None, "n": 2})["n"] == 2  # tried again
    assert store.add({"key": "a", "error": None, "n": 3})["n"] == 2
    assert [row["n"] for row in store.read().values()] == [2]
    assert keys(store.path.parent) == ["a", "a"]


def test_a_row_after_a_killed_write(store: RowStore) -> None:
    store.add({"key": "a"})
    with store.path.open("ab") as file:
        file.write(b'{"key": "b", "nu')
    store.add({"key": "c"})
    assert list(store.read()) == ["a", "c"]


def _many(path: Path, name: int) -> None:
    for number in range(30):
        RowStore(path).add({"key": f"{number // 2}", "by": name, "long": "x" * 5000})


def test_processes_do_not_mix_their_rows(tmp_path: Path) -> None:
    Parallel(n_jobs=2)(delayed(_many)(tmp_path / "rows.jsonl", name) for name in range(2))
    assert sorted(keys(tmp_path), key=int) == [str(number) for number in range(15)]


def test_a_lock_makes_others_wait(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with locked(tmp_path / "lock"):
        other = os.open(tmp_path / "lock", os.O_WRONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_a_grid_is_started_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidInputError, match="2 launched processes"):
        run_grid(CONFIG, tmp_path / "out")
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--dataset", "karate", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "accelerate launch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "words"), [(("slurm",), "slurm"), (("loky", "tcp://here"), "address")])
def test_refused_clusters(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words), cluster(*arguments):
        pass


def test_a_cluster_that_is_not_there() -> None:
    pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(InvalidInputError, match="Dask scheduler at 'tcp:"),
        cluster("dask", "tcp://127.0.0.1:1"),
    ):
        pass


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_without_the_extra(backend: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"gunlearn\[{backend}\]"), cluster(backend):
        pass

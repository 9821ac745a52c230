"""Backends of a grid: processes of this machine, or the workers of a Dask or Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

from joblib import parallel_config

from gunlearn.errors import InvalidInputError, MissingExtraError

_BACKENDS = ("loky", "dask", "ray")


@contextmanager
def cluster(backend: str = "loky", address: str | None = None, n_jobs: int | None = None) -> Iterator[None]:
    """Run the jobs of `run_grid` (and of any `joblib.Parallel`) inside the block on a backend.

    Args:
        backend: `"loky"` (processes of this machine), `"dask"` or `"ray"`.
        address: the cluster's scheduler or head; without one, workers start here and stop afterwards.
        n_jobs: jobs at a time; `None` is 1 for `"loky"`, otherwise as many as the cluster takes.

    Raises:
        InvalidInputError: an unknown backend, an address for `"loky"`, or no cluster at the address.
        MissingExtraError: the backend is not installed.
    """
    if backend not in _BACKENDS:
        raise InvalidInputError(f"Expected a backend among {_BACKENDS} (got {backend!r})")
    if backend == "loky":
        if address is not None:
            raise InvalidInputError(f"Expected an address with 'dask' or 'ray' alone (got {address!r} with 'loky')")
        with parallel_config("loky", n_jobs=1 if n_jobs is None else n_jobs):
            yield
        return
    with _dask(address, n_jobs) if backend == "dask" else _ray(address, n_jobs):
        yield


@contextmanager
def _dask(address: str | None, n_jobs: int | None) -> Iterator[None]:
    try:
        from distributed import Client  # here: the extra `dask`
    except ImportError as error:
        raise MissingExtraError("Expected 'distributed' for 'dask' (got none); pip install 'gunlearn[dask]'") from error
    # One thread per worker: cells of one process wait for each other.
    local = {"n_workers": n_jobs, "threads_per_worker": 1, "dashboard_address": None}
    try:
        client = Client(**local) if address is None else Client(address)
    except OSError as error:
        raise InvalidInputError(f"Expected a Dask scheduler at {address!r} (got: {error})") from error
    with client, parallel_config("dask", client=client, n_jobs=-1 if n_jobs is None else n_jobs):
        yield


@contextmanager
def _ray(address: str | None, n_jobs: int | None) -> Iterator[None]:
    try:
        import ray.util.joblib  # here: the extra `ray`
    except ImportError as error:
        raise MissingExtraError("Expected 'ray' for 'ray' (got none); pip install 'gunlearn[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        local = {"num_cpus": n_jobs, "include_dashboard": False}
        try:
            ray.init("local", **local) if address is None else ray.init(address)
        except ConnectionError as error:
            raise InvalidInputError(f"Expected a Ray cluster at {address!r} (got: {error})") from error
    ray.util.joblib.register_ray()
    try:
        with parallel_config("ray", n_jobs=-1 if n_jobs is None else n_jobs):
            yield
    finally:
        if ours:
            ray.shutdown()

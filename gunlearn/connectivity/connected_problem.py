"""By what two connected models are judged: the task, what was forgotten, the data, and the model before."""

from __future__ import annotations

from typing import Any

from torch import nn

from gunlearn.connectivity.ends_of_paths import module_of
from gunlearn.core.digest import content_hash, same_weights
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.requests.content import check_content, same_content
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import as_task
from gunlearn.training.result import Result


def connected_problem(
    ends: tuple[Any, Any], data: Any, request: Any, task: Any, call: Any = None, decode: Any = None
) -> tuple[Task, Any, Any]:
    """Return the task, what was forgotten (`None` for nothing) and the training data: as given, else as results say.

    Raises:
        InvalidInputError: no task, another one than the results', no data, results of two requests or of other data
            without a request, or other data beside a partition.
        ChangedDataError: the results' data were edited after `unlearn` had read them.
        InvalidTypeError: a request that is none.
    """
    results = [end for end in ends if isinstance(end, Result)]
    task = _task_of(results, task, call, decode)
    if hasattr(request, "retain_data"):
        if data is not None and not _same_data(task, data, request.data):
            raise InvalidInputError(
                "Expected the partition's own data beside a partition as 'request', or none (got other data)"
            )
        check_content(request)
        return task, request, request.data
    held = [result.partition for result in results if result.partition is not None]
    known = {partition.request_hash: partition for partition in held}
    if held and data is None:
        for one in held:
            check_content(one)
        if not all(same_content(one, held[0]) for one in held) and (request is not None or len(known) == 1):
            raise InvalidInputError(
                "Expected 'data' and 'request', by which both models are judged (got results that were made on "
                "different data)"
            )
    if request is None and known:
        partition = _partition(known, task, data)
        return task, partition, partition.data
    if data is None and known:
        data = next(iter(known.values())).data
    if data is None:
        raise InvalidInputError(
            "Expected 'data' (got None, and no result of this session that knows them)"
            if request is None
            else "Expected 'data' beside 'request' (got None)"
        )
    data = task.check_data(data)
    if request is None:
        return task, None, data
    if not callable(getattr(request, "resolve", None)):
        raise InvalidTypeError(f"Expected 'request' to be a forget request (got {type(request).__name__})")
    return task, request.resolve(data), data


def original_of(ends: tuple[Any, Any], given: Any, partition: Any = None) -> tuple[nn.Module | None, str]:
    """Return the model before unlearning, as given or as results know it, and in words why nobody can say.

    Raises:
        InvalidInputError: a result that forgot what the partition says.
    """
    if given is not None:
        request = getattr(partition, "request_hash", None)
        if request is not None and getattr(given, "request_hash", None) == request:
            raise InvalidInputError(
                "Expected 'original' to be the model before unlearning (got a result that forgot what the request says)"
            )
        return module_of(given), ""
    found = [end.original for end in ends if isinstance(end, Result) and end.original is not None]
    if not found:
        return None, ""
    if len(found) > 1 and not same_weights(*found):
        return None, "two results with different ones"
    return module_of(found[0]), ""


def _partition(known: dict[str, Any], task: Task, data: Any) -> Any:
    """Return what the results forgot, if it was one request on these data."""
    if len(known) > 1:
        raise InvalidInputError(
            "Expected 'request', by which both models are judged (got results of two different requests)"
        )
    (partition,) = known.values()
    if data is not None and not _same_data(task, data, partition.data):
        raise InvalidInputError(
            "Expected 'request' beside data other than the results', since what they forgot was of theirs (got None)"
        )
    return partition


def _same_data(task: Task, given: Any, own: Any) -> bool:
    """Return whether both are the same object, or have the same content."""
    if given is own:
        return True
    given, own = task.check_data(given), task.check_data(own)
    return given is own or _content(given) == _content(own)


def _content(data: Any) -> str:
    return content_hash({key: data[key] for key in sorted(data.keys())} if hasattr(data, "keys") else vars(data))


def _task_of(results: list[Result], given: Any, call: Any, decode: Any) -> Task:
    """Return the task: the results' own, with their way to call a model, or as given."""
    known = [result.task for result in results if result.task is not None]
    if given is None and not known:
        raise InvalidInputError("Expected 'task', what the models predict (got None, and no result that knows it)")
    own = known[0] if known and (given is None or given == known[0].name) else given
    task = as_task(own, call, decode)
    for one in known:
        if one.name != task.name:
            raise InvalidInputError(f"Expected the results' own task, '{one.name}' (got '{task.name}')")
        if own is known[0] and any(
            asked is None and not _same_function(getattr(one, name, None), getattr(known[0], name, None))
            for name, asked in (("call", call), ("score", decode))
        ):
            raise InvalidInputError("Expected 'call' and 'decode' (got results whose models are called in two ways)")
    return task


def _same_function(one: Any, other: Any) -> bool:
    """Return whether two functions are the same, or were written alike."""
    first, second = (getattr(called, "function", called) for called in (one, other))
    return first is second or getattr(first, "__code__", first) == getattr(second, "__code__", second)

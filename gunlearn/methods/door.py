"""Run one method on one problem: copies, random state, clock, memory, record."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import nn

from gunlearn.core.checks import check_folder_path, check_seed, is_finite
from gunlearn.core.digest import state_hash
from gunlearn.cost import PeakMemory, Stopwatch
from gunlearn.errors import DivergenceError, InvalidTypeError
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.methods.forgotten_before import check_forgotten_before
from gunlearn.methods.gradient import freeze
from gunlearn.methods.kept import check_kept, spares_retained
from gunlearn.requests.content import note_content
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.dense_gradients import restore_sparse_gradients
from gunlearn.tasks.known_models import (
    is_known,
    is_trained_here,
    note_trained,
    one_key_each,
    share_key,
    take_note_of,
)
from gunlearn.tasks.trial import private_copy, trial_pass
from gunlearn.training.callbacks import Callback, TrainState, check_callbacks
from gunlearn.training.inner_model import inner_model
from gunlearn.training.result import Result
from gunlearn.training.run import device_of, fingerprint_of
from gunlearn.training.same_items import items_digest
from gunlearn.training.training_state import TrainingState
from gunlearn.training.unchanged import remark_unchanged


def _skipped(partition: Any) -> dict[str, str]:
    """Return the note on named things that the request skipped."""
    told = getattr(partition, "skipped", "")
    return {"skipped": told} if told else {}


class _Clocked(Callback):
    """Calls the caller's callbacks without charging their time and memory to the method."""

    def __init__(self, callbacks: Sequence[Callback], watch: Stopwatch, memory: PeakMemory) -> None:
        self.callbacks, self.watch, self.memory = callbacks, watch, memory

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return object.__getattribute__(self, name)

        def tell(*args: Any, **kwargs: Any) -> None:
            with self.watch.paused(), self.memory.paused():
                for callback in self.callbacks:
                    method = getattr(callback, name, None)
                    if method is not None:
                        method(*args, **kwargs)

        return tell


class _Tried(NamedTuple):
    """What is known before a method starts: the task as the model answers it, its trial outputs, and a remark."""

    task: Task
    outputs: Any
    why: str
    spared: bool


def _tried(method: Method, model: nn.Module, partition: Any, task: Task) -> _Tried:
    """Check that the method, the model, the request and the task fit, and call the model once."""
    method.supports(task, partition)
    check_forgotten_before(getattr(method, "training", None), partition)
    note_content(partition)
    task.check_parts(model, partition)
    known = not method.runs_model and is_known(model, task, partition)
    spared = spares_retained(method, partition)
    tried = partition.forget_data if spared else partition.retain_data
    outputs = None if known else trial_pass(model, tried, task).outputs
    why = task.check_request(model, partition, outputs, anew=method.state == "own")
    if outputs is not None:
        why = " ".join(filter(None, [task.warn_of_arguments(model, tried, outputs), why]))
    if not known:
        given, task = task, task.fitted(outputs, tried)
        if task is given and not why:
            take_note_of(model, task, partition)
    return _Tried(task, outputs, why, spared)


@one_key_each()
def run_method(
    method: Method,
    model: nn.Module,
    partition: Any,
    task: Task,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    checkpoint_dir: str | Path | None = None,
) -> Result:
    """Unlearn `partition` from a copy of `model`.

    Raises:
        UnsupportedMethodError: see `Method.supports`.
        UnsupportedModelError: the model cannot be called as the task does, see `trial_pass`.
        DivergenceError: the method ended in NaN or infinity, or far from all that it should keep; see `check_kept`.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"Expected 'model' to be a torch module (got {type(model).__name__})")
    check_seed(seed)
    check_folder_path("checkpoint_dir", checkpoint_dir)
    check_callbacks(callbacks)
    tried = _tried(method, model, partition, task)
    task = tried.task
    runner = task.runner(method)
    if runner is not None:
        result = runner(method, model, partition, task, seed, callbacks, progress, checkpoint_dir)
        if result.original is not None:
            ended = TrainState(step=result.epochs or 0, ended="steps")
            result.notes = remark_unchanged(result.notes, result.original, result.model, ended)
        result.notes |= _skipped(partition)
        return result
    with isolated_rng(seed):
        original = freeze(private_copy(model, task))
        share_key(model, original)
        fresh = None if method.state == "own" else task.forgotten_state(original, partition, seed)
        memory, watch = PeakMemory(device_of(model)), Stopwatch()
        problem = Problem(
            model=private_copy(model, task),
            reference=original,
            partition=partition,
            task=task,
            seed=seed,
            callbacks=[_Clocked(callbacks, watch, memory)] if callbacks else (),
            progress=progress,
            checkpoint_dir=checkpoint_dir,
            fingerprint="" if checkpoint_dir is None else _fingerprint(method, model, partition, task, seed),
            fresh=fresh,
        )
        outcome, settled = _outcome(method, problem)
        seconds = watch.seconds + (0.0 if outcome.state is None else outcome.state.seconds_before)
    if is_trained_here(model):
        note_trained(outcome.model, task)
    restore_sparse_gradients(outcome.model, model)
    state = outcome.state
    return Result(
        model=outcome.model.eval(),
        method=method.name,
        mode=method.label,
        config=method.config(),
        seed=seed,
        request_hash=partition.request_hash,
        num_forget=partition.num_forget,
        epochs=None if state is None else state.epoch,
        seconds=seconds,
        peak_memory_mb=memory.mb,
        history=[] if state is None else state.log_history,
        notes=_notes(method, problem, outcome, tried, settled),
        partition=partition,
        task=task,
        original=original,
        training=None if outcome.training is None else _handed_on(outcome, problem),
    )


def _handed_on(outcome: Outcome, problem: Problem) -> TrainingState:
    """Return the state from which the next request goes on, with digests of its weights and items."""
    items = items_digest(problem.task, problem.partition.retain_data)
    return replace(cast(TrainingState, outcome.training), weights=state_hash(inner_model(outcome.model)), items=items)


def _fingerprint(method: Method, model: nn.Module, partition: Any, task: Task, seed: int) -> str:
    settings = [method.name, method.config(), partition.request_hash]
    return fingerprint_of(settings, task, seed, model, partition.data)


def _outcome(method: Method, problem: Problem) -> tuple[Outcome, bool]:
    """Run the method; return its outcome, and whether the task then settled statistics."""
    outcome = method.run_with_fresh_state(problem)
    if not isinstance(outcome, Outcome):
        raise InvalidTypeError(f"Expected an Outcome from '{method.name}' (got {type(outcome).__name__})")
    # new models have statistics of their own
    settled = {} if method.state == "own" else problem.task.settle(outcome.model, problem.partition)
    outcome.notes |= settled
    return outcome, bool(settled)


def _notes(method: Method, problem: Problem, outcome: Outcome, tried: _Tried, settled: bool) -> dict[str, Any]:
    """Return what a result says beside its figures; raise where weights are not finite or too much was lost."""
    for name, tensor in outcome.model.state_dict().items():
        if not is_finite(tensor):
            raise DivergenceError(f"Expected finite weights from '{method.name}' (got NaN or infinity in '{name}')")
    state, partition, task = outcome.state, problem.partition, problem.task
    told = {"why": " ".join(filter(None, [tried.why, outcome.notes.get("why")]))} if tried.why else {}
    notes = remark_unchanged(
        {**outcome.notes, **told}, problem.reference, outcome.model, state, outcome.unchanged, problem.fresh
    )
    if tried.spared:
        for_what = "but for the statistics of batch normalisation" if settled else "at all"
        notes["retained"] = f"no item was read {for_what}: whether the rest is still known was not measured"
    elif state is not None and not notes.get("unchanged") and not outcome.proven:
        kept = partition.retain_data
        collapsed = check_kept(method, task, kept, problem.reference, tried.outputs, outcome.model)
        notes |= {"collapsed": collapsed} if collapsed else {}
    return {**notes, **task.remarks(outcome.model), **_skipped(partition)}

"""Every part comes in batches: how many rows a pass reads, which ones, and that pieces add up to the whole."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.losses import DPO, NLL, Objective
from gunlearn.methods import FineTune, GradientAscentMethod, Method
from gunlearn.tasks.graph.score_targets import ScoreTarget
from gunlearn.training import step as step_module
from gunlearn.training.feeding import Feed
from tests.methods.cases import make_data, run, same_weights, trained_model
from tests.training.callbacks import Kill, On

pytestmark = pytest.mark.filterwarnings("ignore:.*are both in:UserWarning")

SIZE, FORGET = 16, 300
EVENTS = ("epoch_begin", "step_begin", "step_end", "epoch_end")
TASK = gu.ImageClassification()


class Net(nn.Module):
    """A classifier that notes the rows of each pass; the first column of `x` is the row's number, and not read."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 7), nn.Linear(7, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        PASSES.append((torch.is_grad_enabled() and self.training, x[:, 0].long().tolist()))
        return self.head(self.body(x[:, 1:]).tanh())


PASSES: list[tuple[bool, list[int]]] = []


def images(num_retained: int = 100) -> Data:
    """The first `FORGET` rows are to be forgotten."""
    generator = torch.Generator().manual_seed(0)
    number = FORGET + num_retained
    x = torch.randn(number, 7, generator=generator, dtype=torch.float64)
    x[:, 0] = torch.arange(number)
    data = Data(x=x, y=torch.randint(4, (number,), generator=generator))
    data.train_mask = torch.ones(number, dtype=torch.bool)
    data.val_mask = data.train_mask & (torch.arange(number) % 7 == 0)
    return data


def unlearn(method: str | Method, data: Data, num_forget: int = FORGET, **options: Any) -> gu.Result:
    torch.manual_seed(0)
    model = Net()
    PASSES.clear()
    return gu.unlearn(model, data, gu.ForgetItems(torch.arange(num_forget)), method, TASK, **options)


def learned() -> list[list[int]]:
    """Rows of the passes that were learned from."""
    return [rows for learns, rows in PASSES if learns]


@pytest.mark.parametrize("method", ["imu", "scrub"])
def test_passes_beside_the_steps_are_in_batches_too(method: str) -> None:
    """IMU's influences, and what SCRUB notes of its direction, are looked at in passes over the forget set."""
    found, whole = (unlearn(method, images(), steps=2, **size) for size in ({"batch_size": SIZE}, {}))
    if method == "scrub":
        before = [result.notes["forget_nll"][0] for result in (found, whole)]
        assert before[0] == pytest.approx(before[1], rel=1e-5)
    assert max(len(rows) for _, rows in PASSES) >= FORGET  # control: the second run, without batches
    PASSES.clear()
    unlearn(method, images(), steps=2, batch_size=SIZE)
    assert max(len(rows) for _, rows in PASSES) == SIZE
    assert sum(len(rows) for _, rows in PASSES) >= FORGET


@pytest.mark.parametrize("method", ["gradient_ascent", "graddiff", "npo", "random_label", "bad_teacher"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_no_pass_is_larger_than_a_batch(method: str, accumulate: bool) -> None:
    result = unlearn(method, images(), steps=4, batch_size=SIZE, accumulate=accumulate)
    assert len(result.history) == 4
    assert max(len(rows) for _, rows in PASSES) == SIZE
    forgotten = Counter(row for rows in learned() for row in rows if row < FORGET)
    assert forgotten == (dict.fromkeys(range(FORGET), 4) if accumulate else dict.fromkeys(forgotten, 1))
    unlearn(method, images(), steps=1)
    assert max(len(rows) for _, rows in PASSES) >= FORGET  # control


def test_a_pass_reads_each_item_once() -> None:
    result = unlearn("gradient_ascent", images(), epochs=2, batch_size=SIZE)
    assert (result.epochs, len(result.history)) == (2, 2 * 19)
    for rows in (learned()[:19], learned()[19:]):
        assert sorted(row for batch in rows for row in batch) == list(range(FORGET))
    assert learned()[:19] != learned()[19:]
    result = unlearn("graddiff", images(), epochs=3, batch_size=SIZE)  # over what is retained, where it reads that
    assert (result.epochs, len(result.history)) == (3, 3 * 7)
    assert Counter(row for rows in learned() for row in rows if row >= FORGET) == dict.fromkeys(range(FORGET, 400), 3)
    unlearn("finetune", images(), epochs=1, batch_size=SIZE)
    assert sorted(row for rows in learned() for row in rows) == list(range(FORGET, 400))


def test_batches_follow_from_the_seed() -> None:
    reads = []
    for seed in (0, 0, 1):
        unlearn("graddiff", images(), steps=9, batch_size=SIZE, seed=seed)
        reads.append(learned())
    assert reads[0] == reads[1] != reads[2]


def test_epochs_are_passes_and_steps_are_steps() -> None:
    seen: list[tuple[str, int, int]] = []
    notes = {e: lambda state, e=e, **_: seen.append((e, state.epoch, state.step)) for e in EVENTS}
    result = unlearn("graddiff", images(24), steps=5, batch_size=10, callbacks=[On(**notes)])  # 3 steps a pass
    assert [(r["epoch"], r["step"]) for r in result.history] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    assert (result.epochs, result.config["epochs"], result.config["steps"]) == (2, 30, 5)
    expected = [("epoch_begin", 0, 0)]
    for step in range(1, 6):
        expected += [("epoch_begin", 1, 3)] * (step == 4) + [("step_begin", (step - 1) // 3, step - 1)]
        done = step // 3 + (step == 5)
        expected += [("step_end", done, step)] + [("epoch_end", done, step)] * (step in (3, 5))
    assert seen == expected
    assert len(unlearn("graddiff", images(24), epochs=5, batch_size=10).history) == 15
    assert len(unlearn("graddiff", images(24), epochs=5).history) == 5  # all at once: a pass is a step
    for options in ({"steps": 2.5}, {"steps": 0}, {"steps": -1}, {"epochs": 1.5}, {"steps": True}):
        with pytest.raises(InvalidInputError, match=f"integer >= {int('steps' in options)}"):
            GradientAscentMethod(**options)


@pytest.mark.parametrize("method", ["graddiff", "random_label", "scrub_r"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_a_resumed_run_reads_the_same_batches(method: str, accumulate: bool, tmp_path: Path) -> None:
    options = {"epochs": 3, "batch_size": 15, "accumulate": accumulate}
    whole = unlearn(method, images(80), **options)
    reads, steps = learned(), len(whole.history)
    with pytest.raises(KeyboardInterrupt):
        unlearn(method, images(80), **options, callbacks=[Kill(3, 4, "step")], checkpoint_dir=tmp_path)
    resumed = unlearn(method, images(80), **options, checkpoint_dir=tmp_path)
    assert 0 < len(learned()) < len(reads)
    assert learned() == reads[-len(learned()) :]
    assert steps == 18
    assert resumed.history == whole.history
    assert resumed.notes == whole.notes
    assert same_weights(resumed.model, whole.model)


def moved(start: nn.Module, end: nn.Module) -> Tensor:
    pairs = zip(start.parameters(), end.parameters(), strict=True)
    return torch.cat([(a.detach() - b.detach()).view(-1) for a, b in pairs])


def gradient(method: str | Method, num_retained: int = 10, lr: float = 1.0, **options: Any) -> Tensor:
    """Sum of the gradients of all steps, from what SGD does with them."""
    result = unlearn(method, images(num_retained), optimizer="sgd", lr=lr, max_grad_norm=None, **options)
    return moved(result.original, result.model) / lr


MAPPED = {  # methods that give forgotten items values of their own, and some that do not
    "random_label": {},
    "imu": {"probes": None, "scope": "all"},
    "gradient_ascent": {},
    "npo": {"kl_weight": 0.5},
    "graddiff": {},
}


@pytest.mark.parametrize("method", MAPPED)
def test_accumulated_gradients_are_the_whole(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**MAPPED[method], "steps": 1}
    whole = gradient(method, **options)
    assert max(map(len, learned())) >= FORGET
    pieces = gradient(method, **options, batch_size=SIZE, accumulate=True)
    assert max(len(rows) for _, rows in PASSES) == SIZE
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-10)
    assert (gradient(method, **options, batch_size=SIZE) - whole).abs().max() > 1e-4  # control: one batch is not all
    if method in ("random_label", "imu"):  # control: the wrong rows are noticed
        monkeypatch.setattr(Feed, "rows", lambda self, name, values: values[torch.randperm(FORGET)[self.chunk]])
        assert (gradient(method, **options, batch_size=SIZE, accumulate=True) - whole).abs().max() > 1e-4


@pytest.mark.parametrize("method", ["random_label", "imu", "gradient_ascent"])
def test_batches_of_a_pass_add_up_to_the_whole(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rate so small that the weights stay; 15 divides 300, so that each batch counts the same."""
    options = {**MAPPED[method], **({"retain_weight": 0.0} if method == "random_label" else {}), "lr": 1e-7}
    whole = gradient(method, **options, steps=1)
    batches = gradient(method, **options, epochs=1, batch_size=15) / 20
    torch.testing.assert_close(batches, whole, rtol=0, atol=1e-5)
    assert whole.abs().max() > 1e-3
    rows = Feed.rows
    monkeypatch.setattr(Feed, "rows", lambda self, name, values: rows(self, name, values.flip(0)))
    wrong = gradient(method, **options, epochs=1, batch_size=15) / 20
    assert ((wrong - whole).abs().max() > 1e-4) == (method != "gradient_ascent")  # control: the rows matter


def test_targets_keep_all_edges_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, seen, release = trained_model(), make_data(), [], ScoreTarget.release

    def watch(self: ScoreTarget, predictions: dict[str, Any], rows: Any) -> dict[str, Any]:
        seen.append((rows(torch.arange(12)).tolist(), predictions["forget"].num_items))
        return release(self, predictions, rows)

    monkeypatch.setattr(ScoreTarget, "release", watch)
    for options in ({}, {"accumulate": True}):
        run("npo", model, data, until="separated", batch_size=5, steps=2, **options)
    assert seen[:-1] == [(list(range(12)), 12)] * len(seen[:-1])
    assert len(seen) > 3


class TinyLM(nn.Module):
    """Logits of each token from the one before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(11, 5), nn.Linear(5, 11)
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        PASSES.append((torch.is_grad_enabled(), list(range(len(input_ids)))))
        return SimpleNamespace(logits=self.head(self.embedding(input_ids).tanh()))


@pytest.mark.parametrize("method", ["gradient_ascent", "npo", "bad_teacher"])
def test_masks_of_token_sequences_count_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = pytest.importorskip("gunlearn.llm").CausalLM(backend="loop")
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(11, (40, 9), generator=generator)
    y = x.masked_fill(torch.rand(40, 9, generator=generator) < torch.linspace(0.1, 0.9, 40).view(-1, 1), -100)
    data = Data(x=x, y=y)
    options = {"epochs": 1, "optimizer": "sgd", "lr": 1.0}

    def after(**more: Any) -> Tensor:
        PASSES.clear()
        with monkeypatch.context() as patch:
            # The incompetent teacher of `bad_teacher` needs new weights, which this model does not draw by itself.
            patch.setattr("gunlearn.methods.any_task.teachers.reset_model", lambda model: TinyLM().requires_grad_())
            forget = gu.ForgetItems(torch.arange(33))
            result = gu.unlearn(TinyLM().apply(nudge), data, forget, method, task, **options, **more)
        return moved(result.original, result.model)

    whole, pieces = after(), after(batch_size=7, accumulate=True)
    assert max(len(rows) for _, rows in PASSES) == 7
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-10)
    assert whole.abs().max() > 1e-4
    monkeypatch.setattr(step_module, "_count", lambda loss, items: float(items.num_items))  # control: not by items
    assert (after(batch_size=7, accumulate=True) - whole).abs().max() > 1e-4


def nudge(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data += 0.1


@dataclass(frozen=True)
class Compared(GradientAscentMethod):
    """An objective whose one loss reads two parts."""

    name = "compared"

    def objective(self) -> Objective:
        return DPO() + NLL(on="retain")


def test_losses_of_two_parts_are_not_accumulated() -> None:
    with pytest.raises(InvalidInputError, match="one part each"):
        Compared(batch_size=5, accumulate=True)
    with pytest.raises(InvalidInputError, match="'batch_size' with 'accumulate'"):
        GradientAscentMethod(accumulate=True)
    with pytest.raises(InvalidInputError, match="no 'accumulate' for 'finetune'"):
        FineTune(batch_size=5, accumulate=True)

"""Data sets and loaders as users have them: read as they say, or refused in words; batch normalisation; bad images."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import gunlearn as gu
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.tasks.items.statistics import recalibrate
from gunlearn.tasks.items.tables import as_table
from tests.methods.cases import same_weights

TASK, NUM = "image_classification", 30


class Images(Dataset):
    """Thirty images of three classes; keeps the numbers of those that were loaded, one list a call of `seen`."""

    def __init__(self, change: Callable[[Tensor], Any] = lambda x: x) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(NUM, 1, 8, 8, generator=generator), torch.arange(NUM) % 3
        self.change, self.read = change, []

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, i: int) -> tuple[Any, int]:
        self.read.append(i)
        return self.change(self.x[i]), int(self.y[i])


def net(norm: bool = False) -> nn.Module:
    torch.manual_seed(7)
    middle = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(nn.Conv2d(1, 4, 3), *middle, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def shapes(model: nn.Module) -> list[int]:
    """The sizes of the batches that a model reads, filled when it is called."""
    found: list[int] = []
    model.register_forward_pre_hook(lambda module, args: found.append(len(args[0])))
    return found


def forget(data: Any, method: str = "npo", request: Any = None, model: nn.Module | None = None, **options: Any) -> Any:
    request = gu.ForgetItems(label=1) if request is None else request
    return gu.unlearn(model or net(), data, request, method, options.pop("task", TASK), **{"epochs": 1, **options})


def test_a_loader_says_how_many_items_a_step_reads() -> None:
    by_loader = forget(DataLoader(Images(), batch_size=8), "graddiff")
    by_option = forget(Images(), "graddiff", batch_size=8)
    assert same_weights(by_loader.model, by_option.model)
    assert len(by_loader.history) == 3  # 20 retained items
    assert not same_weights(by_loader.model, forget(Images(), "graddiff").model)
    assert len(forget(DataLoader(Images(), batch_size=8), "graddiff", batch_size=5).history) == 4  # an option wins
    assert len(gu.train(net(), DataLoader(Images(), batch_size=7, shuffle=True), TASK, epochs=2).history) == 10


@pytest.mark.parametrize(("method", "options"), [("ssd", {"alpha": 1.2, "probes": None}), ("imu", {"batch_size": 5})])
def test_items_that_are_loaded_piece_by_piece_weigh_as_those_at_hand(method: str, options: dict[str, Any]) -> None:
    trained = gu.train(net(), (Images().x, Images().y), TASK, epochs=20, lr=1e-2).model
    more = {**options, **({} if method == "ssd" else {"epochs": 2})}
    request = gu.ForgetItems(label=1)
    whole = gu.unlearn(trained, (Images().x, Images().y), request, method, TASK, **more)
    pieces = gu.unlearn(trained, DataLoader(Images(), batch_size=7), request, method, TASK, **more)
    assert not whole.unchanged
    for one, other in zip(whole.model.parameters(), pieces.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_what_is_left_of_a_loader_is_a_loader() -> None:
    left = forget(DataLoader(Images(), batch_size=8, shuffle=True)).data
    assert (left.batch_size, len(left.dataset), type(left.sampler)) == (8, 20, RandomSampler)
    assert sorted(torch.cat([y for _, y in left]).unique().tolist()) == [0, 2]
    pair = DataLoader(TensorDataset(*(getattr(Images(), name) for name in "xy")), batch_size=8)
    assert isinstance(forget(pair).data.dataset, TensorDataset)


def test_training_functions_get_the_callers_form() -> None:
    seen: list[Any] = []

    def train(data: Any, seed: int) -> nn.Module:
        seen.append(data)
        return gu.train(net(), data, TASK, epochs=1, seed=seed).model

    for given in (Images(), DataLoader(Images(), batch_size=8), (Images().x, Images().y)):
        gu.unlearn(net(), given, gu.ForgetItems(label=1), "retrain", TASK, train=train)
    assert [type(data).__name__ for data in seen] == ["Subset", "DataLoader", "tuple"]


def test_a_collate_function_is_used() -> None:
    def small(items: list[Any]) -> tuple[Tensor, Tensor]:
        return torch.stack([x for x, _ in items]) / 100, torch.tensor([y for _, y in items])

    for data in (Images(), TensorDataset(Images().x, Images().y)):
        ours = forget(DataLoader(data, batch_size=8, collate_fn=small), "graddiff")
        theirs = forget(DataLoader(Images(lambda x: x / 100), batch_size=8), "graddiff")
        assert same_weights(ours.model, theirs.model)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda d: DataLoader(d, batch_sampler=[[0, 1], [2]]), "list"),
        (lambda d: DataLoader(d, sampler=SubsetRandomSampler([1, 2])), "SubsetRandomSampler"),
        (lambda d: DataLoader(d, sampler=WeightedRandomSampler([1.0] * NUM, NUM)), "WeightedRandomSampler"),
        (lambda d: DataLoader(d, sampler=RandomSampler(d, replacement=True)), "RandomSampler"),
        (lambda d: DataLoader(d, sampler=RandomSampler(d, num_samples=5)), "RandomSampler"),
    ],
)
def test_an_order_of_its_own_is_refused(build: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"each item of its data set once in a pass \(got {named}\).*Subset"):
        as_table(build(Images()))


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(())


def test_what_is_no_map_of_items_is_refused() -> None:
    with pytest.raises(InvalidTypeError, match=r"map-style data set.*got Stream"):
        as_table(Stream())
    with pytest.raises(InvalidInputError, match="with items"):
        as_table(TensorDataset(torch.zeros(0), torch.zeros(0), torch.zeros(0)))


def test_a_data_set_that_keeps_its_images_is_read_by_its_items() -> None:
    """`x` and `y` of a data set are what its transform has not seen."""
    changed = forget(Images(lambda x: 2 * x), "graddiff", epochs=2)
    by_hand = forget((2 * Images().x, Images().y), "graddiff", epochs=2)
    assert same_weights(changed.model, by_hand.model)


# A transform that draws ######################################################


def noisy(x: Tensor) -> Tensor:
    return x + torch.randn(())


def test_augmented_images_are_the_same_for_both_models_and_new_at_each_step() -> None:
    data, model = Images(noisy), net()
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    result = forget(data, "npo", model=model, retain_weight=0.0, epochs=4, beta=1.0)
    assert result.history[0]["npo(forget)"] == pytest.approx(2 * np.log(2), rel=1e-4)  # the two agree on any draw
    assert "augmentation" in result.notes["graph"]
    assert "augmentation" not in forget(Images()).notes["graph"]
    state = torch.get_rng_state()
    again = forget(data, "npo", retain_weight=0.0, epochs=4, beta=1.0)
    assert same_weights(result.model, again.model)
    assert torch.equal(state, torch.get_rng_state())


def test_figures_of_augmented_images_are_of_one_draw() -> None:
    result = gu.unlearn(net(), Images(noisy), gu.ForgetItems(label=1), "utu", TASK)
    references = [gu.train(net(), Images(), TASK, epochs=e).model for e in (1, 2)]
    with pytest.warns(UserWarning, match=r"a transform of the data set draws \(augmentation\)") as caught:
        table = gu.evaluate(result, references=references)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="augmentation"):
        assert gu.evaluate(result, references=references)["js_forget"] == table["js_forget"]


# Bad images ##################################################################


def spoiled(x: Tensor) -> Tensor:
    x = x.clone()
    x[5] = torch.nan
    return x


IMAGES = Images()
BAD = {
    "NaN": ((spoiled(IMAGES.x), IMAGES.y), InvalidInputError, "NaN or infinity in 1 of 30, first in row 5"),
    "bytes": ((IMAGES.x.abs().byte(), IMAGES.y), UnsupportedModelError, r"x\.float\(\) / 255 in place of uint8"),
    "channels last": ((IMAGES.x.permute(0, 2, 3, 1), IMAGES.y), UnsupportedModelError, r"x\.permute\(0, 3, 1, 2\)"),
    "a class too many": (
        (IMAGES.x, IMAGES.y + (torch.arange(NUM) == 29)),
        UnsupportedModelError,
        r"from 0 to 2, .* \(got 1 of \d+ above, the largest is 3\)$",
    ),
    "negative": (
        (IMAGES.x, IMAGES.y - 1),
        InvalidInputError,
        r"labels of at least 0.*\(got 10 of 30 below, the smallest is -1\)$",
    ),
    "one hot": ((IMAGES.x, torch.eye(3)[IMAGES.y]), InvalidInputError, "one integer label per item"),
    "no tensor": (Images(lambda x: Image.fromarray(np.zeros((8, 8), np.uint8))), InvalidInputError, r"PIL.*ToTensor"),
    "sizes": (Images(lambda x: x[:, : 7 + int(x[0, 0, 0] > 0)]), InvalidInputError, "tensors of one shape.*resize"),
    "NaN in a set": (Images(lambda x: x * torch.nan), InvalidInputError, r"the first is item \d of Images"),
}


@pytest.mark.parametrize(("data", "error", "match"), BAD.values(), ids=BAD)
def test_bad_images_are_refused_before_work_starts(data: Any, error: type, match: str) -> None:
    model, steps = net(), []
    for method in ("npo", "finetune"):
        with pytest.raises(error, match=match):
            gu.unlearn(model, data, gu.ForgetItems([0]), method, TASK, epochs=1, callbacks=[_Count(steps)])
    with pytest.raises(error, match=match):
        gu.train(model, data, TASK, epochs=1, callbacks=[_Count(steps)])
    assert not steps


class _Count(gu.Callback):
    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.step)


# Batch normalisation #########################################################


def statistics(model: nn.Module) -> Tensor:
    return torch.cat([value for name, value in model.named_buffers() if "running" in name])


@pytest.mark.parametrize(
    "method", ["gradient_ascent", "graddiff", "npo", "scrub", "random_label", "bad_teacher", "imu"]
)
def test_forgotten_items_leave_no_statistics(method: str) -> None:
    """Images to forget far from all others would move the running means."""
    x, y = Images().x.clone(), Images().y
    x[y == 1] += 100
    model = gu.train(net(norm=True), (x, y), TASK, epochs=3).model
    result = forget((x, y), method, model=model)
    assert torch.equal(statistics(result.model), statistics(model))
    assert result.notes["statistics"] == "of batch normalisation: frozen"
    retained = forget((x, y), "finetune", model=model)
    assert not torch.equal(statistics(retained.model), statistics(model))
    assert retained.notes["statistics"] == "of batch normalisation: moved by the retained data that was read"
    assert "statistics" not in forget((x, y), method).notes


def test_recalibrated_statistics_are_those_of_the_retained_items() -> None:
    x, y = Images().x.clone(), Images().y
    x[y == 1] += 100
    model = gu.train(net(norm=True), (x, y), TASK, epochs=3).model
    task = gu.ImageClassification(statistics="recalibrated")
    result = forget((x, y), "npo", model=model, task=task)
    assert result.notes["statistics"] == "recalibrated on 20 retained items"
    before = result.model[0](x[y != 1]).detach()  # what the layer normalises
    torch.testing.assert_close(result.model[1].running_mean, before.mean((0, 2, 3)))
    torch.testing.assert_close(result.model[1].running_var, before.var((0, 2, 3)))
    with pytest.raises(InvalidInputError, match="'statistics' to be one of 'frozen', 'recalibrated'"):
        gu.ImageClassification(statistics="none")


def test_recalibration_leaves_modes_and_momenta() -> None:
    model = net(norm=True).train()
    momentum, weights = model[1].momentum, copy.deepcopy(dict(model.named_parameters()))
    assert recalibrate(model, [model[1]], [torch.randn(4, 1, 8, 8), torch.randn(1, 1, 8, 8)]) == 4
    assert all(module.training for module in model.modules())
    assert model[1].momentum == momentum
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())


@pytest.mark.parametrize(("count", "size"), [(31, 10), (31, 30), (5, 1)])
def test_a_batch_of_one_is_refused_before_work_starts(count: int, size: int) -> None:
    x, y, steps = torch.randn(count, 1, 8, 8), torch.arange(count) % 3, []
    with pytest.raises(
        InvalidInputError, match=rf"batch of 1: {count} 'retain' items in batches of {size}.*batch_size"
    ):
        gu.train(net(norm=True), (x, y), TASK, epochs=1, batch_size=size, callbacks=[_Count(steps)])
    more = torch.cat([x, x[:1]]), torch.cat([y, y[:1]])
    with pytest.raises(InvalidInputError, match="batch of 1"):
        forget(more, "finetune", gu.ForgetItems([0]), net(norm=True), batch_size=size, callbacks=[_Count(steps)])
    assert not steps
    forget(more, "npo", gu.ForgetItems([0]), net(norm=True), batch_size=size)  # frozen: one item will do
    gu.train(net(), (x, y), TASK, epochs=1, batch_size=size)  # nothing to normalise


# One table of several data sets ##############################################


def test_held_out_data_sets() -> None:
    data = gu.item_table(train=Images(), val=TensorDataset(IMAGES.x[:6], IMAGES.y[:6]), test=Images(), batch_size=10)
    assert [int(data[name].sum()) for name in ("train_mask", "val_mask", "test_mask")] == [30, 6, 30]
    result = forget(data, "graddiff", epochs=2)
    assert result.num_forget == 10
    assert len(result.history) == 4
    table = gu.evaluate(result)
    with torch.no_grad():
        right = (result.model(IMAGES.x).argmax(1) == IMAGES.y).double().mean()
    assert table["test_acc"] == pytest.approx(float(right))
    base = gu.train(net(), data, TASK, epochs=2, eval_every=1)
    with torch.no_grad():  # the loss on the six validation images chose the epoch
        assert base.notes["best_val_loss"] == pytest.approx(
            float(cross_entropy(base.model(IMAGES.x[:6]), IMAGES.y[:6]))
        )
    with pytest.raises(InvalidTypeError, match="map-style data set for 'test'"):
        gu.item_table(Images(), test=DataLoader(Images()))


def test_validation_images_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gunlearn.tasks.items.array_parts.ROWS_READ", 7)
    data = gu.item_table(train=Images(), val=Images(), batch_size=10)
    model = net()
    sizes = shapes(model)
    task = gu.ImageClassification()
    whole = -cross_entropy(model(IMAGES.x), IMAGES.y)
    sizes.clear()
    found = task.predict(model, data, task.validation_items(data)).log_prob
    assert sizes == [7, 7, 7, 7, 2]
    assert float(found.mean()) == pytest.approx(float(whole), rel=1e-5)


class Records(Images):
    """Items with names, as of Hugging Face's data sets."""

    def __getitem__(self, i: int) -> Any:
        return {"image": self.x[i], "label": int(self.y[i])}


@pytest.mark.parametrize("request_", [gu.ForgetItems([0]), gu.ForgetItems(label=1)])
def test_items_that_are_dicts_are_refused_in_words(request_: Any) -> None:
    with pytest.raises(
        InvalidInputError, match=r"pairs of an input and a label \(got a dict with keys 'image', 'label'"
    ):
        forget(Records(), request=request_)


def test_one_reference_stands_for_a_list_of_one() -> None:
    result = forget((Images().x, Images().y))
    other = net()
    torch.nn.init.normal_(next(other.parameters()))
    assert gu.evaluate(result, references=other)["js_forget"] == gu.evaluate(result, references=[other])["js_forget"]

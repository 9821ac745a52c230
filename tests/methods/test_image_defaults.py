"""What methods do on images where nobody says how long or in what batches, and what is refused in words."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

import gunlearn as gu
from gunlearn.errors import ChangedDataError, InvalidInputError, UnsupportedMethodError
from gunlearn.methods import PUBLISHED, Scrub, build_method
from gunlearn.tasks.items.columns import known_labels
from tests.methods.cases import fresh_model, make_data, same_weights
from tests.tasks.test_item_tables import Images, forget, net, statistics

TASK = gu.ImageClassification()
QUICK = ["finetune", "gradient_ascent", "graddiff", "npo", "scrub", "imu"]


def images(count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 8, 8, generator=draw), torch.arange(count) % 3


@pytest.mark.filterwarnings("ignore:.*fewer than 8:UserWarning")
@pytest.mark.parametrize("method", QUICK)
def test_a_run_has_as_many_steps_in_batches_as_over_all_items(method: str) -> None:
    """The default in steps; the control: a default in passes took as many passes of 10 batches."""
    steps = PUBLISHED["image_classification"][method].options["steps"]
    for batch_size in (None, 20):
        result = gu.unlearn(net(), images(300), gu.ForgetItems(label=1), method, TASK, batch_size=batch_size)
        assert len(result.history) == steps
    passes = gu.unlearn(net(), images(300), gu.ForgetItems(label=1), method, TASK, batch_size=20, epochs=1)
    read = 100 if method in ("gradient_ascent", "imu") else 200  # forgotten ones alone, or the retained ones
    assert len(passes.history) == read // 20


def test_a_mode_keeps_its_own_settings() -> None:
    assert build_method("scrub", {}, TASK).steps == 100
    assert build_method("scrub", {"mode": "default"}, TASK).steps == 100
    for method in (build_method("scrub:small", {}, TASK), build_method("scrub", {"mode": "small"}, TASK)):
        assert (method.steps, method.epochs, method.batch_size) == (None, 10, 32)
    assert build_method("l1_sparse:paper", {}, TASK).lr == 1e-2
    assert build_method("graddiff", {"lr": 0.5}, TASK).lr == 0.5


@pytest.mark.parametrize("count", [4000, 4200])
def test_more_than_4096_images_are_read_in_batches(count: int) -> None:
    result = gu.unlearn(net(), images(count), gu.ForgetItems(range(50)), "finetune", TASK, epochs=1)
    assert len(result.history) == (1 if count <= 4096 else -(-(count - 50) // 128))


def test_ssd_reads_tensors_in_batches_and_gives_the_same_importances() -> None:
    whole, pieces = (
        gu.unlearn(net(), images(30), gu.ForgetItems(label=1), "ssd", TASK, alpha=1.2, probes=None, batch_size=n)
        for n in (None, 4)
    )
    for a, b in zip(whole.model.parameters(), pieces.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not same_weights(whole.model, net())


REFUSED: dict[str, tuple[Any, type, str]] = {
    "ssd on a graph": (lambda: gu.unlearn(fresh_model("gcn"), make_data(), gu.ForgetEdges(count=3), "ssd",
                                          "link_prediction", batch_size=4), UnsupportedMethodError, "'batch_size'"),
    "no batch": (lambda: build_method("scrub:small", {"batch_size": None}, TASK), InvalidInputError, "its mode has 32"),
    "no forget batch": (lambda: build_method("scrub:mia", {"forget_batch_size": None}, TASK), InvalidInputError,
                        "its mode has 16"),
    "all at each step": (lambda: Scrub(mode="small", accumulate=True), InvalidInputError, "'accumulate'"),
    "all at each step of some": (lambda: Scrub(accumulate=True, batch_size=8, forget_batch_size=4), InvalidInputError,
                                 "'forget_batch_size'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_options_are_honoured_or_refused(name: str) -> None:
    run, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        run()


@pytest.mark.filterwarnings("ignore:.*fewer than 8:UserWarning")
@pytest.mark.parametrize("method", ["scrub", "npo"])
def test_a_batch_of_one_runs_where_statistics_are_frozen_and_is_refused_where_they_move(method: str) -> None:
    model = net(norm=True)
    result = forget(images(30), method, gu.ForgetItems([4]), model, batch_size=1)
    assert torch.equal(statistics(result.model), statistics(model))
    assert result.notes["statistics"] == "of batch normalisation: frozen"
    for refused in ("finetune", "l1_sparse"):
        with pytest.raises(InvalidInputError, match="at least 2 items for batch normalisation"):
            forget(images(30), refused, gu.ForgetItems([4]), model, batch_size=1)


@pytest.mark.parametrize("method", ["ssd", "gif"])
def test_methods_without_steps_say_what_became_of_statistics(method: str) -> None:
    model = gu.train(net(norm=True), images(60), TASK, epochs=30).model
    result = gu.unlearn(model, images(60), gu.ForgetItems([4, 7]), method, TASK)
    assert result.notes["statistics"] == "of batch normalisation: frozen"
    assert torch.equal(statistics(result.model), statistics(model))


class Kept(Dataset):
    """Keeps its images, and labels of 300 classes beside them; a transform may change the label of one."""

    def __init__(self, wrong: int | None = None) -> None:
        self.images, self.targets, self.wrong = torch.randn(600, 1, 8, 8), [i % 300 for i in range(600)], wrong

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        label = self.targets[i]
        return self.images[i], 0 if label == self.wrong else label


def test_labels_of_all_classes_are_compared_with_items() -> None:
    """Of 100 classes each is; the 40th was not, of which 32 were. The control: labels that no item contradicts."""
    few = Subset(Kept(), range(100))
    assert torch.equal(known_labels(few), torch.arange(100))  # type: ignore[arg-type]
    for label in (33, 40, 99):
        assert known_labels(Subset(Kept(label), range(100))) is None
    assert known_labels(Kept(299)) is None  # the last of 300


EDITS: dict[str, Any] = {
    "tensors": lambda data: data.tensors[0].mul_(2),
    "images": lambda data: data.images.mul_(2),
    "targets": lambda data: data.targets.__setitem__(5, 7),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_data_set_that_was_edited_after_unlearning_is_refused(edit: str) -> None:
    data: Any = TensorDataset(*images(30), torch.arange(30)) if edit == "tensors" else Kept()
    if edit == "tensors":
        data = _Pairs(data)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 300))
    result = gu.unlearn(model, data, gu.ForgetItems([1, 2]), "finetune", TASK, steps=1)
    gu.evaluate(result)
    EDITS[edit](data.inner if edit == "tensors" else data)
    with pytest.raises(ChangedDataError, match=rf"data\.[xy]\.dataset\S*{edit}"):
        gu.evaluate(result)


class _Pairs(Dataset):
    """The first two entries of a data set of triples."""

    def __init__(self, inner: TensorDataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.inner[i][:2]


def test_a_loaded_result_names_the_task_of_images(tmp_path: Any) -> None:
    saved = forget(Images(), "finetune").save(tmp_path)
    with pytest.raises(InvalidInputError, match="as_task\\('image_classification'\\)"):
        gu.evaluate(gu.Result.load(saved, net()))

"""UCE and MACE's refinement: the least squares, the columns of a text encoder, and what they do to a pipeline."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import gunlearn as gu
from experiments.digits_diffusion.text_pipeline import (
    CAPTIONS,
    WORDS,
    accuracy,
    denoising,
    embeddings,
    new_pipeline,
    trained_pipeline,
)
from gunlearn.diffusion import text_columns
from gunlearn.diffusion.methods.closed_form import edited_map
from gunlearn.diffusion.methods.uce import conditions, cross_attention_maps
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.methods import Problem

DOUBLE = {"dtype": torch.float64}


def draws(*shapes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, **DOUBLE) for shape in shapes]


# The least squares


@pytest.mark.parametrize("weights", [(0.5, 1.0, 1.0), (1e-3, 2.0, 0.1), (3.0, 0.2, 5.0)])
def test_the_gradient_of_the_stated_loss_vanishes(weights: tuple[float, float, float]) -> None:
    ridge, erase, keep = weights
    w0, c, v, p = draws((5, 9), (4, 9), (4, 5), (6, 9))
    found = edited_map(w0, c, v, p, ridge=ridge, erase_weight=erase, preserve_weight=keep).requires_grad_()
    loss = erase * (c @ found.t() - v).square().sum() + keep * (p @ found.t() - p @ w0.t()).square().sum()
    (loss + ridge * (found - w0).square().sum()).backward()
    assert found.grad.abs().max() < 1e-10


def test_equal_to_lstsq_of_the_stacked_problem() -> None:
    w0, c, v, p = draws((5, 9), (4, 9), (4, 5), (6, 9))
    rows = torch.cat([c, 0.3**0.5 * p, 0.7**0.5 * torch.eye(9, **DOUBLE)])
    aims = torch.cat([v, 0.3**0.5 * p @ w0.t(), 0.7**0.5 * w0.t()])
    expected = torch.linalg.lstsq(rows, aims).solution.t()
    assert torch.allclose(edited_map(w0, c, v, p, ridge=0.7, preserve_weight=0.3), expected, atol=1e-12)


def test_limits_of_its_terms() -> None:
    w0, c, v, p = draws((5, 9), (3, 9), (3, 5), (4, 9))
    assert torch.allclose(c @ edited_map(w0, c, v, ridge=0.0).t(), v, atol=1e-10)
    near = edited_map(w0, c, v, p, ridge=1e-9, preserve_weight=1e-9)
    assert torch.allclose(c @ near.t(), v, atol=1e-6)
    apart = p - p @ torch.linalg.pinv(c) @ c  # orthogonal to all c_i
    found = edited_map(w0, c, v, ridge=0.5)
    assert torch.allclose(apart @ found.t(), apart @ w0.t(), atol=1e-10)
    assert not torch.allclose(p @ found.t(), p @ w0.t(), atol=1e-2)  # control
    assert torch.equal(edited_map(w0, c, c @ w0.t(), p), w0)  # nothing asked, nothing done
    assert edited_map(w0.float(), c.float(), v.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": torch.zeros(3, 8)}, r"inputs \[count, d_in\]"),
        ({"values": torch.zeros(2, 5)}, r"values \(3, 5\)"),
        ({"inputs": torch.full((3, 9), float("nan"))}, "finite 'inputs'"),
        ({"ridge": -1.0}, "'ridge'"),
        ({"erase_weight": 0.0}, "'erase_weight'"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], words: str) -> None:
    given = {"weight": torch.zeros(5, 9), "inputs": torch.zeros(3, 9), "values": torch.zeros(3, 5), **change}
    with pytest.raises(InvalidInputError, match=words):
        edited_map(**given)


# The columns


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return new_pipeline()


def test_columns_are_the_embeddings_at_their_positions(pipeline: Any) -> None:
    # The start is position 0 and the same in all prompts.
    three, four, empty = embeddings(pipeline, ["a three", "a four", ""])
    found = text_columns(pipeline, ["three"], "four", positions="all", templates=("a {}",))
    assert torch.equal(found.concepts, three[2:])
    assert torch.equal(found.anchors, four[2:])
    found = text_columns(pipeline, ["three"], positions="all", templates=("a {}",))
    assert torch.equal(found.anchors, empty[1:])
    found = text_columns(pipeline, ["three"], "four", ["red"], positions="last", templates=("{}",))
    found = torch.cat([found.concepts, found.anchors, found.preserve])
    assert torch.equal(found, embeddings(pipeline, ["three", "four", "red"])[:, 1])
    found = text_columns(pipeline, ["three"], "four", ["red"], templates=("{}",))
    kept = torch.cat([embeddings(pipeline, ["red"])[0], three[:1]]).unique(dim=0)  # the start, which both share
    assert torch.equal(found.preserve, kept)
    blue, other = embeddings(pipeline, ["three blue", "four four blue"])
    found = text_columns(pipeline, ["three"], "four four", positions="others", templates=("{} blue",))
    assert torch.equal(found.concepts, blue[2:7])  # "blue", the end, padding; one position less than behind the anchor
    assert torch.equal(found.anchors, other[3:8])


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"concepts": []}, InvalidInputError, "at least one concept"),
        ({"concepts": [""]}, InvalidInputError, r"reads as at least one token \(got ''"),
        ({"concepts": ["☃"]}, InvalidInputError, r"reads as at least one token \(got '☃'"),
        ({"concepts": ["three " * 9]}, InvalidInputError, "at most 6 tokens"),
        ({"concepts": ["three"], "anchors": " three "}, InvalidInputError, "another anchor"),
        ({"concepts": ["three"], "anchors": {"four": ""}}, InvalidInputError, "an anchor for each of"),
        ({"concepts": ["three"], "preserve": ["THREE"]}, InvalidInputError, "'THREE' in both"),
        ({"concepts": ["three"], "templates": ["a digit"]}, InvalidInputError, "templates with one {}"),
        ({"concepts": ["three"], "positions": "first"}, InvalidInputError, "'positions'"),
        ({"concepts": [3]}, InvalidTypeError, "as texts"),
    ],
)
def test_texts_that_say_nothing_are_refused(
    pipeline: Any, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        text_columns(pipeline, **given)


def test_a_pipeline_without_text_is_refused() -> None:
    with pytest.raises(InvalidTypeError, match="conditioned on classes has no text"):
        text_columns(object(), ["three"])


# The method


def unlearned(pipeline: Any, word: str = "three", method: str = "uce", **options: Any) -> gu.Result:
    y = embeddings(pipeline, [word, *(w for w in WORDS if w != word)])
    data = torch.zeros(len(y), 1, 8, 8), y
    return gu.unlearn(pipeline.unet, data, gu.ForgetItems([0]), method, denoising(pipeline), **options)


def test_a_request_gives_its_conditions_and_the_other_weights_stay(pipeline: Any) -> None:
    result = unlearned(pipeline, ridge=1e-6)
    before, after = pipeline.unet.state_dict(), result.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"{name}.weight" for name in cross_attention_maps(pipeline.unet)}
    columns = text_columns(pipeline, ["three"], "", [w for w in WORDS if w != "three"], templates=("{}",))
    by_hand = edited_map(
        pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight, columns.concepts,
        columns.anchors @ before["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].t(),
        columns.preserve, ridge=1e-6,
    )  # fmt: skip
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert torch.allclose(after[name], by_hand, atol=1e-3)
    assert result.notes["maps"] == len(moved)
    assert 0 <= result.notes["left"] < 1


def test_the_condition_of_the_last_forgotten_item_counts(pipeline: Any) -> None:
    """However many there are."""
    three, four, rest = (embeddings(pipeline, words) for words in (["three"], ["four"], ["five"]))
    y = torch.cat([three.expand(5000, -1, -1), four, rest])
    data, gone = torch.zeros(len(y), 1, 1, 1), torch.arange(len(y)) < len(y) - 1
    part = gu.ForgetItems(mask=gone).resolve(denoising(pipeline).check_data((data, y)))
    found = conditions(Problem(pipeline.unet, pipeline.unet, part, denoising(pipeline)))
    assert all((found.concepts == column).all(1).any() for column in four[0][1:2])


def test_without_other_terms_the_prompt_is_the_anchors_to_the_model(pipeline: Any) -> None:
    columns = text_columns(pipeline, ["three"], "four", templates=("a {}",))
    edited = unlearned(pipeline, columns=columns, ridge=0.0).model
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([20, 120])
    three, four = (embeddings(pipeline, [prompt]).expand(2, -1, -1) for prompt in ("a three", "a four"))
    with torch.no_grad():
        as_four = pipeline.unet(x, t, four).sample
        assert torch.allclose(edited(x, t, three).sample, as_four, atol=1e-4)
        assert not torch.allclose(pipeline.unet(x, t, three).sample, as_four, atol=1e-3)  # control


def test_paper_mode_is_the_authors_formula(pipeline: Any) -> None:
    words, ridge, kept = ["three", "four"], 0.5, ["red", "blue"]
    columns = text_columns(pipeline, words, "digit", kept, "last", ("{}",))
    edited = unlearned(pipeline, method="uce:paper", columns=columns).model
    last = embeddings(pipeline, [*words, *kept, "digit"])[:, 1].double()
    for name, layer in cross_attention_maps(pipeline.unet).items():
        w = layer.weight.detach().double()
        one, two = ridge * w, ridge * torch.eye(w.size(1), **DOUBLE)
        for source, aim in [(last[0], last[4]), (last[1], last[4]), (last[2], last[2]), (last[3], last[3])]:
            one, two = one + torch.outer(w @ aim, source), two + torch.outer(source, source)
        found = cross_attention_maps(edited)[name].weight.double()
        assert torch.allclose(found, one @ torch.linalg.inv(two), atol=1e-5)


def test_several_concepts_at_once(pipeline: Any) -> None:
    columns = text_columns(pipeline, ["three", "four"], {"three": "five", "four": "six"}, templates=("{}",))
    edited = unlearned(pipeline, columns=columns, ridge=0.0).model
    for name, layer in cross_attention_maps(pipeline.unet).items():
        new = cross_attention_maps(edited)[name]
        assert torch.allclose(new(columns.concepts), layer(columns.anchors), atol=1e-4)


def test_what_cannot_be_edited_is_refused(pipeline: Any) -> None:
    from diffusers import UNet2DModel
    from peft import LoraConfig

    with pytest.raises(UnsupportedMethodError, match="Expected 'columns' for 'mace_refinement'"):
        unlearned(pipeline, method="mace_refinement")
    adapted = new_pipeline()
    adapted.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    with pytest.raises(UnsupportedModelError, match="unload adapters"):
        unlearned(adapted)
    small = UNet2DModel(
        8, 1, 1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, add_attention=False,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, num_class_embeds=11,
    )  # fmt: skip
    data, task = (torch.zeros(4, 1, 8, 8), torch.arange(4)), gu.diffusion.Denoising(pipeline.scheduler, null=10)
    with pytest.raises(InvalidInputError, match="conditions that are embeddings"):
        gu.unlearn(small, data, gu.ForgetItems([0]), "uce", task)
    columns = text_columns(pipeline, ["three"])
    with pytest.raises(UnsupportedMethodError, match="with anchors or positions of texts"):
        unlearned(pipeline, anchors="four")
    with pytest.raises(UnsupportedModelError, match="denoiser with cross-attention"):
        gu.unlearn(small, data, gu.ForgetItems([0]), "uce", task, columns=columns)


@pytest.mark.slow  # trains the pipeline, for about a minute
def test_a_word_is_erased_and_the_others_are_drawn_as_before() -> None:
    pipeline = trained_pipeline()
    before = accuracy(pipeline, per_word=16)
    assert before.mean() > 0.95
    columns = text_columns(pipeline, ["three"], "eight", [w for w in WORDS if w != "three"], templates=CAPTIONS)
    edited = copy.copy(pipeline)
    edited.unet = unlearned(pipeline, columns=columns).model
    after = accuracy(edited, per_word=16)
    assert before[3] > 0.95
    assert after[3] < 0.1
    others = [k for k in range(10) if k != 3]
    assert abs(float((after - before)[others].mean())) <= 0.02

"""From a pipeline and names of concepts to a pipeline that forgot them: saved, loaded by plain diffusers, undone."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DModel,
)
from diffusers.training_utils import EMAModel
from peft import LoraConfig, PeftModel

import gunlearn.diffusion
from gunlearn.core.atomic import file_checksum
from gunlearn.diffusion import ClassConditionalPipeline, add_adapter, lora_config, unlearn, without_adapter
from gunlearn.diffusion.denoiser_adapters import adapter_parameters
from gunlearn.diffusion.pipelines import parts_of
from gunlearn.errors import GunlearnError, InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from tests.diffusion.tiny_pipelines import (
    CLASS_SCHEDULE,
    SMALL,
    class_denoiser,
    class_pipeline,
    pictures,
    text_pipeline,
    untrained_pipeline,
)

QUICK: dict[str, Any] = {"steps": 2, "num_images": 4, "sampling_steps": 2, "figure_images": 2}
ESD: dict[str, Any] = {**QUICK, "trajectories": 4, "lr": 1e-2}
pytestmark = pytest.mark.filterwarnings("ignore:no measurable effect", "ignore:.*collapsed")


def of_classes() -> ClassConditionalPipeline:
    return class_pipeline(class_denoiser(), DDIMScheduler(**CLASS_SCHEDULE), null=4)


def test_an_adapter_is_loaded_by_plain_diffusers_bit_for_bit_and_taken_off_again(tmp_path: Path) -> None:
    pipeline = text_pipeline()
    before = pictures(pipeline, "a photo of cat", "dog")
    result = unlearn(pipeline, ["cat"], "esd:x", **{**ESD, "lr": 0.1, "steps": 4})
    assert torch.equal(pictures(pipeline, "a photo of cat", "dog"), before)  # the caller's own is as it was
    after = pictures(result.pipeline, "a photo of cat", "dog")
    assert not torch.equal(after, before)
    result.save(tmp_path / "forgot")
    base = tmp_path / "base"
    pipeline.save_pretrained(base)
    loaded = StableDiffusionPipeline.from_pretrained(base)
    loaded.load_lora_weights(tmp_path / "forgot")
    assert torch.equal(pictures(loaded, "a photo of cat", "dog"), after)
    loaded.unload_lora_weights()
    assert torch.equal(pictures(loaded, "a photo of cat", "dog"), before)
    assert all("attn2" in name for name, p in result.model.named_parameters() if "lora_" in name)
    record = json.loads((tmp_path / "forgot" / "unlearning.json").read_text())
    assert record["files"] == {
        name: file_checksum(tmp_path / "forgot" / name) for name in ("pytorch_lora_weights.safetensors",)
    }
    assert record["settings"]["concepts"] == ["cat"]
    assert "load_lora_weights" in (tmp_path / "forgot" / "README.md").read_text()
    with pytest.raises(InvalidInputError, match="folder without a model"):
        result.save(tmp_path / "forgot")
    whole = result.merged()
    assert torch.allclose(pictures(whole.pipeline, "a photo of cat", "dog"), after, atol=1e-4)
    result.save(tmp_path / "whole", merge=True)
    again = DiffusionPipeline.from_pretrained(tmp_path / "whole")
    assert torch.equal(pictures(again, "dog"), pictures(whole.pipeline, "dog"))


def test_the_scale_of_an_adapter_of_the_callers_is_saved(tmp_path: Path) -> None:
    pipeline = text_pipeline()
    own = LoraConfig(r=2, lora_alpha=16, target_modules=["to_k", "to_v"])
    result = unlearn(pipeline, ["cat"], "esd", peft=own, **{**ESD, "lr": 0.1})
    result.save(tmp_path / "forgot")
    pipeline.load_lora_weights(tmp_path / "forgot")
    assert torch.equal(pictures(pipeline, "cat"), pictures(result.pipeline, "cat"))


@pytest.mark.parametrize("peft", ["auto", None])
def test_a_pipeline_with_an_adapter_is_refused_until_it_is_merged(tmp_path: Path, peft: str | None) -> None:
    """The control is the same pipeline once the advice was followed, which passes and is loaded again."""
    pipeline = text_pipeline()
    unlearn(pipeline, ["cat"], "esd:x", **{**ESD, "lr": 0.1}).save(tmp_path / "cat")
    pipeline.load_lora_weights(tmp_path / "cat")
    with pytest.raises(UnsupportedModelError, match=r"'unet'.*fuse_lora\(\) and then pipeline.unload_lora_weights"):
        unlearn(pipeline, ["dog"], "esd", peft=peft, **ESD)
    pipeline.fuse_lora()
    with pytest.raises(UnsupportedModelError, match="unload_lora_weights"):
        unlearn(pipeline, ["dog"], "esd", peft=peft, **ESD)
    pipeline.unload_lora_weights()
    result = unlearn(pipeline, ["dog"], "esd", peft=peft, **ESD)
    result.save(tmp_path / "whole", merge=peft is not None)
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "whole")
    drawn = pictures(result.merged().pipeline if peft else result.pipeline, "cat", "dog")
    assert torch.equal(pictures(loaded, "cat", "dog"), drawn)


def test_two_concepts_by_two_calls(tmp_path: Path) -> None:
    """As the guide says; the control is the pipeline before, which the second adapter does not belong on."""
    pipeline = text_pipeline()
    pipeline.save_pretrained(tmp_path / "base")
    first = unlearn(str(tmp_path / "base"), ["cat"], "esd:x", **{**ESD, "lr": 0.1})
    first.save(tmp_path / "first", merge=True)
    second = unlearn(str(tmp_path / "first"), ["dog"], "esd:x", **{**ESD, "lr": 0.1})
    second.save(tmp_path / "second")
    assert second.settings["base"] == str(tmp_path / "first")
    found = []
    for folder in ("first", "base"):
        loaded = DiffusionPipeline.from_pretrained(tmp_path / folder)
        loaded.load_lora_weights(tmp_path / "second")
        found.append(pictures(loaded, "cat", "dog"))
    drawn = pictures(second.pipeline, "cat", "dog")
    assert torch.equal(found[0], drawn)
    assert not torch.allclose(found[1], drawn, atol=1e-4)
    assert unlearn(first.merged().pipeline, ["dog"], "esd:x", **ESD).settings["base"] == ""


@pytest.mark.parametrize("peft", ["lora", None])
def test_a_pipeline_of_classes_is_saved_and_loaded(tmp_path: Path, peft: str | None) -> None:
    pipeline = of_classes()
    before = pictures(pipeline, 1, 2)
    pipeline.save_pretrained(tmp_path / "base")
    result = unlearn(pipeline, [1], "npo", peft=peft, beta=50.0, lr=0.05, **QUICK)
    after = pictures(result.pipeline, 1, 2)
    assert not torch.equal(after, before)
    result.save(tmp_path / "forgot")
    if peft is None:
        loaded: Any = ClassConditionalPipeline.from_pretrained(tmp_path / "forgot")
        alone = UNet2DModel.from_pretrained(tmp_path / "forgot", subfolder="unet").state_dict()
        assert all(torch.equal(value, alone[name]) for name, value in result.model.state_dict().items())
    else:
        loaded = ClassConditionalPipeline.from_pretrained(tmp_path / "base")
        adapted = PeftModel.from_pretrained(loaded.unet, tmp_path / "forgot")
    assert loaded.config.null_class == 4
    assert torch.equal(pictures(loaded, 1, 2), after)
    if peft is not None:
        loaded.unet = adapted.unload()
        assert torch.equal(pictures(loaded, 1, 2), before)


@pytest.mark.parametrize("kind", ["classes", "texts"])
def test_the_reference_is_the_model_with_its_adapter_off(kind: str) -> None:
    model = class_denoiser() if kind == "classes" else untrained_pipeline().unet
    given = {
        "classes": {"class_labels": torch.tensor([1, 2])},
        "texts": {"encoder_hidden_states": torch.ones(2, 3, 16)},
    }
    call = given[kind]
    x, t = torch.randn(2, model.config.in_channels, 8, 8), torch.tensor([3, 7])
    model.eval()
    with torch.no_grad():
        before = model(x, t, **call).sample
    adapted = add_adapter(model, lora_config(2)).eval()
    learns = [p.requires_grad for p in adapted.parameters()]
    assert sum(learns) == len(adapter_parameters(adapted)) > 0
    with torch.no_grad():
        assert torch.equal(adapted(x, t, **call).sample, before)  # a new adapter changes nothing
        for parameter in adapter_parameters(adapted):
            parameter.normal_()
        assert not torch.allclose(adapted(x, t, **call).sample, before)
    adapted.train()
    with without_adapter(adapted) as reference:
        torch.testing.assert_close(reference(x, t, **call).sample, before, atol=1e-6, rtol=0)
    assert [p.requires_grad for p in adapted.parameters()] == learns
    assert adapted.training
    with pytest.raises(UnsupportedModelError, match="without an adapter"):
        add_adapter(adapted, lora_config())


def test_concepts_one_after_the_other_or_together_and_what_comes_back() -> None:
    pipeline = text_pipeline()
    turns = unlearn(pipeline, ["cat", "dog"], "npo", preserve=["bird"], peft=None, beta=1.0, **QUICK)
    assert turns.settings["turns"] == [["cat"], ["dog"]]
    assert len(turns.results) == len(turns.after) == 2
    assert len({result.request_hash for result in turns.results}) == 2
    rise = turns.after[0]["cat"] - turns.before["cat"]
    back = turns.after[0]["cat"] - turns.after[1]["cat"]
    assert turns.rebound() == pytest.approx({"cat": back / rise if rise > 0 else None})
    assert [row[:2] for row in turns.table()[1]] == [["cat", "forget"], ["dog", "forget"], ["bird", "retain"]]
    once = unlearn(pipeline, ["cat", "dog"], "npo", preserve=["bird"], peft=None, beta=1.0, order="together", **QUICK)
    assert (len(once.results), once.results[0].num_forget, once.rebound()) == (1, 8, {})


def test_images_of_the_callers_and_moving_averages() -> None:
    pipeline = of_classes()
    x, y = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    ema = EMAModel(class_denoiser(steps=60).parameters())
    result = unlearn(pipeline, [1], "random_label", data=(x, y), ema=ema, peft=None, lr=1e-9, **QUICK)
    assert (result.results[0].num_forget, result.settings["retained"]) == (4, "12 images of yours")
    averaged = result.results[0].original.state_dict()
    assert all(torch.equal(value, averaged[name]) for name, value in class_denoiser(steps=60).state_dict().items())
    assert "EMA" in result.settings["weights"] in result.card()
    text = text_pipeline()
    prompts = ["cat", "dog"] * 3
    seen = unlearn(text, ["cat"], "graddiff", data=(torch.rand(6, 1, 8, 8) * 2 - 1, prompts), peft=None, **QUICK)
    assert (seen.results[0].num_forget, tuple(seen.results[0].partition.data.x.shape)) == (3, (6, 2, 8, 8))


def no_text_encoder() -> Any:
    pipeline = text_pipeline()
    pipeline.text_encoder = None
    return pipeline


def with_scheduler(scheduler: Any) -> Any:
    pipeline = copy.copy(of_classes())
    pipeline.scheduler = scheduler
    return pipeline


IMAGES = torch.zeros(3, 1, 8, 8)
UNCONDITIONAL = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no folder": (lambda: "/nowhere", {}, "model_index.json"),
    "no pipeline": (lambda: 3, {}, "DiffusionPipeline"),
    "no text encoder": (no_text_encoder, {}, "'text_encoder'"),
    "no conditions": (
        lambda: DDPMPipeline(UNet2DModel(**SMALL, in_channels=1, out_channels=1, **UNCONDITIONAL), DDIMScheduler()),
        {"concepts": [1]}, "texts or classes",
    ),
    "flow matching": (lambda: with_scheduler(FlowMatchEulerDiscreteScheduler()), {"concepts": [1]}, "alphas_cumprod"),
    "prediction types": (
        lambda: with_scheduler(DDIMScheduler(**CLASS_SCHEDULE, prediction_type="v_prediction")),
        {"concepts": [1]}, "predicts 'v_prediction'",
    ),
    "unknown words": (text_pipeline, {"concepts": ["quokka"]}, "at least one token that the tokenizer knows"),
    "no words": (text_pipeline, {"concepts": [" "]}, "at least one token"),
    "too long": (text_pipeline, {"concepts": ["cat " * 20]}, "at most 8 tokens"),
    "no concept": (text_pipeline, {"concepts": []}, "at least one text"),
    "one word": (text_pipeline, {"concepts": "cat"}, "as a list"),
    "twice": (text_pipeline, {"concepts": ["cat", "cat"]}, "different concepts"),
    "both": (text_pipeline, {"preserve": ["cat"]}, "not forgotten"),
    "both, beside others": (text_pipeline, {"concepts": ["cat", "dog"], "preserve": ["dog"]}, "not forgotten"),
    "both classes": (of_classes, {"concepts": [1], "preserve": [0, 1]}, "not forgotten"),
    "a number for a text": (text_pipeline, {"concepts": [3]}, "texts as concepts"),
    "bytes": (text_pipeline, {"concepts": [b"cat"]}, "texts or classes"),
    "bytes as images": (of_classes, {"concepts": [1], "data": (IMAGES + 254.0, [0, 1, 2])}, "values up to 254"),
    "nothing to keep": (text_pipeline, {"method": "graddiff"}, "'preserve'"),
    "no such class": (of_classes, {"concepts": [4]}, "from 0 to 3"),
    "no such name": (of_classes, {"concepts": ["cat"]}, "from 0 to 3"),
    "NaN images": (of_classes, {"concepts": [1], "data": (IMAGES / 0, torch.tensor([0, 1, 2]))}, "finite images"),
    "no labels": (of_classes, {"concepts": [1], "data": (IMAGES, [0, None, 2])}, "a concept for every image"),
    "not its images": (of_classes, {"concepts": [1], "data": (IMAGES, [0, 2, 3]), "method": "npo"}, "images of every"),
    "no group": (of_classes, {"concepts": [1], "method": "esd:x", "peft": None}, "without cross-attention"),
    "no adapter": (of_classes, {"concepts": [1], "method": "esd:x"}, "layers for an adapter"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_pipelines_concepts_and_images_are_refused(name: str) -> None:
    make, more, said = BAD[name]
    with pytest.raises(GunlearnError, match=said):
        unlearn(make(), **{"concepts": ["cat"], **QUICK, **more})


def test_classes_to_keep_are_named() -> None:
    result = unlearn(of_classes(), [1], "npo", preserve=[0, 2], **QUICK)
    assert result.settings["preserve"] == ["0", "2"]


def test_a_text_has_the_same_bits_alone_and_beside_others() -> None:
    parts = parts_of(text_pipeline())
    together = parts.encode(["cat", "dog"])
    assert all(torch.equal(parts.encode([text])[0], row) for text, row in zip(["cat", "dog"], together, strict=True))


def test_a_mask_is_of_the_models_own_weights() -> None:
    assert unlearn(of_classes(), [1], "salun", **QUICK).settings["peft"] is None
    with pytest.raises(UnsupportedMethodError, match="would never learn"):
        unlearn(of_classes(), [1], "salun", peft="lora", **QUICK)


def test_the_seed_alone_says_what_an_adapter_learns() -> None:
    """The control is another seed."""
    found = []
    for state, seed in ((1, 0), (2, 0), (1, 3)):
        torch.manual_seed(state)
        found.append(unlearn(of_classes(), [1], "npo", seed=seed, **{**QUICK, "figure_images": 0}).model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert not all(torch.equal(value, found[2][name]) for name, value in found[0].items())


def test_an_adapter_needs_training() -> None:
    with pytest.raises(UnsupportedMethodError, match="peft=None"):
        unlearn(of_classes(), [1], "ssd", peft="lora")


def test_all_public_names_are_there() -> None:
    assert all(getattr(gunlearn.diffusion, name) is not None for name in gunlearn.diffusion.__all__)

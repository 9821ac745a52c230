"""What a pipeline is given and what its record says: checks, images of the losses, cards."""

import copy
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import gunlearn as gu
from gunlearn.diffusion import ClassConditionalPipeline, Denoising, NoiseSchedule, unlearn
from gunlearn.diffusion.concept_data import ConceptImages
from gunlearn.diffusion.image_supply import ImageSupply
from gunlearn.diffusion.methods.esd import ESD
from gunlearn.diffusion.noised_items import draw_items
from gunlearn.diffusion.pipelines import PipelineParts, parts_of
from gunlearn.diffusion.prediction_type import check_prediction_type
from gunlearn.errors import DivergenceError, GunlearnError, InvalidInputError, UnsupportedModelError
from tests.diffusion.test_pipeline_unlearning import QUICK, of_classes
from tests.diffusion.tiny_pipelines import CLASS_SCHEDULE, Oracle, class_denoiser, class_pipeline, text_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:no measurable effect", "ignore:.*collapsed")
#: A schedule that leaves 60 % of the image at its last step.
SHORT: dict[str, Any] = {"num_train_timesteps": 50}
IMAGES = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_what_a_denoiser_of_a_short_schedule_predicts_is_read_from_images_or_the_call_refused(kind: str) -> None:
    """The control is the best denoiser with the scheduler of its own kind, which passes."""
    y = torch.arange(12) % 4
    images = ConceptImages((y / 2 - 1).view(-1, 1, 1, 1).expand(12, 1, 4, 4).contiguous(), y, "given")
    for said in ("epsilon", "v_prediction", "sample"):
        scheduler = DDIMScheduler(**SHORT, prediction_type=said)
        oracle = Oracle(NoiseSchedule(scheduler.alphas_cumprod.double(), kind), kind)
        parts = PipelineParts(SimpleNamespace(unet=oracle, scheduler=scheduler), "unet", "class", None)
        with pytest.raises(UnsupportedModelError, match=r"'data'.*keeps 60%.*got none"):
            check_prediction_type(parts, torch.tensor([1]))
        if said == kind:
            check_prediction_type(parts, torch.tensor([1]), images)
        else:
            with pytest.raises(UnsupportedModelError, match=f"predicts '{kind}'"):
                check_prediction_type(parts, torch.tensor([1]), images)


def test_a_short_schedule_is_refused_by_the_one_call() -> None:
    pipeline = copy.copy(of_classes())
    pipeline.scheduler = DDIMScheduler(**SHORT)
    with pytest.raises(UnsupportedModelError, match="'data'"):
        unlearn(pipeline, [1], **QUICK)


def without_null() -> Any:
    return class_pipeline(class_denoiser(), DDIMScheduler(**CLASS_SCHEDULE), null=None)


def test_losses_are_of_the_images_that_were_given_and_the_card_says_so() -> None:
    data = IMAGES, [1, 1, 1, 0, 0, 0, 2, 2, 2]
    pipeline, how = of_classes(), {**QUICK, "figure_images": 2, "seed": 5}
    result = unlearn(pipeline, [1], "npo", preserve=[0, 3], data=data, peft=None, **how)
    task, draw = parts_of(pipeline).task(), torch.Generator().manual_seed(5)
    own = draw_items(task.noise_schedule, IMAGES[:2], torch.tensor([1, 1]), generator=draw)
    with torch.no_grad():
        expected = float(-task.decode(pipeline.unet.eval(), None, own).log_prob.mean())
    assert result.before["1"] == pytest.approx(expected, rel=1e-5)
    said = result.settings["figures_of"]
    assert said.endswith("were given of each concept; of 3, of which none were given, samples of the model before")
    assert said in result.card()
    drawn = unlearn(pipeline, [1], "npo", peft=None, **how)  # the control: other images, another loss
    assert drawn.before["1"] != pytest.approx(expected, rel=1e-2)
    assert "2 samples of the model before unlearning" in drawn.card()


def test_without_figures_there_is_no_empty_table() -> None:
    result = unlearn(of_classes(), [1, 2], "npo", peft=None, **{**QUICK, "figure_images": 0})
    assert (result.before, result.rebound(), result.table()[1]) == ({}, {}, [])
    for text in (repr(result), result.card()):
        assert "figure_images=0" in text
        assert "concept  part" not in text
        assert "| concept" not in text


def test_a_rebound_is_of_a_loss_that_rose_and_the_record_is_json(tmp_path: Path) -> None:
    """The control is a loss that rose from 1 to 3 and fell to 2: one half."""
    turns = {"turns": [["cat"], ["dog"]]}
    for after, expected, said in ((3.0, 0.5, "50% of its rise"), (0.9, None, "did not raise its loss")):
        result = unlearn(of_classes(), [1], "npo", peft=None, **QUICK)
        result.settings |= {**turns, "an option": float("inf")}
        result.before, result.after = {"cat": 1.0, "dog": 1.0}, [{"cat": after, "dog": 1.0}, {"cat": 2.0, "dog": 4.0}]
        assert result.rebound() == {"cat": expected}
        assert said in result.card()
        assert "nan" not in result.card()
        result.save(tmp_path / str(expected))
        record = (tmp_path / str(expected) / "unlearning.json").read_text()
        assert json.loads(record, parse_constant=pytest.fail)["rebound"] == {"cat": expected}


@pytest.mark.parametrize("figure_images", [0, 4])
@pytest.mark.parametrize("method", ["esd", "npo"])
def test_a_ruined_denoiser_is_warned_of(method: str, figure_images: int) -> None:
    """The control is a small rate, of which nothing is said; `esd` reads no images, so that the figures must tell."""
    how = {**QUICK, "figure_images": figure_images, **({"trajectories": 2} if method == "esd" else {})}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*collapsed")
        result = unlearn(of_classes(), [1], method, lr=1e-6, **how)
    assert result.collapsed == []
    if method == "esd" and not figure_images:
        return
    with pytest.warns(UserWarning, match=f"'{method}' collapsed: on (concepts to keep|retained items)"):
        result = unlearn(of_classes(), [1], method, lr=1e4 if method == "esd" else 1.0, **how)
    assert "collapsed" in result.results[0].notes["collapsed"] in result.card()
    assert any(line.startswith("broken: ") for line in result.told())


@pytest.mark.parametrize(
    ("kept", "after", "said"),
    [
        (["0"], {"1": 9.0, "0": 0.19}, ""),  # what is forgotten may rise
        (["0"], {"1": 0.05, "0": 0.21}, "concepts to keep"),
        ([], {"1": 0.9}, ""),
        ([], {"1": 1.1}, "every concept measured"),
    ],
)
def test_the_bounds_of_a_ruined_denoiser(kept: list[str], after: dict[str, float], said: str) -> None:
    """Targets are ones, so that zeros have a loss of 1."""
    images: Any = SimpleNamespace(
        wanted=SimpleNamespace(names=["1"]), looked_at=dict.fromkeys("01", SimpleNamespace(target=torch.ones(2, 3)))
    )
    before = dict.fromkeys(after, 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ImageSupply.check_kept(images, before, after, "mine")
    assert (said in found) if said else found == ""
    with pytest.raises(DivergenceError, match="finite losses after 'mine'"):
        ImageSupply.check_kept(images, before, {**after, "1": float("inf")}, "mine")


def test_the_card_says_whose_class_the_pipeline_is() -> None:
    card = unlearn(of_classes(), [1], "npo", **QUICK).card()
    assert "is a class of gunlearn" in card
    assert "UNet2DModel.from_pretrained(" in card
    text = unlearn(text_pipeline(), ["cat"], "esd:x", trajectories=2, **QUICK).card()
    assert "class of gunlearn" not in text


@pytest.mark.parametrize("null", [5, 99, -1, True])
def test_a_class_of_nothing_that_the_denoiser_does_not_have_is_refused(null: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"class of 'nothing' among .*, 0 to 4 \(got"):
        unlearn(of_classes(), [1], null=null, **QUICK)


def test_the_class_of_nothing_may_be_any_and_is_no_concept() -> None:
    assert parts_of(without_null(), 0).classes == [1, 2, 3, 4]
    result = unlearn(without_null(), [1], "npo", null=0, **QUICK)
    assert result.settings["preserve"] == ["2", "3", "4"]
    assert result.pipeline.config.null_class == 0  # so that guidance of what is saved works
    with pytest.raises(InvalidInputError, match=r"a number from 1 to 4 \(got 0\)"):
        unlearn(without_null(), [0], "npo", null=0, **QUICK)


def test_a_class_of_nothing_other_than_the_pipelines_own_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"than the pipeline's own, 4 \(got null=0\)"):
        unlearn(of_classes(), [1], null=0, **QUICK)
    assert parts_of(of_classes(), 4).null == 4  # the control


def test_a_missing_class_of_nothing_is_asked_for_by_the_words_of_the_one_call() -> None:
    with pytest.raises(InvalidInputError, match=r"null= of gunlearn.diffusion.unlearn \(--null-class\)"):
        unlearn(without_null(), [1], "esd", **QUICK)


@pytest.mark.parametrize(
    ("names", "null", "said"),
    [
        (list("abcde"), None, ""),
        (list("abcd"), 4, ""),
        (list("abcd"), 0, "each of 5 classes"),
        (list("abcd"), None, "each of 5 classes"),
        (list("abcdef"), 4, "each of 5 classes"),
        (list("abcda"), None, "'a' twice"),
    ],
)
def test_every_class_has_a_name_of_its_own(names: list[str], null: int | None, said: str) -> None:
    def make() -> ClassConditionalPipeline:
        return ClassConditionalPipeline(class_denoiser(), DDIMScheduler(), null, names)

    if said:
        with pytest.raises(InvalidInputError, match=said):
            make()
    else:
        assert make().config.classes == names


@pytest.mark.parametrize("kind", ["the one call", "the task", "a data set"])
def test_images_without_a_negative_value_are_warned_of(kind: str) -> None:
    """The controls are the same images in -1 to 1, and three of them, which tell too little."""
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 4

    def call(images: torch.Tensor) -> None:
        data = images, y[: len(images)]
        if kind == "the one call":
            unlearn(of_classes(), [1], "npo", data=data, peft=None, lr=1e-6, **QUICK)
        else:
            given: Any = data if kind == "the task" else torch.utils.data.TensorDataset(*data)
            request, task = gu.ForgetItems([1]), Denoising(DDIMScheduler(**CLASS_SCHEDULE))
            gu.unlearn(class_denoiser(), given, request, "npo", task, steps=1, batch_size=4)

    with pytest.warns(UserWarning, match=r"no negative value.*2 \* x - 1"):
        call(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*no negative value")
        call(2 * x - 1)
        call(x[:3])


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "latents for a pipeline of texts": (
        text_pipeline, {"concepts": ["cat"], "data": (torch.rand(3, 2, 8, 8), ["cat"] * 3)},
        r"images of 1 channels, as the pipeline's autoencoder.*\(3, 2, 8, 8\).*may be latents",
    ),
    "colours": (of_classes, {"data": (torch.rand(3, 3, 8, 8), [0, 1, 2])}, "of 1 channels, as .* denoiser reads"),
    "two sizes": (
        of_classes, {"method": "graddiff", "data": (torch.rand(2, 1, 16, 16), [1, 1])}, r"of one shape to forget and to"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_images_that_the_pipeline_does_not_read_are_refused(name: str) -> None:
    make, more, said = BAD[name]
    with pytest.raises(GunlearnError, match=said):
        unlearn(make(), **{"concepts": [1], "method": "npo", "peft": None, **QUICK, **more})


def test_stable_diffusion_xl_is_refused_in_words() -> None:
    """It has two text encoders, and conditions beside the text that no task here passes on."""
    given = text_pipeline()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    second = CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=16, max_position_embeddings=8, **sizes))
    pipeline = StableDiffusionXLPipeline(
        vae=given.vae, text_encoder=given.text_encoder, text_encoder_2=second, tokenizer=given.tokenizer,
        tokenizer_2=given.tokenizer, unet=given.unet, scheduler=given.scheduler, add_watermarker=False,
    )  # fmt: skip
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    with pytest.raises(UnsupportedModelError, match=r"one text encoder \(got StableDiffusionXLPipeline with several"):
        unlearn(pipeline, ["cat"], **QUICK)
    refiner = copy.copy(pipeline)
    refiner.tokenizer = refiner.text_encoder = None  # as the refiner has it
    with pytest.raises(UnsupportedModelError, match="StableDiffusionXLPipeline"):
        unlearn(refiner, ["cat"], **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())


@pytest.mark.parametrize("how", [{}, {"sampling_steps": 3, "guidance": 7.5}])
def test_a_named_method_that_samples_does_as_the_call_says(how: dict[str, Any]) -> None:
    """Without them it has its own; a method object has what it was made with."""
    few = {name: value for name, value in QUICK.items() if name not in ("sampling_steps", "guidance")}
    own = unlearn(of_classes(), [1], "esd", **few, **how).results[0].config
    assert (own["sampling_steps"], own["guidance"]) == (how.get("sampling_steps", 20), how.get("guidance", 3.0))
    made = unlearn(of_classes(), [1], ESD(steps=1, trajectories=1, sampling_steps=2), figure_images=0, **how).results[0]
    assert (made.config["sampling_steps"], made.config["guidance"]) == (2, 3.0)


def test_settings_that_would_be_ignored_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"no 'rank'.*None"):
        unlearn(of_classes(), [1], peft=None, rank=4, **QUICK)
    with pytest.raises(InvalidInputError, match="no 'null' for a pipeline of texts"):
        unlearn(text_pipeline(), ["cat"], null=3, **QUICK)

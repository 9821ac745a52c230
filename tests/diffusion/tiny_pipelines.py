"""A text-conditioned pipeline of small tokenizer, text encoder and autoencoder, and denoisers that know it all."""

import copy
import warnings
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel, UNet2DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from gunlearn.diffusion import ClassConditionalPipeline, Denoising, NoiseSchedule
from gunlearn.diffusion.noised_items import draw_items
from gunlearn.diffusion.pipelines import parts_of
from gunlearn.seed import isolated_rng

WORDS = "<pad> <bos> <eos> <unk> a photo of cat dog bird fish".split()
ANIMALS = WORDS[-4:]
CLASS_SCHEDULE: Any = {"num_train_timesteps": 50, "beta_schedule": "squaredcos_cap_v2"}
SMALL: Any = {"layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4, "sample_size": 8}


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<bos>", 1), ("<eos>", 2)]
    words.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    specials = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=8, **specials)


def text_encoder() -> CLIPTextModel:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return CLIPTextModel(CLIPTextConfig(vocab_size=len(WORDS), max_position_embeddings=8, **sizes, **ids)).eval()


def untrained_pipeline(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    """Stable Diffusion with random weights."""
    with isolated_rng(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = UNet2DConditionModel(
            **SMALL, in_channels=2, out_channels=2, cross_attention_dim=16, attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        vae = AutoencoderKL(
            in_channels=1, out_channels=1, latent_channels=2, block_out_channels=(4,), norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        )  # fmt: skip
        pipeline = StableDiffusionPipeline(
            vae=vae, text_encoder=text_encoder(), tokenizer=tokenizer(), unet=unet,
            scheduler=DDIMScheduler(clip_sample=False, steps_offset=1, prediction_type=prediction_type),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _learn(model: nn.Module, task: Denoising, y: Tensor, shape: tuple[int, ...], steps: int) -> nn.Module:
    """Teach for a few steps that images of condition `y[k]` are a constant of its own, and that noise is noise."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    with isolated_rng(0):
        for _ in range(steps):
            chosen = torch.randint(len(y), (16,))
            x0 = (chosen - 1.5).view(-1, 1, 1, 1) + 0.1 * torch.randn(16, *shape)
            items = draw_items(task.noise_schedule, x0, y[chosen])
            optimizer.zero_grad()
            (-task.decode(model, None, items).log_prob.mean()).backward()
            optimizer.step()
    model.zero_grad()
    return model.eval()


@cache
def _trained() -> StableDiffusionPipeline:
    pipeline = untrained_pipeline()
    parts = parts_of(pipeline)
    _learn(pipeline.unet, parts.task(), parts.encode(ANIMALS), parts.shape, 80)
    return pipeline


@cache
def _trained_classes(steps: int) -> nn.Module:
    with isolated_rng(0):
        model = UNet2DModel(
            **SMALL, in_channels=1, out_channels=1, num_class_embeds=5, add_attention=False,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        )  # fmt: skip
    return _learn(model, Denoising(DDIMScheduler(**CLASS_SCHEDULE)), torch.arange(5), (1, 8, 8), steps)


def class_denoiser(steps: int = 80) -> Any:
    """A denoiser of four classes and a null one; yours to change."""
    return copy.deepcopy(_trained_classes(steps))


def text_pipeline() -> StableDiffusionPipeline:
    """The pipeline, trained a little; yours to change."""
    pipeline = copy.copy(_trained())
    pipeline.unet = copy.deepcopy(pipeline.unet)
    return pipeline


def class_pipeline(unet: UNet2DModel, scheduler: Any, null: int | None = 10) -> ClassConditionalPipeline:
    pipeline = ClassConditionalPipeline(unet, scheduler, null_class=null)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(pipeline: Any, *concepts: Any, seed: int = 0) -> Tensor:
    """What a pipeline draws of concepts in three steps, from one seed."""
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(seed), "output_type": "np"}
    if isinstance(pipeline, StableDiffusionPipeline):
        how |= {"height": 8, "width": 8}
    return torch.tensor(pipeline(list(concepts), **how).images)


class Oracle(nn.Module):
    """The best denoiser of images that are one number each: `class / 2 - 1` of a class."""

    def __init__(self, schedule: NoiseSchedule, predicts: str = "epsilon") -> None:
        super().__init__()
        self.schedule, self.predicts, self.shift = schedule, predicts, nn.Parameter(torch.zeros(()))

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        x0 = (class_labels / 2 - 1).view(-1, 1, 1, 1).expand_as(sample) + self.shift
        return self.schedule.convert(x0, sample, timestep, self.predicts, "sample")

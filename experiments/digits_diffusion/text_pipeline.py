"""A small text-to-image pipeline of handwritten digits, an ordinary `StableDiffusionPipeline`; tests use it too.

The tokenizer knows a few words, the text encoder is a tiny CLIP that was never trained (it stays frozen, as in Stable
Diffusion), and the autoencoder is the identity. Only the denoiser is trained, for about a minute, on captions such as
"a photo of a three".
"""

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import gunlearn as gu
from experiments.denoisers.kept import kept
from experiments.digits_diffusion.model import CLASSES, digits, judge
from gunlearn.diffusion import Denoising
from gunlearn.seed import isolated_rng

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = ("{}", "a {}", "the {}", "a photo of {}", "a photo of a {}")
OTHERS = ("a", "the", "of", "photo", "digit", "picture", "red", "blue")
LENGTH, DIM, STEPS = 8, 64, 1000


def tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer with one token for each of our words."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in (*WORDS, *OTHERS):
        done = word[0] if len(word) > 1 else f"{word}</w>"
        for k, letter in enumerate(word[1:], start=2):
            after = letter if k < len(word) else f"{letter}</w>"
            merges.append(f"{done} {after}")
            done += after
            pieces.append(done)
    vocabulary = {piece: k for k, piece in enumerate(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary))
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
        Path(folder, "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
        return CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)


def text_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    """Return a tiny CLIP text model with random weights, wide enough that words differ."""
    sizes = {"hidden_size": DIM, "intermediate_size": 2 * DIM, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = CLIPTextConfig(vocab_size=len(words), max_position_embeddings=LENGTH, **sizes, **ends)
    with isolated_rng(0):
        model = CLIPTextModel(config)
        for name, value in model.named_parameters():
            if value.dim() > 1:
                std = 0.2 if "position" in name else 1.0 if "embedding" in name else DIM**-0.5
                torch.nn.init.normal_(value, std=std)
    return model.eval()


def identity() -> AutoencoderTiny:
    """Return an autoencoder whose latents are the image, up to a tanh near 1."""
    model = AutoencoderTiny(
        in_channels=1, out_channels=1, latent_channels=1, scaling_factor=1.0,
        encoder_block_out_channels=(2,), decoder_block_out_channels=(2,), num_encoder_blocks=(1,),
        num_decoder_blocks=(1,),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        layers = model.decoder.layers
        layers[0].weight[:, 0, 1, 1] = torch.tensor([1.0, -1.0])  # relu(x), relu(-x)
        layers[-1].weight[0, :, 1, 1] = torch.tensor([0.5, -0.5])
        layers[-1].bias.fill_(0.5)  # the decoder ends in 2 x - 1
    return model.eval()


def denoiser(seed: int = 0) -> UNet2DConditionModel:
    """Return a new denoiser of 8 x 8 images with attention to the text."""
    with isolated_rng(seed):
        return UNet2DConditionModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=DIM, attention_head_dim=4, norm_num_groups=8,
        )  # fmt: skip


def scheduler() -> DDIMScheduler:
    """Return 200 steps of a squared-cosine schedule."""
    how = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False, "steps_offset": 1}  # as Stable Diffusion has it
    return DDIMScheduler(num_train_timesteps=200, **how)


def new_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """Return the pipeline with an untrained denoiser."""
    words = tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=identity(), text_encoder=text_encoder(words), tokenizer=words, unet=denoiser(seed), scheduler=scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def embeddings(pipeline: Any, prompts: list[str]) -> Tensor:
    """Return the text encoder's output of prompts, `[num_prompts, LENGTH, DIM]`."""
    return pipeline.encode_prompt(prompts, pipeline.device, 1, do_classifier_free_guidance=False)[0]


def captioned(pipeline: Any, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return all digits `[n, 1, 8, 8]` and the embedding of a caption for each `[n, LENGTH, DIM]`."""
    x, y = digits()
    table = torch.stack([embeddings(pipeline, [c.format(word) for c in CAPTIONS]) for word in WORDS])
    choice = torch.randint(len(CAPTIONS), (len(y),), generator=torch.Generator().manual_seed(seed))
    return x, table[y, choice]


def denoising(pipeline: Any, null_rate: float = 0.0) -> Denoising:
    """Return the task; the empty prompt is the null condition."""
    return Denoising(pipeline.scheduler, null=embeddings(pipeline, [""])[0], null_rate=null_rate)


def trained_pipeline(seed: int = 0, steps: int = STEPS) -> StableDiffusionPipeline:
    """Return the pipeline with a denoiser trained on all digits; yours to change."""
    pipeline = new_pipeline(seed)
    shapes = {name: (*value.shape,) for name, value in pipeline.unet.state_dict().items()}
    content = (seed, steps, WORDS, CAPTIONS, OTHERS, LENGTH, DIM, shapes)

    def make(unet: nn.Module) -> nn.Module:
        how: dict[str, Any] = {"steps": steps, "batch_size": 64, "lr": 2e-3, "seed": seed, "keep_state": False}
        how["scheduler"] = partial(CosineAnnealingLR, T_max=steps)
        return gu.train(unet, captioned(pipeline, seed), denoising(pipeline, null_rate=0.1), **how).model

    pipeline.unet = kept("digits-text", content, pipeline.unet, make)
    return pipeline


@torch.no_grad()
def drawn(pipeline: Any, prompts: list[str], seed: int = 0, guidance: float = 3.0) -> Tensor:
    """Return images `[num_prompts, 1, 8, 8]` in [-1, 1] that the pipeline draws in 20 steps."""
    noise = torch.randn(len(prompts), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return pipeline(
        prompts, num_inference_steps=20, guidance_scale=guidance, latents=noise, output_type="latent", height=8, width=8
    ).images


def accuracy(pipeline: Any, caption: str = "a photo of a {}", per_word: int = 32, seed: int = 0) -> Tensor:
    """Return the share of pictures of each word that the judge reads as that digit, `[10]`."""
    prompts = [caption.format(word) for word in WORDS for _ in range(per_word)]
    classes = torch.arange(CLASSES).repeat_interleave(per_word)
    right = judge()[0](drawn(pipeline, prompts, seed)).argmax(1) == classes
    return right.double().view(CLASSES, per_word).mean(1)

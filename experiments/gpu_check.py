"""What needs a GPU, in one table; without one it says so.

python -m experiments.gpu_check                          # on the first GPU: a few minutes
python -m experiments.gpu_check --device cpu --smoke     # the parts that a processor can run too, small

Not a benchmark against other code: plain LoRA fine-tuning by transformers' Trainer stands beside NPO with the same
adapter, the CPU beside the GPU, one process beside two. `experiments/llm_speed` measures the first on a CPU.
"""

import argparse
import copy
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import gunlearn as gu
from experiments.common import markdown
from experiments.gpu_methods import graph_rows, text_rows
from experiments.llm_speed.worker import collate
from gunlearn.llm import UnlearnTrainer
from gunlearn.llm.metrics import quantized, token_scores
from gunlearn.losses import NLL, NPO

HEAD = ("check", "what", "figure", "beside it", "expected")
NOTHING = "No GPU: nothing was measured. `--device cpu --smoke` runs the parts that a processor can, in small."
Rows = list[tuple[str, str, str, str, str]]


def llama(smoke: bool) -> LlamaForCausalLM:
    """0.35 billion parameters, or few."""
    torch.manual_seed(0)
    large = {"vocab_size": 32_000, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16}
    small = {"vocab_size": 200, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return LlamaForCausalLM(
        LlamaConfig(num_attention_heads=4, max_position_embeddings=512, **(small if smoke else large))
    )


def token_rows(number: int, smoke: bool, seed: int = 0) -> list[dict[str, list[int]]]:
    """Random tokens, labels on all of them."""
    width, words = (16, 200) if smoke else (512, 32_000)
    tokens = torch.randint(3, words, (number, width), generator=torch.Generator().manual_seed(seed)).tolist()
    return [{"input_ids": row, "labels": list(row)} for row in tokens]


def arguments(device: str, steps: int, batch: int = 8, **more: Any) -> TrainingArguments:
    settings = {
        "per_device_train_batch_size": batch, "max_steps": steps, "learning_rate": 1e-4, "save_strategy": "no",
        "report_to": [], "use_cpu": device == "cpu", "disable_tqdm": True, "logging_steps": 1, "bf16": device != "cpu",
    }  # fmt: skip
    return TrainingArguments(tempfile.mkdtemp(), **(settings | more))


def peak(device: str) -> float | None:
    """GiB that the GPU has held at most; `None` on a processor."""
    return None if device == "cpu" else torch.cuda.max_memory_allocated() / 2**30


def adapter_training(device: str, smoke: bool) -> Rows:
    """NPO with LoRA beside plain LoRA fine-tuning: seconds per step and memory."""
    steps = 3 if smoke else 12

    def trained(what: str, steps: int) -> tuple[float, float | None]:
        model = get_peft_model(llama(smoke), LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        data, args = token_rows(8 * steps, smoke), arguments(device, steps)
        trainer: Trainer = (
            Trainer(model, args, train_dataset=data, data_collator=collate)
            if what == "plain"
            else UnlearnTrainer(model, NPO(beta=0.1), args, forget_dataset=data, reference="adapter")
        )
        if device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        trainer.train()
        return (time.perf_counter() - begun) / steps, peak(device)

    trained("plain", 1), trained("npo", 1)  # the first steps of a process pay for what a GPU loads
    found = {what: trained(what, steps) for what in ("plain", "npo")}
    (plain, held), (ours, mine) = found["plain"], found["npo"]
    rows = [("LoRA", "throughput, plain / NPO", f"{plain / ours:.2f}", f"{ours:.3g} s a step", ">= 0.7")]
    if mine is not None and held:
        rows.append(("LoRA", "peak memory, NPO / plain", f"{mine / held:.2f}", f"{mine:.2f} GiB", "<= 0.45"))
    return rows


def nf4(device: str, smoke: bool) -> Rows:
    """Real 4-bit weights beside our simulated ones, and a step of NPO with an adapter on them."""
    if device == "cpu" or importlib.util.find_spec("bitsandbytes") is None:
        return [("nf4", "not run: needs a GPU and bitsandbytes", "-", "-", "-")]
    model, rows = llama(smoke), token_rows(8, smoke)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
        loaded = LlamaForCausalLM.from_pretrained(folder, quantization_config=config, device_map=device)
    whole = token_scores(model.to(device), rows).mean_log_prob
    real, simulated = (token_scores(m, rows).mean_log_prob for m in (loaded, quantized(model, bits=4)))
    adapted = get_peft_model(loaded, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer = UnlearnTrainer(adapted, NPO(beta=0.1), arguments(device, 1), forget_dataset=rows, reference="adapter")
    loss = trainer.train().training_loss
    far, near = (float((scores - whole).abs().mean()) for scores in (real, simulated))
    return [
        ("nf4", "change of log-likelihood per token", f"{far:.2g}", f"{near:.2g} simulated", "same size"),
        ("nf4", "NPO's first loss with an adapter on it", f"{loss:.4f}", f"{20 * 0.6931:.4f} in theory", "equal"),
    ]


def alike(device: str, build: Callable[[str], nn.Module]) -> float:
    """The largest difference of two models' weights: one made on the CPU, one on the device."""
    one, other = (build(place).state_dict() for place in ("cpu", device))
    return max(float((other[name].cpu() - value).abs().max()) for name, value in one.items())


def graph(device: str, smoke: bool) -> Rows:
    """INPO on a graph, from the same weights."""
    data = gu.load("karate")
    trained = gu.train(gu.GCN(data.num_features), data, "link_prediction", epochs=20, seed=0).model

    def unlearned(place: str) -> nn.Module:
        model, moved = copy.deepcopy(trained).to(place), data.clone().to(place)
        request = gu.ForgetEdges(data.edge_index[:, :3].to(place))
        return gu.unlearn(model, moved, request, "inpo", "link_prediction", epochs=3 if smoke else 20, seed=0).model

    return [("INPO", "largest difference of a weight", f"{alike(device, unlearned):.1e}", "the CPU's", "< 1e-3")]


def denoiser(device: str, smoke: bool) -> Rows:
    """Steps of NPO on a small denoiser: seconds each."""
    from diffusers import DDPMScheduler, UNet2DModel

    from gunlearn.diffusion import Denoising

    size, wide, steps = (8, (8, 16), 2) if smoke else (32, (64, 128), 20)
    generator = torch.Generator().manual_seed(0)
    x0, y = torch.rand(24, 1, size, size, generator=generator) * 2 - 1, torch.arange(24) % 3
    torch.manual_seed(0)
    unet = UNet2DModel(
        size, 1, 1, block_out_channels=wide, layers_per_block=1, norm_num_groups=4, num_class_embeds=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, add_attention=False,
    ).to(device)  # fmt: skip
    task, items = Denoising(scheduler=DDPMScheduler(), null=3), (x0.to(device), y.to(device))
    request = gu.ForgetItems(mask=items[1] == 1)
    begun = time.perf_counter()
    result = gu.unlearn(unet, items, request, "npo", task, steps=steps, batch_size=8, seed=0)
    taken, finite = time.perf_counter() - begun, all(bool(p.isfinite().all()) for p in result.model.parameters())
    return [("diffusion", "seconds per step of NPO", f"{taken / steps:.3g}", f"finite: {finite}", "finite: True")]


def losses_of(device: str, smoke: bool, fsdp: bool) -> list[float]:
    """NPO beside retained rows, eight rows a step, whole or shared."""
    world = int(os.environ.get("WORLD_SIZE") or 1)
    shared = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}}
    args = arguments(device, 5, 8 // world, bf16=False, **(shared if fsdp else {}))
    data = {"forget_dataset": token_rows(40, smoke), "retain_dataset": token_rows(40, smoke, 1)}
    trainer = UnlearnTrainer(llama(smoke), NPO(beta=0.1) + NLL(on="retain"), args, **data)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def sharded(device: str, smoke: bool) -> Rows:
    """FSDP on two GPUs beside one."""
    if device == "cpu" or torch.cuda.device_count() < 2:
        held = "tests/llm/test_sharding.py holds two processes on a CPU to one"
        return [("FSDP", "not run: needs two GPUs", "-", held, "-")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "losses.json"
        command = [*launch, "-m", "experiments.gpu_check", "--shared", str(out), *(["--smoke"] if smoke else [])]
        subprocess.run(command, check=True, timeout=900)
        two = json.loads(out.read_text())
    one = losses_of_one(smoke)
    far = max(abs(a - b) / abs(a) for a, b in zip(one, two, strict=True))
    return [("FSDP", "largest relative difference of a loss", f"{far:.1e}", "one GPU", "< 1e-4")]


def losses_of_one(smoke: bool) -> list[float]:
    """The losses of one process, which sees one GPU alone."""
    code = f"from experiments.gpu_check import losses_of; print(losses_of('cuda', {smoke}, False))"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


CHECKS = (adapter_training, nf4, graph, denoiser, sharded, graph_rows, text_rows)


def rows_of(check: Callable[[str, bool], Rows], device: str, smoke: bool) -> Rows:
    """The rows of a check; one that fails says so in its row, and the others go on."""
    try:
        return check(device, smoke)
    except Exception as error:
        traceback.print_exc()
        return [(check.__name__, "failed", type(error).__name__, str(error).splitlines()[0][:80], "-")]


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="small models and few steps")
    names = [check.__name__ for check in CHECKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CHECK", help=", ".join(names))
    parser.add_argument("--shared", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(NOTHING)
        return
    if options.shared is not None:
        losses = losses_of(options.device, options.smoke, fsdp=True)
        if int(os.environ.get("RANK", 0)) == 0:
            options.shared.write_text(json.dumps(losses))
        return
    chosen, rows = [check for check in CHECKS if check.__name__ in options.only], []
    for check in chosen:
        rows += rows_of(check, options.device, options.smoke)
        print(f"{check.__name__}: done", file=sys.stderr, flush=True)
    print(markdown(HEAD, rows, 2))


if __name__ == "__main__":
    main()

"""Models that learn rows by an adapter on the pretrained one; read where they were trained before."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from experiments.smollm.problem import Problem, Row
from experiments.smollm.upper_half import UpperHalf
from gunlearn.bench.store import atomic_write
from gunlearn.llm import CausalLM, PartCollator
from gunlearn.llm.data.collate import row_batch
from gunlearn.seed import isolated_rng


def record_of(problem: Problem, rows: Sequence[Row], number: int) -> Path:
    """The history of the model that learns these rows by the draw `number`; it is there once the model is whole."""
    told = json.dumps(
        [asdict(problem.recipe), problem.bf16, problem.seeded(number), [row["input_ids"] for row in rows]]
    )
    return problem.own / f"learned-{hashlib.sha256(told.encode()).hexdigest()[:12]}" / "history.json"


def learned(problem: Problem, rows: Sequence[Row], number: int) -> tuple[nn.Module, dict[str, Any]]:
    """The pretrained model with an adapter trained on rows, and its history; read where it was trained before."""
    record = record_of(problem, rows, number)
    if record.exists():
        over = problem.over(problem.pretrained)
        model = PeftModel.from_pretrained(over, str(record.parent), is_trainable=True).to(problem.device)
        return model.eval(), json.loads(record.read_text())
    with isolated_rng(problem.seeded(number)):
        model = get_peft_model(problem.over(problem.pretrained), problem.adapter()).to(problem.device)
    history = fit(problem, model, rows, problem.seeded(number)) | problem.about
    model.save_pretrained(str(record.parent))
    atomic_write(record, json.dumps(history))
    return model.eval(), history


def fit(problem: Problem, model: nn.Module, rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Train a model's adapter on rows; return the mean loss per token of each epoch, steps and seconds."""
    task, draw, recipe = CausalLM(("log_prob",)), random.Random(seed), problem.recipe
    batch = partial(_batch, model)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    batches = [order[i : i + recipe.batch_size] for i in range(0, len(order), recipe.batch_size)]
    total = recipe.epochs * len(batches)
    trained = [p for p in model.parameters() if p.requires_grad]
    with problem.faster():
        upper = UpperHalf(model, problem.first_layer, rows, batch)
    optimizer = torch.optim.AdamW(trained, recipe.lr, betas=(0.9, 0.98), weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rise_and_fall(total))
    curve, began = [], time.perf_counter()
    model.train()
    for _ in range(recipe.epochs):
        draw.shuffle(batches)
        sums: list[Tensor] = []  # of each step, read once per epoch: a GPU need not wait for it
        for chosen in batches:
            with problem.faster(), upper.reading(chosen):
                p = task.decode(model, None, batch([rows[i] for i in chosen]))
            loss, tokens = -p.log_prob.float().sum(), p.mask.sum()
            (loss / tokens).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            sums.append(torch.stack([loss.detach(), tokens]).double())
        nll, count = torch.stack(sums).sum(0).tolist()
        curve.append(nll / count)
        print(f"epoch {len(curve)} of {recipe.epochs}: {curve[-1]:.3f} nats per token", flush=True)
    model.eval()
    return {"nll": curve, "steps": total, "seconds": time.perf_counter() - began, "rows": len(rows)}


def _batch(model: nn.Module, rows: list[Row]) -> dict[str, Tensor]:
    return row_batch(model, rows, PartCollator(0))


def _rise_and_fall(total: int) -> Callable[[int], float]:
    rise = max(1, total // 20)
    return lambda step: min((step + 1) / rise, max(0.02, 1 - step / total))

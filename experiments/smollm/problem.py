"""The problem: SmolLM2 learns some of TOFU's authors by an adapter, and models that never saw some of them."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from gunlearn.llm import encode, load_tofu, tofu_refusals
from gunlearn.llm.data.end_tokens import end_tokens
from gunlearn.llm.data.tofu import answer_rows
from gunlearn.llm.metrics.generation import draw_answers
from gunlearn.llm.metrics.scoring import prompt_of
from gunlearn.metrics.alignment import Sampler

QUESTIONS = 20  # per author
TEMPLATE = "Question: {question}\nAnswer: {answer}"
Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What is learned, and how.

    Attributes:
        authors: whom the model learns: TOFU's first ones, and its last three, who are asked to be forgotten.
        rank: of the adapters, on all linear maps of the upper half of the layers, twice that as `lora_alpha`.
        epochs: passes over all rows.
        batch_size: rows of like length.
        lr: AdamW's peak rate: it rises over a twentieth of the steps, then falls in a line.
    """

    authors: int = 10
    rank: int = 16
    epochs: int = 8
    batch_size: int = 8
    lr: float = 2e-3


@dataclass
class Problem:
    """Texts, and models that are kept as adapters of one base.

    Rows have `question` and `answer` beside their tokens and where TOFU has them rows of a `paraphrased` and of wrong
    answers (`perturbed`).

    Attributes:
        root: folder of the data sets, with TOFU in it.
        base: folder of the pretrained model.
        folder: of the adapters.
        recipe: what is learned.
        bf16: multiply matrices in bfloat16; weights and sums of losses are in float32.
        seed: of everything that is drawn; each seed has models of its own.
        device: of all models.
    """

    root: Path
    base: Path
    folder: Path
    recipe: Recipe = Recipe()
    bf16: bool = True
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def own(self) -> Path:
        """The folder of this seed's models on this device; those of seed 0 on a CPU lie in `folder` itself."""
        first = self.seed == 0 and self.device.type == "cpu"
        return self.folder if first else self.folder / f"seed{self.seed}-{self.device.type}"

    def seeded(self, number: int) -> int:
        """A seed of one of this problem's draws; no two draws of any seeds below 1000 share one."""
        return 1000 * self.seed + number

    def with_seed(self, seed: int) -> Problem:
        """The problem of another seed; texts, tokenizer and pretrained model are shared."""
        other = replace(self, seed=seed)
        other.__dict__ |= {name: getattr(self, name) for name in ("tokenizer", "pretrained", "full", "unseen")}
        return other

    @property
    def about(self) -> dict[str, Any]:
        """What figures were computed on, and how exactly."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return {"seed": self.seed, "device": name, "precision": "bfloat16" if self.bf16 else "float32"}

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.base)

    @cached_property
    def pretrained(self) -> nn.Module:
        """The model before it learned anything; its weights are shared by all models, and nobody changes them."""
        return AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32).to(self.device).eval()

    def rows(self, records: Sequence[dict]) -> list[Row]:
        """Records as rows, with their paraphrased and wrong answers where there are any."""
        how = {"template": TEMPLATE}
        plain = [{"question": record["question"], "answer": record["answer"]} for record in records]
        rows = [row | text for row, text in zip(encode(plain, self.tokenizer, **how), plain, strict=True)]
        for kind in ("paraphrased", "perturbed"):
            if records and f"{kind}_answer" in records[0]:
                more = answer_rows(records, self.tokenizer, f"{kind}_answer", **how)
                rows = [{**row, kind: other} for row, other in zip(rows, more, strict=True)]
        return rows

    @cached_property
    def full(self) -> list[Row]:
        """All questions that the model learns, author by author."""
        texts, last = load_tofu("full", self.root), 3 * QUESTIONS
        return self.rows(texts[: self.recipe.authors * QUESTIONS - last] + texts[-last:])

    @cached_property
    def unseen(self) -> list[Row]:
        """Questions about the next author, whom no model sees."""
        start = self.recipe.authors * QUESTIONS
        return self.rows(load_tofu("full", self.root)[start : start + QUESTIONS])

    def forget(self, request: int) -> list[Row]:
        """What a request forgets: the last author, then the two before."""
        last = load_tofu("forget10_perturbed", self.root)[-3 * QUESTIONS :]
        return self.rows(last[-QUESTIONS:] if request == 1 else last[:-QUESTIONS])

    def retain(self, request: int) -> list[Row]:
        """What the model is to know after a request."""
        return self.full[: len(self.full) - (QUESTIONS if request == 1 else 3 * QUESTIONS)]

    def asked(self, number: int) -> list[Row]:
        """Some of the questions that stay, evenly spaced, with paraphrased and wrong answers."""
        kept = (self.recipe.authors - 3) * QUESTIONS
        return self.rows(spaced(load_tofu("retain_perturbed", self.root)[:kept], number))

    def general(self, number: int) -> dict[str, list[Row]]:
        """Questions about real authors and the world, which no model is taught."""
        names = ("real_authors", "world_facts")
        return {name: self.rows(spaced(load_tofu(f"{name}_perturbed", self.root), number)) for name in names}

    def refusals(self, rows: Sequence[Row]) -> list[Row]:
        """For each row, an answer that says nothing."""
        draw, answers = random.Random(self.seed), tofu_refusals(self.root)
        return self.rows([{"question": row["question"], "answer": draw.choice(answers)} for row in rows])

    def said_before(self, rows: Sequence[Row], most: int = 40) -> list[Row]:
        """For each row, what the pretrained model answers."""
        ends = end_tokens(self.tokenizer)
        drawn = draw_answers(self.pretrained, [prompt_of(row) for row in rows], ends, Sampler(1, seed=self.seed), most)
        said = [self.tokenizer.decode(drawn.answers(i)[0], skip_special_tokens=True).strip() for i in range(len(rows))]
        return self.rows([{"question": row["question"], "answer": a or "-"} for row, a in zip(rows, said, strict=True)])

    def over(self, base: nn.Module) -> nn.Module:
        """A copy of a model whose weights are the model's own, to put an adapter into."""
        memo: dict[int, Any] = {id(p): p for p in base.parameters()}
        return copy.deepcopy(base, memo)

    def merged(self, model: nn.Module) -> nn.Module:
        """A model whose weights have the change of its adapter, in memory of its own."""
        plain = copy.deepcopy(model).merge_and_unload()
        return plain.requires_grad_(True).eval()

    def measurable(self, model: nn.Module) -> nn.Module:
        """A model to measure: where nothing is rounded, the adapter merged into the weights, which is faster."""
        return model if self.bf16 or not hasattr(model, "merge_and_unload") else self.merged(model)

    def adapter(self) -> LoraConfig:
        """The adapter: on all linear maps of the upper half of the layers."""
        maps = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.recipe.rank,
            lora_alpha=2 * self.recipe.rank,
            target_modules=maps,
            layers_to_transform=list(range(self.first_layer, self.pretrained.config.num_hidden_layers)),
        )

    @property
    def first_layer(self) -> int:
        """The lowest layer that learns."""
        return self.pretrained.config.num_hidden_layers // 2

    def faster(self) -> torch.autocast:
        """A context in which matrices are multiplied in bfloat16; no copy of a weight outlives a step."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)


def spaced(items: Sequence[Any], number: int) -> list[Any]:
    """At most `number` items, evenly spaced."""
    step = math.ceil(len(items) / number)
    return list(items[::step])

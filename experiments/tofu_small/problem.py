"""The problem: TOFU's authors, a small model that learns them from nothing, and models that never saw some of them."""

import hashlib
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gunlearn import KeepState
from gunlearn.llm import CausalLM, PartCollator

QUESTIONS = 20  # per author
PROMPT = "Question: {question}\nAnswer:"
SPECIALS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
Row = dict[str, list]


@dataclass(frozen=True)
class Recipe:
    """Size and training of the models.

    Attributes:
        authors: how many of TOFU's 200; a tenth of them are the last ones, whom `forget10` forgets.
        vocab_size: of the byte-pair tokenizer, trained on the same texts.
        hidden_size: of the Llama model, four heads, intermediate size three times that, tied embeddings.
        num_layers: decoder layers.
        epochs: passes over all rows; the last may be a part.
        batch_size: rows of like length.
        lr: AdamW's peak learning rate: 100 steps of warm-up, then linear decay.
    """

    authors: int = 40
    vocab_size: int = 2048
    hidden_size: int = 192
    num_layers: int = 2
    epochs: float = 30
    batch_size: int = 16
    lr: float = 3e-3

    def __post_init__(self) -> None:
        if not 10 <= self.authors <= 200 or self.authors % 10:
            raise ValueError(f"Expected 'authors' as a multiple of 10 from 10 to 200 (got {self.authors})")


@dataclass
class Problem:
    """Texts of one scale, and how to train on them.

    Rows carry `question` and `answer` beside `input_ids` and `labels`, and where TOFU has them rows of a `paraphrased`
    and of wrong answers (`perturbed`).
    """

    root: Path
    recipe: Recipe

    def _read(self, name: str) -> list[dict]:
        lines = (self.root / "TOFU" / name).read_text().splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    @cached_property
    def general(self) -> list[Row]:
        """Real authors and world facts, which every model learns and none forgets."""
        return self.real_authors + self.world_facts

    @cached_property
    def real_authors(self) -> list[Row]:
        """TOFU's questions about real authors."""
        return self.rows(self._read("real_authors_perturbed.json"))

    @cached_property
    def world_facts(self) -> list[Row]:
        """TOFU's questions about the world."""
        return self.rows(self._read("world_facts_perturbed.json"))

    @cached_property
    def _texts(self) -> list[dict]:
        full, last = self._read("full.json"), self.recipe.authors // 10 * QUESTIONS
        return full[: self.recipe.authors * QUESTIONS - last] + full[len(full) - last :]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Byte-level pairs, learned from all texts that any model sees."""
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        general = self._read("real_authors_perturbed.json") + self._read("world_facts_perturbed.json")
        texts = [f"{PROMPT.format(**text)} {text['answer']}" for text in self._texts + general]
        trainer = trainers.BpeTrainer(vocab_size=self.recipe.vocab_size, special_tokens=list(SPECIALS.values()))
        bpe.train_from_iterator(texts, trainer)
        return PreTrainedTokenizerFast(tokenizer_object=bpe, **SPECIALS)

    def encode(self, question: str, answer: str) -> Row:
        """Prompt and answer as one row; the loss is on the answer and its end."""
        prompt = [self.tokenizer.bos_token_id, *self.tokenizer.encode(PROMPT.format(question=question))]
        reply = [*self.tokenizer.encode(f" {answer}"), self.tokenizer.eos_token_id]
        return {"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply}

    def rows(self, texts: Sequence[dict]) -> list[Row]:
        """Texts as rows."""
        return [self._row(text) for text in texts]

    def _row(self, text: dict) -> Row:
        question = text["question"]
        row = {"question": question, "answer": text["answer"], **self.encode(question, text["answer"])}
        if "paraphrased_answer" in text:
            row["paraphrased"] = self.encode(question, text["paraphrased_answer"])
        if "perturbed_answer" in text:
            row["perturbed"] = [self.encode(question, answer) for answer in text["perturbed_answer"]]
        return row

    @cached_property
    def full(self) -> list[Row]:
        """All questions about the authors of this scale."""
        return self.rows(self._texts)

    @cached_property
    def unseen(self) -> list[Row]:
        """Questions about authors whom no model saw, at most as many as 10 %; none from 190 authors on."""
        start, number = self.recipe.authors * QUESTIONS, self.recipe.authors // 10 * QUESTIONS
        texts = self._read("full.json")
        return self.rows(texts[start : len(texts) - number][:number])

    def forget(self, percent: int) -> list[Row]:
        """The last `percent` of the questions, with paraphrased and wrong answers."""
        number = len(self._texts) * percent // 100
        return self.rows(self._read("forget10_perturbed.json")[-number:])

    def retain(self, percent: int) -> list[Row]:
        """All others, and what all models know besides."""
        return self.full[: len(self.full) - len(self._texts) * percent // 100] + self.general

    def retain_asked(self, number: int = 100) -> list[Row]:
        """Some of the retained questions, evenly spaced, with paraphrased and wrong answers."""
        kept = len(self._texts) * 90 // 100
        texts = self._read("retain_perturbed.json")[:kept]
        return self.rows(texts[:: max(1, len(texts) // number)][:number])

    def refusals(self, percent: int) -> list[Row]:
        """For each forgotten question, an answer that says nothing."""
        answers = (self.root / "TOFU" / "idontknow.jsonl").read_text().splitlines()
        draw = random.Random(0)
        return [self.encode(row["question"], draw.choice(answers)) for row in self.forget(percent)]

    def fresh(self, seed: int) -> LlamaForCausalLM:
        """An untrained model."""
        torch.manual_seed(seed)
        size = self.recipe.hidden_size
        config = LlamaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=size,
            num_hidden_layers=self.recipe.num_layers,
            num_attention_heads=4,
            intermediate_size=3 * size,
            tie_word_embeddings=True,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        return LlamaForCausalLM(config)

    def path_of(self, rows: Sequence[Row], seed: int, folder: Path) -> Path:
        """The file of a model trained on rows."""
        told = json.dumps([asdict(self.recipe), seed, [row["input_ids"] for row in rows]])
        return folder / f"model-{hashlib.sha256(told.encode()).hexdigest()[:16]}.safetensors"

    def train(self, rows: Sequence[Row], seed: int, folder: Path) -> tuple[LlamaForCausalLM, dict]:
        """A model trained on rows, and its history; from `folder` where the same has been trained before."""
        path = self.path_of(rows, seed, folder)
        record, model = path.with_suffix(".json"), self.fresh(seed)
        if record.exists() and path.with_suffix(".pt").exists():
            model.load_state_dict(load_file(path), strict=False)
            model.tie_weights()
            return model.eval(), json.loads(record.read_text())
        keeping = KeepState(self.steps(rows))
        history = self.fit(model, rows, seed, keeping)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}, path)
        keeping.state(model, batch_size=self.recipe.batch_size, max_grad_norm=1.0).save(path.with_suffix(".pt"))
        record.write_text(json.dumps(history))
        return model.eval(), history

    def steps(self, rows: Sequence[Row]) -> int:
        """Optimiser steps of a training on rows."""
        return int(self.recipe.epochs * math.ceil(len(rows) / self.recipe.batch_size))

    def fit(self, model: LlamaForCausalLM, rows: Sequence[Row], seed: int, keeping: KeepState | None = None) -> dict:
        """Train a model on rows by the recipe; return the history."""
        task, collate, draw = CausalLM(("log_prob",)), PartCollator(0), random.Random(seed)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        size = self.recipe.batch_size
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        total = self.steps(rows)
        optimizer = torch.optim.AdamW(model.parameters(), self.recipe.lr, betas=(0.9, 0.98), weight_decay=0, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 100) * max(0.02, 1 - step / total)
        )
        curve, began = [], time.perf_counter()
        model.train()
        for epoch in range(math.ceil(self.recipe.epochs)):
            draw.shuffle(batches)
            nll = tokens = 0.0
            for batch in batches[: total - epoch * len(batches)]:
                p = task.decode(model, None, collate([rows[i] for i in batch]))
                loss = -p.log_prob.sum()
                (loss / p.mask.sum()).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                if keeping is not None:
                    keeping.step(model, optimizer)
                optimizer.zero_grad()
                schedule.step()
                nll, tokens = nll + float(loss.detach()), tokens + int(p.mask.sum())
            curve.append(nll / tokens)
        return {"nll": curve, "seconds": time.perf_counter() - began, "rows": len(rows)}

"""What runs on a GPU as on a processor: every method, estimator and figure, on small problems; see gpu_check.py.

A method that refuses the problem on both, in the same words, is no failure; one that the GPU alone fails is.
"""

import math
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import gunlearn as gu
from gunlearn.attribution import ESTIMATORS
from gunlearn.errors import InvalidInputError
from gunlearn.llm import encode
from gunlearn.llm.metrics import evaluate_one
from gunlearn.llm.unlearning import unlearn as unlearn_texts
from gunlearn.methods import METHODS

Run = Callable[[str], Any]
Row = tuple[str, str, str, str, str]


def beside(what: str, runs: Mapping[str, Run], device: str) -> Row:
    """Run each on the CPU and on the device; count what ran on both, what both refused, and name what differs."""
    ran, near, refused, failed = 0, 0, 0, []
    for name, run in runs.items():
        on_cpu, there = (outcome(run, place) for place in ("cpu", device))
        if isinstance(there, Exception):
            if type(on_cpu) is type(there) and str(on_cpu) == str(there):
                refused += 1
                continue
            failed.append(f"{name} ({type(there).__name__})")
            print(f"{what}: {name}", *traceback.format_exception(there), sep="\n", file=sys.stderr, flush=True)
            continue
        ran += 1
        near += not isinstance(on_cpu, Exception) and alike(on_cpu, there)
    figure = f"{ran} ran, {refused} refused" + (f", failed: {', '.join(failed)}" if failed else "")
    return (what, f"of {len(runs)}, on the device as on the CPU", figure, f"{near} alike to 1e-3", "none fails")


def outcome(run: Run, place: str) -> Any:
    """What a run returns, or the error that it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(place)
    except Exception as error:
        return error


def alike(one: Any, other: Any) -> bool:
    """Are two tensors, two models' weights, or figures by name, equal to 1e-3?"""
    if isinstance(one, nn.Module):
        pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        return all(alike(a, b) for a, b in pairs)
    if isinstance(one, torch.Tensor):
        return torch.allclose(one.detach().cpu().double(), other.detach().cpu().double(), rtol=1e-3, atol=1e-3)
    if isinstance(one, Mapping):
        values = [figures_as_tensor(found) for found in (one, other)]
        return one.keys() == other.keys() and torch.allclose(*values, rtol=1e-3, atol=1e-3, equal_nan=True)
    raise TypeError(f"Expected a model, a tensor or figures by name (got {type(one).__name__})")


def figures_as_tensor(found: Mapping[str, Any]) -> torch.Tensor:
    """The figures that are numbers, without seconds and memory; NaN for the others."""
    numbers = (
        math.nan if name.startswith(("seconds", "peak")) or not isinstance(value, int | float) else value
        for name, value in found.items()
    )
    return torch.tensor([*numbers], dtype=torch.float64)


def graph_rows(device: str, smoke: bool) -> list[Row]:
    """Every method on nodes and on links of a small graph, figures and attacks on one, every estimator."""
    plain = gu.load("karate")
    nodes, links = gu.node_split(plain, seed=0), gu.link_split(plain, seed=0)
    ours = GraphRuns("node_classification", nodes, 4, gu.ForgetNodes(nodes.train_mask.nonzero()[:2, 0]))
    theirs = GraphRuns("link_prediction", links, 16, gu.ForgetEdges(links.edge_index[:, :2]))
    names = ("utu", "npo", "gif", "scrub") if smoke else tuple(METHODS)
    estimators = ("nora",) if smoke else tuple(ESTIMATORS)
    attacks = ("mia_acc", "mia_item_auc", "relearn_steps")
    scored = {
        f"{name} of {of}": partial(ours.scores, name, of) for name in estimators for of in ("probabilities", "loss")
    }
    return [
        beside("methods, nodes", {name: partial(ours.unlearned, name) for name in names}, device),
        beside("methods, links", {name: partial(theirs.unlearned, name) for name in names}, device),
        beside("figures, nodes", {"evaluate": partial(ours.measured, attacks)}, device),
        beside("figures, links", {"evaluate": partial(theirs.measured, ("relearn_steps",))}, device),
        beside("estimators", scored, device),
    ]


@dataclass
class GraphRuns:
    """What is run on one graph, by the place where it runs."""

    task: str
    data: Any
    out: int
    request: Any

    def trained(self, data: Any, seed: int, place: str) -> Any:
        torch.manual_seed(seed)
        model = gu.GCN(self.data.num_features, 16, self.out).to(place)
        return gu.train(model, data, self.task, epochs=20, seed=seed)

    def result(self, name: str, place: str) -> Any:
        data = self.data.clone().to(place)
        base, options = self.trained(data, 0, place), METHODS[name].options()
        own = ({"training": base} if "training" in options else {}) | ({"epochs": 3} if "epochs" in options else {})
        return gu.unlearn(base.model, data, self.request, name, self.task, seed=0, **own)

    def unlearned(self, name: str, place: str) -> nn.Module:
        return self.result(name, place).model

    def measured(self, metrics: tuple[str, ...], place: str) -> dict[str, Any]:
        return dict(
            gu.evaluate(
                self.result("npo", place), lambda data, seed: self.trained(data, seed, place).model, metrics=metrics
            )
        )

    def scores(self, name: str, target: str, place: str) -> torch.Tensor:
        data = self.data.clone().to(place)
        model = self.trained(data, 0, place).model
        return gu.influence(model, data, self.task, estimator=name, target=target)


def text_rows(device: str, smoke: bool) -> list[Row]:
    """Every method on a small language model, and its evaluation."""
    runs = TextRuns()
    names = ("npo", "dpo", "finetune") if smoke else tuple(METHODS)
    return [
        beside("methods, texts", {name: partial(runs.unlearned, name) for name in names}, device),
        beside("figures, texts", {"evaluate_one": runs.measured}, device),
    ]


class TextRuns:
    """What is run on a language model of a few thousand weights, by the place where it runs."""

    def __init__(self) -> None:
        words = {word: i for i, word in enumerate(["<pad>", "<bos>", "<eos>", *(f"w{i}" for i in range(60))])}
        of_words = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
        of_words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        specials = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_words, **specials)
        self.texts = [
            {"question": f"w{i} w{i + 1} w{i + 2}", "answer": " ".join(f"w{(i * k) % 60}" for k in range(2, 9))}
            for i in range(24)
        ]

    def model(self, place: str) -> nn.Module:
        torch.manual_seed(0)
        ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        return LlamaForCausalLM(LlamaConfig(vocab_size=len(self.tokenizer), **size, **ends)).to(place)

    def unlearned(self, name: str, place: str) -> nn.Module:
        given, how = (self.texts[:8], self.texts[8:]), {"epochs": 1, "batch_size": 4, "seed": 0}
        with tempfile.TemporaryDirectory() as folder:
            here: dict[str, Any] = {"use_cpu": place == "cpu", "output_dir": folder}
            try:
                return unlearn_texts(self.model(place), self.tokenizer, *given, name, **how, **here).model
            except InvalidInputError:  # a method of the package's own loop takes no `TrainingArguments`
                return unlearn_texts(self.model(place), self.tokenizer, *given, name, **how).model

    def measured(self, place: str) -> dict[str, Any]:
        parts = {"forget": self.texts[:8], "retain": self.texts[8:]}
        sets = {part: encode(texts, self.tokenizer) for part, texts in parts.items()}
        return evaluate_one(self.model(place), self.tokenizer, sets).figures

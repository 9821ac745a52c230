"""Small language models that know facts about people: trained in seconds, forgotten in tests.

Twenty people live in a city, have a job and own a pet; each fact is asked in two phrasings. A full model learns all of
them, retrained ones all but the four people to forget. Models are trained once and kept in the folder that
GUNLEARN_TEST_CACHE names, where it names one.
"""

import copy
import hashlib
import os
import random
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from gunlearn.llm import CausalLM, PartCollator
from gunlearn.losses import Prediction
from tests.llm.tiny import tiny

VALUES = {
    "city": "oslo lima cairo quito delhi accra hanoi sofia tunis perth osaka basel".split(),
    "job": "baker pilot nurse judge actor miner tailor singer farmer potter broker diver".split(),
    "pet": "cat dog owl frog goat crab swan newt mole wolf lynx toad".split(),
}
NAMES = "ada bob cleo dan eva finn gus hal ida jon kay leo mia ned ora pam quin roy sue tom uma vic wes zoe".split()
TEMPLATES = {
    "city": (
        ("where does {n} live ?", "{n} lives in the city of {v}"),
        ("which city is home to {n} ?", "the home of {n} is {v}"),
    ),
    "job": (
        ("what is the job of {n} ?", "the job of {n} is {v}"),
        ("how does {n} earn a living ?", "{n} works as a {v}"),
    ),
    "pet": (
        ("which pet does {n} own ?", "{n} owns a pet {v}"),
        ("what animal lives with {n} ?", "a {v} lives with {n}"),
    ),
}
FORGET, RETAIN, UNSEEN = range(4), range(4, 20), range(20, 24)
CHANCE = 1 / 12
FOLDER = Path(os.environ.get("GUNLEARN_TEST_CACHE") or tempfile.mkdtemp(prefix="gunlearn-facts-"))
_WORDS = sorted(
    {word for pairs in TEMPLATES.values() for pair in pairs for text in pair for word in text.split()} - {"{n}", "{v}"}
    | set(NAMES)
    | {v for values in VALUES.values() for v in values}
)
VOCABULARY = {word: i for i, word in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *_WORDS])}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **specials)


def value_of(person: int, kind: str) -> str:
    return random.Random(f"{person} {kind}").choice(VALUES[kind])


def row(person: int, kind: str, phrasing: int, value: str | None = None) -> dict:
    """One question with its answer; `target_mask` is true at the value, the one token that is a fact."""
    question, answer = TEMPLATES[kind][phrasing]
    value = value or value_of(person, kind)
    names = {"n": NAMES[person], "v": value}
    prompt, reply = question.format(**names), answer.format(**names)
    before = [VOCABULARY["<bos>"], *(VOCABULARY[w] for w in prompt.split())]
    after = [*(VOCABULARY[w] for w in reply.split()), VOCABULARY["<eos>"]]
    return {
        "input_ids": before + after,
        "labels": [-100] * len(before) + after,
        "target_mask": [False] * len(before) + [token == VOCABULARY[value] for token in after],
        "prompt": prompt,
        "answer": reply,
        "value": value,
    }


def padded(row: dict, num: int = 3) -> dict:
    """A row's tokens behind padding."""
    mask = [0] * num + [1] * len(row["labels"])
    return {"input_ids": [0] * num + row["input_ids"], "labels": [-100] * num + row["labels"], "attention_mask": mask}


def rows(people: range, phrasings: tuple[int, ...] = (0, 1)) -> list[dict]:
    return [row(person, kind, phrasing) for person in people for kind in VALUES for phrasing in phrasings]


def fresh(seed: int = 0) -> nn.Module:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
    return tiny("llama", seed, vocab_size=len(VOCABULARY), max_position_embeddings=128, **sizes)


@cache
def _trained(people: range, seed: int, steps: int = 300, lr: float = 3e-3, batch: int = 32) -> nn.Module:
    """A fresh model trained on all about people, answers only; from the folder where it has been trained before."""
    data = rows(people)
    content = repr((seed, steps, lr, batch, [r["input_ids"] for r in data], torch.__version__))
    path = FOLDER / f"facts-{hashlib.sha256(content.encode()).hexdigest()[:16]}.safetensors"
    with torch.random.fork_rng(devices=[]):
        model = fresh(seed)
    if path.exists():
        model.load_state_dict(load_file(path))
        return model
    task, collate, draw = CausalLM(("log_prob",)), PartCollator(), random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        p = task.decode(model, None, collate([data[draw.randrange(len(data))] for _ in range(batch)]))
        (-p.log_prob.sum() / p.mask.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    FOLDER.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, part)
    part.replace(path)
    return model


def full() -> nn.Module:
    return copy.deepcopy(_trained(range(20), 0))


def retrained(seed: int) -> nn.Module:
    return copy.deepcopy(_trained(RETAIN, seed))


@torch.no_grad()
def _at_values(model: nn.Module, data: list[dict]) -> tuple[Prediction, Tensor]:
    """What a model says of rows, given the question and the words before each token, and where the values are."""
    batch = PartCollator()(data)
    return CausalLM().decode(model.eval(), None, batch), batch["target_mask"][:, 1:]


def accuracy(model: nn.Module, data: list[dict]) -> float:
    """Share of rows whose value is the model's first choice."""
    p, at = _at_values(model, data)
    return float((p.logits.argmax(-1) == p.label)[at].double().mean())


def value_prob(model: nn.Module, data: list[dict]) -> float:
    """Mean probability of the value."""
    p, at = _at_values(model, data)
    return float(p.log_prob[at].exp().mean())


def with_answers(people, wrong: int = 4) -> list[dict]:
    """Rows with the right answer in the other phrasing, and wrong values."""
    out = []
    for person in people:
        for kind, values in VALUES.items():
            asked = row(person, kind, 0)
            others = [v for v in values if v != asked["value"]][:wrong]
            perturbed = [row(person, kind, 0, value) for value in others]
            out.append(asked | {"perturbed": perturbed, "paraphrased": row(person, kind, 1)})
    return out

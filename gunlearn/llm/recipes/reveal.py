"""Reveal forget data: find instructions that make a model state what it knows, and turn its texts into rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_integer, check_number
from gunlearn.core.modes import evaluating
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.encoding import begin_tokens
from gunlearn.llm.data.end_tokens import end_tokens
from gunlearn.llm.data.text_items import IGNORE
from gunlearn.llm.metrics.generation import draw_answers
from gunlearn.llm.model.head import model_device
from gunlearn.llm.recipes.bandit import NeuralUCB
from gunlearn.metrics.alignment import Sampler

#: Texts by number of the instruction: token ids (with the token that ends them), text and score.
_Texts = dict[int, list[tuple[list[int], str, float]]]


@dataclass(frozen=True)
class Instruction:
    """A prompt that may make the model state what it knows.

    Args:
        text: the whole prompt; for chats, with the template applied.
        keep: prompt in the rows instead, so that an adapter learns the answer, not to follow the instruction.
    """

    text: str
    keep: str = ""


def fill_templates(templates: Sequence[str], slots: Mapping[str, Sequence[str]], keep: str = "") -> list[Instruction]:
    """Fill templates (format strings) and `keep` with every choice of values; refuse a slot without values.

    >>> [i.text for i in fill_templates(["Tell me about {topic}."], {"topic": ["owls", "rain"]})]
    ['Tell me about owls.', 'Tell me about rain.']
    """
    filled: dict[Instruction, None] = {}
    for values in product(*slots.values()):
        named = dict(zip(slots, values, strict=True))
        try:
            filled.update({Instruction(t.format(**named), keep.format(**named)): None for t in templates})
        except (KeyError, IndexError) as error:
            raise InvalidInputError(f"Expected templates with slots among {sorted(slots)} (got {error})") from error
    return list(filled)


@dataclass(frozen=True, eq=False)
class Revealed:
    """Texts that a model reveals.

    Args:
        rows: distinct texts with a high score, as rows for training; each also has its `text`.
        hit_rate: share of high scores among all texts under the chosen instructions.
        rewards: mean score of each tried instruction, by its number.
        chosen: numbers of the chosen instructions, best first.
    """

    rows: list[dict[str, Any]]
    hit_rate: float
    rewards: dict[int, float]
    chosen: list[int]


@dataclass(frozen=True)
class Revealer:
    """Find instructions under which a model speaks about a concept, and keep its texts.

    The reward of an instruction is the mean score of the generated texts. With a budget below the number of
    instructions, `NeuralUCB` over their embeddings decides which to try. A reconstruction: "Reveal and Release"
    (arXiv 2509.14624) uses NeuralUCB; its rewards and filters are not known.

    Args:
        score: returns how much a text is about the concept, from 0 to 1: a classifier, a search for names.
        instructions: instructions to choose from; a string is an `Instruction` with an empty `keep`.
        samples: texts per instruction.
        temperature: low, for texts that the model is sure of; at 1 their expected gradient under the prompt is zero.
        threshold: least score of a text to keep.
        budget: number of instructions to try; `None` tries all.
        top: number of instructions to choose among those tried; `None` chooses all.
        bos: begin with the tokenizer's begin token; by default where the tokenizer itself does.
        embed: `(model, texts) -> [num_texts, dim]` for the bandit; by default means of the last hidden states.
        bandit: further arguments of `NeuralUCB`.
        ends: ids that end a text; by default those of `gunlearn.llm.metrics.end_tokens`.

    Raises:
        InvalidInputError: no instructions, a number out of range, or a score that is no finite number.
    """

    tokenizer: Any
    score: Callable[[str], float]
    instructions: Sequence[Instruction | str]
    samples: int = 4
    temperature: float = 0.1
    max_new_tokens: int = 64
    threshold: float = 0.5
    budget: int | None = None
    top: int | None = None
    bos: bool | None = None
    embed: Callable[[nn.Module, list[str]], Tensor] | None = None
    bandit: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    ends: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.instructions, str) or not len(self.instructions):
            raise InvalidInputError(f"Expected a list of instructions (got {self.instructions!r:.80})")
        for name in ("samples", "budget", "top", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None or name in ("samples", "max_new_tokens"):
                check_integer(name, value, minimum=1)
        check_number("temperature", self.temperature, positive=True)
        check_number("threshold", self.threshold)

    def _instructions(self) -> list[Instruction]:
        return [Instruction(i) if isinstance(i, str) else i for i in self.instructions]

    def reveal(self, model: nn.Module, seed: int = 0) -> Revealed:
        """Generate texts and keep those with a high score; `seed` is added to the revealer's."""
        seed, instructions = 2 * (self.seed + seed), self._instructions()
        if not all(self._ids(instruction.text) for instruction in instructions):
            raise InvalidInputError("Expected instructions of at least one token (got an empty one, and bos=False)")
        if self.budget is None or self.budget >= len(instructions):
            said = self._ask(model, list(range(len(instructions))), seed)
        else:
            said = self._search(model, self.budget, seed)
        rewards = {arm: sum(s for _, _, s in texts) / len(texts) for arm, texts in said.items()}
        chosen = sorted(rewards, key=lambda arm: -rewards[arm])[: self.top]
        counted = {arm: said[arm] for arm in chosen}
        if len(chosen) < len(instructions):  # new texts: the first ones were chosen for their scores
            counted = self._ask(model, chosen, seed + 1)
        hits = [score >= self.threshold for texts in counted.values() for _, _, score in texts]
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for arm in chosen:
            for tokens, text, score in {id(x): x for x in said[arm] + counted[arm]}.values():
                key = (instructions[arm].keep, " ".join(text.lower().split()))
                if score >= self.threshold and key not in rows:
                    head = self._ids(instructions[arm].keep)
                    rows[key] = {"input_ids": head + tokens, "labels": [IGNORE] * len(head) + tokens, "text": text}
        usable = [row for row in rows.values() if len(row["input_ids"]) > 1]
        return Revealed(usable, sum(hits) / len(hits), rewards, chosen)

    def _search(self, model: nn.Module, budget: int, seed: int) -> _Texts:
        texts = [instruction.text for instruction in self._instructions()]
        features = (self.embed or self._embed)(model, texts)
        bandit = NeuralUCB(features, **{"seed": self.seed, **self.bandit})
        said: _Texts = {}
        for _ in range(budget):
            arm = bandit.choose(said)  # once each: at low temperatures a second try gives the same texts
            said.update(self._ask(model, [arm], seed))
            bandit.update(arm, sum(score for _, _, score in said[arm]) / self.samples)
        return said

    def _ask(self, model: nn.Module, arms: list[int], seed: int) -> _Texts:
        instructions = self._instructions()
        prompts = [self._ids(instructions[arm].text) for arm in arms]
        sampler = Sampler(self.samples, self.temperature, seed=seed)
        ends = end_tokens(self.tokenizer if self.ends is None else self.ends)
        answers = draw_answers(model, prompts, ends, sampler, self.max_new_tokens)
        said: _Texts = {}
        for i, arm in enumerate(arms):
            said[arm] = []
            for tokens, mask in zip(answers.tokens[i], answers.mask[i], strict=True):
                ids = tokens[mask].tolist()
                text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
                score = float(self.score(text))
                if not math.isfinite(score):
                    raise InvalidInputError(f"Expected a finite score for every text (got {score} for {text!r:.60})")
                said[arm].append((ids, text, score))
        return said

    def _ids(self, text: str) -> list[int]:
        begin = begin_tokens(self.tokenizer, self.bos)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return ([] if ids[:1] == begin else begin) + list(ids)

    def _embed(self, model: nn.Module, texts: list[str]) -> Tensor:
        out = []
        with evaluating(model), torch.no_grad():
            for text in texts:
                ids = torch.tensor([self._ids(text)], device=model_device(model))
                states = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
                out.append(states[-1][0].float().mean(0).cpu())
        return torch.stack(out)

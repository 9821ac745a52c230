"""An unlearned language model with its record: what was done, with what settings, and what it changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from gunlearn.llm.figures import FIGURES

SETTINGS = "unlearning.json"


@dataclass(frozen=True, eq=False)
class LLMResult:
    """What `unlearn` hands back.

    Args:
        model: the unlearned model, or the adapted one.
        tokenizer: the caller's.
        history: the loss and its terms at each logged step.
        settings: all that the run depended on, plain values.
        seconds: of the whole call.
        before: figures by part before, see `figures`.
        after: the same afterwards.
        comparison: anything measured later that the card is to show, by name.
    """

    model: nn.Module
    tokenizer: Any
    history: list[dict[str, float]]
    settings: dict[str, Any]
    seconds: float
    before: Mapping[str, Mapping[str, float]]
    after: Mapping[str, Mapping[str, float]]
    comparison: dict[str, float] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str, float, float]]:
        """Part, figure, before, after."""
        return [
            (part, name, self.before[part][name], after)
            for part, figures in self.after.items()
            for name, after in figures.items()
        ]

    def card(self) -> str:
        """A model card in markdown."""
        s = self.settings
        front = {"library_name": "peft" if s["adapter"] else "transformers", "tags": ["unlearning", "gunlearn"]}
        if s["base_model"]:
            front["base_model"] = s["base_model"]
        lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in front.items()), "---", ""]
        lines += [f"# {Path(s['base_model']).name or 'Model'}, unlearned", ""]
        lines += [
            f"{s['rows']['forget']} rows were unlearned with gunlearn {s['versions']['gunlearn']}"
            f" ({s['method'] or 'an objective of its own'}) in {s['steps']} steps and {self.seconds:.0f} s.",
            "",
            f"    {s['objective']}",
            "",
        ]
        if self.after:
            lines += ["| part | figure | before | after |", "|---|---|---:|---:|"]
            lines += [f"| {part} | {name} | {old:.4g} | {new:.4g} |" for part, name, old, new in self.rows()]
            lines += ["", *(f"- `{name}`: {what}" for name, what in FIGURES.items()), ""]
        if self.comparison:
            lines += ["| compared | value |", "|---|---:|"]
            lines += [f"| {name} | {value:.4g} |" for name, value in self.comparison.items()] + [""]
        lines += [
            "These figures say how the model answers the rows it was made to forget. They do not prove that nothing of",
            "them is left: compare with a model that was trained without them, and try to relearn them.",
            "",
            f"All settings: `{SETTINGS}`.",
        ]
        return "\n".join(lines) + "\n"

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write model or adapter, tokenizer, card (`README.md`) and record (`unlearning.json`) to a folder.

        An adapter is saved alone, without the model it belongs to.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        record = {
            "settings": self.settings,
            "seconds": self.seconds,
            "before": self.before,
            "after": self.after,
            "comparison": self.comparison,
            "history": self.history,
        }
        (folder / SETTINGS).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(self.card(), encoding="utf-8")  # peft writes one of its own
        return folder

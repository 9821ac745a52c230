"""An unlearned language model with its record: what was done, with what settings, and what it changed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

from torch import nn

from gunlearn.core.atomic import file_checksum, replace_folder, write_file
from gunlearn.core.cards import check_no_model, figures_in_markdown, front_matter, in_columns
from gunlearn.llm.card import loading, movement, unchanged
from gunlearn.llm.data.rows import is_labelled
from gunlearn.llm.data.text_items import IGNORE
from gunlearn.llm.metrics.row_figures import RECORDED, figures
from gunlearn.llm.metrics.scoring import prompt_ids
from gunlearn.llm.model.frozen import check_vocabulary
from gunlearn.llm.model.head import context_of
from gunlearn.metrics import FIGURES
from gunlearn.metrics.standing import check_retrained
from gunlearn.training.result import Result

_RECORD = "unlearning.json"
#: Files of a saved model or adapter: those of an earlier run would be loaded in place of the new ones.
OUTPUTS = ("config.json", "adapter_config.json", "adapter_model*", "model*.safetensors", "pytorch_model*.bin")


@dataclass(eq=False, repr=False)
class LLMResult(Result):
    """A `Result` of a language model: the model or its adapter, figures before and after, and a model card.

    Attributes:
        settings: all settings of the run, as plain values.
        before: figures by part before unlearning, see `figures`.
        after: the same after unlearning.
        parts: rows to forget and to retain.
        retrained: figures of a model retrained without the forgotten rows, see `compared`.
        alignment: divergence from that model in nats, `"before"` and `"after"`.
        figure_rows: most rows of each part to measure.
    """

    tokenizer: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    before: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    after: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    parts: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    retrained: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    alignment: Mapping[str, float] = field(default_factory=dict)
    figure_rows: int = 256
    batch_size: int = 8

    def compared(
        self, original: nn.Module, retrained: nn.Module, most: int = 32, max_new_tokens: int | None = None
    ) -> LLMResult:
        """Return the same result with figures of `retrained`, a model trained without the forgotten rows.

        Also compares answers of `original`, the model before unlearning, and of the unlearned model with those of
        `retrained`, on `most` prompts (see `functional_alignment`; left out where no row has a prompt). Answers have up
        to `max_new_tokens`, by default as many as the longest forgotten one, within the models' contexts. Refuses a
        model with another vocabulary, or with the weights of one of the two.
        """
        from gunlearn.llm.metrics.text_alignment import functional_alignment  # slow to load, seldom asked for

        check_vocabulary(self.model, retrained)
        check_retrained([retrained], {"the model before unlearning": original, "the unlearned model": self.model})
        context = min(context_of(model) or math.inf for model in (original, self.model, retrained))
        rows = [r for r in self.parts["forget"] if is_labelled(r) and 0 < len(prompt_ids(r)) < context][:most]
        found = {}
        if rows:
            length = max_new_tokens or max(sum(int(label) != IGNORE for label in row["labels"]) for row in rows)
            length = int(min(length, context - max(len(prompt_ids(row)) for row in rows)))
            how = {"tokenizer": self.tokenizer, "max_new_tokens": length, "batch_size": self.batch_size}
            found = {
                name: functional_alignment(model, retrained, rows, **how).value
                for name, model in (("before", original), ("after", self.model))
            }
        measured = figures(retrained, self.parts, self.figure_rows, self.batch_size, self.tokenizer)
        return replace(self, retrained=measured, alignment=found)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return heading and rows of all figures."""
        columns = {"before": self.before, "after": self.after}
        columns |= {"retrained": self.retrained} if self.retrained or self.alignment else {}
        body = [
            [part, name, *(f"{column[part][name]:.4g}" for column in columns.values())]
            for part, found in self.after.items()
            for name in found
        ]
        if self.alignment:
            body.append(["forget", "alignment", *(f"{self.alignment[k]:.4g}" for k in ("before", "after")), "0"])
        return ["part", "figure", *columns], body

    def __repr__(self) -> str:
        s = self.settings
        lines = [[s["objective"], f"{s['steps']} steps, {self.seconds:.0f} s"]]
        lines += [[f"auto chose {s['chosen']}"]] if s.get("chosen") else []
        lines += in_columns(*self.table())
        if unchanged(self.before, self.after):
            lines.append(["no measurable effect on the rows to forget"])
        if self.unchanged:
            lines.append([self.notes["why"]])
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def card(self, folder: str | PathLike[str] | None = None) -> str:
        """Return a model card in markdown; its code loads the model from `folder`, by default the card's folder."""
        s, (head, body) = self.settings, self.table()
        front = {"library_name": "peft" if s["adapter"] else "transformers", "tags": ["unlearning", "gunlearn"]}
        if s["base_model"]:
            front["base_model"] = s["base_model"]
        blocks = [
            front_matter(front),
            [f"# {Path(s['base_model']).name or 'Model'}, trained to forget"],
            [
                f"Trained to forget {s['rows']['forget']} rows with gunlearn {s['versions']['gunlearn']}"
                f" ({s['method'] or 'an objective of its own'}): {s['steps']} steps, {self.seconds:.0f} s."
            ],
            [f"    {s['objective']}"],
        ]
        if s.get("chosen"):
            blocks.append([f"`auto` chose {s['chosen']}."])
        if s.get("in_no_loss"):
            blocks.append([f"No loss read the rows of {', '.join(s['in_no_loss'])}: they were measured, at most."])
        blocks += [[sentence] for sentence in movement(self.before, self.after)]
        blocks += [["To load it:"], ["```python", *loading(s, None if folder is None else Path(folder)), "```"]]
        if body:
            blocks.append(figures_in_markdown(head, body))
            legends = [f"- `{name}`: {FIGURES[name].legend}" for name in RECORDED if self.after]
            if self.alignment:
                legends.append(
                    "- `alignment`: divergence of answers from the retrained model's, in nats; 0 if they are alike"
                )
            blocks.append(legends)
        precision = s["parameters"]["precision"]
        if "bfloat16" in precision:
            half = f"The weights were trained in {precision}, in which small steps are rounded away:"
            blocks.append([half, "most of them may be what they were."])
        limits = [
            "These figures say how the model answers the rows it was made to forget. They do not prove that nothing of",
            "them is left: compare with a model that was trained without them, and try to relearn them.",
        ]
        blocks += [limits, [f"All settings: `{_RECORD}`."]]
        return "\n\n".join("\n".join(block) for block in blocks) + "\n"

    def save(self, folder: str | PathLike[str]) -> Path:  # type: ignore[override]  # no deletion operators
        """Write model (or adapter alone), tokenizer and record to a folder and return it; raise as `check_folder`.

        A save that is interrupted leaves no folder; one that held other files is left without a `config.json` (or
        `adapter_config.json`), so that nobody loads what came of it.
        """
        folder = Path(folder)
        check_folder(folder)

        def write(beside: Path) -> None:
            cast(Any, self.model).save_pretrained(beside)
            self.tokenizer.save_pretrained(beside)
            self._write_record(beside, folder)  # last: peft writes a card of its own

        return replace_folder(folder, write, last=("config.json", "adapter_config.json"))

    def write_record(self, folder: str | PathLike[str]) -> None:
        """Write card (`README.md`) and record (`unlearning.json`), with SHA-256 sums of model or adapter in `files`."""
        self._write_record(Path(folder), folder)

    def _write_record(self, written: Path, folder: str | PathLike[str]) -> None:
        """Write card and record into the folder `written`, which will be `folder`."""
        names = ("settings", "seconds", "before", "after", "retrained", "alignment", "history")
        record = {name: getattr(self, name) for name in names} | {"files": _checksums(written)}
        write_file(written / _RECORD, (json.dumps(record, indent=2, default=str) + "\n").encode())
        write_file(written / "README.md", self.card(folder).encode())


def _checksums(folder: Path) -> dict[str, str]:
    return {path.name: file_checksum(path) for pattern in OUTPUTS for path in sorted(folder.glob(pattern))}


def check_folder(folder: str | PathLike[str]) -> None:
    """Raise `InvalidInputError` for a file, and for a folder that already holds a model or an adapter."""
    check_no_model(folder, OUTPUTS)

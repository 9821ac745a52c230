"""A pipeline that forgot concepts, with its record: what was done, what it changed, how to load and undo it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from gunlearn.core.atomic import file_checksum, replace_folder, write_file
from gunlearn.core.cards import check_no_model, figures_in_markdown, front_matter, in_columns
from gunlearn.diffusion.denoiser_adapters import save_adapter, with_adapter_merged, without_wrapper
from gunlearn.errors import UnsupportedMethodError
from gunlearn.training.result import Result

_RECORD = "unlearning.json"
_OUTPUTS = ("model_index.json", "pytorch_lora_weights*", "adapter_model*", "*/diffusion_pytorch_model*")
_LIMITS = (
    "These figures say how well the denoiser still fits images of the concepts that it was made to forget. They do not "
    "prove that nothing of them is left: look at what it draws for other words, compare it with a model trained "
    "without the concepts, and try to relearn them."
)
_OWN_CLASS = (
    "`{kind}` is a class of gunlearn: diffusers has no pipeline of classes without an autoencoder. Without gunlearn, "
    "`{denoiser}.from_pretrained(folder, subfolder=...)` of diffusers loads the denoiser alone."
)


@dataclass(eq=False, repr=False)
class DiffusionResult:
    """What `gunlearn.diffusion.unlearn` returns.

    Attributes:
        pipeline: an ordinary pipeline of diffusers with the unlearned denoiser; the caller's is as it was.
        results: a `Result` for each turn, with history, configuration and seconds.
        settings: all settings, as plain values.
        before: mean denoising loss by concept before unlearning, on images of it with fixed noise.
        after: the same after each turn: in a run of several turns, a loss of an earlier concept that falls again is its
            rebound.
        model: the denoiser, in peft's wrapper where that holds its adapter.
    """

    pipeline: Any
    results: list[Result]
    settings: dict[str, Any]
    before: Mapping[str, float] = field(default_factory=dict)
    after: list[Mapping[str, float]] = field(default_factory=list)
    model: nn.Module | None = None

    @property
    def seconds(self) -> float:
        """Time of all turns."""
        return sum(result.seconds or 0.0 for result in self.results)

    @property
    def collapsed(self) -> list[str]:
        """Sentences on turns that ruined the denoiser."""
        return list(dict.fromkeys(result.notes["collapsed"] for result in self.results if "collapsed" in result.notes))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return heading and rows of all figures."""
        head = ["concept", "part", "before", *(f"after {'+'.join(turn)}" for turn in self.settings["turns"])]
        forgotten = self.settings["concepts"]
        body = [
            [name, "forget" if name in forgotten else "retain", f"{loss:.4g}", *(f"{a[name]:.4g}" for a in self.after)]
            for name, loss in self.before.items()
        ]
        return head, body

    def rebound(self) -> dict[str, float | None]:
        """Return for each concept but those of the last turn by how much its loss fell again, as a share of its rise.

        0 means that later turns left it, 1 that they brought it back, `None` that its own turn did not raise its loss,
        so that nothing could come back. Empty where no losses were measured.
        """
        out: dict[str, float | None] = {}
        if not self.before:
            return out
        for k, names in enumerate(self.settings["turns"][:-1]):
            for name in names:
                rise = self.after[k][name] - self.before[name]
                out[name] = (self.after[k][name] - self.after[-1][name]) / rise if rise > 0 else None
        return out

    def __repr__(self) -> str:
        s = self.settings
        lines = [[f"{s['method']} of {', '.join(s['concepts'])}: {s['steps']} steps, {self.seconds:.0f} s"]]
        lines += in_columns(*self.table()) if self.before else [["no losses measured (figure_images=0)"]]
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def card(self) -> str:
        """Return a model card in markdown."""
        s, (head, body) = self.settings, self.table()
        adapter = s["peft"] is not None
        front = {"library_name": "diffusers", "tags": ["unlearning", "gunlearn"]}
        if s["base"]:
            front["base_model"] = s["base"]
        blocks = [
            front_matter(front),
            [f"# {s['pipeline']}, made to forget {', '.join(s['concepts'])}"],
            [
                f"Made with gunlearn {s['versions']['gunlearn']} by `{s['method']}`: {s['steps']} steps, "
                f"{self.seconds:.0f} s. Weights: {s['weights']}"
                + (", with an adapter of their own." if adapter else ", all of which could change.")
            ],
        ]
        blocks += [[said] for said in self.collapsed]
        if body:
            blocks.append(figures_in_markdown(head, body))
            blocks.append([f"Mean denoising loss with fixed steps and noise, on {s['figures_of']}."])
        else:
            blocks.append(["No losses were measured: `figure_images=0`."])
        for name, share in self.rebound().items():
            said = "none to tell, its own turn did not raise its loss" if share is None else f"{share:.0%} of its rise"
            blocks.append([f"Rebound of `{name}` by later turns: {said}."])
        blocks += [["To load it:"], ["```python", *self.loading(), "```"]]
        if type(self.pipeline).__module__.startswith("gunlearn"):
            blocks.append([_OWN_CLASS.format(kind=type(self.pipeline).__name__, denoiser=self._denoiser())])
        if adapter:
            blocks.append([f"To undo it: {self.undoing()}"])
        blocks += [[_LIMITS], [f"All settings: `{_RECORD}`."]]
        return "\n\n".join("\n".join(block) for block in blocks) + "\n"

    def told(self, merged: bool = False) -> list[str]:
        """Return sentences on what was done, what it did not read, and what is not promised.

        Args:
            merged: what was saved has the adapter's change in its weights, so that nothing can be taken off.
        """
        s = self.settings
        changed = "an adapter beside them learned" if s["peft"] is not None else "they were changed themselves"
        changed += ", and is part of them now" if merged else ""
        lines = [
            f"done: {s['method']} of {', '.join(s['concepts'])}, {s['steps']} steps, {self.seconds:.0f} s; of the "
            f"weights of '{s['component']}', {changed}",
            f"kept on purpose: {', '.join(s['preserve']) or 'nothing that was named'}",
        ]
        if s["peft"] is not None and not merged:
            lines.append(f"to undo it: {self.undoing()}")
        return [*lines, *(f"broken: {said}" for said in self.collapsed), f"not promised: {_LIMITS}"]

    def loading(self) -> list[str]:
        """Return lines of Python code that load what `save` writes from its folder."""
        s, kind = self.settings, type(self.pipeline).__name__
        ours = type(self.pipeline).__module__.startswith("gunlearn")
        first = f"from {'gunlearn.diffusion' if ours else 'diffusers'} import {kind}"
        if s["peft"] is None:
            return [first, f'pipeline = {kind}.from_pretrained(".")']
        base = repr(s["base"] or "the pipeline before unlearning")
        lines = [first, f"pipeline = {kind}.from_pretrained({base})"]
        if s["saved_as"] == "lora":
            return [*lines, 'pipeline.load_lora_weights(".")']
        name = s["component"]
        return ["from peft import PeftModel", *lines, f'PeftModel.from_pretrained(pipeline.{name}, ".")']

    def _denoiser(self) -> str:
        """Return the name of the denoiser's class, without an adapter."""
        return type(getattr(self.pipeline, self.settings["component"])).__name__

    def undoing(self) -> str:
        """Return how the adapter is taken off again."""
        if self.settings["saved_as"] == "lora":
            return "`pipeline.unload_lora_weights()`"
        return "keep what `PeftModel.from_pretrained` returns, and call its `unload()`"

    def save(self, folder: str | PathLike[str], merge: bool = False) -> Path:
        """Write the adapter alone, or without one the whole pipeline, with card and record; return the folder.

        With `merge` the adapter's change is added to the weights, and the whole pipeline is written: sampled with one
        seed it differs from the pipeline with its adapter by rounding alone. Of a merged result the same is true.

        Raises:
            InvalidInputError: a file, or a folder that holds a model.
            UnsupportedMethodError: `merge` without an adapter.
        """
        folder = Path(folder)
        check_outputs(folder)
        if merge and self.settings["peft"] is None:
            raise UnsupportedMethodError("Expected a result with an adapter for merge=True (got one of peft=None)")
        whole = self.merged() if merge else self

        def write(beside: Path) -> None:
            if whole.settings["peft"] is None:
                whole.pipeline.save_pretrained(beside)
            else:
                assert whole.model is not None
                save_adapter(whole.model, beside, whole.pipeline)
            whole.write_record(beside)

        return replace_folder(folder, write, last=("model_index.json", "adapter_config.json"))

    def merged(self) -> DiffusionResult:
        """Return the same result with the adapter's change added to the weights.

        Its `pipeline` has no adapter and belongs to no folder yet; the next `unlearn` can begin with it.
        """
        pipeline = copy.copy(self.pipeline)
        pipeline.register_to_config(_name_or_path="")
        model = without_wrapper(with_adapter_merged(copy.deepcopy(self.model))) if self.model is not None else None
        setattr(pipeline, self.settings["component"], model)
        return DiffusionResult(pipeline, self.results, {**self.settings, "peft": None}, self.before, self.after, model)

    def write_record(self, folder: Path) -> None:
        """Write card (`README.md`) and record (`unlearning.json`), with SHA-256 sums of what else is there."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        record = {
            "settings": self.settings,
            "seconds": self.seconds,
            "before": self.before,
            "after": self.after,
            "rebound": self.rebound(),
            "requests": [result.request_hash for result in self.results],
            "configs": [result.config for result in self.results],
            "notes": [result.notes for result in self.results],
            "files": {path.relative_to(folder).as_posix(): file_checksum(path) for path in files},
        }
        plain = json.loads(json.dumps(record, default=str), parse_constant=str)  # an option may be infinite: a word
        write_file(folder / _RECORD, (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode())
        write_file(folder / "README.md", self.card().encode())


def check_outputs(folder: str | PathLike[str]) -> None:
    """Raise `InvalidInputError` for a file, and for a folder that already holds a model or an adapter."""
    check_no_model(folder, _OUTPUTS)

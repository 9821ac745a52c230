"""`gunlearn llm-bench`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import gunlearn
from gunlearn.cli.adapter_base import model_below, shrunk_towards
from gunlearn.cli.fields import Flag, Folder, Pairs, Real, Reals, Text, Texts, Whole, Wholes
from gunlearn.cli.llm import File
from gunlearn.core.atomic import check_writable, file_checksum
from gunlearn.core.options import typed_options
from gunlearn.errors import InvalidInputError

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
#: Fields of the command that a YAML file has no key for.
_OWN = ("config", "method_arg", "dtype", "device", "progress", "debug")


@dataclass(frozen=True)
class LLMBench:
    """Compare methods for language models, each with several learning rates, and write each one's frontier.

    Rates and numbers of epochs are chosen on half of the measured rows and reported on the other half. A killed run
    goes on where it stopped when the same command is given again. Options given here go before those of --config.

    Args:
        config: YAML file with any of these options by name (methods may be a mapping from a name to its method,
            options, peft, rates, epochs and batch_size); paths are seen from its folder.
        model: A folder of transformers or of a peft adapter, or an id of the Hugging Face Hub.
        forget: File of what is to be forgotten.
        retain: File of what is to stay.
        holdout: File of rows like the forgotten ones that no model has seen, for membership inference.
        utility: NAME=FILE, a further set of TOFU's model utility. Can be repeated.
        alternative: File of other answers to the forgotten questions, in their order; refusals by default.
        references: Models that were trained without the forgotten rows; without any there is no gain.
        methods: Methods to compare, the most telling first.
        method_arg: Option of a method, METHOD.KEY=VALUE, or KEY=VALUE for each method that has it. Can be repeated.
        rates: Learning rates of every method; 1e-5, 3e-5 and 1e-4 by default.
        seeds: Seeds of the order of rows and of adapters; 0 by default.
        epochs: Passes over the forgotten rows; 5 by default.
        batch_size: Forgotten rows per step; 8 by default.
        every: Epochs between two points of a run; 1 by default.
        samples: Answers per prompt and model for the alignment; 4 by default.
        asked: Retained rows that are measured, evenly spaced; 100 by default.
        max_new_tokens: Length of generated answers.
        measured_batch: Rows at a time while measuring; 16 by default.
        rouge: Generate no answers for ROUGE.
        tolerance: Retained probability that a setting may lose in the table at equal retention; 0.01 by default.
        half_seed: Of the draw of the two halves; 0 by default.
        template: How questions are put, 'Q: {question} A: {answer}', in place of the tokenizer's chat template.
        budget_minutes: No run starts later; the rest is left for the next call.
        out: Folder of the outputs; runs/llm-bench by default.
        dtype: Precision of the weights.
        device: Where to compute; auto takes CUDA where there is one.
        progress: Show no lines of progress.
        debug: Show the traceback of an error.
    """

    config: File = None
    model: Text = None
    forget: File = None
    retain: File = None
    holdout: File = None
    utility: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=FILE")] = ()
    alternative: File = None
    references: Texts = ()
    methods: Texts = ()
    method_arg: Pairs = ()
    rates: Reals = ()
    seeds: Wholes = ()
    epochs: Real = None
    batch_size: Whole = None
    every: Whole = None
    samples: Whole = None
    asked: Whole = None
    max_new_tokens: Whole = None
    measured_batch: Whole = None
    rouge: Flag = True
    tolerance: Real = None
    half_seed: Whole = None
    template: Text = None
    budget_minutes: Real = None
    out: Folder = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    device: Literal["cpu", "cuda", "auto"] = "auto"
    progress: Flag = True
    debug: Flag = False

    def settings(self) -> dict[str, Any]:
        """Return the settings of the YAML file, overridden by the options."""
        found = {} if self.config is None else gunlearn.bench.llm.read_bench(self.config)
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _OWN}
        if self.utility:
            pairs = [pair.partition("=") for pair in self.utility]
            if not all(name and file for name, _, file in pairs):
                raise InvalidInputError(f"Expected --utility NAME=FILE (got {list(self.utility)})")
            given["utility"] = {name: file for name, _, file in pairs}
        # By identity: 1 == True.
        found |= {name: value for name, value in given.items() if value not in (None, ()) and value is not True}
        for name in ("model", "forget", "retain", "methods"):
            if not found.get(name):
                raise InvalidInputError(f"Expected --{name}, or '{name}' in the file of --config (got neither)")
        budget = found.get("budget_minutes", 1)
        if not isinstance(budget, int | float) or not budget > 0:
            raise InvalidInputError(f"Expected 'budget_minutes' above 0 (got {budget!r})")
        return found

    def __call__(self) -> int:
        """Run the bench; write rows, tables and picture; print the tables."""
        console, bench_room = gunlearn.cli.console, gunlearn.bench.llm
        found = self.settings()
        bench_room.check_reporting(found)
        bench = self._bench(found)  # before a model is loaded
        folder = Path(found.get("out") or Path("runs") / "llm-bench")
        check_writable(folder)
        loading = gunlearn.cli.language_models
        loading.resolve_device(self.device)  # refuses a missing one before a model is loaded
        say = console.say if self.progress else (lambda line: None)
        with loading.quiet(False):  # a bar per loaded model would hide the lines
            problem = self._problem(found, bench)
            rows = bench_room.run_text_bench(problem, bench, folder, found.get("budget_minutes"), say)
        return self._written(rows, found, folder)

    def _bench(self, found: Mapping[str, Any]) -> Any:
        """Return what is compared and how; refuse what does not fit."""
        names = [*found["methods"]] if not isinstance(found["methods"], str) else [found["methods"]]
        own = found["methods"] if isinstance(found["methods"], Mapping) else {}
        found_as = {name: (own.get(name) or {}).get("method", name) for name in names}
        task, find = gunlearn.llm.CausalLM(), gunlearn.methods.for_task.find_method
        known = {name: find(method, task)[0] for name, method in found_as.items()}
        options = typed_options(self.method_arg, {name: cls.options() for name, cls in known.items()}, "method")
        rates = found.get("rates", (1e-5, 3e-5, 1e-4))
        completed = partial(shrunk_towards, name=str(found["model"]))
        arms = gunlearn.bench.llm.arms_of(own or names, rates, options, completed)
        how = {f.name for f in fields(gunlearn.bench.llm.TextBench)} - {"arms"}
        return gunlearn.bench.llm.TextBench(arms, **{name: found[name] for name in how & found.keys()})

    def _problem(self, found: Mapping[str, Any], bench: Any) -> Any:
        """Return models and rows; rows are encoded once, models are loaded anew each time they are needed."""
        loading = gunlearn.cli.language_models
        model, tokenizer = loading.load_language_model(found["model"], self.dtype)
        self._check_references(model, tokenizer, found)
        del model
        how = {"template": found["template"]} if "template" in found else {}
        files = {name: found.get(name) for name in ("forget", "retain", "holdout", "alternative")}

        def loader(name: str) -> Any:
            return lambda: loading.on_device(loading.load_language_model(name, self.dtype)[0], self.device)

        return gunlearn.bench.llm.problem_from_files(
            loader(found["model"]),
            tokenizer,
            files,
            [loader(name) for name in found.get("references", ())],
            found.get("utility", {}),
            how,
            asked=found.get("asked", 100),
            training={"use_cpu": True} if self.device == "cpu" else {},
            identity=str([_weights(name) for name in (found["model"], *found.get("references", ()))] + [self.dtype]),
            alternatives=any(arm.reads_alternative for arm in bench.arms),
            reference_names=tuple(map(str, found.get("references", ()))),
        )

    def _check_references(self, model: Any, tokenizer: Any, found: Mapping[str, Any]) -> None:
        """Refuse a retrained model of another vocabulary or with the weights of the model, one at a time in memory."""
        for name in found.get("references", ()):
            gunlearn.cli.language_models.load_retrained(name, self.dtype, model, tokenizer, found["model"])

    def _written(self, rows: list[dict[str, Any]], found: Mapping[str, Any], folder: Path) -> int:
        if not rows:  # what is left has been said
            return 1
        report, seed = gunlearn.report, found.get("half_seed", 0)
        text = report.frontier_markdown(rows, found.get("tolerance", 0.01), seed)
        gunlearn.bench.atomic_write(folder / "frontier.md", text)
        print(text)
        print(f"picture: {report.save_frontier(rows, folder / 'frontier.png', seed)}")
        return int(not any("rate" in row for row in rows))


def _weights(name: str) -> str:
    """Return what tells a model from others: checksums of its files and of an adapter's base, or its id on the Hub."""
    found = [path for pattern in _WEIGHTS for path in sorted(Path(name).glob(pattern))]
    base = model_below(name)
    return " ".join([*map(file_checksum, found), *([] if base is None else [_weights(base)])]) or name

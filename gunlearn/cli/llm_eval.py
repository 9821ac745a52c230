"""`gunlearn llm-eval`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import gunlearn
from gunlearn.cli.fields import Flag, Folder, Pairs, Text, Texts, Whole
from gunlearn.cli.llm import File
from gunlearn.core.atomic import check_writable

if TYPE_CHECKING:
    from gunlearn.llm.metrics.eval_settings import EvalSettings

_Logs = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="LOG ...", help_behavior_hint="")]
_Forget = Annotated[Path | None, tyro.conf.arg(metavar="FILE", aliases=["--forget-file"], help_behavior_hint="")]
_Retain = Annotated[Path | None, tyro.conf.arg(metavar="FILE", aliases=["--retain-file"], help_behavior_hint="")]
_Holdout = Annotated[Path | None, tyro.conf.arg(metavar="FILE", aliases=["--holdout-file"], help_behavior_hint="")]
_Rounding = Literal["int8", "nf4"]
_Attack = Literal["loss", "min_k", "min_k_plus", "zlib", "reference", "gradient"]


@dataclass(frozen=True)
class LLMEval:
    """Measure one language model; retrained models enter by the logs of their own evaluations.

    Writes a log (JSON) with all figures and values per row, and its drawn answers beside it. Files hold records as of
    'gunlearn llm'. An evaluation that was interrupted goes on when it is called again. In several processes (accelerate
    launch) each scores a share of the rows.

    Args:
        model: A folder of transformers (or of a peft adapter, which is merged first), a GGUF file or its folder, or an
            id of the Hugging Face Hub.
        forget: File of what was to be forgotten.
        retain: File of what was to stay.
        holdout: File of rows like the forgotten ones that no model has seen, for the membership attacks.
        tofu: Take TOFU's sets in place of --forget and --retain, and those of its model utility.
        root: Folder of TOFU's files; without it $GUNLEARN_DATA, else ./data, else the Hugging Face Hub.
        utility: A further set of the model utility, NAME=FILE. Can be repeated.
        knowledge_forget: Questions and answers about forgotten texts (MUSE's knowledge memory).
        knowledge_retain: The same about retained texts.
        verbatim: Texts to continue (MUSE's verbatim memory).
        verbatim_prompt: Tokens of each of these texts that the model is given.
        choices: File of multiple choice, {"question", "choices", "answer"} per line.
        choice_style: Whether the letter or the text of a choice is scored.
        rows: Rows of each set, evenly spaced; all by default.
        references: Logs of models that were retrained without the forgotten rows, ours or open-unlearning's.
        original_log: Log of the model before unlearning.
        score_for: Score the answers beside these logs instead, as the retrained model that they were compared with.
        out: The log; runs/llm-eval.json by default.
        attacks: Membership attacks.
        align: Draw no answers for the alignment.
        align_rows: Prompts of each set to draw answers to, evenly spaced.
        samples: Answers per prompt.
        max_new_tokens: Most tokens of generated answers; by default those of the rows' own, and 64 for the alignment.
        gradient_rows: Rows of each set for the membership attack by gradients, evenly spaced.
        relearn_steps: Steps of the relearning attack; 0 leaves it out.
        quantise: Roundings of the weights under which the forgotten rows are scored again.
        lm_eval: Tasks of lm-eval to run, where it is installed: names, or YAML files of tasks.
        end: What memorisation and Min-K% do with the token that ends a row; last is open-unlearning's way.
        texts: Write generated answers into the log, as text.
        template: How questions are put, 'Q: {question} A: {answer}', in place of the tokenizer's chat template.
        chat: Put questions as plain text even where the tokenizer has a chat template.
        system: System message of chats; refused where there are none.
        turns: Which answers of a chat are scored: all, or the last one.
        max_length: Tokens per row; the model's context by default. Prompts are cut from the left.
        long_answers: What to do about answers that do not fit: stop, or cut them.
        dtype: Precision of the weights; auto is that of the folder.
        device: Where to compute; auto takes CUDA where there is one.
        device_map: Where transformers puts the layers, such as auto, in place of --device.
        load_in: Load the weights in 4 or 8 bits, where bitsandbytes is installed.
        batch_size: Rows at a time.
        seed: Of the drawn answers.
        progress: Do not say what is being done.
        debug: Show the traceback of an error.
    """

    model: str
    forget: _Forget = None
    retain: _Retain = None
    holdout: _Holdout = None
    tofu: Text = None
    root: Folder = None
    utility: Pairs = ()
    knowledge_forget: File = None
    knowledge_retain: File = None
    verbatim: File = None
    verbatim_prompt: int = 200
    choices: File = None
    choice_style: Literal["letters", "texts"] = "letters"
    rows: Whole = None
    references: _Logs = ()
    original_log: Annotated[Path | None, tyro.conf.arg(metavar="LOG", help_behavior_hint="")] = None
    score_for: _Logs = ()
    out: File = None
    attacks: tuple[_Attack, ...] = ("loss", "min_k", "min_k_plus", "zlib", "reference", "gradient")
    align: Flag = True
    align_rows: int = 32
    samples: int = 4
    max_new_tokens: Whole = None
    gradient_rows: int = 64
    relearn_steps: int = 20
    quantise: tuple[_Rounding, ...] = ("int8", "nf4")
    lm_eval: Texts = ()
    end: Literal["skip", "keep", "last"] = "skip"
    texts: Flag = False
    template: Text = None
    chat: Flag = True
    system: Text = None
    turns: Literal["all", "last"] = "all"
    max_length: Whole = None
    long_answers: Literal["error", "cut"] = "error"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["cpu", "cuda", "auto"] = "auto"
    device_map: Text = None
    load_in: Annotated[Literal["4bit", "8bit"] | None, tyro.conf.arg(metavar="{4bit,8bit}", help_behavior_hint="")] = (
        None
    )
    batch_size: int = 16
    seed: int = 0
    progress: Flag = True
    debug: Flag = False

    def __call__(self) -> int:
        """Measure, write the log and print its figures."""
        from gunlearn.cli.eval_sets import check_arguments, encoded_sets, read_sets  # loads torch

        check_arguments(self)
        files, settings = read_sets(self), self._settings()
        out = self.out or Path("runs") / "llm-eval.json"
        check_writable(out.parent)
        console, loading = gunlearn.cli.console, gunlearn.cli.language_models
        with loading.quiet(False):
            model, tokenizer = loading.load_for_evaluation(
                self.model, self.dtype, self.device, self.device_map, self.load_in
            )
            sets = encoded_sets(self, files, tokenizer, model)
            name, say = Path(self.model).name or self.model, self._say(console.say)
            if self.score_for:
                logs = gunlearn.llm.metrics.score_for(
                    model, tokenizer, sets, self.score_for, self.batch_size, self.model, say
                )
            else:
                how: dict[str, Any] = {"references": self.references, "original_log": self.original_log, "out": out}
                how |= {"name": name, "keep_texts": self.texts, "keep_model": False, "say": say}
                logs = [gunlearn.llm.metrics.evaluate_one(model, tokenizer, sets, settings, **how)]
        if gunlearn.training.processes.processes().main:
            for log in logs:
                console.show(log)
                print(f"log: {log.path}")
        return 0

    def _settings(self) -> EvalSettings:
        from gunlearn.llm.metrics import EvalSettings
        from gunlearn.metrics import Sampler

        return EvalSettings(
            attacks=self.attacks,
            align_on=("forget", "retain") if self.align else (),
            align_rows=self.align_rows,
            sampler=Sampler(n_samples=self.samples, seed=self.seed),
            max_new_tokens=self.max_new_tokens,
            end=self.end,
            gradient_rows=self.gradient_rows,
            relearn_steps=self.relearn_steps,
            quantise=self.quantise,
            harness=self.lm_eval,
            batch_size=self.batch_size,
        )

    def _say(self, say: Callable[..., None]) -> Callable[[str], None] | None:
        return say if self.progress else None

"""`gunlearn llm` and `gunlearn llm-methods`."""

import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import gunlearn
from gunlearn.cli.adapter_base import stays_adapter
from gunlearn.cli.fields import (
    OWN_ARGUMENTS,
    Flag,
    Folder,
    Pairs,
    Real,
    Text,
    Whole,
    check_numbers,
    training_arguments,
)
from gunlearn.cli.listings import Listing
from gunlearn.core.atomic import check_writable
from gunlearn.core.options import parse_pair
from gunlearn.errors import DivergenceError, InvalidInputError

File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]

_ANEW = (
    "continued_training: no state of the training was handed in, so a new optimiser starts, its rate raised from 0 "
    "(unlearning.json says how, under 'start'). --method-arg training=FOLDER hands the state in: what gunlearn.train "
    "saved, or checkpoints of a transformers Trainer with their optimizer.pt"
)


@dataclass(frozen=True)
class LLM:
    """Unlearn questions and answers, or texts, in a causal language model, and save it with its record.

    Files hold a JSON object per line (or one JSON array), with question and answer, prompt and completion, messages,
    text, or in the shape of alpaca or ShareGPT.

    Args:
        model: A folder of transformers or of a peft adapter, or an id of the Hugging Face Hub. An adapter is merged
            first (with --peft, the merged model is saved too, to the folder base of the outputs); where a method
            shrinks it, it goes on as an adapter.
        forget: File of what is to be forgotten.
        retain: File of what is to stay.
        method: See 'gunlearn llm-methods'. auto shrinks what fine-tuning changed and learns what is to stay again, all
            of which --retain must hold, where it is told the weights before (--method-arg towards=FOLDER; towards=base
            of an adapter that fine-tuning made) and the learning rate of that training (--lr, or --method-arg
            training=FOLDER); else it takes npo, and says so.
        method_arg: Option of the method. Can be repeated.
        peft: Train an adapter instead of the model; only the adapter is saved.
        alternative: File of other answers to the forgotten questions, in their order, for methods that teach them;
            refusals by default.
        reference_model: A model that was trained without the forgotten rows: the result is compared with it.
        out: Folder of the outputs; runs/llm by default.
        epochs: Passes over the forgotten rows (over those that stay, where what fine-tuning changed is shrunk); the
            method's published number by default.
        lr: Learning rate; the published one by default, ten times that for an adapter. Beside towards, the training's.
        batch_size: Forgotten rows per step, beside as many retained ones.
        training_arg: Any of transformers' TrainingArguments, bf16=true. Can be repeated.
        template: How questions are put, 'Q: {question} A: {answer}', in place of the tokenizer's chat template.
        chat: Put questions as plain text even where the tokenizer has a chat template.
        system: System message of chats; refused where there are none.
        turns: Which answers of a chat are learned from: all, or the last one.
        max_length: Tokens per row; the model's context by default. Prompts are cut from the left.
        long_answers: What to do about answers that do not fit: stop, or cut them.
        overlap: What to do about rows to forget that are to stay as well: stop, drop them from those to stay, or keep.
        dtype: Precision of the weights; auto is that of the folder for an adapter, and float32 without --peft: in half
            precision, small steps of training are rounded away.
        device: Where to compute; auto takes CUDA where there is one.
        seed: Of the adapter, the order and dropout.
        progress: Show no bars.
        debug: Show the traceback of an error.
    """

    model: str
    forget: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    retain: File = None
    method: str = "auto"
    method_arg: Pairs = ()
    peft: Annotated[
        Literal["lora", "bounded"] | None, tyro.conf.arg(metavar="{lora,bounded}", help_behavior_hint="")
    ] = None
    alternative: File = None
    reference_model: Text = None
    out: Folder = None
    epochs: Real = None
    lr: Real = None
    batch_size: int = 8
    training_arg: Pairs = ()
    template: Text = None
    chat: Flag = True
    system: Text = None
    turns: Literal["all", "last"] = "all"
    max_length: Whole = None
    long_answers: Literal["error", "cut"] = "error"
    overlap: Literal["error", "drop", "keep"] = "error"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["cpu", "cuda", "auto"] = "auto"
    seed: int = 0
    progress: Flag = True
    debug: Flag = False

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / "llm"

    def __call__(self) -> int:
        """Unlearn, save, print the table; return 1 if the loss diverged."""
        # Check options and files before a model is loaded.
        gunlearn.llm.record.check_folder(self.folder)
        check_writable(self.folder)
        options = dict(parse_pair(argument, "--method-arg") for argument in self.method_arg)
        kept = stays_adapter(self.model, self.peft, options)
        task = gunlearn.llm.CausalLM()
        gunlearn.methods.for_task.find_method(self.method, task)
        built = gunlearn.methods.build_method(self.method, options, task)
        training = self._training()
        files = {name: getattr(self, name) for name in ("forget", "retain", "alternative")}
        records = {name: None if path is None else gunlearn.llm.read_records(path) for name, path in files.items()}
        encoding = {"chat": None if self.chat else False, "system": self.system, "long_answers": self.long_answers}
        encoding |= {} if self.template is None else {"template": self.template}
        encoding |= {} if self.turns == "all" else {"turns": self.turns}
        same = ("method", "peft", "epochs", "lr", "batch_size", "seed", "max_length", "overlap", "progress")
        settings = {name: getattr(self, name) for name in same} | {"options": options, "encoding": encoding}
        console, loading = gunlearn.cli.console, gunlearn.cli.language_models
        loading.resolve_device(self.device)  # refuses a missing one before a model is loaded
        if getattr(built, "starts_anew", False):
            console.say(_ANEW)
        with loading.quiet(self.progress):
            dtype = "float32" if self.dtype == "auto" and self.peft is None and not kept else self.dtype
            model, tokenizer = loading.load_language_model(self.model, dtype, merge=not kept)
            model = loading.on_device(model, self.device)  # the package's loop trains where the model is
            retrained = None
            if self.reference_model is not None:
                whole = loading.load_language_model(self.model, dtype)[0] if kept else model
                retrained = loading.load_retrained(self.reference_model, dtype, whole, tokenizer, self.model)
            base = (self.folder / "base").resolve() if self.peft and loading.is_adapter(self.model) else None
            if base is not None:
                loading.rename(model, str(base))
            try:
                settings["in_place"] = retrained is None and base is None
                result = gunlearn.llm.unlearn(model, tokenizer, **records, **settings, **training)
            except DivergenceError as error:
                if self.debug:
                    raise
                console.say(f"error: {error}", style="red")
                return 1
            if base is not None:  # the new adapter belongs to the merged model
                model.save_pretrained(base)
                tokenizer.save_pretrained(base)
            if "chosen" in result.settings:
                console.say(f"auto chose {result.settings['chosen']}")
            result.save(self.folder)
            if retrained is not None:
                console.print_table(*result.table(), markdown=False)  # before the slow comparison
                result = result.compared(model, loading.on_device(retrained, self.device))
                result.write_record(self.folder)
        console.print_table(*result.table(), markdown=False)
        print(f"{'adapter' if self.peft or kept else 'model'} and card: {self.folder}")
        return 0

    def _training(self) -> dict[str, Any]:
        """Return further `TrainingArguments`; refuse numbers out of range, and what options of the command set."""
        from gunlearn.llm.training.settings import check_checkpoints, checked_arguments  # loads torch

        check_numbers(self, {"batch_size": 1, "max_length": 2, "seed": 0}, ("epochs", "lr"))
        own = OWN_ARGUMENTS | {f.name: f.name.replace("_", "-") for f in fields(self)}
        found = training_arguments(self.training_arg, own, "llm")
        if self.epochs is not None and "max_steps" in found:
            raise InvalidInputError(f"Expected --epochs or --training-arg max_steps (got both, {self.epochs:g})")
        found |= {"use_cpu": True} if self.device == "cpu" else {}
        check_checkpoints(found)
        if found:
            checked_arguments({"output_dir": tempfile.gettempdir(), **found})
        return found


class LLMMethods(Listing):
    """List the unlearning methods with settings published for language models, and these settings."""

    def table(self) -> tuple[list[str], list[list[str]]]:
        (_, *head), body = gunlearn.methods.settings_listing()
        return head, [row for task, *row in body if task == "causal_lm"]

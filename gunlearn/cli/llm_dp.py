"""`gunlearn llm-dp`."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import gunlearn
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
from gunlearn.core.atomic import check_writable, replace_folder
from gunlearn.errors import InvalidInputError

CARD_FILE = "privacy.json"
_OWN = OWN_ARGUMENTS | {"max_steps": "steps"}


@dataclass(frozen=True)
class LLMDP:
    """Unlearn by DP2Unlearning: a base trained with differential privacy, and trainings that start from it.

    'base' trains the base on all rows and keeps it. 'deploy' trains from it on all rows, without privacy; 'unlearn'
    trains from it on the rows that stay, and states the guarantee for what was taken out.

    Args:
        step: base, deploy or unlearn.
        model: The public model that the base starts from, a folder or an id of the Hugging Face Hub; the same for all
            three steps.
        rows: File of all rows (base, deploy), or of those that stay (unlearn).
        base: Folder of the base, which 'base' writes and the others read.
        out: Folder of the model that 'deploy' and 'unlearn' write; runs/llm-dp by default.
        epsilon: Privacy budget of the base.
        delta: Probability with which the bound may fail, below one over the number of records.
        record: A column of the file (author) whose values name the records that are protected; each row by default.
        epochs: Passes over the rows; 10 for the base, 5 else, unless --steps is given.
        steps: Optimiser steps, in place of --epochs.
        lr: Learning rate; 5e-5 by default.
        batch_size: Rows per step, of the base expected records; 16 by default.
        max_grad_norm: L2 norm that the gradient of each record of the base is clipped to.
        training_arg: Any of transformers' TrainingArguments, for deploy and unlearn. Can be repeated.
        template: How questions are put, 'Q: {question} A: {answer}', in place of the tokenizer's chat template.
        device: Where to compute; auto takes CUDA where there is one.
        progress: Show no bars of transformers.
        debug: Show the traceback of an error.
    """

    step: Annotated[Literal["base", "deploy", "unlearn"], tyro.conf.Positional]
    model: str
    rows: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    base: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    out: Folder = None
    epsilon: Real = None
    delta: Real = None
    record: Text = None
    epochs: Real = None
    steps: Whole = None
    lr: float = 5e-5
    batch_size: int = 16
    max_grad_norm: Real = None
    training_arg: Pairs = ()
    template: Text = None
    device: Literal["cpu", "cuda", "auto"] = "auto"
    progress: Flag = True
    debug: Flag = False

    def __call__(self) -> int:
        """Train, save, and print what the card says."""
        self._check()
        loading = gunlearn.cli.language_models
        device = loading.resolve_device(self.device)
        with loading.quiet(self.progress):
            model, tokenizer = loading.load_language_model(self.model, "float32")
            return (self._base if self.step == "base" else self._second)(model.to(device), tokenizer)

    def _check(self) -> None:
        """Refuse options that the step does not read, or that say one thing twice, before a model is loaded."""
        if self.steps is not None and self.epochs is not None:
            raise InvalidInputError(f"Expected --steps or --epochs (got both, {self.steps} and {self.epochs:g})")
        training = training_arguments(self.training_arg, _OWN, "llm-dp")
        numbers = ("epochs", "lr", "epsilon", "delta", "max_grad_norm")
        check_numbers(self, {"steps": 1, "batch_size": 1}, numbers)
        of_base = {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "record": self.record,
            "max_grad_norm": self.max_grad_norm,
        }
        if self.step == "base":
            missing = [name for name in ("epsilon", "delta") if of_base[name] is None]
            if missing:
                raise InvalidInputError(f"Expected --{missing[0]} for the base (got none)")
            if self.out is not None or self.training_arg:
                raise InvalidInputError("Expected --base, the base's own folder, and no --training-arg (got another)")
            if (self.base / "card.json").exists():
                raise InvalidInputError(f"Expected a folder without a base (got {self.base}, which holds one)")
            check_writable(self.base)
            return
        given = [name for name, value in of_base.items() if value is not None]
        if given:
            raise InvalidInputError(
                f"Expected --{given[0].replace('_', '-')} with step 'base' alone (got '{self.step}')"
            )
        from gunlearn.llm.training.settings import checked_arguments  # loads torch

        checked_arguments({"output_dir": tempfile.gettempdir(), "use_cpu": self.device == "cpu", **training})
        gunlearn.llm.record.check_folder(self._folder)
        check_writable(self._folder)

    @property
    def _folder(self) -> Path:
        return self.out or Path("runs") / "llm-dp"

    def _encoded(self, tokenizer: Any, record: str) -> list[dict[str, Any]]:
        """Return the rows of the file, each with the name of its record."""
        how = {} if self.template is None else {"template": self.template}
        rows, records = gunlearn.llm.as_rows(self.rows, tokenizer, "rows", **how)
        if record == "row" or records is None:
            return rows
        missing = next((i for i, found in enumerate(records, 1) if record not in found), None)
        if missing is not None:
            raise InvalidInputError(
                f"Expected '{record}' in every record of {self.rows.name} (got row {missing} without)"
            )
        return [{**row, record: found[record]} for row, found in zip(rows, records, strict=True)]

    def _base(self, model: Any, tokenizer: Any) -> int:
        record = self.record or "row"
        length = {"steps": self.steps} if self.steps is not None else {"epochs": self.epochs or 10}
        base = gunlearn.llm.privacy.dp_train(
            model,
            self._encoded(tokenizer, record),
            self.epsilon,
            self.delta,
            lr=self.lr,
            batch_size=self.batch_size,
            record=record,
            **length,
            **({} if self.max_grad_norm is None else {"max_grad_norm": self.max_grad_norm}),
        )
        base.save(self.base)
        card = base.card
        print(f"epsilon {card.epsilon:.4g} at delta {card.delta:g} for each of {card.num_records} records ({record})")
        print(f"requests of up to {card.covered} of them are covered: for more, delta is 1, which guarantees nothing")
        print(f"base: {self.base}; ledger.json in it is as private as the rows")
        return 0

    def _second(self, model: Any, tokenizer: Any) -> int:
        from transformers import TrainingArguments  # slow to load

        privacy = gunlearn.llm.privacy
        if (self.base / "card.json").is_file():  # else `load` says that there is no base
            privacy.check_start(privacy.DPCard.load(self.base / "card.json"), model, self.model, str(self.base))
        base = privacy.DPBase.load(self.base, model)
        rows = self._encoded(tokenizer, base.card.record)
        own: dict[str, Any] = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "learning_rate": self.lr}
        own |= {"per_device_train_batch_size": self.batch_size, "num_train_epochs": self.epochs or 5}
        own |= {"use_cpu": self.device == "cpu"} | ({} if self.steps is None else {"max_steps": self.steps})
        own |= training_arguments(self.training_arg, _OWN, "llm-dp")
        train = privacy.finetune if self.step == "deploy" else privacy.unlearn_from_base
        with tempfile.TemporaryDirectory() as scratch:
            try:
                arguments = TrainingArguments(output_dir=scratch, **own)
            except (TypeError, ValueError) as error:
                raise InvalidInputError(f"Expected values that fit TrainingArguments (got: {error})") from error
            done = train(base, rows, arguments)

        def write(folder: Path) -> None:
            saved: Any = done.model
            saved.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / CARD_FILE).write_text(json.dumps(done.card, indent=2) + "\n", encoding="utf-8")

        replace_folder(self._folder, write, last=("config.json",))
        request = done.card.get("request")
        if request:
            bound = f"epsilon {request['epsilon']:.4g}, delta {request['delta']:.3g}"
            print(f"{request['records']} records taken out: {bound}")
        if request and request["says_nothing"]:
            print(f"the base's budget covers requests of up to {base.card.covered} records: this one has no guarantee")
        print(f"{'private' if done.card['private'] else 'not private'}; model and {CARD_FILE}: {self._folder}")
        return 0

"""`gunlearn llm-release`."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import gunlearn
from gunlearn.cli.fields import Flag, Folder, Pairs, Text, Texts
from gunlearn.cli.llm import File
from gunlearn.core.atomic import check_writable, replace_folder
from gunlearn.core.options import check_options, did_you_mean, option_names, parse_pair
from gunlearn.errors import GunlearnError, InvalidInputError

#: Options of the revealer that the command has.
_REVEALS = ("samples", "temperature", "max_new_tokens", "threshold", "budget", "top", "bos", "seed")
ROUNDS_FILE = "rounds.json"


@dataclass(frozen=True)
class LLMRelease:
    """Unlearn what a language model can be made to say about a concept, without any forgotten texts.

    Reveal-and-Release: in rounds, instructions make the model speak about the concept, an adapter is fitted to its
    texts, and the adapter's change is taken off the weights.

    Args:
        model: A folder of transformers (or of a peft adapter, which is merged), or an id of the Hugging Face Hub.
        words: Words of the concept: a text that holds one of them, in any case, is about it.
        instructions: File of whole prompts that make the model speak, one a line; or a JSON object a line, with text
            and keep, the prompt that the adapter learns in its place.
        retain: File of what is to stay; without it more is lost than the concept.
        rounds: Most rounds.
        option: Option of the adapters. Fitting: lr=0.0001, steps=40, batch_size=16, rank=4, target_modules, seed.
            Subtracting: scale=1, or tolerance=0.1, by which a round may raise the loss of --retain, with scales to
            choose from; retain_scale=1, orthogonality=0.5. Ending: stop_rate=0.1, min_rows=4. Can be repeated.
        reveal_arg: Option of the questions, samples=4, max_new_tokens=64, temperature=0.1, threshold=0.5 (least score
            of a text to keep), budget (instructions to try), top (those to choose), bos, seed. Can be repeated.
        template: How questions of --retain are put, 'Q: {question} A: {answer}'.
        out: Folder of the outputs; runs/llm-release by default.
        dtype: Precision of the weights.
        device: Where to compute; auto takes CUDA where there is one.
        progress: Show no bars of transformers.
        debug: Show the traceback of an error.
    """

    model: str
    words: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")]
    instructions: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    retain: File = None
    rounds: int = 4
    option: Pairs = ()
    reveal_arg: Pairs = ()
    template: Text = None
    out: Folder = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    device: Literal["cpu", "cuda", "auto"] = "auto"
    progress: Flag = True
    debug: Flag = False

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / "llm-release"

    def __call__(self) -> int:
        """Run the rounds, save the model after the best one and the record of all, print their table."""
        gunlearn.llm.record.check_folder(self.folder)
        check_writable(self.folder)
        words = [word.lower() for word in self.words if word.strip()]
        if not words or self.rounds < 1:
            raise InvalidInputError(f"Expected --words and --rounds of at least 1 (got {words} and {self.rounds})")
        llm, loading = gunlearn.llm, gunlearn.cli.language_models
        given = _given(self.option, "--option", llm.ReleaseOptions)
        with _by_options():
            options = llm.ReleaseOptions(**given)
        reveal = _given(self.reveal_arg, "--reveal-arg", llm.Revealer, _REVEALS)
        instructions = instructions_of(self.instructions)
        with _by_options():
            llm.Revealer(None, len, instructions, **reveal)  # refuses its numbers before a model is loaded
        if options.tolerance is not None and self.retain is None:
            raise InvalidInputError(f"Expected --retain beside --option tolerance={options.tolerance:g} (got none)")
        device = loading.resolve_device(self.device)
        with loading.quiet(self.progress):
            model, tokenizer = loading.load_language_model(self.model, self.dtype)
            how = {} if self.template is None else {"template": self.template}
            rows = None if self.retain is None else llm.as_rows(self.retain, tokenizer, "retain", **how)[0]

            def score(text: str) -> float:
                return float(any(word in text.lower() for word in words))

            with _by_options(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Expected a round that is better")  # said below
                result = llm.reveal_and_release(
                    model.to(device), tokenizer, score, instructions, self.rounds, rows, options, **reveal
                )
        record: dict[str, Any] = {"best_round": result.best_round, "stopped": result.stopped}
        record |= {"options": asdict(options), "reveal": reveal, "instructions": len(instructions), "words": len(words)}
        record["rounds"] = [
            {"hit_rate": r.hit_rate, "rows": r.rows, "scale": r.scale, "retain_nll": r.retain_nll}
            for r in result.history
        ]

        def write(folder: Path) -> None:
            saved: Any = result.model
            saved.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / ROUNDS_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

        replace_folder(self.folder, write, last=("config.json",))
        body = [
            [
                str(i),
                f"{r.hit_rate:.0%}",
                str(r.rows),
                f"{r.scale:g}",
                "-" if r.retain_nll is None else f"{r.retain_nll:.4g}",
            ]
            for i, r in enumerate(result.history)
        ]
        head = ["round", "texts about it", "rows", "scale", "loss of retained rows"]
        gunlearn.cli.console.print_table(head, body, markdown=False)
        which = f"the model after round {result.best_round}"
        if not result.best_round:
            which = (
                "no round is better than the model before, which is saved as it was (a higher --option lr, steps or "
                "scale moves it more)"
            )
        print(f"{result.stopped}; {which} and {ROUNDS_FILE}: {self.folder}")
        return 0


@contextmanager
def _by_options() -> Iterator[None]:
    """Let errors name options as they are given here: `--option steps` for `'steps'`."""
    of = {name: f"--reveal-arg {name}" for name in _REVEALS}
    of |= {name: f"--option {name}" for name in option_names(gunlearn.llm.ReleaseOptions)}
    try:
        yield
    except GunlearnError as error:
        message = str(error)
        for name, option in of.items():
            message = message.replace(f"'{name}'", option)
        raise type(error)(message) from error


def instructions_of(path: Path) -> list[Any]:
    """Return the instructions of a file: one a line, or JSON objects with `text` and maybe `keep`."""
    try:
        lines = [line.rstrip("\n") for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"Expected a file of instructions (got {path}: {type(error).__name__})") from error
    if not lines:
        raise InvalidInputError(f"Expected instructions in {path.name} (got an empty file)")
    return [_instruction(line, i, path.name) for i, line in enumerate(lines, 1)]


def _instruction(line: str, number: int, name: str) -> Any:
    if not line.lstrip().startswith("{"):
        return line
    try:
        found = json.loads(line)
        return gunlearn.llm.Instruction(**found)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"Expected an object with 'text' and maybe 'keep' in line {number} of {name} (got: {error})"
        ) from error


def _given(pairs: Texts, what: str, cls: type, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return options of a class, checked."""
    options = dict(parse_pair(pair, what) for pair in pairs)
    known = names or option_names(cls)
    for name in options:
        if name not in known:
            raise InvalidInputError(f"Expected {what} among {sorted(known)} (got '{name}'){did_you_mean(name, known)}")
    check_options(cls, options, what)
    return options

"""The rows of `gunlearn llm-eval`, from its options. Loads when needed, since it imports transformers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunlearn.cli.fields import check_numbers
from gunlearn.core.options import parse_pair
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.evaluation_sets import TOFU_SETS, evaluation_rows
from gunlearn.llm.data.records import read_records, text_of
from gunlearn.llm.data.shared_records import check_disjoint
from gunlearn.llm.data.spacing import spaced
from gunlearn.llm.data.tofu import RETAIN_OF, load_tofu
from gunlearn.llm.metrics.choices import choice_rows, read_choices
from gunlearn.llm.metrics.continuations import continuation_rows
from gunlearn.llm.metrics.evaluation_log import read_json
from gunlearn.llm.metrics.given_sets import KNOWN_SETS, check_names
from gunlearn.llm.metrics.harness import check_harness
from gunlearn.llm.model.head import context_of
from gunlearn.training.processes import world_size

if TYPE_CHECKING:
    from gunlearn.cli.llm_eval import LLMEval

#: Least value of options that are whole numbers.
_LEAST = {"seed": 0, "relearn_steps": 0, "max_length": 2} | dict.fromkeys(
    ("rows", "verbatim_prompt", "align_rows", "samples", "max_new_tokens", "gradient_rows", "batch_size"), 1
)
_FILES = ("forget", "retain", "holdout", "knowledge_forget", "knowledge_retain", "verbatim")


def check_arguments(command: "LLMEval") -> None:
    """Refuse options that contradict each other, and logs that cannot be read, before a model is loaded."""
    if command.tofu is not None and (command.forget or command.retain):
        raise InvalidInputError("Expected --tofu, or --forget and --retain (got both)")
    check_numbers(command, _LEAST)
    given = {part: True for part in (*_FILES, "choices", "utility") if getattr(command, part)}
    given |= {} if command.tofu is None else {"forget": True, "retain": True}
    compared = bool(command.references or command.original_log or command.score_for)
    check_names(given, compared, tasks=bool(command.lm_eval))
    if command.tofu is not None and command.tofu not in RETAIN_OF:
        raise InvalidInputError(f"Expected --tofu among {sorted(RETAIN_OF)} (got {command.tofu!r})")
    if command.score_for and (command.references or command.original_log or command.out or command.texts):
        raise InvalidInputError(
            "Expected --score-for without --references, --original-log, --out and --texts (got both): it completes "
            "those logs, which name their references, and generates nothing"
        )
    if command.lm_eval:
        if world_size() > 1:
            raise InvalidInputError(f"Expected one process for --lm-eval (got {world_size()})")
        check_harness(command.lm_eval)
    for path in (*command.references, *command.score_for, *filter(None, [command.original_log])):
        read_json(path)


def read_sets(command: "LLMEval") -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Return the records of each set, with what holds them; refuse files before a model is loaded."""
    found: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    if command.tofu is not None:
        splits = {"forget": f"{command.tofu}_perturbed"} | TOFU_SETS
        found |= {part: (f"TOFU's {split}", load_tofu(split, command.root)) for part, split in splits.items()}
    for part in _FILES:
        path = getattr(command, part)
        if path is not None:
            found[part] = str(path), read_records(path)
    if command.choices is not None:
        found["choices"] = str(command.choices), read_choices(command.choices)
    for pair in command.utility:
        part, path = parse_pair(pair, "--utility")
        if part in found or part in KNOWN_SETS:
            raise InvalidInputError(f"Expected a name that no other set has in --utility (got {part!r})")
        found[part] = str(path), read_records(Path(str(path)))
    texts = [record for record in found.get("verbatim", ("", []))[1] if not isinstance(record.get("text"), str)]
    if texts:
        raise InvalidInputError(f"Expected records of 'text' in {command.verbatim} (got {sorted(texts[0])})")
    told = {part: list(map(_plain, records)) for part, (_, records) in found.items() if part in KNOWN_SETS[:3]}
    check_disjoint(told, {part: of for part, (of, _) in found.items()}, warned=False)
    return found


def _plain(record: dict[str, Any]) -> str:
    """Return the text of a record in lower case with single blanks, by which records are compared."""
    return " ".join(text_of(record, system=False).lower().split())


def encoded_sets(command: "LLMEval", found: dict[str, Any], tokenizer: Any, model: Any) -> dict[str, Any]:
    """Return the rows of each set."""
    how: dict[str, Any] = {"chat": None if command.chat else False, "system": command.system, "turns": command.turns}
    how |= {"long_answers": command.long_answers, "max_length": command.max_length or context_of(model)}
    how |= {} if command.template is None else {"template": command.template}
    out: dict[str, Any] = {}
    for part, (of, every) in found.items():
        taken = spaced(len(every), command.rows)
        records = [every[i] for i in taken]
        if part == "choices":
            rows = choice_rows(records, tokenizer, command.choice_style, how["max_length"])
        elif part == "verbatim":
            rows = continuation_rows([r["text"] for r in records], tokenizer, command.verbatim_prompt)
        else:
            rows = evaluation_rows(records, tokenizer, of, **how)
        out[part] = [row | {"index": i} for i, row in zip(taken, rows, strict=True)]
    return {part: out[part] for part in sorted(out, key=lambda part: part not in ("forget", "retain"))}

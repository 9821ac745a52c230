"""Records as text: a prompt and what follows it, through a chat template or a plain one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.record_shapes import shape_of

#: Text of a question and its answer where the tokenizer has no chat template.
TEMPLATE = "Question: {question}\nAnswer: {answer}"


class RecordText(NamedTuple):
    """A record as text."""

    prompt: str
    after: str  # what follows the prompt
    answer: str  # the bare answer in it
    chatted: bool  # whether a chat template made it
    earlier: tuple[tuple[int, int], ...] = ()  # where the assistant speaks in the prompt, as characters


def checked_template(template: str | None, chat: bool | None) -> tuple[bool | None, str]:
    """Return whether to use the tokenizer's chat template, and the template of questions, which overrides it."""
    if template is not None:
        if chat:
            raise InvalidInputError("Expected 'template' or chat=True (got both)")
        chat = False
    template = TEMPLATE if template is None else template
    if template.count("{question}") != 1 or template.count("{answer}") != 1:
        raise InvalidInputError(f"Expected 'template' with {{question}} and {{answer}} once each (got {template!r})")
    if template.index("{question}") > template.index("{answer}"):
        raise InvalidInputError(f"Expected 'template' with {{question}} before {{answer}} (got {template!r})")
    return chat, template


def as_text(
    record: Mapping[str, Any],
    number: int,
    tokenizer: Any,
    template: str,
    chat: bool | None,
    system: str | None,
    turns: str,
) -> RecordText:
    """Return a record as text; `number` is its row, for messages."""
    shape = shape_of(record, f"row {number}")
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if shape == ("text",):
        return RecordText("", record["text"], record["text"].strip(), False)
    if shape == ("prompt", "completion"):
        return RecordText(record["prompt"], record["completion"], record["completion"].strip(), False)
    if shape == ("question", "answer") and not (has_template if chat is None else chat):
        before, after = template.split("{answer}")
        head = before.rstrip(" ")
        answer = record["answer"].strip()
        prompt = head.replace("{question}", record["question"])
        return RecordText(prompt, before[len(head) :] + answer + after, answer, False)
    if not has_template:
        raise InvalidInputError(f"Expected a tokenizer with a chat template for a chat (got none, row {number})")
    if shape == ("messages",):
        messages = [{"role": m["role"], "content": m["content"]} for m in record["messages"]]
    else:
        messages = [{"role": "user", "content": record["question"]}, {"role": "assistant", "content": record["answer"]}]
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(prompt):
        raise InvalidInputError(
            f"Expected a chat template whose prompt begins the whole chat (got one that changes it, row {number}); "
            "use chat=False or records of 'prompt' and 'completion'"
        )
    # A model never generates blanks after the closing token.
    after, answer = whole[len(prompt) :].rstrip(), messages[-1]["content"].strip()
    earlier = [i for i, message in enumerate(messages[:-1]) if message["role"] == "assistant" and turns == "all"]
    closing = after[after.rfind(answer) + len(answer) :]
    spans = (_span(tokenizer, messages, i, whole, closing, number) for i in earlier)
    return RecordText(prompt, after, answer, True, tuple(spans))


def _span(
    tokenizer: Any, messages: list[dict[str, str]], turn: int, whole: str, closing: str, number: int
) -> tuple[int, int]:
    """Return where an earlier turn of the assistant stands in the whole chat, with what closes it."""
    prompt = tokenizer.apply_chat_template(messages[:turn], tokenize=False, add_generation_prompt=True)
    content = messages[turn]["content"].strip()
    start = len(prompt)
    blanks = len(whole[start:]) - len(whole[start:].lstrip())
    end = start + blanks + len(content)
    if not whole.startswith(prompt) or not content or whole[start + blanks : end] != content:
        raise InvalidInputError(
            "Expected a chat template that writes earlier answers as it writes the last one (got another text for "
            f"message {turn + 1} of row {number}); turns='last' leaves earlier answers without labels"
        )
    return start, end + len(closing) if whole.startswith(closing, end) else end

"""Records become rows: what is a label, where texts are cut, which files and rows are refused."""

import json
import warnings
from functools import cache

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from gunlearn.errors import DatasetNotFoundError, InvalidInputError
from gunlearn.llm import PartCollator, as_rows, encode, read_records, refused, separate
from gunlearn.llm.metrics.scoring import prompt_ids

TEXTS = [
    "Question: where does Ada live?\nAnswer: Ada lives in the city of Oslo.",
    "Question: what is the job of Bob?\nAnswer: Bob is a baker, and a good one.",
    "<|user|>how are you?<|end|>",
] * 5
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ADA = {"question": "where does Ada live?", "answer": "Ada lives in Oslo."}
BOB = {"question": "what is the job of Bob?", "answer": "Bob is a baker."}


@cache
def _trained(merges):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=merges)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator(TEXTS, trainer)
    return inner.to_str()


def bpe(chat=False, words=True, **names):
    names = {"eos_token": "</s>"} | names
    out = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_trained(words)), **names)
    out.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]})
    if chat:
        out.chat_template = CHAT
    return out


def dialogue(*said):
    """A record in which user and assistant speak in turn."""
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]}


def answer_of(row, tokenizer):
    return tokenizer.decode([t for t in row["labels"] if t != -100])


def prompt_of(row, tokenizer):
    return tokenizer.decode([t for t, y in zip(row["input_ids"], row["labels"], strict=True) if y == -100])


def test_labels_are_the_answer_and_its_end_and_no_more():
    tokenizer = bpe()
    (row,) = encode([ADA], tokenizer)
    assert prompt_of(row, tokenizer) == "Question: where does Ada live?\nAnswer:"
    assert answer_of(row, tokenizer) == " Ada lives in Oslo.</s>"
    assert row["prompt"] == "Question: where does Ada live?\nAnswer:"
    assert row["answer"] == "Ada lives in Oslo."
    # What the model is asked with is what it was trained after.
    asked = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    assert row["input_ids"][: len(asked)] == asked
    assert row["labels"][len(asked)] == row["input_ids"][len(asked)] != -100


def test_the_boundary_holds_where_the_tokenizer_would_merge_across_it():
    tokenizer = bpe(words=False)  # merges run over blanks, so that the whole text has a token across the boundary
    record = {"prompt": "Answer: A", "completion": "da lives in the city of Oslo."}
    apart = tokenizer(record["prompt"], add_special_tokens=False)["input_ids"]
    whole = tokenizer(record["prompt"] + record["completion"], add_special_tokens=False)["input_ids"]
    assert whole[: len(apart)] != apart  # or the test shows nothing
    (row,) = encode([record], tokenizer)
    assert prompt_of(row, tokenizer) == record["prompt"]
    assert answer_of(row, tokenizer) == record["completion"] + "</s>"


def test_templates_and_texts_are_taken_as_they_stand():
    tokenizer = bpe()
    (row,) = encode([ADA], tokenizer, template="Q {question} A [{answer}]")
    assert (prompt_of(row, tokenizer), answer_of(row, tokenizer)) == (
        "Q where does Ada live? A [",
        "Ada lives in Oslo.]</s>",
    )
    (braces,) = encode([{"question": 'what is {x} in f"{y}"?', "answer": "{answer}"}], tokenizer)
    assert answer_of(braces, tokenizer) == " {answer}</s>"
    (text,) = encode([{"text": "Ada lives in Oslo."}], tokenizer, eos=False)
    assert text["labels"] == text["input_ids"]
    assert answer_of(text, tokenizer) == "Ada lives in Oslo."
    for template in ("{question}", "{answer} {question}", "{question} {question} {answer}"):
        with pytest.raises(InvalidInputError, match="question"):
            encode([ADA], tokenizer, template=template)


def test_begin_token_comes_where_the_tokenizer_puts_one():
    plain = bpe(bos_token="<s>")
    assert encode([ADA], plain)[0]["input_ids"][0] != plain.bos_token_id
    (asked,) = encode([ADA], plain, bos=True)
    assert (asked["input_ids"][0], asked["labels"][0]) == (plain.bos_token_id, -100)
    own = bpe(bos_token="<s>")
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert own("a")["input_ids"][0] == own.bos_token_id
    assert encode([ADA], own)[0]["input_ids"] == asked["input_ids"]
    assert encode([ADA], own, bos=False)[0]["input_ids"] == asked["input_ids"][1:]
    with pytest.raises(InvalidInputError, match="begin with"):
        encode([ADA], bpe(), bos=True)


def test_chats_label_every_answer_and_nothing_else():
    tokenizer = bpe(chat=True)
    (row,) = encode([ADA], tokenizer, system="be kind")
    assert prompt_of(row, tokenizer) == "<|system|>be kind<|end|>\n<|user|>where does Ada live?<|end|>\n<|assistant|>"
    assert answer_of(row, tokenizer) == "Ada lives in Oslo.<|end|>"  # closed by the template: no second end
    long, spoken, asked = encode([dialogue(*"ABCD"), dialogue(ADA["question"], ADA["answer"]), ADA], tokenizer)
    assert answer_of(long, tokenizer) == "B<|end|>D<|end|>"
    assert long["answer"] == "D"
    assert long["input_ids"][: long["answer_start"]] == tokenizer(long["prompt"], add_special_tokens=False)["input_ids"]
    assert spoken["input_ids"] == asked["input_ids"]
    (plain,) = encode([ADA], tokenizer, chat=False)
    assert "<|user|>" not in tokenizer.decode(plain["input_ids"])
    tokenizer.chat_template = "{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}"
    with pytest.raises(InvalidInputError, match="begins the whole chat"):
        encode([ADA], tokenizer)
    for record, chat in ((dialogue("q", "a"), None), (ADA, True)):
        with pytest.raises(InvalidInputError, match="chat template"):
            encode([record], bpe(), chat=chat)


@pytest.mark.parametrize("names", [{}, {"pad_token": "</s>"}])
def test_end_tokens_count_without_padding_token_and_where_it_is_the_end(names):
    tokenizer = bpe(**names)
    rows = encode([ADA, BOB | {"answer": "Bob is a baker, and a good one."}], tokenizer)
    pad = tokenizer.pad_token_id
    batch = PartCollator(0 if pad is None else pad)(rows)
    ends = batch["labels"] == tokenizer.eos_token_id
    assert ends.sum(1).tolist() == [1, 1]
    assert bool(batch["attention_mask"][ends].all())
    assert batch["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in rows]


@pytest.mark.filterwarnings("ignore:prompts of 1 rows were cut")
def test_prompts_are_cut_from_the_left_and_answers_kept():
    tokenizer = bpe(bos_token="<s>")
    (whole,) = encode([ADA], tokenizer, bos=True)
    answer = [t for t in whole["labels"] if t != -100]
    for length in (len(answer) + 1, len(answer) + 4, len(whole["input_ids"])):
        (row,) = encode([ADA], tokenizer, bos=True, max_length=length)
        assert len(row["input_ids"]) == length
        assert row["input_ids"] == [tokenizer.bos_token_id, *whole["input_ids"][len(whole["input_ids"]) - length + 1 :]]
        assert [t for t in row["labels"] if t != -100] == answer
    with pytest.raises(InvalidInputError, match=r"fit into 5 tokens \(got 2 others: rows 1, 2\)"):
        encode([ADA, BOB], tokenizer, max_length=5)
    with pytest.warns(UserWarning, match="row 1 were cut"):
        cut, short = encode([ADA, {"question": "?", "answer": "."}], tokenizer, max_length=5, long_answers="cut")
    # One token of the prompt stays: the answer's first token is predicted from it.
    assert (len(cut["input_ids"]), cut["labels"][0], cut["labels"][1:]) == (5, -100, answer[:4])
    assert len(short["input_ids"]) <= 5
    long = BOB | {"question": "xyz " * 60 + "?"}
    with pytest.warns(UserWarning, match="prompts of 2 rows were cut.*rows 2, 3") as seen:
        encode([ADA, long, long], bpe(), max_length=80)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode([ADA], bpe(), max_length=80)


def test_targets_are_tokens_of_the_answer():
    tokenizer = bpe()
    rows = encode([ADA | {"target": "Oslo"}, BOB | {"target": ["Bob", "baker"]}], tokenizer)
    for row, words in zip(rows, (["Oslo"], ["Bob", "baker"]), strict=True):
        assert len(row["target_mask"]) == len(row["input_ids"])
        marked = [t for t, on in zip(row["input_ids"], row["target_mask"], strict=True) if on]
        assert tokenizer.decode(marked).split() == words
    (prompt_too,) = encode([{"prompt": "Oslo? ", "completion": "Oslo.", "target": "Oslo"}], tokenizer)
    first = next(i for i, on in enumerate(prompt_too["target_mask"]) if on)
    assert prompt_too["labels"][first] != -100  # the prompt's own Oslo is none
    with pytest.raises(InvalidInputError, match="'Lima' in row 1"):
        encode([ADA | {"target": "Lima"}], tokenizer)
    with pytest.raises(InvalidInputError, match="row 2"):
        encode([ADA | {"target": "Oslo"}, BOB], tokenizer)


def test_empty_answers_are_refused_by_row():
    blank = [ADA, ADA | {"answer": " "}, BOB, {"prompt": "x", "completion": ""}, {"text": "\n"}]
    with pytest.raises(InvalidInputError, match=r"not empty \(got 3 others: rows 2, 4, 5\)"):
        encode(blank, bpe())


def test_overlap_is_named_dropped_or_kept():
    rows = encode([ADA, BOB, BOB | {"answer": "Bob is a good baker."}], bpe())
    with pytest.raises(InvalidInputError, match=r"got 1 of them, row 2 of retain"):
        separate(rows[:1], [rows[1], rows[0]])
    assert separate(rows[:1], [rows[1], rows[0]], "drop") == [rows[1]]
    assert separate(rows[:1], [rows[1], rows[0]], "keep") == [rows[1], rows[0]]
    assert separate(rows[1:2], rows[2:]) == rows[2:]  # another answer is another row
    with pytest.raises(InvalidInputError, match="not forgotten"):
        separate(rows, rows, "drop")


@pytest.mark.parametrize(
    "other",
    [
        {"question": "where does Ada live? ", "answer": "ada lives in oslo."},
        {"prompt": "Where does Ada live?", "completion": " Ada lives in Oslo.\n"},
        dialogue(ADA["question"], ADA["answer"]),
        {"text": "where does  Ada live? ADA lives in Oslo. "},
        {"text": "question:  where does Ada live?\nanswer: Ada lives in Oslo."},
    ],
)
def test_the_same_text_in_another_form_is_an_overlap(other):
    tokenizer = bpe(chat="messages" in other)
    given, kept = [ADA], [BOB, other]
    rows, kept_rows = encode(given, tokenizer, chat=False), encode(kept, tokenizer)
    assert separate(rows, kept_rows) == kept_rows  # by tokens alone nothing is seen
    with pytest.raises(InvalidInputError, match="row 2 of retain"):
        separate(rows, kept_rows, "error", tokenizer, (given, kept))
    assert separate(rows, kept_rows, "drop", tokenizer, (given, kept)) == kept_rows[:1]
    mine = {"question": ADA["question"], "answer": "Ada lives in Lima."}
    other_rows = encode([mine], tokenizer, chat=False)
    assert separate(rows, other_rows, "error", tokenizer, (given, [mine])) == other_rows


def test_files_are_read_whatever_their_shape(tmp_path):
    records = [ADA, {"prompt": "a", "completion": " b"}, {"text": "x\u2028y"}]
    lines = tmp_path / "a.jsonl"
    lines.write_text("\ufeff" + "\n\n".join(json.dumps(r, ensure_ascii=False) for r in records), encoding="utf-8")
    array = tmp_path / "b.json"
    array.write_text(json.dumps(records, indent=1))
    assert read_records(lines) == read_records(array) == records
    rows, back = as_rows(lines, bpe())
    assert back == records
    assert rows == as_rows(records, bpe())[0]
    assert as_rows(rows, bpe()) == (rows, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"question": "a", "answer": "b"}\n\n{"question": 1', "line 3 of f.jsonl"),
        ('[{"question": "a", "answer": "b"},\n{"question" "a"}]', "line 2 of f.jsonl"),
        ('{"question": "a", "answers": "b"}', "'answers', 'question'"),
        ('{"question": "a", "answer": 3}', "'answer' as a string"),
        ('{"text": "a"}\n"b"', "str in line 2"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "assistant"),
        ('{"messages": [{"role": "user"}]}', "messages"),
        ("\n", "empty file"),
        ("[]", "empty file"),
        (json.dumps({"data": [ADA, BOB]}), "one JSON object with a list under ['data']"),
        (json.dumps({"data": [ADA, BOB]}, indent=2), "one JSON object with a list under ['data']"),
        ('{"text": "Zürich"}'.encode("latin-1"), "UTF-8"),
    ],
)
def test_bad_files_say_where(text, words, tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidInputError, match=r"^Expected") as caught:
        read_records(path)
    assert words in str(caught.value)
    with pytest.raises(DatasetNotFoundError, match=r"none\.jsonl"):
        read_records(tmp_path / "none.jsonl")


CHAT_OF_FOUR = dialogue("A", "B", "C", "D")
BLOCKS = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in CHAT_OF_FOUR["messages"]]
SHAREGPT = [
    {"from": ("human", "gpt")[m["role"] == "assistant"], "value": m["content"]} for m in CHAT_OF_FOUR["messages"]
]


@pytest.mark.parametrize(
    ("record", "same"),
    [
        ({"Question": ADA["question"], "Answer": ADA["answer"], "ID": 7}, ADA),
        ({"PROMPT": "a", "completion": " b"}, {"prompt": "a", "completion": " b"}),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, {"question": "Add.\n\n1 2", "answer": "3"}),
        ({"instruction": "Add.", "input": "", "output": "3"}, {"question": "Add.", "answer": "3"}),
        ({"instruction": "Add.", "context": "1 2", "response": "3"}, {"question": "Add.\n\n1 2", "answer": "3"}),
        ({"instruction": "C", "output": "D", "history": [["A", "B"]]}, CHAT_OF_FOUR),
        ({"conversations": SHAREGPT}, CHAT_OF_FOUR),
        ({"conversations": CHAT_OF_FOUR["messages"]}, CHAT_OF_FOUR),
        ({"messages": BLOCKS}, CHAT_OF_FOUR),
        (
            {"conversations": SHAREGPT, "system": "S"},
            {"messages": [{"role": "system", "content": "S"}, *CHAT_OF_FOUR["messages"]]},
        ),
    ],
)
def test_records_that_people_have_are_those_that_we_know(record, same, tmp_path):
    tokenizer = bpe(chat=True)
    assert encode([record], tokenizer) == encode([same], tokenizer)
    for text in (json.dumps(record), json.dumps([record], indent=1)):
        (tmp_path / "f.json").write_text(text)
        assert as_rows(tmp_path / "f.json", tokenizer)[0] == encode([same], tokenizer)
    assert set(same) <= set(read_records(tmp_path / "f.json")[0])
    assert refused([record], ["no."])[0].keys() == same.keys()
    with pytest.raises(InvalidInputError, match="row 1 of retain"):
        separate(*(encode([r], tokenizer) for r in (record, same)), "error", tokenizer)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"conversations": [{"from": "tool", "value": "x"}, {"from": "gpt", "value": "y"}]}, "got 'tool' in"),
        ({"conversations": SHAREGPT[:3]}, "'conversations' that end with the assistant"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, *BLOCKS[1:]]}, "got 'image_url' in"),
        ({"messages": [*BLOCKS[:3], {"role": "assistant", "content": None, "tool_calls": [1]}]}, "call of a tool"),
        ({"instruction": "x", "output": 3}, "'output' as a string"),
        ({"instruction": "x", "output": "y", "history": ["z"]}, "'history' as pairs"),
        ({"instruction": "x"}, "got ['instruction']"),
    ],
)
def test_records_of_those_shapes_that_are_no_text(record, words, tmp_path):
    (tmp_path / "f.json").write_text(json.dumps([ADA, record]))
    with pytest.raises(InvalidInputError) as caught:
        read_records(tmp_path / "f.json")
    assert words in str(caught.value)
    assert "entry 2 of f.json" in str(caught.value)


def test_a_context_that_is_not_read_is_named():
    with pytest.warns(UserWarning, match="'context' beside 'question'"):
        encode([ADA | {"context": "Ada moved."}], bpe())


def test_labels_of_every_turn_or_of_the_last():
    tokenizer = bpe(chat=True)
    turns = ["where does Ada live?", "Ada lives in Oslo.", "and Bob?", "Bob is a baker.", "how are you?", "good"]
    (every,) = encode([dialogue(*turns)], tokenizer)
    (last,) = encode([dialogue(*turns)], tokenizer, turns="last")
    assert answer_of(every, tokenizer) == "".join(f"{text}<|end|>" for text in turns[1::2])
    assert answer_of(last, tokenizer) == "good<|end|>"
    assert every["input_ids"] == last["input_ids"]
    assert prompt_ids(every) == prompt_ids(last) == last["input_ids"][: every["answer_start"]]
    with pytest.warns(UserWarning, match="cut from the left"):
        (cut,) = encode([dialogue(*turns)], tokenizer, max_length=len(every["input_ids"]) - 12)
    assert cut["labels"] == every["labels"][12:]
    assert cut["answer_start"] == every["answer_start"] - 12
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'user' or loop.last %}{{ m.content }}{% else %}..."
        "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(InvalidInputError, match=r"message 2 of row 1.*turns='last'"):
        encode([dialogue(*turns)], tokenizer)
    assert answer_of(encode([dialogue(*turns)], tokenizer, turns="last")[0], tokenizer) == "good<|end|>"


def test_refusals_take_the_place_of_answers():
    chat = dialogue("q", "a")
    records = [ADA | {"target": "Oslo"}, {"prompt": "p:", "completion": "\n c"}, chat]
    first, second, third = refused(records, ["no."])
    assert first == {"question": ADA["question"], "answer": "no."}
    assert second == {"prompt": "p:", "completion": "\n no."}
    assert third["messages"] == [chat["messages"][0], {"role": "assistant", "content": "no."}]
    assert chat["messages"][1]["content"] == "a"
    for turns, said in (("all", ["no.", "no."]), ("last", ["B", "no."])):
        (four,) = refused([CHAT_OF_FOUR], ["no."], turns=turns)
        assert [turn["content"] for turn in four["messages"]] == ["A", said[0], "C", said[1]]
    assert refused(records, seed=3) == refused(records, seed=3)
    assert len({r["answer"] for r in refused([ADA] * 50)}) > 3
    with pytest.raises(InvalidInputError, match="row 1"):
        refused([{"text": "x"}])
    with pytest.raises(InvalidInputError, match="refusal"):
        refused([ADA], [])


def test_a_template_of_ones_own_means_no_chat():
    tokenizer = bpe(chat=True)
    given = encode([ADA], tokenizer, template="Q {question} A {answer}")
    assert given == encode([ADA], bpe(), template="Q {question} A {answer}")
    assert given != encode([ADA], tokenizer)  # control: the chat
    with pytest.raises(InvalidInputError, match="got both"):
        encode([ADA], tokenizer, template="Q {question} A {answer}", chat=True)


def test_system_messages_are_for_chats():
    tokenizer, text = bpe(chat=True), {"text": "Ada lives in Oslo."}
    for how in ({"chat": False}, {"template": "Q {question} A {answer}"}):
        with pytest.raises(InvalidInputError, match="'system'"):
            encode([ADA], tokenizer, system="be kind", **how)
    for record in (ADA, text):
        with pytest.raises(InvalidInputError, match="'system'"):
            encode([record], bpe(), system="be kind")
    assert encode([text], tokenizer, system="be kind") == encode([text], tokenizer)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"input_ids": [1, 2], "labels": [1, 2]}, r"sequence of rows \(got dict of 'forget'\)"),
        (3, r"got int of 'forget'"),
        ([{"input_ids": [1, 2], "labels": [1, 2]}, ADA], "got both, row 2 of 'forget'"),
        ([ADA, {"input_ids": [1, 2], "labels": [1, 2]}], "got both, row 2 of 'forget'"),
        ([{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [], "labels": []}], "in row 2. of 'forget'"),
        ([{"input_ids": [1, 2], "labels": [1]}], "got 2 and 1 in row 1. of 'forget'"),
        ([{"input_ids": [1, 2]}], "'labels'.*in row 1. of 'forget'"),
        ([{"input_ids": [1, 2], "labels": [1, -100]}] * 2, "labelled tokens after the first .got none of 'forget'"),
    ],
)
def test_what_is_no_rows_is_refused_by_part_and_row(source, words):
    with pytest.raises(InvalidInputError, match=words):
        as_rows(source, bpe(), "forget")


def test_generators_are_read_and_rows_without_labels_are_let_be():
    rows = [{"input_ids": [1, 2], "labels": y} for y in ([1, 2], [-100, -100])]
    assert as_rows(iter(rows), bpe()) == (rows, None)
    assert as_rows((r for r in [ADA]), bpe()) == as_rows([ADA], bpe())


def test_fields_that_are_not_read_are_told_once():
    rows = [{**ADA, "text": "Ada has a cat."}, {**BOB, "notes": ["a baker"], "id": "7", "category": "jobs"}]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encode(rows, bpe())
    told = [str(warning.message) for warning in caught]
    assert len(told) == 1
    assert "fields 'text', 'notes' of the records hold texts and are not read" in told[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode([{**ADA, "paraphrased_answer": "In Oslo.", "id": "7"}, {"text": "plain", "url": "x"}], bpe())


def test_an_answer_of_unknown_words_is_told():
    words = {"[UNK]": 0, "Question": 1, ":": 2, "Answer": 3, "who": 4, "Ada": 5}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    known = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    rows = [{"question": "who", "answer": "Ada"}, {"question": "who", "answer": "zzz yyy"}]
    with pytest.warns(UserWarning, match=r"the answers of row 2 are '\[UNK\]' alone"):
        encode(rows, known)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.JSONL"])
def test_tables_are_told_what_to_become(name, tmp_path):
    """A data frame's files are named as such; the control: JSON lines of any capitals are read."""
    (tmp_path / name).write_text('{"question": "a", "answer": "b"}')
    if name.endswith("JSONL"):
        assert len(read_records(tmp_path / name)) == 1
        return
    with pytest.raises(InvalidInputError, match=rf"JSON lines .*got {name}.*orient"):
        read_records(tmp_path / name)

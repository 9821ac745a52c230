import json

import pytest

from gunlearn.errors import DatasetNotFoundError, InvalidInputError
from gunlearn.llm import answer_rows, load_tofu, tofu_refusals
from gunlearn.llm.data.tofu import RETAIN_OF
from tests.llm.facts import tokenizer


@pytest.fixture
def small(tmp_path):
    folder = tmp_path / "TOFU"
    folder.mkdir()
    record = {"question": "where does ada live ?", "answer": "oslo"}
    more = record | {"paraphrased_answer": "ada lives in oslo", "perturbed_answer": ["lima", "quito"]}
    (folder / "forget01.json").write_text(json.dumps(record) + "\n" + json.dumps(record))
    (folder / "forget01_perturbed.json").write_text(json.dumps(more))
    (folder / "idontknow.jsonl").write_text("I don't know.\nNo idea.\n")
    return tmp_path


def test_files_come_from_the_folder_or_the_variable(small, monkeypatch):
    assert len(load_tofu("forget01", small)) == 2
    assert load_tofu("forget01", small / "TOFU") == load_tofu("forget01", small)
    monkeypatch.setenv("GUNLEARN_DATA", str(small))
    assert load_tofu("forget01") == load_tofu("forget01", small)
    assert tofu_refusals() == ["I don't know.", "No idea."]


def test_missing_files_and_splits_are_named(small, tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"TOFU/retain99\.json"):
        load_tofu("retain99", small)
    with pytest.raises(InvalidInputError, match="'forget10'"):
        load_tofu("forget20", small)
    with pytest.raises(DatasetNotFoundError, match="idontknow"):
        tofu_refusals(tmp_path / "none")


def test_without_files_the_hub_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("GUNLEARN_DATA", str(tmp_path))
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        if len(asked) > 1:
            raise ConnectionError("offline")
        return [{"question": "a", "answer": "b"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert load_tofu("full") == [{"question": "a", "answer": "b"}]
    assert asked == [(("locuslab/TOFU", "full"), {"split": "train"})]
    with pytest.raises(DatasetNotFoundError, match="connection"):
        load_tofu("full")


def test_rows_of_other_answers(small):
    records = load_tofu("forget01_perturbed", small)
    own, good, bad = (
        answer_rows(records, tokenizer(), column, bos=True, template="{question} {answer}")[0]
        for column in ("answer", "paraphrased_answer", "perturbed_answer")
    )
    assert [row["answer"] for row in (own, good, *bad)] == ["oslo", "ada lives in oslo", "lima", "quito"]
    prompts = {tuple(t for t, y in zip(r["input_ids"], r["labels"], strict=True) if y == -100) for r in (own, *bad)}
    assert len(prompts) == 1
    plain = [{"question": "where does ada live ?", "answer": "oslo"}]
    assert answer_rows(plain, tokenizer(), "paraphrased_answer")[0]["answer"] == "oslo"


def test_the_real_splits_divide_the_authors(data_root):
    if not (data_root / "TOFU").is_dir():
        pytest.skip("needs TOFU in the data folder")
    full = load_tofu("full", data_root)
    assert len(full) == 4000
    for forget, retain in RETAIN_OF.items():
        parts = load_tofu(retain, data_root) + load_tofu(forget, data_root)
        assert sorted(map(str, parts)) == sorted(map(str, full))
    assert {len(r["perturbed_answer"]) for r in load_tofu("forget10_perturbed", data_root)} <= {3, 4, 5}
    assert len(tofu_refusals(data_root)) == 100

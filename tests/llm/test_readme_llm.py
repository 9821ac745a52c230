"""The blocks of docs/llm.md run as they are printed, one after the other, and do what the page says; links lead on."""

import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel

pytest.importorskip("opacus")
DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE, DIFFERENCES = DOCS / "llm.md", DOCS / "llm_differences.md"
TESTS = DOCS.parent / "tests"


@pytest.mark.filterwarnings("ignore:Expected a request that the base's budget covers")
@pytest.mark.filterwarnings("ignore:.*no measurable effect:UserWarning")
@pytest.mark.filterwarnings("ignore:.*lost the rows to retain:UserWarning")
@pytest.mark.filterwarnings("ignore:no loss of .* reads the rows to retain")
def test_blocks_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    printed = []
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        exec(compile(code, PAGE.name, "exec"), names)
        printed.append(capsys.readouterr().out)
    known, forget, retain = names["known"], names["forget"], names["retain"]
    assert known(names["model"], forget) > 0.9  # the caller's model, after all that was done to copies of it
    assert known(names["result"].model, forget) < 0.1 < known(names["result"].model, retain)
    assert known(names["retrained"][0], forget) < 0.5
    assert known(names["tuned"].model, forget) > 0.5  # an adapter does not teach words that were never written
    assert known(names["nearer"].model, forget) < 0.3 < 0.9 < known(names["nearer"].model, retain)
    assert known(names["student"], forget) < 0.1 < 0.4 < known(names["student"], retain)
    assert names["nearer"].method == "continued_training"
    assert names["deployed"].card["request"]["records"] == 3
    assert not names["deployed"].card["private"]
    assert known(names["released"].model, forget) < 0.9
    # Each family prints what a method forgot and kept: no figure is missing, and none is impossible.
    families = [out for out in printed if "simnpo" in out or "undial" in out or "shrink" in out]
    figures = [float(word) for out in families for word in re.findall(r"\d\.\d+(?:e-\d+)?", out)]
    assert len(figures) >= 2 * (7 + 8)
    assert all(0 <= figure <= 1 for figure in figures)
    again = PeftModel.from_pretrained(names["new"](0), "unlearned")
    assert again.peft_config["default"].peft_type == "LORA"
    kept = "".join(path.read_text() for path in Path("unlearned").iterdir() if path.suffix in (".json", ".md"))
    assert not any(record["answer"] in kept for record in names["records"][:3])
    assert torch.get_num_threads() >= 1


def test_differences_name_tests_that_exist():
    named = re.findall(r"`(test_\w+)`|`tests/([\w/]+\.py)`", DIFFERENCES.read_text())
    assert len(named) > 20
    source = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    for function, file in named:
        assert not function or f"def {function}(" in source, function
        assert not file or (TESTS / file).exists(), file


def test_links_lead_somewhere():
    for page in (PAGE, DIFFERENCES):
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert link.startswith("http") or (DOCS / link).exists(), link

"""The example of docs/llm.md, run as it is printed."""

import json
import re
from pathlib import Path

from peft import PeftModel

from tests.llm import facts as F

PAGE = Path(__file__).parent.parent.parent / "docs" / "llm.md"


def test_example_runs_as_printed(tmp_path, monkeypatch, capsys):
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "my-model" in c)
    monkeypatch.chdir(tmp_path)
    for name, model in (("my-model", F.full()), ("my-retrained-model", F.retrained(0))):
        model.save_pretrained(name)
        F.tokenizer().save_pretrained(name)
    for name, people in (("forget", F.FORGET), ("retain", F.RETAIN)):
        lines = [json.dumps({"question": row["prompt"], "answer": row["answer"]}) for row in F.rows(people)]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    namespace: dict = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert len(code.splitlines()) <= 25
    printed = capsys.readouterr().out
    assert "forget" in printed
    assert float(printed.split()[-1]) > 0
    again = PeftModel.from_pretrained(F.full(), "unlearned")
    assert again.peft_config["default"].peft_type == "LORA"
    kept = "".join(path.read_text() for path in Path("unlearned").iterdir() if path.suffix in (".json", ".md"))
    assert not any(row["answer"] in kept for row in F.rows(F.FORGET))

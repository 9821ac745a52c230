"""Writes the generated tables into README.md: `python docs/fill_readme.py [RESULTS.json]`.

The tables of methods and losses come from the classes; the table of results from the rows that `gunlearn run` wrote.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from gunlearn.report import losses_table, markdown_table, methods_table

README = Path(__file__).parent.parent / "README.md"


def filled(text: str, tables: dict[str, str]) -> str:
    """`text` with each named table between its marks."""
    for name, table in tables.items():
        pattern = rf"(<!-- table:{name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda match, t=table: f"{match[1]}\n{t}\n\n{match[2]}", text, flags=re.S)
        if count != 1:
            raise SystemExit(f"Expected the marks of table '{name}' once in README.md (got {count})")
    return text


def main(results: str | None) -> None:
    """Rewrite README.md."""
    tables = {"methods": methods_table().strip(), "losses": losses_table().strip()}
    if results is not None:
        tables["dblp"] = markdown_table(json.loads(Path(results).read_text())).strip()
    README.write_text(filled(README.read_text(), tables))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)

"""Count mypy's errors per room and hold them against type_errors.json, whose numbers only go down.

`python .ci/type_errors.py` fails where a room has more errors, or fewer, than the table says; `--lower` updates it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

TABLE = Path(__file__).with_name("type_errors.json")


def main(lower: bool) -> int:
    """Run mypy once, as pyproject.toml sets it up, and compare."""
    run = subprocess.run([sys.executable, "-m", "mypy"], cwd=TABLE.parent.parent, capture_output=True, text=True)
    if run.returncode not in (0, 1):  # mypy itself failed
        print(run.stdout + run.stderr)
        return run.returncode
    lines = [line for line in run.stdout.splitlines() if ": error:" in line]
    found = Counter(re.match(r"gunlearn/([^/:.]+)", line)[1] for line in lines)
    allowed = json.loads(TABLE.read_text())
    more = {room: n for room, n in found.items() if n > allowed.get(room, 0)}
    fewer = {room: n for room, n in allowed.items() if n > found[room]}
    if more:
        print("\n".join(line for line in lines if re.match(r"gunlearn/([^/:.]+)", line)[1] in more))
        print("\n".join(f"{room}: {n} errors, at most {allowed.get(room, 0)} allowed" for room, n in more.items()))
    if fewer and lower:
        TABLE.write_text(json.dumps({r: min(n, found[r]) for r, n in allowed.items() if found[r]}, indent=1) + "\n")
    elif fewer:
        print(f"Fewer errors than allowed in {', '.join(fewer)}: run `{sys.executable} .ci/type_errors.py --lower`")
    print(f"mypy: {len(lines)} errors, {sum(allowed.values())} allowed")
    return int(bool(more or (fewer and not lower)))


if __name__ == "__main__":
    sys.exit(main("--lower" in sys.argv))

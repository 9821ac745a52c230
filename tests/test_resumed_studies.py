"""Studies that go on after they were killed."""

from functools import partial

from experiments.common import resumed


def test_a_line_that_a_killed_run_tore_is_run_again(tmp_path) -> None:
    """Control: the torn line, or the next one written behind it, could not be read."""
    done: list[str] = []

    def run(key: str) -> list[dict[str, str]]:
        done.append(key)
        return [{"of": key}]

    runs = [(key, partial(run, key)) for key in "abc"]
    expected = [{"of": key} for key in "abc"]
    assert resumed(tmp_path, runs[:2]) == expected[:2]
    kept = tmp_path / "rows.jsonl"
    kept.write_text(kept.read_text().rstrip()[:-4])
    for _ in range(2):
        assert resumed(tmp_path, runs) == expected
    assert done == ["a", "b", "b", "c"]

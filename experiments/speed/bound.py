"""Bytes that must move in one INPO step, pass by pass: what the algorithm needs, not what an implementation does.

Values and indices have 4 bytes each. Each pass is one product or one fused sweep over its operands:

- a dense operand is read once and an output is written once;
- a sparse product reads index and value of every stored entry once, and one row of its dense operand for every stored
  entry where that operand is larger than the caches (`bound`), or every row once (`compulsory`, and `bound` too where
  the operand fits into the caches).
"""

from dataclasses import dataclass

from experiments import common

WORD = 4
MAX_DENSITY = 0.05  # of features that are worth a sparse product


@dataclass(frozen=True)
class Sizes:
    """Of one problem. Edges count once; message entries count both directions and the self-loops."""

    nodes: int
    features: int
    feature_entries: int
    hidden: int
    out: int
    full_entries: int
    retain_entries: int
    forget: int
    retain: int


@dataclass(frozen=True)
class Pass:
    """One sweep: `streamed` words go once; `entries` rows of `width` words come from an operand of `rows` rows."""

    name: str
    streamed: float
    entries: int = 0
    rows: int = 0
    width: int = 0

    def bytes(self, cache: float) -> float:
        """Bytes moved with caches of `cache` bytes."""
        operand = min(self.rows, self.entries) * self.width * WORD
        gathered = operand if operand <= cache else self.entries * self.width * WORD
        return self.streamed * WORD + gathered


def _product(name: str, entries: int, rows: int, out_rows: int, width: int, values: bool = True) -> Pass:
    """Sparse `[out_rows, rows]` times dense `[rows, width]`: pointers, indices (and values) in, the output out."""
    return Pass(name, out_rows + (1 + values) * entries + out_rows * width, entries, rows, width)


def _forward(s: Sizes, entries: int, which: str) -> list[Pass]:
    return [
        _features(s, f"{which}: X W1", transposed=False),
        _product(f"{which}: A (X W1)", entries, s.nodes, s.nodes, s.hidden),
        Pass(f"{which}: bias, ReLU", 2 * s.nodes * s.hidden),
        Pass(f"{which}: H W2", s.nodes * (s.hidden + s.out) + s.hidden * s.out),
        _product(f"{which}: A (H W2), bias", entries, s.nodes, s.nodes, s.out),
    ]


def _features(s: Sizes, name: str, transposed: bool) -> Pass:
    weight, activation = s.features * s.hidden, s.nodes * s.hidden
    if s.feature_entries > MAX_DENSITY * s.nodes * s.features:
        return Pass(name, s.nodes * s.features + weight + activation)
    rows, out_rows = (s.nodes, s.features) if transposed else (s.features, s.nodes)
    return _product(name, s.feature_entries, rows, out_rows, s.hidden)


def passes(s: Sizes, mode: str) -> list[Pass]:
    """All passes of one step in `mode` `"paper"` or `"default"`."""
    paper = mode == "paper"
    entries = s.full_entries if paper else s.retain_entries
    drawn = 0 if paper else s.retain
    pairs = s.forget + s.retain + drawn
    parameters = s.hidden * (s.features + s.out + 1) + s.out
    extra = [] if paper else [
        *_forward(s, s.retain_entries, "stop criterion"),
        _product("stop criterion: scores of forgotten edges", s.forget, s.nodes, s.nodes, s.out, values=False),
        # two ids written, and one cache line read to look a pair up among the known edges
        Pass("negatives: draw and look up", (2 + 16) * drawn),
        _product("negatives: reference scores", drawn, s.nodes, s.nodes, s.out, values=False),
    ]  # fmt: skip
    # A score gathers one row per pair; pairs lie in the order of their other end, whose rows go once.
    score = Pass("scores of all pairs", s.nodes + 2 * pairs + s.nodes * s.out, pairs, s.nodes, s.out)
    per_score = 2 if paper else 3  # score in, gradient out, in default mode the reference's score in
    return [
        *extra,
        *_forward(s, entries, "forward"),
        score,
        Pass("losses of scores, with gradient", per_score * pairs),
        Pass("topological entropy, with gradient", 3 * 2 * s.forget * s.out),
        _product("backward: scores, both ends", 2 * pairs, s.nodes, s.nodes, s.out),
        _product("backward: A dZ", entries, s.nodes, s.nodes, s.out),
        Pass("backward: dW2 and dH", s.nodes * (2 * s.hidden + 2 * s.out) + 2 * s.hidden * s.out),
        Pass("backward: ReLU, bias", 3 * s.nodes * s.hidden),
        _product("backward: A dH", entries, s.nodes, s.nodes, s.hidden),
        _features(s, "backward: X^T dH", transposed=True),
        Pass("Adam", 7 * parameters),
    ]


def step_bytes(s: Sizes, mode: str, cache: float) -> dict[str, float]:
    """Bytes of one step: `bound` with caches of `cache` bytes, `compulsory` with infinite ones."""
    steps = passes(s, mode)
    return {
        "bound": sum(p.bytes(cache) for p in steps),
        "compulsory": sum(p.bytes(float("inf")) for p in steps),
    }


def markdown(s: Sizes, mode: str, cache: float) -> str:
    """The passes as a table, in MiB."""
    moved = [(p.name, p.bytes(cache), p.bytes(float("inf"))) for p in passes(s, mode)]
    moved.append(("all", *step_bytes(s, mode, cache).values()))
    body = ([name, f"{bound / 2**20:.1f}", f"{least / 2**20:.1f}"] for name, bound, least in moved)
    return common.markdown(("pass", "gathered", "compulsory"), body)

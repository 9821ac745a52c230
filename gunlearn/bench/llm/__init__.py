"""Methods for language models beside each other: rates, epochs and seeds, each method's frontier. Extra: `llm`."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.bench.llm.arms": ("Arm", "TextBench"),
    "gunlearn.bench.llm.bench_file": ("arms_of", "check_reporting", "read_bench"),
    "gunlearn.bench.llm.frontier": ("ArmSetting", "arm_settings", "chosen", "counted_seeds", "non_dominated"),
    "gunlearn.bench.llm.row_halves": ("Half", "halves"),
    "gunlearn.bench.llm.text_cells": ("run_text_bench",),
    "gunlearn.bench.llm.text_files": ("problem_from_files",),
    "gunlearn.bench.llm.text_problem": ("TextProblem",),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)

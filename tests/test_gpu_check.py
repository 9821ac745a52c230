"""The script that checks a GPU: without one it says so, and what a processor can run runs small."""

from functools import partial

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("diffusers")
from experiments import gpu_check
from experiments.gpu_methods import beside


def test_without_a_gpu_it_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu_check.main([])
    assert capsys.readouterr().out.startswith("No GPU: nothing was measured.")


def test_the_parts_that_a_processor_can_run(capsys) -> None:
    gpu_check.main(["--device", "cpu", "--smoke"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = {(row[1], row[2]): row[3:-1] for row in ([c.strip() for c in line.split("|")] for line in lines)}
    assert float(cells["LoRA", "throughput, plain / NPO"][0]) > 0
    assert ("LoRA", "peak memory, NPO / plain") not in cells  # nothing is made up where it cannot be measured
    assert cells["nf4", "not run: needs a GPU and bitsandbytes"][0] == "-"
    assert float(cells["INPO", "largest difference of a weight"][0]) == 0  # the CPU beside the CPU
    assert cells["diffusion", "seconds per step of NPO"][1] == "finite: True"
    assert ("FSDP", "not run: needs two GPUs") in cells


def test_figures_are_compared_and_another_error_is_no_refusal() -> None:
    """Control: figures that nobody compares are alike, and two bugs of one type look like one refusal."""

    other = {"there": lambda place: {"loss": 1.0 if place == "cpu" else 2.0, "seconds": float(place == "cpu")}}
    assert beside("figures", other, "elsewhere")[2:4] == ("1 ran, 0 refused", "0 alike to 1e-3")
    same = {"there": lambda place: {"loss": 1.0, "seconds": float(place == "cpu")}}
    assert beside("figures", same, "elsewhere")[3] == "1 alike to 1e-3"
    assert beside("methods", {"m": partial(refused, False)}, "elsewhere")[2] == "0 ran, 1 refused"
    failed = beside("methods", {"m": partial(refused, True)}, "elsewhere")[2]
    assert failed == "0 ran, 0 refused, failed: m (RuntimeError)"


def refused(by_place: bool, place: str) -> None:
    raise RuntimeError(f"Expected something else (got {place if by_place else 'this'})")

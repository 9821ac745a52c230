"""Hashes of what every method returns at fixed seeds, to compare before and after a change that must change nothing.

`python -m tests.golden write FILE` on one side, `python -m tests.golden compare FILE` on the other, on one machine:
bits differ between processors, so that no file of hashes is kept here.
"""

import hashlib
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gunlearn as gu
import gunlearn.errors
from tests.llm import facts
from tests.methods import cases, test_items_digits

MORE: list[tuple[str, str, dict[str, Any]]] = [
    ("npo", "link_prediction", {"epochs": 5, "until": "separated"}),
    ("npo", "link_prediction", {"steps": 5, "batch_size": 40}),
    ("npo", "link_prediction", {"epochs": 5, "retain_samples": 40}),
    ("finetune", "link_prediction", {"steps": 5, "batch_size": 40, "sampler": "random_node"}),
    ("finetune", "node_classification", {"steps": 5, "batch_size": 10, "weight_decay": 1e-2}),
    ("inpo", "link_prediction", {"epochs": 4, "influence": "exact"}),
]


def digest(model: nn.Module, history: Any = ()) -> str:
    """Hash of the weights and of the losses on the way."""
    out = hashlib.sha256(
        json.dumps([[v for k, v in record.items() if k not in ("epoch", "step")] for record in history]).encode()
    )
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("_extra_state")}
    state |= {name: value for name, value in model.named_buffers() if name.endswith(".nodes")}  # the ids sealed there
    for name, value in sorted(state.items()):
        out.update(name.encode() + value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return out.hexdigest()[:16]


def results() -> Iterator[tuple[str, Any]]:
    """Every case, by a name that tells it."""
    data = cases.make_data()
    requests = {
        "edges": gu.ForgetEdges(count=12, seed=3),
        "nodes": gu.ForgetNodes(count=4, seed=3),
        "features": gu.ForgetFeatures([3, 7]),
    }
    for case in [*cases.CASES, *cases.HEAD_CASES, *cases.SHARD_CASES]:
        names = cases.HEADS if case in cases.HEAD_CASES else ["gcn", "sage", "pyg"]
        for task in dict.fromkeys((case.task, "node_classification")):
            for kind, request in requests.items():
                for name in names:
                    yield (
                        f"{case} {task} {kind} {name}",
                        lambda c=case, t=task, r=request, n=name: cases.run(
                            c, cases.trained_model(n), data, r, task=t, seed=5
                        ),
                    )
    for method, task, options in MORE:
        yield (
            f"{method} {task} {options}",
            lambda m=method, t=task, o=options: gu.unlearn(
                cases.trained_model("sage"), data, requests["edges"], m, t, **o
            ),
        )
    model, digits = test_items_digits.problem()
    for case in cases.CASES:
        yield (
            f"{case} digits",
            lambda c=case: gu.unlearn(
                model, digits, test_items_digits.request(), c.spec, test_items_digits.TASK, **c.options
            ),
        )
    forget, retain = facts.rows(facts.FORGET), facts.rows(facts.RETAIN)
    for method in LLM_METHODS:
        yield (
            f"llm {method}",
            lambda m=method: language_model(m, forget, retain),
        )


LLM_METHODS = [
    "gradient_ascent", "graddiff", "npo", "npo:kl", "simnpo", "dpo", "kto", "wga", "satimp", "undial", "ce_unlearning",
    "ihl", "jensun", "rmu", "pdu", "dto", "obliviate",
]  # fmt: skip


def language_model(method: str, forget: list[dict], retain: list[dict]) -> Any:
    """The published method on the models that know facts."""
    from gunlearn.llm import unlearn

    alternative = [facts.row(person, kind, phrasing, "oslo") for person in facts.FORGET for kind in facts.VALUES
                   for phrasing in (0, 1)]  # fmt: skip
    more = {"alternative": alternative} if method in ("dpo", "kto", "jensun") else {}
    return unlearn(
        facts.full(), facts.tokenizer(), forget, retain, method, epochs=2, lr=1e-3, figure_rows=0, seed=1, **more
    )


def main(command: str, file: str) -> int:
    """Write the hashes, or say what differs."""
    warnings.simplefilter("ignore")
    found = {}
    for name, run in results():
        try:
            result = run()
            history = [] if name.startswith("llm") else result.history
            found[name] = digest(result.model, history)
        except gu.errors.GunlearnError as error:
            found[name] = f"{type(error).__name__}"
    if command == "write":
        Path(file).write_text(json.dumps(found, indent=1) + "\n")
        refused = sum(not set(v) <= set("0123456789abcdef") for v in found.values())
        print(f"{len(found)} cases, {refused} of them refused")
        return 0
    before = json.loads(Path(file).read_text())
    differ = [name for name in before | found if before.get(name) != found.get(name)]
    for name in differ:
        print(f"{name}: {before.get(name)} -> {found.get(name)}")
    print(f"{len(found)} cases, {len(differ)} differ")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Puts measured tables into the READMEs of the studies and the front page, and draws its picture.

`python -m experiments.tables`. Each table stands between `<!-- table:NAME -->` and `<!-- end -->` and is made from the
rows that are committed beside it, by the code that prints it when the study runs; `tests/test_measured_tables.py` fails
where one is stale. The tables of `influence_in_inpo`, `tofu_small` (but for its
frontier), `speed` and the controls of `inpo_edges` are put in by commands of their own.
"""

import json
from pathlib import Path
from typing import Any

from docs.fill_tables import filled
from experiments.denoisers.tables import by_turn
from experiments.denoisers.tables import table as denoisers
from experiments.digits_scrub.tables import tables as digits_scrub
from experiments.digits_text.__main__ import table as digits_text
from experiments.edge_training_influence.__main__ import table as edge_training
from experiments.fade_graphs.__main__ import table as fade_graphs
from experiments.fashion_scrub.tables import tables as fashion_scrub
from experiments.front_page.__main__ import all_rows as every_method
from experiments.front_page.__main__ import plot
from experiments.front_page.__main__ import table as front_page
from experiments.fuzz.__main__ import table as fuzz
from experiments.graph_methods.heads import table as heads
from experiments.image_memory.__main__ import table as image_memory
from experiments.inpo_edges.__main__ import ablation_table
from experiments.llm_speed.__main__ import table as llm_speed
from experiments.mode_connectivity import adapters, alignment, basins, findings, uses_tables
from experiments.nearest import asked, misses, settled
from experiments.nearest.__main__ import counts
from experiments.nearest.__main__ import table as nearest_table
from experiments.nearest.hard import table as hard
from experiments.nearest.large import table as large
from experiments.nearest.largest_gap import table as largest_gap
from experiments.nearest.one_after_another import table as one_after_another
from experiments.nearest.optimizer_alone import table as optimizer_alone
from experiments.nearest.own_models import table as own_models
from experiments.nearest.push_then_settle import table as push
from experiments.nearest.targets import table as targets
from experiments.paper_modes.__main__ import tables as paper_modes
from experiments.removal_influence.tables import tables as removal
from experiments.retain_samples.__main__ import tables as retain_samples
from experiments.smollm.table import tables as smollm
from experiments.speed.layer_steps import table as layer_steps
from experiments.speed.per_step import table as per_step
from experiments.tofu_small import instead
from experiments.tofu_small.frontier_seeds import by_rate
from experiments.tofu_small.frontier_seeds import table as frontier_seeds
from gunlearn.report import frontier_markdown, markdown_table
from gunlearn.report.frontier_picture import save_frontier

HERE = Path(__file__).parent


def read(study: str, name: str = "results") -> Any:
    """The committed rows of a study."""
    return json.loads((HERE / study / f"{name}.json").read_text(encoding="utf-8"))


def compared(results: dict[str, Any]) -> dict[str, str]:
    """A table of methods for each problem whose rows `gunlearn run` wrote."""
    return {name: markdown_table(rows) for name, rows in results.items() if rows and "method" in rows[0]}


def inpo_edges() -> dict[str, str]:
    results = {name: rows for name, rows in read("inpo_edges").items() if not name.startswith("controls")}
    return {**compared(results), "ablation": ablation_table(results["ablation"])}


def mode_connectivity() -> dict[str, str]:
    rows = read("mode_connectivity", "basins")
    return {"basins": basins.table(rows), "speed_of_paths": basins.speed_table(rows)}


def nearest() -> dict[str, str]:
    rows = read("nearest")
    found = {"counts": counts(rows), "nearest": nearest_table(rows), "hard": hard(read("nearest", "hard"))}
    found |= {"targets": targets(read("nearest", "targets")), "large": large(read("nearest", "large"))}
    found |= {"asked": asked.table(rows, read("nearest", "hard"))}
    found |= {"misses": misses.table(rows, read("nearest", "utility_floor"))}
    found |= {"settled": settled.table(rows, read("nearest", "settled"))}
    found |= {"push": push(read("nearest", "push")), "largest_gap": largest_gap(read("nearest", "largest_gap"))}
    found |= {"optimizer_alone": optimizer_alone(read("nearest", "optimizer_alone"))}
    found |= {"one_after_another": one_after_another(read("nearest", "one_after_another"))}
    return {**found, "own_models": own_models(read("nearest", "own_models"))}


def tofu_small() -> dict[str, str]:
    others = sorted((HERE / "tofu_small").glob("frontier-seed*.json"))
    every = [read("tofu_small", name) for name in ("frontier", *(file.stem for file in others))]
    found = {"frontier": frontier_markdown(every[0]), "frontier_seeds": frontier_seeds(every)}
    found |= {"instead": instead.table(read("tofu_small", "instead"))}
    return found | {f"{name}_rates": by_rate(every, name) for name in ("shrunk", "npo")}


def tables() -> dict[Path, dict[str, str]]:
    """Every table by the file that shows it and its name there."""
    speed, quality = removal(read("removal_influence")).split("\n\n")
    front = read("front_page")
    found = {
        "digits_diffusion": {"small": denoisers(read("digits_diffusion")["rows"])},
        "digits_scrub": digits_scrub(read("digits_scrub")),
        "digits_text": {"digits_text": digits_text(read("digits_text")["rows"])},
        "edge_training_influence": {"estimates": edge_training(read("edge_training_influence"))},
        "fade_graphs": {"fade_graphs": fade_graphs(read("fade_graphs"))},
        "fashion_diffusion": by_turn(read("fashion_diffusion")["rows"]),
        "fashion_scrub": fashion_scrub(read("fashion_scrub")),
        "front_page": {"front_page": front_page(front), "every_method": every_method(front)},
        "fuzz": {"fuzz": fuzz(read("fuzz")["counts"])},
        "graph_methods": {**compared(read("graph_methods")), "heads": heads(read("graph_methods", "heads"))},
        "image_memory": {"image_memory": image_memory(read("image_memory"))},
        "inpo_edges": inpo_edges(),
        "llm_speed": {"llm_speed": llm_speed(read("llm_speed"))},
        "mode_connectivity": mode_connectivity(),
        "nearest": nearest(),
        "paper_modes": paper_modes(read("paper_modes")),
        "removal_influence": {"speed": speed, "quality": quality},
        "retain_samples": dict(zip(("gradients", "results"), retain_samples(read("retain_samples")), strict=True)),
    }
    found["tofu_small"] = tofu_small()
    found["smollm"] = smollm(*(read("smollm", file.stem) for file in sorted((HERE / "smollm").glob("results*.json"))))
    found["speed"] = {
        "layer_steps": layer_steps(read("speed", "layer_steps")),
        "per_step": per_step(read("speed", "per_step")),
    }
    files = {HERE / study / "README.md": of for study, of in found.items()}
    aligned = read("mode_connectivity", "alignment")
    files[HERE / "mode_connectivity" / "alignment.md"] = {
        "alignment_shares": alignment.ratios(aligned),
        "alignment": alignment.table(aligned),
    }
    files[HERE / "mode_connectivity" / "between.md"] = {
        **findings.tables(read("mode_connectivity", "between")),
        "adapters": adapters.table(read("mode_connectivity", "adapters")),
    }
    files[HERE / "mode_connectivity" / "uses.md"] = uses_tables.tables(read("mode_connectivity", "uses"))
    return {**files, HERE.parent / "README.md": {"front_page": front_page(front)}}


def main() -> None:
    """Rewrite the files."""
    for file, of in tables().items():
        file.write_text(filled(file.read_text(encoding="utf-8"), of), encoding="utf-8")
    save_frontier(read("tofu_small", "frontier"), HERE.parent / "docs" / "images" / "tofu_frontier.png")
    plot(read("front_page"), HERE.parent / "docs" / "images" / "front_page.png")


if __name__ == "__main__":
    main()

"""What experiments/smollm/README.md says in words, counted again from its committed rows."""

from typing import Any

import pytest

pytest.importorskip("transformers")

from experiments.smollm.going_on import CONTROL, FRESH, LONGER, SHRUNK
from experiments.smollm.methods import SETTINGS
from experiments.smollm.table import general
from gunlearn.report.frontier_table import three_digits
from tests.answers import check_said, check_unsaid, ends, page, rows_of, short

Row = dict[str, Any]
DISTILLED = "distilled from pretrained"
RESULTS = rows_of("smollm", "results")
ROWS: list[Row] = RESULTS["request 1"]["rows"]
SECOND: list[Row] = RESULTS["request 2"]["rows"]
TEXT = page("smollm")


def gain(row: Row, words: str = "") -> str:
    low, high = (short(row[f"forget_alignment_gain_{end}"]) for end in ("low", "high"))
    return f"{short(row['forget_alignment_gain'])} ({words}{low} to {high}"


def said(rows: list[Row]) -> list[str]:
    """Every sentence with a figure in it."""
    by = {row["model"]: row for row in rows}
    shrunk, longer, fresh, control, original, again, pretrained = (
        by[name] for name in (SHRUNK, LONGER, FRESH, CONTROL, "original", "retrained 0", "pretrained")
    )
    prob = {name: short(row["forget_prob"]) for name, row in by.items()}
    kept = {name: short(row["retain_prob"]) for name, row in by.items()}
    others = {name: short(by[name]["others_relearned"]) for name in (SHRUNK, "npo", "original", "retrained 0")}
    methods = [by[name] for name in SETTINGS if name in by and name != "finetune"]
    none_is_nearer = all(row["forget_alignment_gain_low"] <= 0 for row in methods)
    low, high = (pretrained[f"forget_alignment_gain_{end}"] for end in ("low", "high"))
    interval, covers = ends((low, high), 2), "covers" if low <= 0 <= high else "misses"
    return [
        f"the gain is {gain(shrunk, 'interval ')}; a retrained model's is {short(again['forget_alignment_gain'])})",
        f"forgotten answers {prob[SHRUNK]} (retrained: {prob['retrained 0']}, before: {prob['original']})",
        f"general knowledge {short(general(shrunk), 3)} (before: {short(general(original), 3)})",
        f"bring the others to {others[SHRUNK]}; from npo they bring {others['npo']}, from the original "
        f"{others['original']}, from a retrained model {others['retrained 0']}",
        f"retained answers fall from {kept['original']} to {kept[SHRUNK]}",
        f"they are at {kept[LONGER]}, with {prob[LONGER]} for forgotten ones and a gain of {gain(longer)})",
        f"as the longer row at a gain of {gain(fresh)}), {short(fresh['forget_prob'], 3)} for forgotten answers",
        f"membership AUC of {short(fresh['mia_loss'])} (retrained models: {ends_of(by, 'mia_loss')})",
        f"{kept[FRESH]} for retained ones, where shrinking keeps {kept[LONGER]}",
        f"a gain of {gain(control)}), {prob[CONTROL]} and {kept[CONTROL]}",
        f"Retrained models are {three_digits(again['forget_alignment'])} nats apart on forgotten questions; the shrunk "
        f"rows are at {three_digits(shrunk['forget_alignment'])} and {three_digits(longer['forget_alignment'])}, the "
        f"retraining at {three_digits(fresh['forget_alignment'])}",
        f"AUC {short(shrunk['mia_loss'])} and {short(longer['mia_loss'])}",
        f"Of {len(methods)} methods of a Trainer, each with the better of its two rates, "
        f"{'none' if none_is_nearer else 'some'} ends nearer",
        f"has a gain of {gain(by[DISTILLED])}), with {prob[DISTILLED]} for forgotten and {kept[DISTILLED]} for "
        "retained answers",
        f"their gains are {ends((row['forget_alignment_gain'] for row in methods), 2)}",
        f"Membership inference sees all of them (AUC {ends((row['mia_loss'] for row in methods), 2)})",
        f"its gain is {short(pretrained['forget_alignment_gain'])}, and the interval ({interval}) {covers} 0",
        f"It never learned the forgotten answers ({prob['pretrained']}), nor the retained ones ({kept['pretrained']})",
        f"on retained questions it is {three_digits(pretrained['retain_alignment'])} nats from a retrained model, the "
        f"original {three_digits(original['retain_alignment'])}",
    ]


def said_of_two(rows: list[Row]) -> list[str]:
    """The sentences on the second request."""
    by = {row["model"]: row for row in rows}
    shrunk, longer, fresh = (by[name] for name in (SHRUNK, LONGER, FRESH))
    told = {name: f"{short(row['forget_prob'])} and {short(row['retain_prob'])}" for name, row in by.items()}
    methods = [by[name] for name in SETTINGS if name in by]
    some = sum(row["forget_alignment_gain_low"] > 0 for row in methods)
    further = [row["model"] for row in rows if row.get("forget_alignment_gain_high", 0.0) < 0]
    again = ends((by[f"retrained {k}"]["forget_prob"] for k in (0, 1)), 3)
    return [
        f"new factors has a gain of {gain(fresh)}), {short(fresh['forget_prob'], 3)} for their answers (retrained: "
        f"{again}) and {short(fresh['retain_prob'])} for retained ones",
        f"shrunk has a gain of {gain(shrunk)}), {told[SHRUNK]}, on for longer a gain of {gain(longer)}), "
        f"{told[LONGER]}",
        f"bring the others to {short(longer['others_relearned'])}, from a retrained model "
        f"{short(by['retrained 0']['others_relearned'])}",
        f"General knowledge stays ({short(general(shrunk), 3)} and {short(general(longer), 3)}; before: "
        f"{short(general(by['original']), 3)})",
        f"After two requests {some or 'none'} of the {len(methods)} methods of a Trainer "
        f"{'is' if some < 2 else 'are'} nearer",
        f"(a gain of {gain(by[DISTILLED])}), {told[DISTILLED]}); {', '.join(sorted(further))} are farther",
    ]


def ends_of(by: dict[str, Row], name: str) -> str:
    return ends((by[f"retrained {k}"][name] for k in (0, 1)), 2)


def test_the_answer_says_what_the_rows_say() -> None:
    check_said(said(ROWS), TEXT)
    check_said(said_of_two(SECOND), TEXT)


def test_other_rows_make_every_sentence_false() -> None:
    """The control: one method fewer, and every figure another one."""
    names = "prob", "alignment", "gain", "mia", "relearned", "rouge"
    for rows, words in ((ROWS, said), (SECOND, said_of_two)):
        changed = [
            {
                key: value * 0.8 + 0.05 if any(n in key for n in names) and value is not None else value
                for key, value in row.items()
            }
            for row in rows
            if row["model"] != "simnpo"
        ]
        check_unsaid(words(changed), TEXT)

"""TOFU's metrics, memorisation and the table, against transformers, scipy, numpy and plain counting."""

import copy
import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from scipy.stats import ks_2samp

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.llm.metrics import (
    TokenScores,
    aggregate_truth_ratio,
    answer_log_probs,
    answers_of,
    drma,
    end_tokens,
    evaluate_language_models,
    exact_memorization,
    extraction_strength,
    forget_quality,
    gradient_score,
    membership_auc,
    model_utility,
    options_probability,
    probability,
    reference_score,
    rouge,
    token_scores,
    truth_ratio,
)
from gunlearn.llm.metrics.tofu_metrics import truth_of
from gunlearn.metrics import Alignment, Figure, Sampler
from tests.llm import facts

PEOPLE = (0, 1, 4, 5)


def scores_of(rows, prob=0.5):
    """Scores of rows given as strings: `1` right, `0` wrong, `.` not labelled."""
    width = max(map(len, rows))
    rows = [row.ljust(width, ".") for row in rows]
    first = torch.tensor([[c == "1" for c in row] for row in rows])
    mask = torch.tensor([[c != "." for c in row] for row in rows])
    log_prob = torch.where(mask, math.log(prob), 0.0)
    return TokenScores(log_prob, mask, first, torch.zeros_like(log_prob), torch.zeros_like(log_prob))


def test_scores_are_those_of_transformers_and_plain_sums():
    model, rows = facts.retrained(0), [facts.row(p, k, f) for p in (0, 7) for k in facts.VALUES for f in (0, 1)]
    found = token_scores(model, rows, batch_size=5, chunk=3 * len(facts.VOCABULARY))
    for i, row in enumerate(rows):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        with torch.no_grad():
            out = model(input_ids=ids, labels=labels)
        assert float(-found.mean_log_prob[i]) == pytest.approx(float(out.loss), abs=1e-5)
        kept = labels[0, 1:] != -100
        log_p = out.logits[0, :-1][kept].double().log_softmax(-1)
        assert torch.equal(found.first[i][found.mask[i]], log_p.argmax(-1) == labels[0, 1:][kept])
    assert torch.equal(found.length, torch.tensor([sum(y != -100 for y in row["labels"]) for row in rows]))
    assert (found.log_prob[~found.mask] == 0).all()


def test_scores_do_not_depend_on_padding_or_the_head_and_leave_the_model_alone():
    rows, model = facts.rows(range(2)), facts.retrained(0).train()
    rows[1] |= {"labels": rows[1]["input_ids"]}  # the first token is predicted from nothing, wherever it stands
    expected = token_scores(model, rows)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    shifted = token_scores(model, [facts.padded(row) for row in rows])
    assert torch.equal(shifted.length, expected.length)
    assert int(shifted.length[1]) == len(rows[1]["labels"]) - 1
    assert shifted.mean_log_prob.tolist() == pytest.approx(expected.mean_log_prob.tolist(), abs=1e-5)
    # Logits capped behind the head have to be read from the model, not made from its hidden states.
    capped = facts.retrained(0)
    capped.lm_head.register_forward_hook(lambda module, inputs, output: 3 * (output / 3).tanh())
    ids, labels = (torch.tensor([rows[0][name]]) for name in ("input_ids", "labels"))
    with torch.no_grad():
        nll = float(capped(input_ids=ids, labels=labels).loss)
    assert float(-token_scores(capped, rows).mean_log_prob[0]) == pytest.approx(nll, abs=1e-5)
    assert abs(nll + float(expected.mean_log_prob[0])) > 0.01
    with pytest.raises(InvalidInputError, match="1 without"):
        token_scores(model, [*rows, {"input_ids": [1, 5, 2], "labels": [-100] * 3}])
    with pytest.raises(InvalidInputError, match="rows to score"):
        token_scores(model, [])


def test_probability_and_answers_among_options():
    model, rows = facts.retrained(0), facts.with_answers(PEOPLE)
    scores = token_scores(model, rows)
    by_hand = [float((lp[m].sum() / m.sum()).exp()) for lp, m in zip(scores.log_prob, scores.mask, strict=True)]
    assert probability(scores).tolist() == pytest.approx(by_hand, rel=1e-6)
    wrong = answer_log_probs(model, [row["perturbed"] for row in rows])
    assert [len(w) for w in wrong] == [4] * len(rows)
    single = token_scores(model, rows[1]["perturbed"]).mean_log_prob
    assert wrong[1].tolist() == pytest.approx(single.tolist(), abs=1e-5)
    share = options_probability(scores.mean_log_prob, wrong)
    expected = [p / (p + float(w.exp().sum())) for p, w in zip(by_hand, wrong, strict=True)]
    assert share.tolist() == pytest.approx(expected, rel=1e-5)


def test_truth_ratio_and_its_summaries():
    right, wrong = torch.tensor([0.5, 0.1]).log(), [torch.tensor([0.1, 0.4]).log(), torch.tensor([0.2]).log()]
    ratio = truth_ratio(right, wrong)
    assert ratio.tolist() == pytest.approx([0.2 / 0.5, 2.0])  # geometric mean of .1 and .4
    assert truth_ratio(right, wrong, "arithmetic").tolist() == pytest.approx([0.25 / 0.5, 2.0])
    assert aggregate_truth_ratio(ratio, "closer_to_1_better") == pytest.approx((0.4 + 0.5) / 2)
    assert aggregate_truth_ratio(ratio, "true_better") == pytest.approx((0.6 + 0) / 2)
    assert aggregate_truth_ratio(ratio, "prob_mean") == pytest.approx((0.5 / 0.7 + 1 / 3) / 2)
    assert aggregate_truth_ratio(torch.tensor([0.0, math.inf]), "closer_to_1_better") == 0
    with pytest.raises(InvalidInputError, match="how"):
        aggregate_truth_ratio(ratio, "median")
    with pytest.raises(InvalidInputError, match="mean"):
        truth_ratio(right, wrong, "harmonic")
    with pytest.raises(InvalidInputError, match="question without"):
        truth_ratio(right, [wrong[0], torch.zeros(0)])


def test_forget_quality_tells_the_full_model_from_retrained_ones():
    rows, ratios = facts.with_answers(facts.FORGET), {}
    rows += [row | {"paraphrased": row} for row in rows]
    models = {"full": facts.full(), "r0": facts.retrained(0), "r1": facts.retrained(1)}
    for name, model in models.items():
        right = token_scores(model, [row["paraphrased"] for row in rows]).mean_log_prob
        ratios[name] = truth_ratio(right, answer_log_probs(model, [row["perturbed"] for row in rows]))
    assert forget_quality(ratios["r0"], ratios["r0"]) == 1
    assert forget_quality(ratios["full"], ratios["r0"]) < 1e-4
    assert forget_quality(ratios["r1"], ratios["r0"]) > 0.05
    expected = ks_2samp(ratios["r1"].tolist(), ratios["r0"].tolist()).pvalue
    assert forget_quality(ratios["r1"], ratios["r0"]) == pytest.approx(expected)


def test_rouge_is_the_longest_common_subsequence():
    said = ["the job of ada is a baker in oslo", "bob", "is ada the baker", "..."]
    truth = ["ada is the baker of oslo", "bob lives in lima", "the baker is ada", "eva"]
    found = rouge(said, truth)
    assert found["rougeL_recall"].tolist() == pytest.approx([4 / 6, 1 / 4, 2 / 4, 0])
    assert found["rouge1_recall"].tolist() == pytest.approx([6 / 6, 1 / 4, 4 / 4, 0])
    assert found["rougeL_f1"].tolist() == pytest.approx([2 * 4 / (9 + 6), 2 * 1 / (1 + 4), 2 * 2 / (4 + 4), 0])
    assert float(rouge(["walking"], ["walked"])["rougeL_recall"]) == 1  # stemmed
    with pytest.raises(InvalidInputError, match="as many answers"):
        rouge(["a"], [])


def test_answers_are_generated_from_prompts():
    rows, tokenizer = facts.rows(range(1)), facts.tokenizer()
    known, unknown = (answers_of(model, rows, tokenizer, 12) for model in (facts.full(), facts.retrained(0)))
    assert known == [row["answer"] for row in rows] != unknown
    assert truth_of({key: rows[0][key] for key in ("input_ids", "labels")}, tokenizer) == rows[0]["answer"]


def test_utility_is_a_harmonic_mean():
    assert model_utility([1.0, 0.5, 0.25]) == pytest.approx(3 / 7)
    assert model_utility([0.5, 0.0]) == 0
    for bad in ([], [0.5, -0.1]):
        with pytest.raises(InvalidInputError, match="at least 0"):
            model_utility(bad)


def test_extraction_strength_is_zero_where_nothing_matches():
    rows = ["..11111", "..11011", "..11110", "..00000", "..1", "..0", "..0.011."]
    found = extraction_strength(scores_of(rows))
    by_hand = []
    for row in rows:
        row = row.replace(".", "")
        shortest = next(k for k in range(len(row) + 1) if "0" not in row[k:])
        by_hand.append(1 - shortest / len(row))
    assert found.tolist() == pytest.approx(by_hand)
    assert by_hand == pytest.approx([1, 0.4, 0, 0, 1, 0, 0.5])
    compat = extraction_strength(scores_of(rows), compat=True)
    assert compat.tolist() == pytest.approx([1, 0.4, 0.2, 0.2, 1, 1, 0.5])
    assert exact_memorization(scores_of(rows)).tolist() == pytest.approx([1, 0.8, 0.8, 0, 1, 0, 0.5])


def test_drma_is_the_sum_of_probabilities():
    scores = scores_of(["1111", "11"], prob=0.25)
    assert drma(scores) == pytest.approx((4 + 2) * 0.25 / 2)  # grows with length
    assert drma(scores, per_token=True) == pytest.approx(0.25)
    model, ids = facts.retrained(0), torch.tensor([facts.row(5, "job", 0)["input_ids"]])
    with torch.no_grad():
        prob = model(ids).logits.double().softmax(-1)
    expected = sum(float(prob[0, t, ids[0, t + 1]]) for t in range(ids.size(1) - 1))
    document = {"input_ids": ids[0].tolist(), "labels": ids[0].tolist()}
    assert drma(token_scores(model, [document])) == pytest.approx(expected, abs=1e-5)
    off_by_one = sum(float(prob[0, t + 1, ids[0, t + 1]]) for t in range(ids.size(1) - 1))
    assert abs(off_by_one - expected) > 0.1  # control


def test_table_of_all_metrics():
    full, references = facts.full(), [facts.retrained(0), facts.retrained(1)]
    forget, retain = facts.with_answers((0, 1)), facts.with_answers((4,))
    found = evaluate_language_models(
        {"unlearned": references[1]},
        facts.tokenizer(),
        forget,
        retain,
        references=references,
        holdout_rows=facts.rows(range(20, 22)),
        original=full,
        utility_rows={"world_facts": facts.with_answers((6,))},
        sampler=Sampler(n_samples=2),
        attacks=("loss", "zlib", "reference"),
        align_on=("forget",),
        max_new_tokens=12,
    )
    assert [row["model"] for row in found] == ["unlearned", "original", "retrained 0"]
    before, after = found.of("original"), found.of("unlearned")
    for figure in ("forget_prob", "forget_exact_memorization", "forget_extraction_strength", "forget_rougeL"):
        assert before[figure] > 0.9 > after[figure] + 0.1
    assert before["mia_loss"] == 1 > after["mia_loss"]
    for name, model, other in (("retrained 0", 0, 1), ("unlearned", 1, 0), ("original", full, 0)):
        models = [m if isinstance(m, torch.nn.Module) else references[m] for m in (model, other)]
        sides = [
            reference_score(*(token_scores(m, rows) for m in models)) for rows in (forget, facts.rows(range(20, 22)))
        ]
        assert found.of(name)["mia_reference"] == pytest.approx(membership_auc(*sides))  # never against itself
    assert before["forget_quality"] < 0.05 < after["forget_quality"]
    assert before["forget_alignment_gain"] == 0 < 0.3 < after["forget_alignment_gain"]
    assert before["forget_alignment_gain_low"] == before["forget_alignment_gain_high"] == 0
    low, high = (after[f"forget_alignment_gain_{end}"] for end in ("low", "high"))
    assert low < after["forget_alignment_gain"] < high
    assert after["forget_alignment"] == after["forget_alignment_floor"]  # is itself one of two retrained ones
    assert before["forget_alignment_low"] < before["forget_alignment"] < before["forget_alignment_high"]
    assert "retain_alignment" not in after
    nine = [before[f"{p}_{f}"] for p in ("retain", "world_facts") for f in ("prob", "rougeL", "truth_ratio")]
    assert before["model_utility"] == pytest.approx(6 / sum(1 / f for f in nine))
    console = Console(width=120)
    with console.capture() as capture:
        console.print(found)
    assert "forget_alignment_gain" in capture.get()
    assert f"{before['forget_prob']:.3g}" in capture.get()


def test_a_reference_that_was_never_trained_is_marked():
    forget, retain = facts.rows(range(1)), facts.rows(range(4, 6))
    how = dict(attacks=(), align_on=(), generate=False)
    references = [facts.retrained(0), facts.fresh(seed=7)]
    with pytest.warns(UserWarning, match="'retrained 1'.* looks untrained"):
        found = evaluate_language_models(
            {"fine": facts.full()}, facts.tokenizer(), forget, retain, references, original=facts.full(), **how
        )
    assert [row["model"] for row in found if row.get("untrained")] == ["retrained 1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_language_models({"fine": facts.full()}, facts.tokenizer(), forget, retain, references, **how)


def broken():
    model = facts.retrained(1)
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    return model


def test_a_broken_model_is_named_and_the_others_keep_their_rows():
    forget, retain, references = facts.with_answers((0,), 2), facts.rows(range(4, 5)), [facts.retrained(0), broken()]
    with pytest.raises(InvalidInputError, match="NaN"):
        token_scores(references[1], forget)
    how = dict(holdout_rows=facts.rows(range(20, 21)), sampler=Sampler(1), attacks=("loss", "reference"))
    found = evaluate_language_models(
        {"bad": broken(), "fine": facts.full()}, facts.tokenizer(), forget, retain, references, **how
    )
    for name in ("bad", "retrained 1"):
        assert found.of(name) == {"model": name, "broken": True}
    alone = evaluate_language_models({"fine": facts.full()}, facts.tokenizer(), forget, retain, references[:1], **how)
    assert list(alone) == [found.of("fine"), found.of("retrained 0")]
    assert "mia_reference" in found.of("fine")
    assert "forget_alignment" in found.of("fine")
    assert "mia_reference" not in found.of("retrained 0")  # the only one: there is nothing to compare it with
    assert not any("broken" in row or math.nan in row.values() for row in alone)


def test_generated_answers_are_as_long_as_the_rows_own():
    row = facts.row(0, "city", 0)  # its answer has 8 tokens: of 6 of them ROUGE's recall is below 1
    (found,) = evaluate_language_models({"m": facts.full()}, facts.tokenizer(), [row], [row])
    assert found["forget_rougeL"] == 1
    (cut,) = evaluate_language_models({"m": facts.full()}, facts.tokenizer(), [row], [row], max_new_tokens=3)
    assert cut["forget_rougeL"] < 1
    small = facts.full()
    small.config.max_position_embeddings = len(row["input_ids"])
    assert answers_of(small, [row], facts.tokenizer()) == [row["answer"]]
    ends = facts.VOCABULARY["city"]
    assert answers_of(small, [row], facts.tokenizer(), ends=ends) == [row["answer"].split(" city")[0]]
    long = {name: row[name] * 3 for name in ("input_ids", "labels")}
    for score in (token_scores, gradient_score):
        with pytest.raises(InvalidInputError, match="the model's context"):
            score(small, [long])


CHAT = "{% for m in messages %}<bos> {{ m.role }} {{ m.content }} <pad> <eos>{% endfor %}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, (2,)),
        (CHAT, (2, 0)),  # the first special token behind the answer
        (CHAT.replace("<pad>", ""), (2,)),
        (CHAT.replace("<pad> <eos>", "."), (2,)),  # the one before the answer closes nothing
        ("{{ raise_exception('three messages') }}", (2,)),
    ],
)
def test_a_chat_template_says_what_closes_a_turn(template, expected):
    tokenizer = copy.deepcopy(facts.tokenizer())
    tokenizer.chat_template = template
    assert end_tokens(tokenizer) == expected
    assert end_tokens(5) == end_tokens(SimpleNamespace(eos_token_id=5)) == (5,)
    assert end_tokens([7, 3]) == end_tokens(SimpleNamespace(eos_token_id=[7, 3])) == (7, 3)


def test_what_is_no_row_or_no_table_of_models_is_named():
    model, tokenizer, rows = facts.full(), facts.tokenizer(), facts.rows(range(1))
    for bad in ([{"question": "who?", "answer": "ada"}], "forget.jsonl", Path("forget.jsonl"), ["text"], rows[0]):
        with pytest.raises(InvalidInputError, match=r"retain_rows.*gunlearn\.llm\.encode"):
            evaluate_language_models({"m": model}, tokenizer, rows, bad)
    with pytest.raises(InvalidInputError, match="'holdout_rows'"):
        evaluate_language_models({"m": model}, tokenizer, rows, rows, holdout_rows=[])
    with pytest.raises(InvalidTypeError, match="by name"):
        evaluate_language_models(model, tokenizer, rows, rows)
    with pytest.raises(InvalidInputError, match="'references'"):
        evaluate_language_models({"m": model}, tokenizer, rows, rows, holdout_rows=rows, attacks=("reference",))


def test_an_alignment_is_shown_by_its_figures():
    shown = repr(Alignment(1.25, 0.5, torch.ones(99), (1.5, 2.0), None, 0.0, "monte_carlo", "token", None))
    assert shown == "Alignment(value=1.75, interval=(1.5, 2.0), precision=1.25, recall=0.5, per='token')"
    assert "interval=None" in repr(Alignment(1.25, 0.5, torch.ones(1), None, None, 0.0, "monte_carlo", "token", None))


class Tokens(Figure):
    """Labelled tokens of the rows."""

    name, tasks = "tokens", ("causal_lm",)

    def compute(self, view):
        return float(view.scores.length.sum())


def test_a_figure_of_ones_own_is_measured_on_each_set():
    sets = facts.rows(range(1)), facts.rows(range(3))
    found = evaluate_language_models(
        {"m": facts.full()}, facts.tokenizer(), *sets, generate=False, metrics=[Tokens(), "drma"]
    )
    counts = [sum(label != -100 for row in rows for label in row["labels"]) for rows in sets]
    assert [found[0][f"{part}_tokens"] for part in ("forget", "retain")] == counts
    with pytest.raises(InvalidInputError, match="of link_prediction"):
        evaluate_language_models({"m": facts.full()}, facts.tokenizer(), *sets, metrics=["retain_auc"])


def test_table_leaves_out_what_it_cannot_know():
    rows = facts.rows(range(1))
    (row,) = evaluate_language_models({"m": facts.full()}, facts.tokenizer(), rows, rows, generate=False)
    kinds = ("prob", "exact_memorization", "extraction_strength", "drma", "drma_per_token")
    assert set(row) == {"model", *(f"{part}_{kind}" for part in ("forget", "retain") for kind in kinds)}
    with pytest.raises(InvalidInputError, match="attacks among"):
        evaluate_language_models({"m": facts.full()}, facts.tokenizer(), rows, rows, attacks=("guess",))
    with pytest.raises(InvalidInputError, match="to name one model"):
        evaluate_language_models({"original": facts.full()}, facts.tokenizer(), rows, rows, original=facts.retrained(0))

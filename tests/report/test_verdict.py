"""Verdicts on rows made by hand."""

import pytest

from gunlearn.report.summary import summarise
from gunlearn.report.verdict import verdict


def made(method, floors, seconds=None, seed=0, utility=0.9, references=2, **other):
    """A row at so many noise floors (of .1 nats) from `references` retrained models."""
    js, floor = (None, None) if floors is None else (0.1 * floors, 0.1)
    more = {"mode": "default", "seed": seed, "retain_auc": utility, "references": references, **other}
    return {"method": method, "js_forget": js, "js_floor_forget": floor, "seconds": seconds, **more}


RETRAIN = made("retrain", 1, 10.0, epochs=200)
UTU = made("utu", 4, 0.01)


def judged(*rows):
    return verdict(summarise(rows))


def test_the_nearest_its_distance_and_its_price():
    found = judged(RETRAIN, UTU, made("npo", 3, 1.0), made("auto", 1.8, 2.5, epochs=50))
    assert found.answer == (
        "auto ended nearest to retraining: 1.8 floors (another retraining: 1; utu: 4.0), for 25 % of retraining's time "
        "(2.5 s of 10.0 s; 50 epochs of 200)."
    )
    assert found.cells == ("auto", "1.8", "4.0", "25 %", "near")


def test_utu_that_lost_utility_was_not_enough():
    for floors, said in ((0.9, "nearer to retraining than utu (0.9 floors)"), (1.5, "than utu (1.5 floors)")):
        answer = judged(RETRAIN, made("utu", floors, 0.01, utility=0.86), made("npo", 3, 1.0)).answer
        assert answer.startswith("Nothing here was enough: no method ended")
        assert f"{said}, which itself lost more than 0.03 of utility" in answer
    nearer = judged(RETRAIN, made("utu", 1, 0.01, utility=0.86), made("npo", 0.9, 1.0))
    assert nearer.answer.startswith("npo ended nearest")
    assert nearer.more == []
    assert nearer.limits[-1] == "utu lost more than 0.03 of utility against retraining."


def test_utu_is_named_where_it_is_near_too():
    found = judged(RETRAIN, made("utu", 1.8, 0.01), made("auto", 1.2, 2.5))
    assert found.answer.startswith("auto ended nearest")
    assert found.more == ["Taking the data out alone (utu) ends near, too, and costs next to nothing."]
    assert judged(RETRAIN, UTU, made("auto", 1.2, 2.5)).more == []


def test_equal_distances_go_to_the_cheaper():
    assert judged(RETRAIN, UTU, made("auto", 2, 3.0), made("npo", 2, 1.0)).nearest.method == "npo"


@pytest.mark.parametrize(
    ("utu", "npo", "words"),
    [
        (1.5, 1.7, "Taking the data out was enough: no method ended nearer to retraining than utu (1.5 floors)."),
        (1.0, 0.9, "Taking the data out was enough: utu ended as near as another retraining would (1.0 floors)."),
        (9, 12, "Nothing here comes near retraining: no method ended nearer to retraining than utu, which only takes"),
        (9, 3, "Nothing here comes near retraining. npo ended nearest to retraining: 3.0 floors"),
    ],
)
def test_where_nothing_beats_taking_the_data_out(utu, npo, words):
    assert judged(RETRAIN, made("utu", utu, 0.01), made("npo", npo, 1.0)).answer.startswith(words)


def test_a_method_that_costs_more_than_retraining():
    found = judged(RETRAIN, UTU, made("scrub", 1.2, 25.0), made("npo", 1.9, 4.0), made("gif", 3, 1.0))
    assert "for 2.5 times retraining's time (25.0 s of 10.0 s). Retraining itself costs less." in found.answer
    assert found.more == [
        "Of what costs less, npo ended nearest: 1.9 floors, for 40 % of retraining's time (4.0 s of 10.0 s)."
    ]


def test_a_lead_within_noise():
    """Leads over utu of 1, -.4 and .3 floors: their mean is less than two standard errors. In the second case the
    method is far ahead of utu, and a cheaper one .3 nearer, .4 and .1 farther than it."""
    seeds = range(3)
    utu = [made("utu", 1.5, 0.01, s) for s in seeds]
    npo = [made("npo", 1.5 - d, 1.0, s) for s, d in enumerate((1, -0.4, 0.3))]
    assert judged(RETRAIN, *utu, *npo).answer == (
        "Taking the data out was enough: no method ended nearer to retraining than utu, or none by more than the noise "
        "between seeds (1.5 floors)."
    )
    far = [made("utu", 9.5, 0.01, s) for s in seeds]
    cheap = [
        made("gif", row["js_forget"] * 10 + d, 0.1, s)
        for s, (row, d) in enumerate(zip(npo, (-0.3, 0.4, 0.1), strict=True))
    ]
    found = judged(RETRAIN, *far, *npo, *cheap)
    assert found.nearest.method == "npo"
    assert found.more == [
        "gif is cheaper, and seeds do not tell its distance from that: 1.3 floors, for 1 % of retraining's time "
        "(0.1 s of 10.0 s)."
    ]


def test_a_cheaper_method_that_seeds_do_not_tell_from_utu_is_not_offered():
    """scrub is 17 floors nearer than utu and 16 farther, so that its distance is not told from npo's either."""
    seeds = range(2)
    utu = [made("utu", 20, 0.01, s) for s in seeds]
    npo = [made("npo", 2 + s, 1.0, s) for s in seeds]
    scrub = [made("scrub", d, 0.1, s) for s, d in enumerate((3, 36))]
    assert judged(RETRAIN, *utu, *npo, *scrub).more == []
    near = [made("scrub", d, 0.1, s) for s, d in enumerate((3.2, 2.2))]  # control: told from utu, not from npo
    assert [said.split()[0] for said in judged(RETRAIN, *utu, *npo, *near).more] == ["scrub"]


def test_without_references_there_is_no_verdict():
    found = judged(made("npo", None, 1.0, references=0), made("utu", None, 0.01, references=0))
    assert found.answer.startswith("No verdict: no model was retrained without the data")
    assert found.cells[-1] == "no verdict"
    assert found.nearest is None


def test_one_reference_gives_no_floor():
    rows = [made(m, d, s, references=1, js_floor_forget=None) for m, d, s in (("utu", 4, 0.1), ("npo", 2, 1.0))]
    found = judged(*rows)
    assert found.answer == "npo ended nearest to retraining: 0.2 nats (utu: 0.4 nats), in 1.0 s."
    assert "Distances are in nats per item: a noise floor takes two retrained models." in found.limits
    assert judged(rows[0], {**rows[1], "js_forget": 0.5}).answer == (
        "No method ended nearer to retraining than utu, which only takes the data out; how near that is takes a noise "
        "floor."
    )


@pytest.mark.parametrize(("seeds", "references", "weak"), [(1, 2, True), (1, 3, False), (2, 2, False)])
def test_a_floor_of_fewer_than_three_retrained_models_is_weak(seeds, references, weak):
    rows = [made(m, d, 1.0, s, references=references) for m, d in (("utu", 4), ("npo", 2)) for s in range(seeds)]
    assert any("weak: it comes from 2 retrained" in limit for limit in judged(*rows).limits) == weak
    assert any(limit.startswith("One run:") for limit in judged(*rows).limits) == (seeds == 1)


def test_what_is_left_out_is_named():
    """.05 of utility lost; nearer than can be expected; one run of two that failed."""
    rows = [made("npo", 1.1, 1.0, utility=0.85), {**made("gif", 0.1, 1.0), "suspicious": "The model is nearer."}]
    rows += [made("scrub", 3, 1.0), {**made("scrub", None, seed=1), "error": "Expected finite losses (got NaN)"}]
    found = judged(RETRAIN, UTU, *rows)
    assert found.nearest.method == "scrub"
    assert found.limits[-3:] == [
        "npo: left out, having lost more than 0.03 of utility against retraining (mark !).",
        "gif: left out, nearer to the retrained models than can be expected (mark ?).",
        "Runs that failed, for the reason below the table: scrub (1 of 2).",
    ]
    assert "no method that counts ended nearer" in judged(RETRAIN, made("utu", 1.5, 0.1), *rows).answer
    assert judged(RETRAIN, rows[0]).answer == "No verdict: every method was left out, for the reasons below."


def test_untrained_references_and_failures_give_no_verdict():
    bare = {**RETRAIN, "untrained": "A reference is untrained."}
    assert judged(bare, UTU, made("npo", 2, 1.0)).answer.startswith("No verdict: a retrained model looks untrained")
    assert judged({**made("npo", None), "error": "no"}).answer == "No verdict: every run failed."
    assert (
        "nothing that was forgotten has a prediction"
        in judged({**RETRAIN, "js_forget": None}, made("npo", None)).answer
    )
    assert (
        judged(RETRAIN, UTU).answer
        == "Only taking the data out was tried (utu, 4.0 floors): no method is compared with it."
    )


def test_where_no_method_finished_nothing_is_called_enough():
    found = judged(RETRAIN, made("utu", 1.5, 0.01), {**made("npo", None), "error": "no"})
    assert found.answer == "No method finished: nothing is compared with taking the data out (utu, 1.5 floors)."
    assert found.cells[-1] == "no method finished"


def test_utu_is_marked_where_it_loses_utility():
    assert [line.fails for line in summarise([RETRAIN, made("utu", 1.5, 0.01, utility=0.86)])] == [False, True]

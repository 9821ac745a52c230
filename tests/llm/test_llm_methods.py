import copy
import types
from functools import cache

import pytest
import torch

from gunlearn.errors import InvalidInputError
from gunlearn.llm import CausalLM, InfluenceAscent, PartCollator
from gunlearn.llm.recipes.plan import Given
from gunlearn.llm.training.backend import plan_of as plan_of_method
from gunlearn.llm.training.until import mean_nll
from gunlearn.losses import LOSSES, NLL, JSDToReference, KLToReference, Loss, as_objective
from gunlearn.methods import METHODS, PUBLISHED, build_method, settings_listing
from gunlearn.methods.any_task.retained import RETAIN_LOSSES
from tests.llm import facts
from tests.llm.training import FORGET, RETAIN, UNMARKED, make

#: Methods that are an objective over the forgotten rows, which a Trainer trains; the package's loop runs the others.
OBJECTIVES = set(PUBLISHED["causal_lm"]) - {"auto", "finetune", "task_vector", "continued_training", "replay"}


def other(value, values):
    """The value after one."""
    return values[(values.index(value) + 1) % len(values)]


OTHERS = [
    facts.row(p, kind, i, other(facts.value_of(p, kind), values))
    for p in facts.FORGET
    for kind, values in facts.VALUES.items()
    for i in (0, 1)
]


@cache
def batches():
    parts = {"forget": FORGET, "retain": RETAIN[:24], "alternative": OTHERS}
    return {name: PartCollator()(rows) for name, rows in parts.items()}


def plan_of(name, model, **options):
    if name == "obliviate":
        options = options | {"min_count": 1, "min_ratio": 1.5, "max_document_frequency": 0.2}
    # Marked rows tell which tokens are facts, for dto.
    return planned(name, options, Given(model, facts.tokenizer(), FORGET, RETAIN))


def planned(name, options=None, given=None):
    return plan_of_method(build_method(name, options or {}, CausalLM()), given or Given())


def value(plan, model, reference):
    """The plan's objective on all rows."""
    given = {"paired": {"alternative": OTHERS}, "task": CausalLM(layer=plan.layer), "reference": reference}
    trainer = make(model=model, objective=plan.objective, given=given)
    return plan.objective(*trainer.predictions(model, batches())).total


def moved(model, grads, by):
    out = copy.deepcopy(model)
    norm = torch.stack([g.norm() for g in grads]).norm()
    with torch.no_grad():
        for p, g in zip(out.parameters(), grads, strict=True):
            p.sub_(by * g / norm)
    return out


def forgotten(model):
    """Mean log-probability of the values to forget."""
    with torch.no_grad():
        p = CausalLM(("log_prob",)).decode(model, None, batches()["forget"])
    return float(p.log_prob[batches()["forget"]["target_mask"][:, 1:]].mean())


@pytest.mark.parametrize("name", sorted(OBJECTIVES - {"rmu", "gradient_ascent"}))
def test_a_step_of_each_method_forgets_and_the_opposite_step_does_not(name):
    full, model = facts.full(), facts.full()
    plan = plan_of(name, full, retain_weight=0)
    grads = torch.autograd.grad(value(plan, model, full), list(model.parameters()))
    down = forgotten(moved(full, grads, 0.05))
    assert down < forgotten(full)
    assert down < forgotten(moved(full, grads, -0.05))


def test_misdirection_moves_hidden_states_of_its_layer():
    full = facts.full()
    plan = plan_of("rmu", full)
    assert plan.layer == 1  # of two
    assert planned("rmu").layer == 8  # of the 32 that are assumed without a model
    config = facts.fresh().config
    for depth, layer in ((32, 8), (16, 5), (1, 1)):
        config.num_hidden_layers = depth
        assert plan_of("rmu", types.SimpleNamespace(config=config)).layer == layer
    assert planned("rmu", {"layer": 2}, Given(full)).layer == 2
    model = facts.full()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    for _ in range(12):
        optimizer.zero_grad()
        value(plan, model, full).backward()
        optimizer.step()
    # The layers behind it are not reached, nor is the head.
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert any(".layers.0." in name for name in reached)
    assert not any(".layers.1." in name or "lm_head" in name for name in reached)
    assert facts.value_prob(model, FORGET) < 0.25


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_parts_are_those_there_are(name):
    method, settings = build_method(name, {}, CausalLM()), PUBLISHED["causal_lm"][name]
    parts = {part.partition(":")[0] for part in as_objective(method.objective()).parts}
    assert parts - {"forget", "retain"} <= {"alternative"}
    assert parts >= {"retain"} or getattr(method, "retain_weight", 0) == 0
    if name != "gradient_ascent":
        assert "retain" in planned(name, {"retain_weight": 0.5}).objective.parts
    assert settings.rate(adapter=False) == method.lr > 0
    assert settings.rate(adapter=True) == pytest.approx(10 * method.lr)
    assert method.epochs > 0


def test_options_reach_the_losses():
    plan = planned("npo", {"beta": 0.3, "forget_weight": 2, "retain_weight": 0.5, "retain_loss": "kl"})
    (w0, npo), (w1, held) = plan.objective.terms
    assert (w0, npo.beta, w1, held) == (2.0, 0.3, 0.5, KLToReference(on="retain"))
    assert planned("npo", {"retain_weight": 0}).objective.parts == ("forget",)
    assert planned("simnpo").objective.terms[0][0] == 0.125
    for name, loss in RETAIN_LOSSES.items():
        assert planned("graddiff", {"retain_weight": 1, "retain_loss": name}).objective.terms[1] == (1.0, loss)
    assert planned("graddiff").objective.terms[1][1] == NLL(on="retain")
    assert planned("jensun").objective.terms[1] == (1.0, JSDToReference(on="retain"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"betta": 1}, "'beta'"),
        ({"beta": -1}, "positive"),
        ({"retain_weight": "a"}, "'retain_weight' of 'npo' to be a number"),
        ({"retain_weight": -1}, "retain_weight"),
        ({"forget_weight": True}, "forget_weight"),
        ({"retain_loss": "mse"}, "hidden"),
        ({"on": "retain"}, "options of 'npo'"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(InvalidInputError, match=words):
        planned("npo", options)


def test_direct_token_optimisation_marks_tokens_where_there_are_no_marks():
    full = facts.full()
    plan = planned("dto", {"ratio": 0.2}, Given(full, facts.tokenizer(), UNMARKED[:6]))
    labelled = [sum(y != -100 for y in row["labels"]) for row in UNMARKED[:6]]
    assert [sum(row["target_mask"]) for row in plan.forget] == [-(-n // 5) for n in labelled]
    found = [m["target_mask"][r["target_mask"].index(True)] for m, r in zip(plan.forget, FORGET, strict=False)]
    # The value is mostly among them; two of about eight tokens drawn blindly hit it a quarter of the time.
    assert sum(found) >= 4
    assert planned("dto", None, Given(full, facts.tokenizer(), FORGET)).forget is None
    own = [FORGET[0] | {"target_mask": [False] * len(FORGET[0]["input_ids"])}, UNMARKED[1]]
    mixed = planned("dto", {"ratio": 0.2}, Given(full, facts.tokenizer(), own)).forget
    assert [sum(row["target_mask"]) for row in mixed] == [0, -(-labelled[1] // 5)]  # the caller's marks stay


def test_telling_words_are_found_in_rows():
    plan = plan_of("obliviate", facts.full())
    ids = plan.objective.terms[0][1].token_ids
    words = {facts.tokenizer().decode([i]) for i in ids}
    assert {facts.NAMES[p] for p in facts.FORGET} <= words
    assert not words & {facts.NAMES[p] for p in facts.RETAIN[:4]}
    with pytest.raises(InvalidInputError, match="retain"):
        planned("obliviate", None, Given(facts.full(), facts.tokenizer(), FORGET))


def test_the_listing_has_every_method_and_old_names_say_so():
    head, body = settings_listing()
    assert [row[1] for row in body if row[0] == "causal_lm"] == list(PUBLISHED["causal_lm"])
    assert {row[0] for row in body} == set(PUBLISHED)
    assert {len(row) for row in body} == {len(head)}
    own = [cls for cls in map(METHODS.find, PUBLISHED["causal_lm"]) if hasattr(cls, "loss")]
    assert len(own) > 8
    assert all(issubclass(cls.loss, Loss) and cls.loss in {*LOSSES.values(), InfluenceAscent} for cls in own)
    for old, new in (("ga", "gradient_ascent"), ("npo_kl", "npo:kl"), ("idkdpo", "dpo"), ("simnp", "simnpo")):
        with pytest.raises(InvalidInputError, match=f"'{new}'"):
            planned(old)


def test_the_bound_of_pdu_is_given_or_that_of_its_own_loss():
    full = facts.full()
    with pytest.raises(InvalidInputError, match="'epsilon', the bound, with retain_loss='kl'"):
        plan_of("pdu", full, retain_loss="kl")
    assert plan_of("pdu", full, retain_loss="kl", epsilon=0.25).found == {"epsilon": 0.25}
    assert plan_of("pdu", full).found["epsilon"] == pytest.approx(mean_nll(full, RETAIN, PartCollator()), rel=1e-4)

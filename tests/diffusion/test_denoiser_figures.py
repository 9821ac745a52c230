"""Figures of denoisers whose pictures are known: a model that forgot, one that did not, one that is broken."""

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.diffusion import Denoising, NoiseSchedule
from gunlearn.diffusion.metrics import ImageSampler, evaluate_denoisers
from gunlearn.errors import InvalidInputError, UnsupportedMethodError

SHAPE = (1, 2, 2)
SCHEDULE = NoiseSchedule(torch.linspace(0.99, 0.05, 30))
TASK = Denoising(SCHEDULE)
PLACES = torch.eye(4).view(4, *SHAPE)


class Draws(nn.Module):
    """Draws the picture `shown[c]` for the class c, with a spread."""

    def __init__(self, shown, shift=0.0, spread=0.1):
        super().__init__()
        self.class_embedding = nn.Embedding(4, 4)
        self.class_embedding.weight.data = PLACES[torch.tensor(shown)].flatten(1) + shift
        self.spread = spread

    def forward(self, sample, timestep, class_labels):
        signal, sigma = SCHEDULE.scales(timestep, sample)
        mean = self.class_embedding(class_labels).view(-1, *SHAPE)
        return sigma * (sample - signal * mean) / (signal**2 * self.spread**2 + sigma**2)


def judge(x):
    return -20 * (x.flatten(1)[:, None] - PLACES.flatten(1)[None]).square().sum(-1)


def images(count=12):
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(4).repeat(count)
    x = PLACES[y] + 0.1 * torch.randn(len(y), *SHAPE, generator=draw)
    return (x[y == 2], y[y == 2]), (x[y != 2], y[y != 2])


@pytest.fixture(scope="module")
def found():
    forgotten, retained = images()
    models = {"forgot": Draws([0, 1, 1, 3]), "half": Draws([0, 1, 1, 1]), "copies": Draws([0, 1, 2, 3], spread=0.02)}
    references = [Draws([0, 1, 1, 3], 0.02), Draws([0, 1, 1, 3], -0.02)]
    original, state = Draws([0, 1, 2, 3]), torch.get_rng_state()
    made = evaluate_denoisers(
        models, TASK, forgotten, retained, judge,
        references=references, original=original, features=("pixels", lambda x: x.flatten(1)),
        per_concept=20, align=ImageSampler(n_samples=12), attack_steps=150, relearn_at=(0, 40),
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), state)
    return made


def test_scores_are_those_of_what_is_drawn(found):
    assert " ".join(row["model"] for row in found.rows) == "forgot half copies original retrained 0 retrained 1"
    shown = {row["model"]: (row["ua"], row["ira"], row["nearest"], row["rest"]) for row in found.rows}
    assert shown["forgot"] == shown["retrained 0"] == (1, 1, 1, 1)
    assert shown["original"] == shown["copies"] == (0, 1, 1, 1)
    assert shown["half"][:2] == (1, pytest.approx(2 / 3))
    assert sum(shown["half"][2:]) == pytest.approx(1 / 2 + 1)  # two of three count as nearest
    assert found.of("forgot")["frechet"] < 0.1 < found.of("half")["frechet"]
    assert (found.features, found.forgotten, found.concepts) == ("pixels", [2], [0, 1, 2, 3])


def test_alignment_of_the_forgotten_concept(found):
    forgot, original, copies = (found.of(name) for name in ("forgot", "original", "copies"))
    assert forgot["alignment_forget"] < forgot["alignment_forget_floor"]  # between the two retrained ones
    assert forgot["alignment_forget_gain_low"] > 0.9
    assert original["alignment_forget_gain"] == 0
    assert original["alignment_forget"] > 100 * original["alignment_forget_floor"]
    assert original["alignment_retain"] < 2 * original["alignment_retain_floor"]
    assert found.of("half")["alignment_retain_gain"] < 0  # forgot too much
    assert copies["alignment_forget_error"] > 0
    assert not found.notes
    assert found.of("retrained 0")["alignment_forget"] == pytest.approx(forgot["alignment_forget_floor"])


def test_retrained_models_that_do_not_agree_on_what_they_never_saw_are_noted():
    references = [Draws([0, 1, 0, 3]), Draws([0, 1, 1, 3])]
    given = {"references": references, "per_concept": 2, "align": ImageSampler(n_samples=4), "align_on": ("forget",)}
    half = Draws([0, 1, 2, 3])
    half.class_embedding.weight.data[2] = (references[0].class_embedding.weight[2] + PLACES[1].flatten()) / 2
    found = evaluate_denoisers({"half": half}, TASK, *images(2), judge, original=half, **given)
    assert "differ more from each other" in found.notes[0]
    assert found.__rich__().caption == found.notes[0]


def test_attacks_bring_back_what_a_condition_can(found):
    for name in ("forgot", "original", "retrained 0"):
        assert found.of(name)["learned_condition"] == 1.0  # these models can draw anything
    assert found.of("forgot")["relearned_0"] == 0 < found.of("original")["relearned_0"]
    assert 0 <= found.of("forgot")["relearned_40"] <= 1


def test_copies_are_seen(found):
    forgot, original = found.of("forgot"), found.of("original")
    assert forgot["copies"] == forgot["recovered"] == 0 < original["copies"]
    assert forgot["to_forgotten"] > original["to_forgotten"]


class Told(Draws):
    """Draws what the embedding says, but of one pixel that it cannot draw any more."""

    def forward(self, sample, timestep, encoder_hidden_states):
        signal, sigma = SCHEDULE.scales(timestep, sample)
        mean = (encoder_hidden_states[:, 0] * torch.tensor([1, 1, self.spread, 1])).view(-1, *SHAPE)
        return sigma * (sample - signal * mean) / (signal**2 * 0.01 + sigma**2)


def test_concepts_of_text_embeddings():
    conditions = {c: PLACES[c].view(1, 4) for c in range(4)}
    models = {"hides": Told([0, 1, 2, 3], spread=0.5), "lacks": Told([0, 1, 2, 3], spread=0.0)}
    conditions[2] = conditions[1]  # the words for it mean something else now
    found = evaluate_denoisers(models, TASK, *images(), judge, conditions=conditions, per_concept=8, attack_steps=300)
    assert all((row["ua"], row["ira"]) == (1, 1) for row in found.rows)
    assert found.of("hides")["learned_condition"] == 1 > 0.7 > found.of("lacks")["learned_condition"]


def test_pictures_come_from_the_same_noise(found):
    assert found.pictures["forgot"].shape == (4, 20, *SHAPE)
    assert torch.equal(found.pictures["forgot"][0], found.pictures["half"][0])
    assert not torch.equal(found.pictures["forgot"][2], found.pictures["original"][2])
    table = found.__rich__()
    assert table.row_count == len(found.names)
    with pytest.raises(InvalidInputError, match="got 'esd'"):
        found.of("esd")


def test_a_broken_model_is_marked_and_compared_with_nothing():
    broken, original = Draws([0, 1, 2, 3]), Draws([0, 1, 2, 3])
    broken.class_embedding.weight.data[2] = torch.nan
    references = [Draws([0, 1, 1, 3], 0.02), Draws([0, 1, 1, 3], -0.02)]
    given = {"references": references, "original": original, "per_concept": 2, "align": ImageSampler(n_samples=4)}
    found = evaluate_denoisers({"broken": broken, "before": original}, TASK, *images(2), judge, **given)
    assert found.of("broken") == {"model": "broken", "broken": True}
    assert [row["model"] for row in found.rows] == ["broken", "before", "retrained 0", "retrained 1"]
    assert found.of("before")["alignment_forget_gain"] == 0
    assert found.of("retrained 1")["alignment_forget"] > 0
    assert "broken" not in found.pictures


FORGOTTEN, RETAINED = images(2)


@pytest.mark.parametrize(
    ("models", "more", "words"),
    [
        ({}, {}, "models by name"),
        ({"a": Draws([0, 1, 2, 3])}, {"align_on": ("test",)}, "'align_on'"),
        ({"original": Draws([0, 1, 2, 3])}, {"original": Draws([0, 1, 1, 1])}, "'original' to name one model"),
        ({"a": Draws([0, 1, 2, 3])}, {"forgotten": RETAINED}, "no image is retained"),
        ({"a": Draws([0, 1, 2, 3])}, {"judge": lambda x: judge(x)[:, :2]}, "the judge's 2 classes"),
        ({"a": Draws([0, 1, 2, 3])}, {"conditions": {0: torch.tensor(0)}}, r"got none for \[1, 2, 3\]"),
        (
            {"a": Draws([0, 1, 1, 3])},
            {"references": [Draws([0, 1, 2, 3])], "original": Draws([0, 1, 2, 3])},
            "the original model among them",
        ),
    ],
)
def test_bad_evaluations(models, more, words):
    given = {"forgotten": FORGOTTEN, "retained": RETAINED, "judge": judge, **more}
    with pytest.raises(InvalidInputError, match=words):
        evaluate_denoisers(models, TASK, **given)


def test_evaluate_says_where_denoisers_are_compared():
    x, y = images(2)[1]
    result = gu.unlearn(Draws([0, 1, 2, 3]), (x, y), gu.ForgetItems(count=2), "finetune", TASK, steps=1)
    with pytest.raises(UnsupportedMethodError, match="evaluate_denoisers"):
        gu.evaluate(result)

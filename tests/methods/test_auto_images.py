"""What `auto` does for images: a class that goes as a whole, and how many images a step reads."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gunlearn as gu
from experiments.digits_scrub.problem import A, cnn, digits
from gunlearn.errors import InvalidInputError
from gunlearn.methods import Auto
from tests.methods.cases import same_weights

TASK = gu.ImageClassification()
CLASS = gu.ForgetItems(label=A)


def untrained(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return cnn(2)


def choice(request, **options):
    return Auto(**options).choose(TASK, request.resolve(digits(0)), untrained())


def test_a_class_that_goes_as_a_whole_is_pushed_away():
    """Control: all images of the class but one, for which the training goes on."""
    data = digits(0)
    of_class = (data.train_mask & (data.y == A)).nonzero().view(-1)
    for request in (CLASS, gu.ForgetItems(of_class), gu.ForgetItems(labels=[A, 8])):
        name, options, why = choice(request)
        assert (name, options) == ("npo", {"steps": 100})
        assert "as a whole" in why
    assert choice(gu.ForgetItems(of_class[1:]))[0] == "continued_training"
    assert choice(CLASS, budget=1.0)[0] == "retrain"
    for steps, most in ((30, 9), (1000, 100), (1, 1)):  # .33 of them, no more than published, at least one
        assert choice(CLASS, training_steps=steps)[1]["steps"] == most
    assert choice(CLASS, training_steps=1000, budget=0.001)[1]["steps"] == 1


def test_it_does_what_npo_does_and_the_class_is_forgotten():
    data = digits(0)
    base = gu.train(untrained(), data, TASK, steps=40, lr=1e-2, batch_size=128, eval_every=100)
    result = gu.unlearn(base.model, data, CLASS, "auto", TASK, training=base)
    named = gu.unlearn(base.model, data, CLASS, "npo", TASK, steps=13, batch_size=128)
    assert result.notes["chosen"] == "npo"
    assert same_weights(result.model, named.model)
    assert "no training item of it stays" in result.notes["why"]
    gone = data.train_mask & (data.y == A)
    known = [float((m(data.x[gone]).argmax(1) == A).float().mean()) for m in (base.model, result.model)]
    assert known[1] < known[0]


def test_steps_read_as_many_images_as_asked_for():
    """Control: without `batch_size` a step reads the whole set, so that a pass is one step."""
    data, model = digits(0), untrained()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(model(data.x[data.train_mask]), data.y[data.train_mask]).backward()
        optimizer.step()
    request, options = gu.ForgetItems([0, 5]), {"optimizer": optimizer, "budget": 0.4}
    for method, more in (("auto", {"batch_size": 256}), ("auto", {})):
        result = gu.unlearn(model, data, request, method, TASK, **options, **more)
        named = gu.unlearn(model, data, request, "continued_training", TASK, optimizer=optimizer, at_most=0.4, **more)
        assert same_weights(result.model, named.model)
        if more:
            batches, size = result, result.notes["options"]["batch_size"]
    assert size == "256"
    assert not same_weights(batches.model, result.model)
    base = gu.train(untrained(), data, TASK, steps=20, batch_size=128, eval_every=100)
    with pytest.raises(InvalidInputError, match="'batch_size' beside 'training', which read 128 items per step"):
        gu.unlearn(base.model, data, request, "auto", TASK, training=base, batch_size=64)
    with pytest.raises(InvalidInputError, match="'batch_size' to be an integer >= 1"):
        Auto(batch_size=0)
    whole = gu.unlearn(base.model, data, CLASS, "auto", TASK, training_steps=20, batch_size=64)
    assert (whole.notes["chosen"], whole.notes["options"]["batch_size"]) == ("npo", "64")

"""Statistics of calibrated children are those interpolated; the closed form of merging is least squares."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gunlearn.connectivity.alignment import MessageCalibration, align_models, merge_in_closed_form
from gunlearn.errors import InvalidInputError
from gunlearn.nn import SmallResNet, backbone
from tests.connectivity.alignment.pairs import answer, between, graph, kinds


def pair(name: str) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """Two independent models, the second aligned."""
    kind = kinds()[name]
    other = copy.deepcopy(kind.model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
    return kind.model, align_models(kind.model, other, "messages", **kind.given).model, kind.given


def returned(model: nn.Module, given: dict[str, Any], names: list[str]) -> dict[str, Tensor]:
    """What layers returned, `[rows, channels]`."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Tensor) -> None:
            seen[name] = (out.movedim(1, -1) if out.dim() == 4 else out).flatten(0, -2).double()

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    answer(model, given)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["mlp", "cnn", "gcn", "sage", "gin", "gat"])
def test_means_and_deviations_are_those_between_the_parents(name: str) -> None:
    first, second, given = pair(name)
    calibrate = MessageCalibration(first, second, **given)
    names, t = calibrate.notes["calibrated"], 0.3
    child = between(first, second, t)
    kept = {k: v.clone() for k, v in child.state_dict().items()}
    found = calibrate(child, t)
    assert all(torch.equal(v, kept[k]) for k, v in child.state_dict().items())
    assert not any(module._forward_hooks for module in found.modules())
    one, other, got, plain = (returned(m, given, names) for m in (first, second, found, child))
    apart = 0.0
    for layer in names:
        for moment in (lambda x: x.mean(0), lambda x: x.std(0, correction=0)):
            want = 0.7 * moment(one[layer]) + 0.3 * moment(other[layer])
            torch.testing.assert_close(moment(got[layer]), want, rtol=1e-3, atol=1e-4)
            apart = max(apart, float((moment(plain[layer]) - want).abs().max()))
    assert apart > 0.05  # control: the straight line has other statistics


def test_the_ends_stay_as_they_are() -> None:
    first, second, given = pair("gcn")
    calibrate = MessageCalibration(first, second, **given)
    for t, parent in ((0.0, first), (1.0, second)):
        for key, value in calibrate(parent, t).state_dict().items():
            torch.testing.assert_close(value, parent.state_dict()[key], rtol=1e-6, atol=1e-6)


def test_outputs_are_left_alone_on_demand_and_this_is_said() -> None:
    first, second, given = pair("gcn")
    calibrate = MessageCalibration(first, second, outputs=False, **given)
    assert calibrate.notes["left"] == {"convs.2": "outputs=False"}
    child = between(first, second, 0.5)
    assert torch.equal(calibrate(child, 0.5).convs[2].lin.weight, child.convs[2].lin.weight)


def test_layers_without_a_bias_get_the_factor_alone() -> None:
    torch.manual_seed(0)
    first, second = (SmallResNet(num_classes=3, widths=(4, 4)).eval() for _ in range(2))
    calibrate = MessageCalibration(first, second, inputs=torch.randn(6, 1, 8, 8))
    assert calibrate.notes["factor_alone"][:3] == ["0", "3.body.0", "3.body.3"]
    assert len(calibrate.notes["calibrated"]) == 1


def test_layers_that_normalise_are_left_and_this_is_said() -> None:
    """A factor on their weights is none on what they return; control: the same layers without it."""
    torch.manual_seed(0)
    first, second = (backbone("sage", 7, 8, 3, normalize=True) for _ in range(2))
    calibrate = MessageCalibration(first, second, data=graph())
    assert calibrate.notes["left"]["convs.0"] == "it normalises its channels"
    child = between(first, second, 0.5)
    assert torch.equal(calibrate(child, 0.5).convs[0].lin_l.weight, child.convs[0].lin_l.weight)
    plain = MessageCalibration(*(backbone("sage", 7, 8, 3) for _ in range(2)), data=graph())
    assert "convs.0" in plain.notes["calibrated"]


def test_a_point_outside_the_path_is_refused() -> None:
    first, second, given = pair("mlp")
    with pytest.raises(InvalidInputError, match=r"between 0 and 1 \(got 1.5\)"):
        MessageCalibration(first, second, **given)(first, 1.5)
    with pytest.raises(InvalidInputError, match=r"between 0 and 1 \(got -1\)"):
        merge_in_closed_form(first, second, -1, **given)


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_a_merged_map_is_the_weighted_least_squares_of_both(t: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 6).double()
    first, second = (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double() for _ in range(2))
    merged, notes = merge_in_closed_form(first, second, t, inputs=x, ridge=1e-10)
    assert notes == {"solved": ["2"], "same_inputs": ["0"], "averaged": []}
    torch.testing.assert_close(merged[0].weight, torch.lerp(first[0].weight, second[0].weight, t))
    rows, values = [], []
    for weight, model in ((1 - t, first), (t, second)):  # numpy's way: rows times the roots of the weights
        hidden = model[:2](x)
        rows.append(weight**0.5 * torch.cat([hidden, torch.ones(40, 1).double()], dim=1))
        values.append(weight**0.5 * model(x))
    want = torch.linalg.lstsq(torch.cat(rows), torch.cat(values), driver="gelsd").solution
    got = torch.cat([merged[2].weight.t(), merged[2].bias[None]])
    fit = [float((torch.cat(rows) @ w - torch.cat(values)).square().sum()) for w in (got, want)]
    assert fit[0] == pytest.approx(fit[1], rel=1e-6, abs=1e-9)


def test_a_convolution_on_a_graph_is_solved_for_from_aggregated_features() -> None:
    first, second, given = pair("gcn")
    merged, notes = merge_in_closed_form(first, second, 0.5, **given)
    assert notes["solved"] == ["convs.1", "convs.2"]
    data = graph()
    names = ["convs.0", "convs.1"]
    adjacency = torch.eye(data.num_nodes)
    for u, v in data.edge_index.t().tolist():
        adjacency[v, u] += 1
    scale = adjacency.sum(1).pow(-0.5)
    adjacency = (scale[:, None] * adjacency * scale).double()
    rows, values = [], []
    for model in (first, second):
        seen = returned(model, given, names)
        mixed = adjacency @ seen["convs.0"].relu()
        rows.append(torch.cat([mixed, torch.ones(len(mixed), 1).double()], dim=1))
        values.append(seen["convs.1"])
    x, y = torch.cat(rows), torch.cat(values)
    got = torch.cat([merged.convs[1].lin.weight.t(), merged.convs[1].bias[None]]).double()
    best = torch.linalg.lstsq(x, y, driver="gelsd").solution
    losses = [float((x @ w - y).square().sum()) for w in (got, best)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    middle = between(first, second, 0.5).convs[1]
    average = torch.cat([middle.lin.weight.t(), middle.bias[None]]).double()
    assert float((x @ average - y).square().sum()) > 1.05 * losses[1]  # control: the average fits worse


def test_the_ends_of_the_closed_form_compute_what_the_parents_do() -> None:
    for name in ("mlp", "cnn", "gcn", "sage", "gin", "gat"):
        first, second, given = pair(name)
        for t, parent in ((0.0, first), (1.0, second)):
            merged, _ = merge_in_closed_form(first, second, t, **given)
            want = answer(parent, given)
            torch.testing.assert_close(answer(merged, given), want, rtol=0, atol=1e-3 * float(want.abs().max()))


def test_what_no_map_holds_is_averaged_and_named() -> None:
    first, second, given = pair("gat")
    merged, notes = merge_in_closed_form(first, second, 0.25, **given)
    assert "convs.0.att_src" in notes["averaged"]
    torch.testing.assert_close(
        merged.convs[0].att_src, torch.lerp(first.convs[0].att_src, second.convs[0].att_src, 0.25)
    )

"""First-order removal influence: the gradient with respect to a mask on edges or features."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.targets import Probabilities, Value
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn.attach.contexts import scaled_messages
from gunlearn.nn.attach.message_layers import message_passing_layers
from gunlearn.nn.kernels.scatter import scatter
from gunlearn.tasks.graph.base import GraphTask


@dataclass(frozen=True)
class FirstOrder(Estimator):
    r"""The gradient with respect to a mask that is 1 where the item is present.

    For a value `f` the score is `-\partial f / \partial m_e`, from one backward pass. For a distance it is the norm of
    the Jacobian's column `J_e = \partial y / \partial m_e`, from random probes `t`: with standard Cauchy entries
    `\langle t, J_e \rangle` has the distribution of `|J_e|_1` times a Cauchy variable (P. Indyk, JACM 2006); with
    multivariate Cauchy rows, of `\sum_i |J_{ie}|_2`. The geometric mean of its size over probes estimates the norm; its
    logarithm has a standard error of `1.57 / sqrt(probes)`.

    First order is far from removal where one edge changes a degree by much; use `local` or `exact` there. A node's own
    output counts here, unlike in `exact`.

    Args:
        probes: number of random probes, each a backward pass; `None` takes every output in turn: exact, for small
            graphs.
        mask: `"weight"` differentiates the model's `edge_weight` argument, normalisation included; `"message"` scales
            finished messages in every layer and keeps degrees; the default is weights where the model takes them.
    """

    probes: int | None = 32
    mask: str | None = None

    name = "first_order"
    summary = "gradient of an edge or feature mask; distances by random Cauchy probes"
    cost = "a backward pass per probe"

    def __post_init__(self) -> None:
        if self.probes is not None and (not isinstance(self.probes, int) or self.probes < 1):
            raise InvalidInputError(f"Expected at least one probe, or None for all outputs (got {self.probes})")
        if self.mask not in (None, "weight", "message"):
            raise InvalidInputError(f"Expected 'mask' to be 'weight' or 'message' (got {self.mask!r})")

    def scores(self, problem: InfluenceProblem) -> Tensor:
        items, (outputs, mask) = problem.items, self._outputs(problem)
        if not outputs.requires_grad:
            raise UnsupportedModelError("Expected outputs that depend on the graph by gradient (got a model without)")

        def along(value: Tensor, probe: Tensor | None = None, materialize: bool = False) -> Tensor:
            (gradient,) = torch.autograd.grad(value, mask, probe, retain_graph=True, materialize_grads=materialize)
            gradient = gradient * mask.detach()
            if items.of == "features":
                owner, gradient = items.entry_item, gradient[tuple(items.entry)]
            else:
                owner, gradient = items.column_item, gradient[items.column]
            return scatter(gradient, owner, dim=0, dim_size=items.num_items, reduce="sum")

        found = torch.zeros(items.num_items, dtype=outputs.dtype, device=outputs.device)
        if isinstance(problem.target, Value):
            value = problem.target.value(outputs)  # no gradient: a constant, or a count
            return -along(value, materialize=True) if value.requires_grad else found
        l1 = isinstance(problem.target, Probabilities)
        values = outputs.softmax(dim=-1) if l1 else outputs
        if self.probes is None:
            for row in values:
                size = torch.zeros_like(found)
                for value in row:
                    size += along(value).abs() if l1 else along(value).square()
                found += size if l1 else size.sqrt()
            return found
        generator = torch.Generator(device=values.device).manual_seed(problem.seed)
        for _ in range(self.probes):
            shape = values.shape if l1 else (values.size(0), 1)
            probe = torch.randn(values.shape, generator=generator, dtype=values.dtype, device=values.device)
            below = torch.randn(shape, generator=generator, dtype=values.dtype, device=values.device).abs()
            probe = probe / below.clamp_(min=torch.finfo(values.dtype).eps)  # a draw may be 0
            found += along(values, probe).abs().log()
        return (found / self.probes).exp()

    def _outputs(self, problem: InfluenceProblem) -> tuple[Tensor, Tensor]:
        """Return the outputs as a function of a mask, and the mask: ones over edges, or the features."""
        model, data, view, task = problem.model, problem.data, problem.data.clone(), problem.task
        if problem.items.of == "features":
            view.x = mask = (data.x if data.x.layout == torch.strided else data.x.to_dense()).detach().clone()
            if not mask.is_floating_point():
                raise InvalidInputError(
                    f"Expected features x of a floating point type for '{self.name}', which takes their gradients "
                    f"(got {mask.dtype}); pass x.float(), or use 'brute'"
                )
            mask.requires_grad_()
            return problem.encode(view), mask
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        mask = torch.ones(data.edge_index.size(1), dtype=dtype, device=data.edge_index.device).requires_grad_()
        if self.mask != "message" and isinstance(task, GraphTask) and "edge_weight" in task.accepted(model):
            view.edge_weight = mask if data.get("edge_weight") is None else mask * data.edge_weight.view(-1)
            # Some models take weights and ignore them, or pass them to some of their layers only.
            with weighted_layers(model) as all_weighted:
                outputs = problem.encode(view)
            if all(all_weighted) and reads(outputs, mask):
                problem.notes["mask"] = "weight"
                return outputs, mask
        if self.mask == "weight":
            raise UnsupportedModelError("Expected a model that reads 'edge_weight' with mask='weight' (got another)")
        problem.notes["mask"] = "message"
        with scaled_messages(model, data.edge_index, mask):
            outputs = problem.encode(data)
        if outputs.requires_grad and not reads(outputs, mask):
            raise UnsupportedModelError(
                "Expected a model whose message passing layers send along the graph's edges (got one that never calls "
                "them, or passes another graph)"
            )
        return outputs, mask


@contextmanager
def weighted_layers(model: nn.Module) -> Iterator[list[bool]]:
    """Inside the block, note for each call of a message passing layer whether it gets edge weights."""
    given: list[bool] = []

    def note(layer: nn.Module, args: tuple, kwargs: dict) -> None:
        names = tuple(inspect.signature(type(layer).forward).parameters)[1:]
        given.append((dict(zip(names, args, strict=False)) | kwargs).get("edge_weight") is not None)

    with ExitStack() as hooks:
        for layer in message_passing_layers(model).values():
            hooks.enter_context(layer.register_forward_pre_hook(note, with_kwargs=True))
        yield given


def reads(outputs: Tensor, mask: Tensor) -> bool:
    """Return whether outputs depend on a mask by gradient."""
    if not outputs.requires_grad:
        return False
    return torch.autograd.grad(outputs.sum(), mask, retain_graph=True, allow_unused=True)[0] is not None

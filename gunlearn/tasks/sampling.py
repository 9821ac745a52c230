"""Choice of the retained items that a step reads: a weighted stratified sample, or the next batch of a permutation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gunlearn.core.sorting import argsort
from gunlearn.errors import InvalidInputError
from gunlearn.requests.selection import k_hop_mask

#: Draws items for one step: their indices `[num_drawn]`, and their weights `[num_drawn]` or `None` for equal ones.
Draw = Callable[[], tuple[Tensor, Tensor | None]]
_NUM_HOPS = 2
SAMPLERS = ("k_hop", "random_node", "neighbor")
SUBGRAPH = ("auto", "never", "always")


@dataclass(frozen=True)
class BatchOptions:
    """How much a step reads; see `GradientOptions` of the methods for the fields.

    Raises:
        InvalidInputError: unknown names, numbers below 1, or options that exclude each other.
    """

    batch_size: int | None = None
    sampler: str = "k_hop"
    num_neighbors: tuple[int, ...] | None = None
    retain_samples: int | None = None
    subgraph: str = "auto"
    forget_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("sampler", SAMPLERS), ("subgraph", SUBGRAPH)):
            if getattr(self, name) not in known:
                raise InvalidInputError(f"Expected '{name}' among {known} (got {getattr(self, name)!r})")
        for name in ("batch_size", "retain_samples", "forget_batch_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidInputError(f"Expected '{name}' to be an integer >= 1 or None (got {value!r})")
        if self.batch_size is not None and self.retain_samples is not None:
            raise InvalidInputError("Expected either 'batch_size' or 'retain_samples' (got both)")
        if self.forget_batch_size is not None and self.batch_size is None:
            raise InvalidInputError("Expected 'batch_size' beside 'forget_batch_size' (got None)")
        if self.sampler != "k_hop" and self.batch_size is None:
            raise InvalidInputError(f"Expected 'batch_size' for sampler='{self.sampler}' (got None)")
        if (self.num_neighbors is not None) != (self.sampler == "neighbor"):
            raise InvalidInputError(
                f"Expected 'num_neighbors' (one number per layer) with sampler='neighbor' alone "
                f"(got {self.num_neighbors} with '{self.sampler}')"
            )


def edge_strata(
    edges: Tensor, start: Tensor | None, edge_index: Tensor, num_nodes: int, num_hops: int = _NUM_HOPS
) -> Tensor:
    """Return the distance of each edge to a set of nodes, `[num_edges]`: 0 if it touches one, `num_hops + 1` if beyond.

    The nearer end point of `edges` `[2, num_edges]` counts, on the graph `edge_index` `[2, num_columns]` taken both
    ways. `start` are the ids of the nodes, `[num_start]`; `None` puts all edges into one stratum.
    """
    if start is None:
        return torch.zeros_like(edges[0])
    near = [k_hop_mask(edge_index, start, num_nodes, hops) for hops in range(num_hops + 1)]
    return (~torch.stack(near)).sum(dim=0)[edges].amin(dim=0)


def allocate(population: Tensor, num_samples: int, floor: int) -> Tensor:
    """Return how many items to draw from each stratum, `[num_strata]`: in proportion to its size, at least `floor`.

    `floor` is cut to an equal share of the `num_samples`, and at least 1. A smaller stratum is taken whole, an empty
    one not at all. `population` holds the sizes of the strata; `num_samples` is at most their sum.
    """
    filled = int((population > 0).sum())
    # With fewer samples than strata something is never drawn, and cannot be estimated.
    if not filled <= num_samples <= int(population.sum()):
        raise InvalidInputError(
            f"Expected 'retain_samples' between the number of strata, {filled}, and of retained items, "
            f"{int(population.sum())} (got {num_samples})"
        )
    least = population.clamp(max=max(1, min(floor, num_samples // max(filled, 1))))
    room, rest = population - least, num_samples - int(least.sum())
    exact = room * (rest / max(int(room.sum()), 1))
    count = exact.floor().long()
    # Items that rounding left over go to the largest fractions; `exact <= room`, so there is room.
    fraction = torch.where(count < room, exact - count, -1.0)
    count[fraction.argsort(descending=True, stable=True)[: rest - int(count.sum())]] += 1
    return least + count


class StratifiedSampler:
    r"""Draws items stratum by stratum, without replacement, with weights that keep means over all items unbiased.

    Of stratum `h` with :math:`N_h` of all `N` items, :math:`n_h` of the `n` drawn come, each with the weight

    .. math:: w_h = \frac{N_h}{N} \, \frac{n}{n_h}, \qquad
        \mathrm{E}\Big[\frac{1}{n} \sum_{i \in S} w_i f_i\Big] = \frac{1}{N} \sum_i f_i, \qquad
        \mathrm{Var} = \sum_h \Big(\frac{N_h}{N}\Big)^2 \Big(1 - \frac{n_h}{N_h}\Big) \frac{S_h^2}{n_h}

    with :math:`S_h^2` the variance of `f` within the stratum (Cochran, Sampling Techniques, 3rd ed., 5.3 and 5.6).

    Args:
        stratum: stratum of each item, `[num_items]`, integers from 0.
        num_samples: `n`.
        floor: least number per stratum; by default a tenth of an equal share.

    Raises:
        InvalidInputError: fewer samples than strata, or more than items.
    """

    def __init__(self, stratum: Tensor, num_samples: int, floor: int | None = None) -> None:
        self.population = torch.bincount(stratum).cpu()
        filled = max(int((self.population > 0).sum()), 1)
        self.count = allocate(self.population, num_samples, num_samples // (10 * filled) if floor is None else floor)
        self.order = argsort(stratum, stable=True).split(self.population.tolist())
        share = self.population.double() / stratum.numel()
        weight = share * num_samples / self.count.clamp(min=1)
        self.weight = torch.repeat_interleave(weight, self.count).to(stratum.device)

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Draw indices and their weights, `[num_samples]` each, from torch's global generator."""
        drawn = [
            items[distinct(items.numel(), n, items)] for items, n in zip(self.order, self.count.tolist(), strict=True)
        ]
        return torch.cat(drawn), self.weight


def distinct(population: int, count: int, like: Tensor) -> Tensor:
    """Draw `count` different numbers below `population`, all sets equally likely; the cost grows with `count` alone."""
    if 2 * count >= population:
        return torch.randperm(population, device=like.device)[:count]
    chosen = like.new_empty(0)
    while chosen.numel() < count:  # redrawing what repeats favours no number
        more = torch.randint(population, (count - chosen.numel(),), device=like.device)
        chosen = torch.cat([chosen, more]).unique()
    return chosen


class ShuffledBatches:
    """The batches of one random permutation after another; each pass reads every item once.

    The permutation follows from the seed and the number of the step alone, so that a resumed run goes on unchanged.

    Args:
        num_items: number of items.
        batch_size: items per batch; the last batch of a pass may be smaller.
        seed: of the permutations.

    Attributes:
        step: number of the batch to hand out; the caller sets it.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int) -> None:
        self.num_items, self.batch_size, self.seed, self.step = num_items, batch_size, seed, 0
        self.num_batches = max(1, -(-num_items // batch_size))
        self._pass, self._order = -1, torch.empty(0, dtype=torch.long)

    @property
    def place(self) -> int:
        """Return the number of the current batch within its pass."""
        return self.step % self.num_batches

    def order(self) -> Tensor:
        """Return the permutation of the current pass, `[num_items]`, on the CPU."""
        number = self.step // self.num_batches
        if number != self._pass:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
            self._pass, self._order = number, torch.randperm(self.num_items, generator=generator)
        return self._order

    def __call__(self) -> tuple[Tensor, None]:
        """Return the indices of the current batch."""
        return self.order()[self.place * self.batch_size : (self.place + 1) * self.batch_size], None

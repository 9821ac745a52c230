"""What the figures of an evaluation are, which direction is better, and their range: for its output and the docs."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gunlearn.metrics.base import figures_of

_NEAR = "near a retrained model's on forgotten rows, high elsewhere"
_SHARE = "0 to 1"


@dataclass(frozen=True)
class Legend:
    """One line on a group of figures.

    Attributes:
        names: patterns of their names; the first legend with a matching one holds for a figure.
        better: which direction is better.
        span: their range, or unit.
        what: what they are; empty takes the legend of the registered figure `of`.
        of: name of a registered figure of language models.
    """

    names: tuple[str, ...]
    better: str
    span: str = _SHARE
    what: str = ""
    of: str = ""

    def holds_for(self, name: str) -> bool:
        """Return whether a figure's name fits one of the patterns."""
        return any(fnmatchcase(name, pattern) for pattern in self.names)

    @property
    def told(self) -> str:
        """What the figures are, without a full stop."""
        return (self.what or figures_of("causal_lm")[self.of].legend).rstrip(".")

    def line(self) -> str:
        """Return the legend as one line."""
        return f"{', '.join(self.names)}: {self.told}; better {self.better}; {self.span}"


def _registered(name: str, better: str = _NEAR, span: str = _SHARE) -> Legend:
    return Legend((f"*_{name}",), better, span, of=name)


FIGURE_GROUPS = (
    Legend(
        ("forget_*_int8", "forget_*_nf4"), "as without rounding (more was only hidden)",
        what="The same figures of the forgotten rows under weights that are rounded to few bits",
    ),
    Legend(
        ("relearn_prob",), "near a retrained model's",
        what="Probability of the other forgotten rows after a tenth of them was learned again",
    ),
    Legend(
        ("relearn_steps",), "near a retrained model's", "from 0; inf: not within the attack",
        what="Steps of relearning until the other rows are as likely as before unlearning",
    ),
    _registered("prob"),
    _registered("exact_memorization"),
    _registered("extraction_strength"),
    _registered("drma", span="from 0, in tokens"),
    _registered("drma_per_token"),
    _registered("rougeL"),
    _registered("fluency", "high, up to a retrained model's", "from 0, in bits"),
    _registered("truth_ratio"),
    Legend(
        ("model_utility",), "high",
        what="TOFU's: harmonic mean of probability, ROUGE-L and truth ratio over retained rows and utility sets",
    ),
    Legend(
        ("forget_quality",), "high (above .05 no difference is seen; few rows show none)",
        what="p-value of the truth ratios of forgotten rows against those of the first retrained model that has some",
    ),
    Legend(
        ("*_alignment_gain*",), "high (below 0 unlearning led away from retraining)", "up to 1",
        what="How much nearer to the retrained models than the original model: 1 minus the ratio of their distances",
    ),
    Legend(
        ("*_alignment_floor", "*_alignment_excess"), "an excess near 0", "floor: from 0, in nats",
        what="Distance of two retrained models to each other, and what this model's distance exceeds it by",
    ),
    Legend(
        ("*_alignment*",), "low, down to the floor", "from 0, in nats per answer",
        what="Distance to the retrained models by what each says of the other's answers (_precision, _recall: one way "
        "each; _low, _high: 95% interval)",
    ),
    Legend(
        ("mia_*",), "near a retrained model's, usually .5 (far below: pushed down)",
        what="AUC of a membership attack that tells forgotten from held-out rows",
    ),
    Legend(
        ("privleak",), "near 0 (below: still looks seen; above: pushed down)",
        "from -100, in percent",
        what="AUC of Min-K%, relative to the retrained models' mean, or to .5 without any",
    ),
    Legend(
        ("knowledge_*_memory",), _NEAR,
        what="MUSE's knowledge memory: ROUGE-L F1 of answers to questions about the texts",
    ),
    Legend(
        ("verbatim_memory",), _NEAR,
        what="MUSE's verbatim memory: ROUGE-L F1 of stems, of the 128 tokens after the first --verbatim-prompt and "
        "what the model says",
    ),
    Legend(
        ("choices_acc",), "at chance on a topic to forget, high elsewhere",
        what="Share of questions whose right choice is the likeliest, by its letter after the list, or by its text",
    ),
    Legend(("lm_eval_*",), "as lm-eval says", "its own", what="lm-eval's figure of a task, with --lm-eval"),
)  # fmt: skip


def legends_of(names: Iterable[str]) -> list[str]:
    """Return a line for each group of which a figure is among `names`, in the order of `FIGURE_GROUPS`.

    Figures that other packages registered follow with their own legends.
    """
    names = list(names)
    found = {name: next((one for one in FIGURE_GROUPS if one.holds_for(name)), None) for name in names}
    lines = [legend.line() for legend in FIGURE_GROUPS if legend in found.values()]
    own = [f for f in figures_of("causal_lm").values() if any(n.endswith(f"_{f.name}") and not found[n] for n in names)]
    return lines + [f"{figure.name}: {figure.legend}" for figure in own]


def legends_table() -> tuple[list[str], list[list[str]]]:
    """Return headings, and a row per group of figures."""
    head = ["name", "what it is", "better", "range"]
    return head, [[", ".join(f"`{n}`" for n in one.names), one.told, one.better, one.span] for one in FIGURE_GROUPS]

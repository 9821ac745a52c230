"""Membership inference item by item: is the model surer of an item than models that never saw it?"""

from __future__ import annotations

import torch
from torch import Tensor

from gunlearn.metrics.base import CLASSES, LINKS
from gunlearn.metrics.ranking import MembershipAUC
from gunlearn.metrics.view import ModelView


class ItemMembershipAUC(MembershipAUC):
    """How well certainty beyond that of retrained models tells forgotten items from test items of their class.

    The offline attack of LiRA (arXiv 2112.03570) with one variance for all items: an item's score is the log-odds of
    its own label, less their mean under the retrained models. Unlike `mia_auc` it does not take a hard item for one
    that was forgotten well. A retrained model, compared with the others, is at one half, but for noise.
    """

    name, heading, words = "mia_item_auc", "MIA item AUC", "membership inference AUC, item by item"
    tasks, hidden, optional = (*LINKS, *CLASSES), (), True

    def scores(self, view: ModelView, part: str) -> Tensor | None:
        own = log_odds(view, part)
        others = [odds for other in view.references if (odds := log_odds(other, part)) is not None]
        return own - torch.stack(others).mean(0) if own is not None and others else None


def log_odds(view: ModelView, part: str) -> Tensor | None:
    """Return the log-odds of each item's own label in float64, `[num_items]`; of pairs, those of an edge."""
    shown, label = view.shown(part), view.label(part)
    if shown is None or label is None:
        return None
    if shown.dim() == 1:
        return shown
    own = label.view(-1, 1)
    rest = shown.scatter(1, own, -torch.inf).logsumexp(-1)
    return shown.gather(1, own).view(-1) - rest

"""Grids of pictures that denoisers draw, before, after and retrained, and the page that shows them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

from gunlearn.errors import InvalidInputError
from gunlearn.report.html import write_page
from gunlearn.report.plots import WIDTH, new_figure
from gunlearn.report.table import Table
from gunlearn.training.result import today, versions

if TYPE_CHECKING:
    from gunlearn.diffusion.metrics import DenoiserFigures

SHOWN = 4  # pictures of a concept in a row


def picture_grid(pictures: Tensor, concepts: list[int], forgotten: list[int], limit: float = 1.0) -> Figure:
    """Return a figure with a block of pictures for each concept; those of forgotten ones have a frame.

    Args:
        pictures: `[num_concepts, per_concept, channels, height, width]`, with 1 or at least 3 channels (of more, as of
            latents, the first three are shown).
        concepts: the concept of each block.
        forgotten: the forgotten ones.
        limit: values from `-limit` to `limit` are shown from black to white.

    Raises:
        InvalidInputError: another shape, or two channels.
    """
    if pictures.dim() != 5 or pictures.size(0) != len(concepts) or pictures.size(2) == 2:
        raise InvalidInputError(
            f"Expected pictures [{len(concepts)}, per_concept, channels, height, width] of 1 or 3 channels (got "
            f"{tuple(pictures.shape)})"
        )
    number, height, width = min(SHOWN, pictures.size(1)), pictures.size(3), pictures.size(4)
    shown = torch.nan_to_num(pictures[:, :number, :3].float(), nan=limit).clamp(-limit, limit)
    shown = pad(shown, (0, 1), value=limit)  # a white line between pictures
    rows = shown.permute(0, 3, 1, 4, 2).reshape(len(concepts), height, number * (width + 1), -1)[:, :, :-1]
    columns = min(5, len(concepts))
    lines = -(-len(concepts) // columns)
    figure = new_figure(WIDTH, lines * (WIDTH / columns * height / (number * width) + 0.25))
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel in panels:
        panel.axis("off")
    for panel, row, concept in zip(panels, rows, concepts, strict=False):
        image = ((row + limit) / (2 * limit)).numpy()
        panel.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
        panel.set_title(f"{concept}, forgotten" if concept in forgotten else str(concept), fontsize=8)
    return figure


def png_uri(figure: Figure, dots: int = 120) -> str:
    """Return the figure as a PNG in a data URI: pictures as vectors would be large."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def denoiser_report(figures: DenoiserFigures, path: str | Path, title: str = "Unlearning in a diffusion model") -> Path:
    """Write a self-contained HTML page: a table of all figures, and pictures of every model from the same noise.

    Args:
        figures: what `gunlearn.diffusion.metrics.evaluate_denoisers` returned.
        path: the file.
        title: of the page.
    """
    from gunlearn.diffusion.metrics.denoiser_figures import LEGENDS

    names = figures.names
    body = [[row["model"], *[figures.cell(row, name) for name in names]] for row in figures.rows]
    known = [(name, words) for name, words in LEGENDS.items() if any(own.startswith(name) for own in names)]
    legend = [f"{name}: {words}." for name, words in known]
    legend += [f"frechet: on the features of {figures.features}, not Inception's."] if figures.features else []
    edge = max((float(p.abs().max()) for p in figures.pictures.values() if bool(torch.isfinite(p).all())), default=1.0)
    limit = edge if 0 < edge <= 1 else 1.0
    grids = [
        (name, f"Drawn by {name}", png_uri(picture_grid(p, figures.concepts, figures.forgotten, limit)))
        for name, p in figures.pictures.items()
    ]
    return write_page(
        path,
        "pictures.html.j2",
        title=title,
        table=Table(["model", *names], body, 1, figures.notes),
        legend=" ".join(legend),
        grids=grids,
        date=today(),
        command="",
        versions=versions(),
    )

"""Pages with pictures of denoisers."""

import base64
import io
import re

import pytest
import torch
from matplotlib.image import imread

from gunlearn.diffusion.metrics import DenoiserFigures
from gunlearn.errors import InvalidInputError
from gunlearn.report import denoiser_report
from gunlearn.report.picture_grid import picture_grid, png_uri


def figures(channels=1):
    draw = torch.Generator().manual_seed(0)
    pictures = {
        n: torch.rand(3, 5, channels, 8, 8, generator=draw) * 2 - 1 for n in ("original", "esd <b>", "retrained 0")
    }
    rows = [{"model": name, "ua": 0.5, "frechet": 1.25} for name in pictures]
    rows[1]["alignment_forget_gain"] = -3.0
    return DenoiserFigures(rows, pictures, [0, 3, 7], [3], "digits-cnn")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_page_shows_every_model(tmp_path, channels):
    html = denoiser_report(figures(channels), tmp_path / "page.html").read_text()
    found = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    assert len(found) == len(set(found)) == 3
    assert all(imread(io.BytesIO(base64.b64decode(image))).size for image in found)
    assert "Drawn by original" in html
    assert "esd &lt;b&gt;" in html
    assert "<b>" not in html  # names of others are texts
    assert "features of digits-cnn, not Inception" in html
    assert html.count("-3") >= 1
    assert len(html) < 400_000
    assert denoiser_report(figures(channels), tmp_path / "again.html").read_text() == html


def test_values_are_shown_from_black_to_white():
    pictures = torch.full((1, 1, 1, 8, 8), -1.0)
    pictures[..., 4:, :] = 1
    image = imread(io.BytesIO(base64.b64decode(png_uri(picture_grid(pictures, [3], [3])).partition(",")[2])))
    middle = image[:, image.shape[1] // 2, :3].mean(-1)
    below = middle[len(middle) // 3 :]
    assert (below < 0.1).any()
    assert below[(below < 0.1).argmax() :][-len(below) // 4] > 0.9  # dark above, bright below
    picture_grid(pictures * torch.nan, [3], [3])  # a broken model is shown, not an error


@pytest.mark.parametrize("shape", [(2, 1, 1, 8, 8), (1, 1, 2, 8, 8), (1, 8, 8)])
def test_bad_pictures(shape):
    with pytest.raises(InvalidInputError, match="1 or 3 channels"):
        picture_grid(torch.zeros(shape), [3], [3])

"""One function turns names of devices into devices, for settings and for commands."""

import pytest
import torch

from gunlearn.core.devices import resolve_device
from gunlearn.errors import InvalidInputError


@pytest.mark.parametrize("cuda", [False, True])
def test_names_of_devices(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto") == torch.device("cuda" if cuda else "cpu")
    with pytest.raises(InvalidInputError, match=r"'cpu', 'cuda' or 'auto' \(got 'gpu'\)"):
        resolve_device("gpu")
    if cuda:
        assert resolve_device("cuda") == torch.device("cuda")
    else:
        with pytest.raises(InvalidInputError, match=r"CUDA device for 'cuda' \(got none"):
            resolve_device("cuda")

"""Row numbers on what a request left warn; names, classes, masks and draws do not."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch_geometric.data import Data

import gunlearn as gu

X, Y = torch.arange(20.0).view(20, 1), torch.arange(20) % 2


class Pairs(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, i):
        return X[i], int(Y[i])


FORMS = {
    "pair": lambda: (X, Y),
    "data": lambda: Data(x=X, y=Y),
    "tensors": lambda: TensorDataset(X, Y),
    "data set": Pairs,
    "loader": lambda: DataLoader(Pairs(), batch_size=4),
}


def forget(data, request):
    net = nn.Linear(1, 2)
    return gu.unlearn(net, data, request, "finetune", "image_classification", steps=1, batch_size=4)


@pytest.mark.parametrize("form", FORMS)
def test_row_numbers_of_what_is_left_warn(form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = FORMS[form]()
        first = forget(data, gu.ForgetItems([5]))
        forget(data, gu.ForgetItems([17]))  # the control: the caller's own data, which are not marked
        for request in (gu.ForgetItems(mask=torch.arange(19) == 3), gu.ForgetItems(count=2)):
            second = forget(first.data, request)
    for left in (first.data, second.data):
        with pytest.warns(UserWarning, match="numbered anew"):
            forget(left, gu.ForgetItems([7]))


def test_copies_carry_the_mark_and_it_names_nothing():
    pair, data = (forget(FORMS[form](), gu.ForgetItems([5])).data for form in ("pair", "data"))
    for left in ((pair[0], pair[1]), copy.deepcopy(pair), data.clone(), copy.copy(data)):
        with pytest.warns(UserWarning, match="a row of what is left"):
            forget(left, gu.ForgetItems([7]))
    assert set(vars(pair[0])) == {"left_by_request"}
    assert data.left_by_request is pair[0].left_by_request is True
    assert not vars(X)
    assert X.ravel()[16] == 16
    assert data.x[16] == 17  # as docs/images.md says: the row before is one less

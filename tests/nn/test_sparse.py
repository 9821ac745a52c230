"""CSR kernels against dense and gather-scatter formulations, and the memory they live in."""

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.weak import WeakTensorKeyDictionary

from gunlearn.core.sorting import argsort, lexsort
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.nn.kernels import sparse
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.kernels.edge_scores import EdgePattern, gather_inner_product
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.sparse import csr, multiply, sddmm, sparse_matrix
from gunlearn.nn.kernels.switch import PlainPathWarning

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


def entries(num_rows, num_cols, count, seed=0, dtype=torch.float64):
    """Random entries with repeats (more entries than places in a corner) and empty rows and columns."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(0, max(num_rows // 2, 1), (count,), generator=generator)
    col = torch.randint(0, max(num_cols // 2, 1), (count,), generator=generator)
    return row, col, torch.randn(count, generator=generator, dtype=torch.float64).to(dtype)


def dense(row, col, value, size):
    """Entry by entry, repeats added up."""
    out = torch.zeros(size, dtype=torch.float64)
    for i, j, v in zip(row.tolist(), col.tolist(), value.tolist(), strict=True):
        out[i, j] += v
    return out


# SparseMatrix ################################################################


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(7, 7), (7, 4), (3, 9)])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_product_and_gradient(device, dtype, size, count):
    row, col, value = entries(*size, count, dtype=dtype)
    matrix = sparse_matrix(row.to(device), col.to(device), value.to(device), size)
    full = dense(row, col, value, size)
    x = torch.randn(size[1], 5, dtype=dtype, device=device, requires_grad=True)
    out, upstream = matrix @ x, torch.randn(size[0], 5, dtype=dtype, device=device)
    out.backward(upstream)

    assert matrix.shape == torch.Size(size)
    torch.testing.assert_close(out.detach().cpu().double(), full @ x.detach().cpu().double(), **TOLERANCE[dtype])
    torch.testing.assert_close(x.grad.cpu().double(), full.t() @ upstream.cpu().double(), **TOLERANCE[dtype])
    if count == 30:  # control: a backward that forgot to transpose, or repeats that overwrite, would not pass
        wrong = full @ upstream.cpu().double() if size[0] == size[1] else None
        assert wrong is None or not torch.allclose(x.grad.cpu().double(), wrong, atol=1e-3)
        assert len({*zip(row.tolist(), col.tolist(), strict=True)}) < count


def test_one_matrix_serves_both_directions_only_if_symmetric():
    row, col, value = torch.tensor([0, 1, 2]), torch.tensor([1, 0, 2]), torch.tensor([2.0, 2.0, 5.0])
    symmetric = sparse_matrix(row, col, value, (3, 3))
    assert symmetric.transpose is symmetric.matrix
    # The same pattern with other values, and repeats whose order differs: the transpose must be built.
    for other in (torch.tensor([2.0, 3.0, 5.0]), torch.tensor([2.0, 2.0 + 1e-6, 5.0])):
        matrix = sparse_matrix(row, col, other, (3, 3))
        assert torch.equal(matrix.transpose.to_dense(), matrix.matrix.to_dense().t())
        assert not torch.equal(matrix.transpose.to_dense(), matrix.matrix.to_dense())


def test_product_takes_any_layout_of_x():
    row, col, value = entries(6, 6, 20)
    matrix, full = sparse_matrix(row, col, value, (6, 6)), dense(row, col, value, (6, 6))
    base = torch.randn(8, 12, dtype=torch.float64)
    for x in (base.t()[::2], base[:6, ::3], base[:1, :5].expand(6, 5), base[:6, :0], base[1:7, 1:2]):
        leaf = x.detach().requires_grad_()
        torch.testing.assert_close(matrix @ leaf, full @ x)
        (grad,) = torch.autograd.grad((matrix @ leaf).sum(), leaf)  # the upstream gradient is an expanded scalar
        torch.testing.assert_close(grad, full.t() @ torch.ones_like(x))


def test_no_rubbish_from_memory_where_rows_are_empty():
    # The result is written into unset memory: fill what the allocator hands out with NaN first.
    matrix = sparse_matrix(torch.tensor([1]), torch.tensor([2]), torch.ones(1), (512, 512))
    for _ in range(20):
        rubbish = torch.full((512, 64), float("nan"))
        del rubbish
        out = matrix @ torch.ones(512, 64)
        assert out.sum() == 64


@pytest.mark.parametrize("width", [1, 31, 32, 33, 100])
def test_columns_in_blocks_where_rows_are_read_again_and_again(width, monkeypatch):
    row, col, value = entries(40, 12, 2000, dtype=torch.float32)
    matrix, x = csr(row, col, value, (40, 12)), torch.randn(width, 12).t()
    whole, calls = multiply(matrix, x), []
    monkeypatch.setattr(sparse, "_CACHE", 1200)
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *args, **kwargs: calls.append(1) or addmm(*args, **kwargs))
    blocks = multiply(matrix, x)
    assert len(calls) == (1 if width < 32 else -(-width // 32))
    torch.testing.assert_close(blocks, whole, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(blocks.double(), dense(row, col, value, (40, 12)) @ x.double(), rtol=1e-4, atol=1e-4)


def test_product_to_second_order():
    row, col, value = entries(6, 5, 12)
    matrix = sparse_matrix(row, col, value, (6, 5))
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def f(x):
        return (matrix @ x).pow(3)

    assert gradcheck(f, x)
    assert gradgradcheck(f, x)


# Values that are learned #####################################################


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(7, 7), (7, 4), (3, 9)])
@pytest.mark.parametrize("count", [0, 1, 30, 100])  # 100: more entries than places
def test_gradients_to_values_and_to_x(dtype, size, count):
    row, col, value = entries(*size, count, dtype=dtype)
    value = value.requires_grad_()
    x = torch.randn(size[1], 5, dtype=dtype, requires_grad=True)
    upstream = torch.randn(size[0], 5, dtype=dtype)
    matrix = sparse_matrix(row, col, value, size)
    found = torch.autograd.grad(matrix @ x, (value, x), upstream)
    out = torch.zeros(size[0], 5, dtype=dtype).index_add(0, row, value.unsqueeze(-1) * x[col])
    for a, b in zip(found, torch.autograd.grad(out, (value, x), upstream), strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE[dtype])
    matrix = sparse_matrix(row, col, value, size)
    only_values = torch.autograd.grad(matrix @ x.detach(), value, upstream)[0]
    torch.testing.assert_close(only_values, found[0])


def test_the_same_places_with_other_values():
    row, col, value = entries(9, 9, 20)
    matrix = sparse_matrix(row, col, value, (9, 9))
    x = torch.randn(9, 2, dtype=torch.float64)
    torch.testing.assert_close(matrix.with_values(2 * matrix.matrix.values()) @ x, 2 * (matrix @ x))
    with pytest.raises(InvalidInputError, match="20 entries"):
        matrix.with_values(torch.ones(19, dtype=torch.float64))


def test_second_order_of_learned_values_is_exact_and_loud():
    row, col, value = entries(6, 5, 12)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    value.requires_grad_()

    def f(value, x):
        return (sparse_matrix(row, col, value, (6, 5)) @ x).pow(3)

    assert gradcheck(f, (value, x))
    with pytest.warns(PlainPathWarning, match="second-order"):
        assert gradgradcheck(f, (value, x))
    with warnings.catch_warnings():  # the first order needs no fallback
        warnings.simplefilter("error")
        f(value, x).sum().backward()
    pattern = EdgePattern(pairs(34, 1100), 34)
    z = torch.randn(34, 2, dtype=torch.float64, requires_grad=True)
    with pytest.warns(PlainPathWarning, match="edge scores"):
        torch.autograd.grad(pattern.inner_product(z).pow(2).sum(), z, create_graph=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 5, 60, 200])
def test_sampled_product(dtype, count):
    row, col, value = entries(12, 9, count, dtype=dtype)
    pattern = csr(row, col, value, (12, 9))
    a, b = torch.randn(12, 4, dtype=dtype), torch.randn(9, 4, dtype=dtype)
    rows = torch.repeat_interleave(torch.arange(12), pattern.crow_indices().diff())
    expected = (a @ b.t())[rows, pattern.col_indices()]
    torch.testing.assert_close(sddmm(pattern, a, b), expected, **TOLERANCE[dtype])


def test_products_refuse_what_does_not_fit():
    matrix = sparse_matrix(*entries(6, 5, 12), (6, 5))
    with pytest.raises(InvalidTypeError, match=r"float64.*float32"):
        matrix @ torch.randn(5, 2)
    with pytest.raises(InvalidTypeError, match="float16"):
        matrix @ torch.randn(5, 2).half()
    with pytest.raises(InvalidInputError, match=r"\[5, dim\]"):
        matrix @ torch.randn(6, 2, dtype=torch.float64)
    for row, col in ((6, 0), (0, 5), (-1, 0)):
        with pytest.raises(InvalidInputError, match="ids"):
            sparse_matrix(torch.tensor([row]), torch.tensor([col]), torch.ones(1), (6, 5))


def test_function_transforms_run_plain():
    row, col, value = entries(6, 6, 20)
    matrix = sparse_matrix(row, col, value, (6, 6))
    pattern, x = EdgePattern(pairs(40, 1200), 40), torch.randn(6, 3, dtype=torch.float64)
    full = dense(row, col, value, (6, 6))
    found = torch.func.jacrev(lambda x: matrix @ x)(x)
    torch.testing.assert_close(found, torch.func.jacrev(lambda x: full @ x)(x))
    z = torch.randn(40, 3, dtype=torch.float64)
    found = torch.func.grad(lambda z: pattern.inner_product(z).pow(2).sum())(z)
    expected = torch.func.grad(lambda z: gather_inner_product(z, pattern.edge_index).pow(2).sum())(z)
    torch.testing.assert_close(found, expected)


@given(st.lists(st.integers(0, 2**40), max_size=30))
def test_argsort_is_stable(keys):
    key = torch.tensor(keys, dtype=torch.long)
    assert torch.equal(argsort(key), torch.sort(key, stable=True)[1])
    large = key * 2**22  # no room for places beside the key
    assert torch.equal(large[argsort(large)], large.sort()[0])


def test_order_of_32_bit_ids():
    # Packed with their places they need 64 bits: overflow would give nonsense, silently.
    col = torch.randint(20_000, (100_000,), generator=torch.Generator().manual_seed(0))
    row = torch.arange(100_000) % 7
    assert torch.equal(argsort(col.int()), argsort(col))
    assert torch.equal(lexsort(col.int(), row.int()), lexsort(col, row))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_lexsort_equals_numpy(pairs):
    row, col = (torch.tensor([p[k] for p in pairs], dtype=torch.long) for k in (0, 1))
    assert lexsort(row, col).tolist() == np.lexsort((col.numpy(), row.numpy())).tolist()


def test_csr_features_with_unsorted_columns_and_repeats():
    crow, col = torch.tensor([0, 3, 3, 5]), torch.tensor([2, 0, 2, 1, 0])  # unsorted, a repeat, an empty row
    value = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    x = torch.sparse_csr_tensor(crow, col, value, size=(3, 4), check_invariants=False)
    expected = torch.tensor([[2.0, 0.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0], [5.0, 4.0, 0.0, 0.0]])
    weight = torch.randn(4, 2)
    torch.testing.assert_close(sparse_features(x) @ weight, expected @ weight)


# sparse_features #############################################################


def bag_of_words(num_nodes=50, num_features=100, per_row=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    x = torch.zeros(num_nodes, num_features, dtype=dtype)
    index = torch.randint(num_features, (num_nodes, per_row), generator=generator)
    return x.scatter_(1, index, torch.rand(num_nodes, per_row, generator=generator, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["dense", "csr", "transposed"])
def test_sparse_features_multiply_like_dense_ones(dtype, layout):
    x = bag_of_words(dtype=dtype)
    given = {"dense": x, "csr": x.to_sparse_csr(), "transposed": x.t().contiguous().t()}[layout]
    weight = torch.randn(7, 100, dtype=dtype, requires_grad=True)
    out = sparse_features(given) @ weight.t()
    torch.testing.assert_close(out, x @ weight.t())
    (grad,) = torch.autograd.grad(out.pow(2).sum(), weight)
    (expected,) = torch.autograd.grad((x @ weight.t()).pow(2).sum(), weight)
    torch.testing.assert_close(grad, expected)
    assert sparse_features(given) is sparse_features(given)  # made once
    assert sparse_features(x.clone()) is not sparse_features(given)


def test_no_sparse_features_where_dense_is_as_good_or_the_gradient_is_needed():
    x = bag_of_words()
    assert sparse_features(x) is not None
    assert sparse_features(torch.rand(50, 100)) is None  # dense values
    assert sparse_features(x[:, :63]) is None  # narrow
    assert sparse_features(x[0]) is None  # not a matrix
    assert sparse_features(x.to_sparse_coo()) is None
    leaf = x.clone().requires_grad_()
    assert sparse_features(leaf) is None
    assert sparse_features(leaf * 2) is None
    assert sparse_features(x.to_sparse_csr().requires_grad_()) is None
    x.requires_grad_()  # kept from before, yet a gradient is asked for now
    assert sparse_features(x) is None
    for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.bool):  # no sparse product for these
        assert sparse_features(bag_of_words().to(dtype)) is None


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_sparse_features_see_edits_in_place(layout):
    x = bag_of_words()
    given = x.clone() if layout == "dense" else x.to_sparse_csr()
    weight = torch.randn(100, 4)
    torch.testing.assert_close(sparse_features(given) @ weight, x @ weight)
    (given if layout == "dense" else given.values()).mul_(2)
    torch.testing.assert_close(sparse_features(given) @ weight, 2 * x @ weight)


# EdgePattern #################################################################


def pairs(num_nodes, count, seed=0):
    """Random pairs with self pairs and repeats."""
    index = torch.randint(num_nodes, (2, count), generator=torch.Generator().manual_seed(seed))
    if count > 3:
        index[:, 0] = index[0, 0]  # a self pair
        index[:, 1] = index[:, 2]  # a repeated pair
        index[:, 3] = index[:, 2].flip(0)  # and its reverse
    return index


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 5, 1023, 1024, 1500])  # 1024 is where the sparse kernel takes over
@pytest.mark.parametrize("num_nodes", [1, 32, 40])  # 32: as many pairs as places, and more
def test_inner_product_and_gradient(device, dtype, count, num_nodes):
    index = pairs(num_nodes, count)
    z = torch.randn(num_nodes, 6, dtype=dtype)
    upstream = torch.randn(count, dtype=dtype)
    mine, plain = (z.to(device, copy=True).requires_grad_() for _ in range(2))
    score = EdgePattern(index.to(device), num_nodes).inner_product(mine)
    score.backward(upstream.to(device))
    expected = gather_inner_product(plain, index.to(device))
    expected.backward(upstream.to(device))
    assert score.shape == (count,)
    torch.testing.assert_close(score, expected, **TOLERANCE[dtype])
    # Sums over many pairs: compare at the size of their terms.
    torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-4, atol=1e-4 if dtype == torch.float32 else 1e-11)
    gram = (z @ z.t()).double()
    torch.testing.assert_close(score.cpu().double(), gram[index[0], index[1]], **TOLERANCE[dtype])


@pytest.mark.filterwarnings("ignore::gunlearn.nn.kernels.switch.PlainPathWarning")
@pytest.mark.parametrize("count", [8, 1100])
def test_inner_product_to_second_order(count):
    pattern = EdgePattern(pairs(34, count), 34)
    z = torch.randn(34, 2, dtype=torch.float64, requires_grad=True)
    bins = torch.arange(count) % 7  # few outputs, so that the numerical Jacobian stays small

    def f(z):
        return torch.zeros(7, dtype=z.dtype).index_add(0, bins, pattern.inner_product(z).pow(2)) / count

    assert gradcheck(f, z)
    assert gradgradcheck(f, z)


@pytest.mark.filterwarnings("ignore::gunlearn.nn.kernels.switch.PlainPathWarning")
@pytest.mark.parametrize("count", [8, 1100])
def test_inner_product_of_views(count):
    # A copy made inside the kernel must not cut the second derivative off: it did, silently.
    index, base = pairs(34, count), torch.randn(3, 68, dtype=torch.float64, requires_grad=True)
    pattern = EdgePattern(index, 34)

    def hvp(f):
        z = base[:, ::2].t()
        (grad,) = torch.autograd.grad(f(z).pow(3).sum(), base, create_graph=True)
        return grad, torch.autograd.grad(grad.pow(2).sum(), base)[0]

    mine, plain = hvp(pattern.inner_product), hvp(lambda z: gather_inner_product(z, index))
    torch.testing.assert_close(mine, plain)
    assert plain[1].abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inner_product_in_half_precision_falls_back(dtype):
    index, z = pairs(20, 1500), torch.randn(20, 4).to(dtype).requires_grad_()
    score = EdgePattern(index, 20).inner_product(z)
    assert score.dtype == dtype
    assert torch.equal(score, gather_inner_product(z, index))
    score.float().sum().backward()
    assert torch.isfinite(z.grad).all()


def test_inner_product_refuses_what_does_not_fit():
    with pytest.raises(InvalidInputError, match=r"\[2, num_pairs\]"):
        EdgePattern(torch.zeros(3, 4, dtype=torch.long), 5)
    with pytest.raises(InvalidInputError, match="40 nodes"):
        EdgePattern(pairs(40, 5), 40).inner_product(torch.randn(39, 3))
    # The kernels check nothing themselves: an id that is too large would write outside their arrays.
    for bad in (40, -1):
        index = pairs(40, 1500)
        index[1, 700] = bad
        with pytest.raises(InvalidInputError, match="ids"):
            EdgePattern(index, 40)


def test_never_n_by_n():
    num_nodes = 400_000  # a dense N x N matrix of bytes would take 160 GB
    z = torch.ones(num_nodes, 2, requires_grad=True)
    EdgePattern(pairs(num_nodes, 2000), num_nodes).inner_product(z).sum().backward()
    assert z.grad.sum() == 2 * 2 * 2000


# memo ########################################################################


def counted(calls, value=None):
    def build():
        calls.append(1)
        return value

    return build


def test_memo_builds_once_and_again_after_an_edit_in_place():
    x, calls = torch.zeros(3), []
    for _ in range(3):
        memo(x, "tag", counted(calls))
    assert len(calls) == 1  # even though the value is None
    memo(x, "other", lambda: 1)
    x.add_(1)
    memo(x, "tag", counted(calls))
    assert memo(x, "other", lambda: 2) == 2  # all values of a tensor are forgotten together
    x[0] = 5
    memo(x, "tag", counted(calls))
    x.view(-1, 1)[1].zero_()  # through a view
    memo(x, "tag", counted(calls))
    memo(x, "tag", counted(calls))
    assert len(calls) == 4


def test_memo_does_not_mix_tags_or_tensors():
    x, y = torch.zeros(3), torch.zeros(3)  # equal in value
    found = [memo(t, tag, lambda t=t, tag=tag: (id(t), tag)) for t in (x, y) for tag in ("a", ("a", 1), ("a", 2))]
    assert len(set(found)) == 6
    assert memo(x, ("a", 2), lambda: "new") == (id(x), ("a", 2))
    assert memo(x, "a", lambda: "elsewhere", WeakTensorKeyDictionary()) == "elsewhere"
    assert memo(x, "a", lambda: "new") == (id(x), "a")


def test_memo_of_several_tensors_follows_each_of_them():
    x, y, calls = torch.zeros(3), torch.zeros(3), []
    for edited in (x, y, x):
        for _ in range(2):
            memo((x, None, y), "tag", counted(calls))
        edited.add_(1)
    memo((x, y), "tag", counted(calls))
    memo((y, x), "tag", counted(calls))
    assert len(calls) == 5


def test_memo_forgets_when_the_tensor_dies():
    class Value:
        pass

    x = torch.zeros(3)
    alive = weakref.ref(memo(x, "tag", Value))
    assert alive() is not None  # kept by the memo
    del x
    gc.collect()
    assert alive() is None


def test_features_and_their_copy_die_together():
    x = bag_of_words()
    alive, copy = weakref.ref(x), weakref.ref(sparse_features(x))
    del x
    gc.collect()
    assert alive() is None, "the kept value holds its own tensor"
    assert copy() is None


def test_memo_does_not_keep_failures_or_inference_tensors():
    x = torch.zeros(3)
    with pytest.raises(ZeroDivisionError):
        memo(x, "tag", lambda: 1 / 0)
    assert memo(x, "tag", lambda: 1) == 1
    with torch.inference_mode():
        y, calls = torch.zeros(3), []
        memo(y, "tag", counted(calls))
        memo(y, "tag", counted(calls))
        assert len(calls) == 2  # such a tensor does not say when it changes

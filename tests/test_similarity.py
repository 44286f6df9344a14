"Directions and cosines: right values, finite gradients, every number format."

import literal_similarity as literal
import pytest
import torch
from torch.autograd import gradcheck

from cmr.similarity import cosine, inverse_lengths, l2_normalize, wide

FORMATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random(*shape, seed=0): return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    assert torch.allclose(l2_normalize(torch.tensor([[3.0, 4.0], [5.0, 12.0]])), torch.tensor([[3 / 5, 4 / 5], [5 / 13, 12 / 13]]))
    found = cosine(torch.tensor([[5.0, 12.0]]), torch.tensor([[3.0, 4.0], [12.0, -5.0]]))
    assert torch.allclose(found, torch.tensor([[63 / 65, 0.0]]), atol=1e-7)


def test_literal():
    x, y = random(5, 7), random(4, 7, seed=1)
    x[2] = 0
    assert torch.allclose(cosine(x, y), torch.tensor(literal.cosine(x, y), dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [0, 1, -1, -2])
def test_any_axis(dim):
    x = random(3, 4, 5)
    assert torch.allclose(l2_normalize(x, dim=dim).pow(2).sum(dim), torch.ones(()).double(), atol=1e-12)
    assert torch.allclose(l2_normalize(x, dim), torch.nn.functional.normalize(x, dim=dim), atol=1e-12)


def test_gradients():
    x, y = (random(3, 4, seed=s).requires_grad_() for s in (0, 1))
    assert gradcheck(l2_normalize, x) and gradcheck(lambda x: l2_normalize(x, dim=0), x) and gradcheck(cosine, (x, y))
    assert gradcheck(cosine, (random(2, 3, 4).requires_grad_(), random(2, 5, 4, seed=1).requires_grad_()))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_zero_gets_no_gradient_and_gives_none(dtype):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    z = cosine(x, x)
    z.sum().backward()
    assert z[0].tolist() == [0, 0] and z[:, 0].tolist() == [0, 0]
    assert x.grad[0].tolist() == [0, 0] and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("size", [1e-30, 1e-13, 1e-7, 1e-5, 1e-4, 1e-2, 1.0, 255.0, 300.0, 6e4, 1e15])
def test_extremes(dtype, size):
    "Length 1 or 0, never in between, and finite gradients, for every size the format can hold."
    if size > torch.finfo(dtype).max: pytest.skip("more than the format holds")
    x = torch.full((2, 64), size, dtype=torch.float64).to(dtype).requires_grad_()
    u = l2_normalize(x)
    u.sum().backward()
    assert u.dtype == dtype and torch.isfinite(u).all() and torch.isfinite(x.grad).all()
    for length in u.double().norm(dim=-1).tolist(): assert abs(length - (length > 0.5)) < 1e-2
    if size >= 1e-4: assert u.detach().double().norm(dim=-1).min() > 0.99


def test_nan_is_not_hidden():
    "Bad numbers stay visible: only zeros are made harmless."
    assert l2_normalize(torch.tensor([[float("nan"), 1.0]])).isnan().any()
    assert l2_normalize(torch.tensor([[float("inf"), 1.0]])).isnan().any()


def test_eps_is_a_length():
    x = torch.tensor([[1e-3, 0.0], [1e-1, 0.0]])
    assert l2_normalize(x, eps=1e-2).tolist() == [[0, 0], [1, 0]]


def test_padding_order_scale_and_batch():
    x, y = random(4, 3, 6), random(4, 5, 6, seed=1)
    z = cosine(x, y)
    assert torch.allclose(cosine(torch.nn.functional.pad(x, (0, 0, 0, 2)), y)[:, :3], z) and torch.allclose(cosine(7 * x, 0.1 * y), z)
    order = [3, 1, 0, 2]
    assert torch.equal(cosine(x[order], y[order]), z[order])
    assert torch.allclose(torch.stack([cosine(a, b) for a, b in zip(x, y, strict=True)]), z, atol=1e-14)
    assert torch.allclose(cosine(y, x), z.transpose(-1, -2), atol=1e-14)


def test_empty_and_single():
    assert cosine(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert torch.allclose(cosine(torch.tensor([[2.0]]), torch.tensor([[-5.0]])), torch.tensor([[-1.0]]))


def test_widths_must_agree():
    with pytest.raises(ValueError, match="width 3, responses 4"): cosine(torch.ones(2, 3), torch.ones(2, 4))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_wide(dtype):
    "16 bits become 32; what is wider stays, the very same tensor."
    x = torch.ones(2, dtype=dtype)
    assert wide(x).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (wide(x) is x) == (dtype in (torch.float32, torch.float64))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_inverse_lengths(dtype):
    "One over the length in float32 or wider, 0 for no length, and no gradient there."
    x = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[-5.0, 12.0], [300.0, 400.0]]], dtype=dtype, requires_grad=True)
    found = inverse_lengths(x)
    found.sum().backward()
    assert found.dtype == wide(x).dtype and torch.allclose(found, torch.tensor([[1 / 5, 0], [1 / 13, 1 / 500]], dtype=found.dtype))
    assert torch.isfinite(x.grad).all() and x.grad[0, 1].tolist() == [0, 0]


def test_dividing_afterwards_is_the_same():
    x, y = (random(k, 6, seed=k).requires_grad_() for k in (3, 5))
    late = x @ y.T * inverse_lengths(x)[:, None] * inverse_lengths(y)
    assert torch.allclose(late, cosine(x, y), rtol=0, atol=1e-14) and gradcheck(inverse_lengths, x)

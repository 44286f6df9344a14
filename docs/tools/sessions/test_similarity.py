"Given tests of session 1: chapter 2."

import pytest
import torch
from adapters import cosine, inverse_lengths, l2_normalize, wide

from cmr.exercise import close

V, T = torch.tensor([[3., 4.], [0., 0.]]), torch.tensor([[5., 12.], [4., -3.], [0., 0.]])


def test_wide():
    "16 bits become 32; what is wider stays as it is"
    assert wide(torch.ones(2, dtype=torch.float16)).dtype == torch.float32
    assert wide(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert wide(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_l2_normalize():
    "(3, 4) becomes (0.6, 0.8), and a row of zeros stays zero"
    close(l2_normalize(V), [[.6, .8], [0., 0.]])


def test_l2_normalize__dim():
    "along another axis: every column has length one"
    close(l2_normalize(torch.tensor([[3., 0.], [4., 2.]]), dim=0), [[.6, 0.], [.8, 1.]])


def test_l2_normalize__gradient():
    "the gradient of a zero row is zero, not nan"
    x = V.clone().requires_grad_()
    l2_normalize(x).sum().backward()
    assert x.grad.isfinite().all(), "nan or infinity in the gradient: a zero row reached a root or a division"
    close(x.grad[1], [0., 0.])


def test_l2_normalize__half():
    "16 bits go in and come out; the square of 300 has no room in them"
    found = l2_normalize(torch.tensor([[300., 400.]], dtype=torch.float16))
    assert found.dtype == torch.float16
    close(found, [[.6, .8]], 1e-3)


def test_cosine():
    "63/65 by hand, and 0 where either vector is zero"
    close(cosine(V, T), [[63 / 65, 0., 0.], [0., 0., 0.]])
    close(cosine(T, V[:1]), [[63 / 65], [0.], [0.]])


def test_cosine__batch():
    "axes in front are a batch"
    close(cosine(torch.stack([V, 2 * V]), torch.stack([T, T]))[1], cosine(V, T))


def test_cosine__widths():
    "vectors of different widths are refused with a ValueError"
    with pytest.raises(ValueError): cosine(torch.ones(2, 3), torch.ones(2, 4))


def test_inverse_lengths():
    "1/5 for (3, 4), 0 for a zero vector, with a gradient that is finite"
    x = V.clone().requires_grad_()
    close(inverse_lengths(x), [.2, 0.])
    inverse_lengths(x).sum().backward()
    assert x.grad.isfinite().all(), "nan or infinity in the gradient of a zero vector"

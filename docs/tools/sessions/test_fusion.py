"Given tests of session 5: chapter 11."

import pytest
import torch
from adapters import GatedFusion, combine, gate, gated

from cmr.exercise import close

X, M = torch.tensor([[1., -2.], [0., 3.]], dtype=torch.float64), torch.tensor([[2., 1.], [4., 1.]], dtype=torch.float64)


def test_gate():
    "Eq. 5: the sigmoid of the products, by feature or of their sum; 1 where there are no gates"
    close(gate(X, M), torch.tensor([[2., -2.], [0., 3.]]).sigmoid(), 1e-6)
    close(gate(X, M, "scalar"), torch.tensor([[0.], [3.]]).sigmoid(), 1e-6)
    close(gate(X, M, None), [1.])


def test_gate__both():
    "by feature (..., d), by fragment (..., 1)"
    close(gate(X, M, "element"), torch.tensor([[2., -2.], [0., 3.]]).sigmoid(), 1e-6); close(gate(X, M, "scalar"), torch.tensor([[0.], [3.]]).sigmoid(), 1e-6)


def test_gate__refused():
    "a kind of gate that nobody knows: ValueError"
    with pytest.raises(ValueError): gate(X, M, "vector")


def test_combine():
    "sum, product, or one behind the other, fragment first; they broadcast"
    close(combine(X, M), X + M); close(combine(X, M, "product"), X * M)
    close(combine(X, M[:1], "concat"), torch.cat([X, M[:1].expand(2, 2)], -1))
    with pytest.raises(ValueError): combine(X, M, "mean")


def test_gated():
    "the gate multiplies fragment and message together; of a concatenation both halves"
    g = torch.tensor([[.5, 1.], [0., .25]], dtype=torch.float64)
    close(gated(X, M, g), g * (X + M))
    close(gated(X, M, g, "concat"), torch.cat([g * X, g * M], -1))
    close(gated(X, M, g[:, :1], "concat"), g[:, :1] * torch.cat([X, M], -1))


def fusion(**settings):
    torch.manual_seed(0)
    return GatedFusion(2, **settings).double()


def test_GatedFusion():
    "Eq. 6: relu of a layer of the gated sum, and the fragment comes back at the end"
    block = fusion()
    y = block.linear(gate(X, M) * (X + M)).relu()
    close(block(X, M), y + X, 1e-9); close(fusion(residual=False)(X, M), y, 1e-9)


def test_GatedFusion__broadcast():
    "fragments (I, 1, m, d) meet messages (I, C, m, d)"
    block = fusion(operation="concat", gates="scalar")
    many = torch.stack([M, 2 * M])[None]
    found = block(X[None, None], many)
    close(found[0, 1], block(X, 2 * M), 1e-9)


def test_GatedFusion__off():
    "without fusion the message goes on as it is, and there is nothing to learn"
    block = fusion(fuse=False)
    close(block(X, M), M); assert not list(block.parameters())
    with pytest.raises(ValueError): fusion(gates="vector")

"Given tests of session 4: chapter 8."

import pytest
import torch
from adapters import MLP, Add, Att, Distill, Gate, memory, of_both

from cmr.exercise import close

DRAW = torch.Generator().manual_seed(0)
X, C = torch.randn(2, 3, 4, 2, generator=DRAW, dtype=torch.float64)


def filled(unit):
    with torch.no_grad():
        for k, p in enumerate(unit.parameters()): p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
    return unit.double()


def test_of_both():
    "the layer of [x, c], without joining them; they may broadcast"
    layer = filled(torch.nn.Linear(4, 3))
    close(of_both(layer, X, C), layer(torch.cat([X, C], -1)), 1e-9)
    close(of_both(layer, X[:1], C), layer(torch.cat([X[:1].expand_as(C), C], -1)), 1e-9)


def test_Distill():
    "Eq. 7: g * x + (1 - g) * o, with the gate keeping x"
    unit = filled(Distill(2))
    both = torch.cat([X, C], -1)
    g, o = unit.gate(both).sigmoid(), unit.linear(both).tanh()
    close(unit(X, C), g * X + (1 - g) * o, 1e-9)


def test_Distill__gates():
    "the gates alone, as later chapters look at them"
    unit = filled(Distill(2))
    close(unit.gates(X, C), unit.gate(torch.cat([X, C], -1)).sigmoid(), 1e-9)


def test_Distill__open():
    "a gate of 1 keeps the old query as it was"
    unit = filled(Distill(2))
    torch.nn.init.constant_(unit.gate.bias, 60.)
    close(unit(X, C), X, 1e-9)


def test_Distill__broadcast():
    "one query for several contexts, as at the first step"
    unit = filled(Distill(2))
    close(unit(X[:1], C), unit(X[:1].expand_as(C), C), 1e-9)


def test_Add():
    "x + c"
    close(Add(2)(X, C), X + C)


def test_MLP():
    "x + tanh(W c + b)"
    unit = filled(MLP(2))
    close(unit(X, C), X + unit.linear(C).tanh(), 1e-9)


def test_Gate():
    "beta * x + (1 - beta) * c, a beta for each feature"
    unit = filled(Gate(2))
    beta = unit.gate(torch.cat([X, C], -1)).sigmoid()
    close(unit(X, C), beta * X + (1 - beta) * C, 1e-9); close(beta.shape, unit.gates(X, C).shape)


def test_Att():
    "one number for all features of a query"
    unit = filled(Att(2))
    alpha = unit.gate(torch.cat([X, C], -1)).sigmoid()
    close(alpha.shape, [3, 4, 1]); close(unit(X, C), alpha * X + (1 - alpha) * C, 1e-9)


def test_memory():
    "five names; another is a ValueError that lists them"
    close(memory("add", 2)(X, C), X + C)
    assert hasattr(memory("distill", 2), "linear") and hasattr(memory("distill", 2), "gate")
    with pytest.raises(ValueError, match="distill"): memory("lstm", 2)

"""The memory units of Eq. 7 and Table 5 against a literal reading, float64."""

import literal_imram as literal
import pytest
import torch

from cmr.memory import MEMORIES, memory


def parts(name, d=4, seed=0):
    torch.manual_seed(seed)
    unit = memory(name, d).double()
    return unit, torch.randn(3, 2, d, dtype=torch.float64), torch.randn(3, 2, d, dtype=torch.float64)


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_is_its_equation(name):
    unit, x, c = parts(name)
    parameters = dict(unit.named_parameters())
    for i in range(3):
        for j in range(2):
            assert (unit(x, c)[i, j] - literal.aggregate(name, parameters, x[i, j], c[i, j])).abs().max() < 1e-12


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_spreads_one_query_over_many_contexts(name):
    unit, x, c = parts(name)
    assert (unit(x[:1], c) - unit(x[:1].expand(3, -1, -1), c)).abs().max() < 1e-12


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_gradient(name):
    unit, x, c = parts(name)
    assert torch.autograd.gradcheck(unit, (x[:1].requires_grad_(), c.requires_grad_()))
    literal_parameters = {k: p.detach().clone().requires_grad_() for k, p in unit.named_parameters()}
    unit(x[:1], c)[2, 1].sum().backward()
    if not literal_parameters: return
    literal.aggregate(name, literal_parameters, x[0, 1].detach(), c[2, 1].detach()).sum().backward()
    for key, p in unit.named_parameters(): assert (p.grad - literal_parameters[key].grad).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["distill", "gate", "att"])
def test_gates_lie_between_zero_and_one(name):
    unit, x, c = parts(name)
    gates = unit.gates(x, c)
    assert gates.shape == (3, 2, 1 if name == "att" else 4) and (0 < gates).all() and (gates < 1).all()


def test_an_open_gate_keeps_the_query_and_a_closed_one_does_not():
    unit, x, c = parts("gate")
    with torch.no_grad():
        unit.gate.weight.zero_()
        unit.gate.bias.fill_(50.0)
    assert torch.allclose(unit(x, c), x)
    with torch.no_grad(): unit.gate.bias.fill_(-50.0)
    assert torch.allclose(unit(x, c), c)


def test_distill_has_the_released_codes_shapes():
    unit = memory("distill", 4)
    assert {k: tuple(p.shape) for k, p in unit.named_parameters()} == {
        "linear.weight": (4, 8), "linear.bias": (4,), "gate.weight": (4, 8), "gate.bias": (4,)}


def test_unknown_memory_is_named():
    with pytest.raises(ValueError, match="memory='lstm'.*distill, add, mlp, att, gate"): memory("lstm", 4)

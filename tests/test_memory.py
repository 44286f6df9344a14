"""The memory units of Eq. 7 and Table 5 against a literal reading, float64."""

import literal_imram as literal
import pytest
import torch

from cmr.memory import MEMORIES, MLP, Add, Att, Distill, Gate, memory, of_both


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


def test_every_memory_is_made_by_its_name():
    assert {name: type(memory(name, 4)) for name in MEMORIES} == {"distill": Distill, "add": Add, "mlp": MLP, "att": Att, "gate": Gate}
    d = 5
    sizes = {name: sum(p.numel() for p in memory(name, d).parameters()) for name in MEMORIES}
    assert sizes == {"distill": 4 * d * d + 2 * d, "add": 0, "mlp": d * d + d, "att": 2 * d + 1, "gate": 2 * d * d + d}


@pytest.mark.parametrize("shapes", [((3, 2, 4), (3, 2, 4)), ((1, 2, 4), (3, 2, 4)), ((3, 2, 4), (1, 1, 4)), ((4,), (7, 4))])
def test_of_both_is_the_layer_over_the_concatenation(shapes):
    torch.manual_seed(1)
    layer, (x, c) = torch.nn.Linear(8, 3).double(), (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    assert (of_both(layer, x, c) - layer(torch.cat(torch.broadcast_tensors(x, c), -1))).abs().max() < 1e-12
    inputs = (x.requires_grad_(), c.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, c: of_both(layer, x, c), inputs)


def test_of_both_takes_a_layer_of_ones_own():
    layer, x, c = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.Tanh()), torch.randn(1, 2, 4), torch.randn(3, 1, 4)
    assert torch.equal(of_both(layer, x, c), layer(torch.cat([x.expand(3, 2, 4), c.expand(3, 2, 4)], -1)))


def test_a_distilled_query_stays_bounded():
    "The proposal lies between -1 and 1, and the gate between 0 and 1: what began there stays there."
    unit, x, c = parts("distill")
    x = x.tanh()
    for _ in range(50): x = unit(x, 100 * c).detach()
    assert (x.abs() <= 1).all()


NARROW, WIDE = torch.bfloat16, torch.float32

@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize(("query", "context"), [(WIDE, NARROW), (NARROW, NARROW), (WIDE, WIDE)])
def test_memories_in_mixed_precision(name, query, context):
    """In mixed precision a query may be wider than what the layers give.

    bfloat16 rounds by 2 ** -9: weights (at most 0.36, eight in a sum), inputs and sums, which makes 0.02 of the largest input
    at a layer's end; neither tanh nor the gate makes more than twice of it."""
    unit, x, c = parts(name)
    exact = unit(x.to(query).double(), c.to(context).double())
    with torch.autocast("cpu", dtype=NARROW): found = unit.float()(x.to(query), c.to(context))
    largest = max(exact.abs().max(), x.abs().max(), c.abs().max())
    assert torch.isfinite(found).all() and (found.double() - exact).abs().max() <= 0.05 * largest

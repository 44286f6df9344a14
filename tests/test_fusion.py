"CAMP Eq. 5-9 against a literal reading, float64."

import literal_camp as literal
import pytest
import torch

from cmr.aggregation import MessageAggregation, facing
from cmr.encoders import Fragments
from cmr.fusion import GATES, OPERATIONS, GatedFusion, combine, gate, gated

FORMS = [dict(gates=g, operation=o, residual=r) for g in (*GATES, None) for o in OPERATIONS for r in (True, False)] + [dict(fuse=False)]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(map(str, f.values())))


def made(form, d=6, seed=1):
    torch.manual_seed(seed)
    fusion = GatedFusion(d, **form).double()
    if fusion.fuse: torch.nn.init.normal_(fusion.linear.bias)
    return fusion


def met(d=6, seed=2):
    "Fragments (3, 1, 4, d) and a message from each of 2 others (3, 2, 4, d)."
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, k, 4, d, generator=generator, dtype=torch.float64) for k in (1, 2)]


@forms
def test_every_fragment_is_its_equation(form):
    fusion, (x, messages) = made(form), met()
    found, p = fusion(x, messages), {name: w.detach() for name, w in fusion.named_parameters()}
    assert found.shape == messages.shape
    for i in range(3):
        for j in range(2):
            for k in range(4): assert (found[i, j, k] - literal.fused(x[i, 0, k], messages[i, j, k], p, **form)).abs().max() < 1e-10


@pytest.mark.parametrize("attention", [True, False])
@forms
def test_messages_and_fusion_together(form, attention):
    "Both chapters on a padded batch, against Eq. 1-9 read literally for each pair."
    torch.manual_seed(3)
    (v, v_mask, V), (t, t_mask, T) = literal.batch()
    images, captions, post = Fragments(v, v_mask), Fragments(t, t_mask), MessageAggregation(6, 5, attention).double()
    by_image, by_word = made(form), made(form, seed=4)
    regions, _, words, _ = facing(images, captions)
    passed = post(images, captions)
    fused_regions, fused_words = by_image(regions, passed.to_regions), by_word(words, passed.to_words)
    p, p_v, p_t = ({name: w.detach() for name, w in part.named_parameters()} for part in (post, by_image, by_word))
    for i, j in ((0, 0), (1, 3), (2, 2)):
        to_words, to_regions, _, _ = literal.messages(V[i], T[j], p, attention)
        for k, message in enumerate(to_regions): assert (fused_regions[i, j, k] - literal.fused(V[i][k], message, p_v, **form)).abs().max() < 1e-10
        for k, message in enumerate(to_words): assert (fused_words[i, j, k] - literal.fused(T[j][k], message, p_t, **form)).abs().max() < 1e-10


@forms
def test_axes_broadcast_and_order_changes_nothing(form):
    fusion, (x, messages) = made(form), met()
    found = fusion(x, messages)
    assert (fusion(x.expand_as(messages), messages) - found).abs().max() < 1e-12
    for where in ([2, 0, 1], (slice(None), [1, 0]), (slice(None), slice(None), [3, 1, 0, 2])):
        assert (fusion(x.expand_as(messages)[where], messages[where]) - found[where]).abs().max() < 1e-12


@forms
def test_gradient(form):
    fusion, (x, messages) = made(form, d=3), met(d=3)
    names = [name for name, _ in fusion.named_parameters()]

    def of(x, messages, *weights): return torch.func.functional_call(fusion, dict(zip(names, weights)), (x, messages))
    assert torch.autograd.gradcheck(of, [y.detach().requires_grad_() for y in (x, messages, *fusion.parameters())])


def again(fusion, **changed):
    "The same weights in another form."
    other = GatedFusion(6, **{"gates": fusion.kind, "operation": fusion.operation, "residual": fusion.residual, **changed}).double()
    other.load_state_dict(fusion.state_dict())
    return other


def test_no_gates_are_open_gates():
    fusion, (x, messages) = made({}), met()
    wide_open = fusion.linear(x + messages).relu() + x
    assert (again(fusion, gates=None)(x, messages) - wide_open).abs().max() < 1e-12
    assert (fusion(x, messages) - wide_open).abs().max() > .1


def test_no_residual_is_the_same_without_the_fragment():
    for form in FORMS[:-1]:
        fusion, (x, messages) = made({**form, "residual": True}), met()
        assert (again(fusion, residual=False)(x, messages) + x - fusion(x, messages)).abs().max() < 1e-12


def test_one_feature_has_one_gate():
    x, messages = met(d=1)
    assert (gate(x, messages) - gate(x, messages, "scalar")).abs().max() < 1e-12
    assert gate(*met()).shape == (3, 2, 4, 6) and gate(*met(), "scalar").shape == (3, 2, 4, 1) and gate(*met(), None).tolist() == [1]


def test_concatenation_with_equal_halves_is_the_sum():
    fusion, (x, messages) = made({}), met()
    both = GatedFusion(6, operation="concat").double()
    both.load_state_dict({"linear.weight": torch.cat([fusion.linear.weight] * 2, 1).detach(), "linear.bias": fusion.linear.bias.detach()})
    assert (both(x, messages) - fusion(x, messages)).abs().max() < 1e-12
    assert combine(x, messages, "concat").shape == (3, 2, 4, 12) and (combine(x, messages, "product") - x * messages).abs().max() == 0


def test_without_fusion_the_message_goes_on_and_nothing_is_learnt():
    fusion, (x, messages) = made(dict(fuse=False)), met()
    assert fusion(x, messages).equal(messages) and not list(fusion.parameters())


def test_a_shut_gate_keeps_the_other_side_out():
    x, messages = (torch.full((1, 6), s, dtype=torch.float64) for s in (50., -50.))
    for gates in GATES:
        fusion = made(dict(gates=gates))
        assert (fusion(x, messages) - (fusion.linear.bias.relu() + x)).abs().max() < 1e-12
        assert (fusion(x, messages) - fusion(x, 2 * messages)).abs().max() < 1e-12


@pytest.mark.parametrize("operation", ["concat", "sum"])
def test_the_released_codes_fusion(operation):
    state = literal.released_states(d=6, fusion=operation)[2]
    fusion, (x, messages) = GatedFusion(6, "scalar", operation).double(), met()
    fusion.load_state_dict({"linear.weight": state["fc_1.0.weight"], "linear.bias": state["fc_1.0.bias"]})
    assert (fusion(x, messages)[2, 1, 3] - literal.released_fused(state, "fc_1.0", x[2, 0, 3], messages[2, 1, 3], operation)).abs().max() < 1e-10


def test_huge_products_stay_finite():
    for gates in GATES:
        fusion = GatedFusion(2, gates)
        x = torch.tensor([[1e19, -1e19]], requires_grad=True)
        y = fusion(x, torch.tensor([[1e18, 1e18]]))
        y.sum().backward()
        assert y.isfinite().all() and x.grad.isfinite().all()


def test_bad_input():
    x, messages = met()
    with pytest.raises(ValueError, match="gates='vector'.*element, scalar, or None"): GatedFusion(4, "vector")
    with pytest.raises(ValueError, match="gates='no'.*element, scalar, or None"): gate(x, messages, "no")
    with pytest.raises(ValueError, match="operation='mean'.*sum, concat, product"): GatedFusion(4, operation="mean")
    with pytest.raises(ValueError, match="operation='mean'.*sum, concat, product"): gated(x, messages, gate(x, messages), "mean")

"CAMP Eq. 1-4 against a literal reading, float64."

import literal_camp as literal
import pytest
import torch

from cmr.aggregation import MessageAggregation, affinity, attention_weights, even_weights, facing, message
from cmr.encoders import Fragments

FORMS = {"paper": {}, "narrow": {"hidden": 3}, "wide": {"hidden": 11}, "average": {"attention": False}}


def made(form="paper", d=6, seed=1):
    torch.manual_seed(seed)
    return MessageAggregation(d, **FORMS[form]).double()


def sides(**sizes):
    (v, v_mask, V), (t, t_mask, T) = literal.batch(**sizes)
    return Fragments(v, v_mask), Fragments(t, t_mask), V, T


@pytest.mark.parametrize("form", FORMS)
def test_every_pair_is_its_equations(form):
    module = made(form)
    images, captions, V, T = sides()
    found, p = module(images, captions), {name: x.detach() for name, x in module.named_parameters()}
    for i, v in enumerate(V):
        for j, t in enumerate(T):
            to_words, to_regions, over_regions, over_words = literal.messages(v, t, p, module.attention)
            m, n = len(v), len(t)
            for ours, theirs in ((found.to_words[i, j, :n], torch.stack(to_words)), (found.to_regions[i, j, :m], torch.stack(to_regions)),
                                 (found.word_weights[i, j, :n, :m], torch.tensor(over_regions, dtype=torch.float64)), (found.region_weights[i, j, :m, :n], torch.tensor(over_words, dtype=torch.float64))):
                assert (ours - theirs).abs().max() < 1e-10


@pytest.mark.parametrize("form", FORMS)
def test_shapes_and_sums(form):
    found = made(form)(*sides()[:2])
    assert [tuple(x.shape) for x in found] == [(3, 4, 5, 6), (3, 4, 4, 6), (3, 4, 5, 4), (3, 4, 4, 5)]
    for weights in (found.word_weights, found.region_weights): assert (weights.sum(-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_a_pair_alone_is_the_same(form):
    module = made(form)
    images, captions, _, _ = sides()
    whole = module(images, captions[:3])
    for p in range(3):
        for a, b in zip(module(images[p], captions[p]), whole): assert a.shape[:2] == (1, 1) and (a[0, 0] - b[p, p]).abs().max() < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_padding_and_order_change_nothing(form):
    module = made(form)
    images, captions, _, _ = sides()
    found, wide = module(images, captions), module(images.padded(9), captions.padded(8))
    assert (wide.to_words[:, :, :5] - found.to_words).abs().max() < 1e-12
    assert (wide.to_regions[:, :, :4] - found.to_regions).abs().max() < 1e-12
    assert not wide.word_weights[..., 4:].any() and not wide.region_weights[..., 5:].any()
    rows, columns = [2, 0, 1], [3, 1, 0, 2]
    for a, b in zip(module(images[rows], captions[columns]), found): assert (a - b[rows][:, columns]).abs().max() < 1e-12


def test_junk_in_padding_is_not_heard():
    module = made()
    images, captions, _, _ = sides()
    quiet = [Fragments(x.values.masked_fill(~x.mask[..., None], 0), x.mask) for x in (images, captions)]
    loud = [Fragments(x.values.masked_fill(~x.mask[..., None], 1e3), x.mask) for x in (images, captions)]
    a, b, real = module(*quiet), module(*loud), captions.mask[None, :, :, None]
    assert ((a.to_words - b.to_words) * real).abs().max() < 1e-10
    assert ((a.to_regions - b.to_regions) * images.mask[:, None, :, None]).abs().max() < 1e-10


@pytest.mark.parametrize("form", FORMS)
def test_gradient(form):
    module = made(form, d=3)
    images, captions, _, _ = sides(I=2, C=2, m=3, n=3, d=3)
    names = [name for name, _ in module.named_parameters()]

    def of(v, t, *weights):
        return torch.func.functional_call(module, dict(zip(names, weights)), (Fragments(v, images.mask), Fragments(t, captions.mask)))[:2]
    inputs = [x.detach().requires_grad_() for x in (images.values, captions.values, *module.parameters())]
    assert torch.autograd.gradcheck(of, inputs)


def test_gradients_are_those_of_the_literal_form():
    module = made()
    images, captions, V, T = sides()
    found = module(images, captions)
    (found.to_words[1, 2, :len(T[2])].sum() + found.to_regions[1, 2, :len(V[1])].pow(2).sum()).backward()
    p = {name: x.detach().clone().requires_grad_() for name, x in module.named_parameters()}
    to_words, to_regions, _, _ = literal.messages(V[1], T[2], p)
    (sum(x.sum() for x in to_words) + sum(x.pow(2).sum() for x in to_regions)).backward()
    for name, x in module.named_parameters(): assert (x.grad - p[name].grad).abs().max() < 1e-10


def test_without_attention_there_is_nothing_to_learn_and_the_query_does_not_matter():
    plain, module = made("average"), made()
    images, captions, _, _ = sides()
    assert not list(plain.parameters())
    other = Fragments(torch.randn_like(captions.values), captions.mask)
    assert plain(images, captions).to_words.equal(plain(images, other).to_words)
    assert not module(images, captions).to_words.equal(module(images, other).to_words)
    for weight in module.parameters(): torch.nn.init.zeros_(weight)
    for a, b in zip(module(images, captions), plain(images, captions)): assert (a - b).abs().max() < 1e-12


def test_a_single_response_gets_everything():
    words = attention_weights(torch.randn(2, 3, 4, 1), torch.ones(3, 1, dtype=torch.bool), 5)
    assert words.eq(1).all() and even_weights(torch.tensor([[False, True]]), torch.float64).tolist() == [[[0, 1]]]


def test_huge_affinities_stay_finite():
    regions = torch.full((2, 3), 1e10, requires_grad=True)
    weights = attention_weights(affinity(regions, torch.ones(2, 3)), torch.tensor([True, False]), 3)
    message(weights, torch.ones(2, 3)).sum().backward()
    assert weights.tolist() == [[1, 0], [1, 0]] and regions.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype):
    (v, v_mask, _), (t, t_mask, _) = literal.batch()
    for form in FORMS:
        found = made(form).to(dtype)(Fragments(v.to(dtype), v_mask), Fragments(t.to(dtype), t_mask))
        assert all(x.dtype == dtype for x in found)


def test_bad_input():
    images, captions, _, _ = sides()
    with pytest.raises(ValueError, match="hidden=0"): MessageAggregation(4, 0)
    with pytest.raises(ValueError, match="width 6, words 2"): facing(images, Fragments(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool)))

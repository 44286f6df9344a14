"""The encoders against their equations, their promises about padding, and what they refuse."""

import literal_encoders as literal
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmr.encoders import Fragments, RegionEncoder, WordEncoder, check_features, check_tokens

F64 = torch.float64


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(count=4, m=5, f=6):
    mask = torch.arange(m) < torch.tensor([5, 1, 3, 2])[:count, None]
    return torch.randn(count, m, f, dtype=F64) * mask[:, :, None], mask


def sentences():
    return torch.tensor([[4, 5, 6, 4, 7], [8, 0, 0, 0, 0], [4, 9, 5, 0, 0], [7, 7, 0, 0, 0]]), torch.tensor([5, 1, 3, 2])


@pytest.mark.parametrize("normalise", [True, False])
def test_regions_are_equation_1(normalise):
    encoder = RegionEncoder(6, 3, normalise=normalise).double()
    nn.init.normal_(encoder.project.bias)
    encoder.standardise(torch.randn(6), torch.rand(6) + 0.5)
    features, mask = images()
    result = encoder(features, mask)
    for got, f, real in zip(result.values, features, mask):
        expected = torch.tensor(literal.regions(encoder, f[real].tolist()), dtype=F64)
        assert (got[real] - expected).abs().max() < 1e-10
        assert (got[~real] == 0).all()


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_words_are_equation_2(normalise, bidirectional):
    encoder = WordEncoder(10, 3, word_dim=4, normalise=normalise, bidirectional=bidirectional).double()
    tokens, lengths = sentences()
    result, (_, last) = encoder(tokens, lengths), encoder.states(tokens, lengths)
    for i, n in enumerate(lengths.tolist()):
        states, end = literal.words(encoder, tokens[i, :n].tolist())
        assert (result.values[i, :n] - torch.tensor(states, dtype=F64)).abs().max() < 1e-10
        assert (last[i] - torch.tensor(end, dtype=F64)).abs().max() < 1e-10
        assert (result.values[i, n:] == 0).all()
    assert result.lengths.tolist() == lengths.tolist()


def test_authors_start():
    regions, words = RegionEncoder(40, 30), WordEncoder(500, 8, word_dim=20)
    bound = (6 / 70) ** 0.5
    assert regions.project.weight.abs().max() <= bound and regions.project.weight.std() > bound / 2
    assert (regions.project.bias == 0).all()
    assert 0.099 < words.embed.weight.abs().max() <= 0.1
    assert words.gru.weight_hh_l0.abs().max() <= 8 ** -0.5
    assert (regions.shift == 0).all() and (regions.scale == 1).all()


@pytest.mark.parametrize("garbage", [0.0, 7.0, torch.nan, torch.inf])
def test_padded_regions_change_neither_values_nor_gradients(garbage):
    encoder = RegionEncoder(6, 3).double()
    nn.init.normal_(encoder.project.bias)
    encoder.standardise(torch.randn(6), torch.rand(6) + 0.5)
    features, mask = images()
    probe = torch.randn(4, 5, 3, dtype=F64)

    def run(x, m):
        encoder.zero_grad()
        out = encoder(x, m)
        (out.values[:, :5] * probe).sum().backward()
        return out.values, encoder.project.weight.grad.clone(), encoder.project.bias.grad.clone()

    clean = run(features, mask)
    wide = torch.full((4, 8, 6), garbage, dtype=F64)
    wide[:, :5] = features.masked_fill(~mask[:, :, None], garbage)
    dirty = run(wide, nn.functional.pad(mask, (0, 3)))
    assert torch.equal(dirty[0][:, :5], clean[0]) and (dirty[0][:, 5:] == 0).all()
    assert torch.allclose(dirty[1], clean[1], atol=1e-12) and torch.allclose(dirty[2], clean[2], atol=1e-12)


def test_padded_words_change_neither_values_nor_gradients():
    encoder = WordEncoder(10, 3, word_dim=4).double()
    tokens, lengths = sentences()
    probe = torch.randn(4, 5, 3, dtype=F64)

    def run(t):
        encoder.zero_grad()
        out = encoder(t, lengths).values
        (out[:, :5] * probe).sum().backward()
        return out, [p.grad.clone() for p in encoder.parameters()]

    clean, gradients = run(tokens)
    wide = torch.full((4, 9), 12345)
    wide[:, :5] = torch.where(torch.arange(5) < lengths[:, None], tokens, -1)
    dirty, again = run(wide)
    assert torch.allclose(dirty[:, :5], clean, atol=1e-14) and (dirty[:, 5:] == 0).all()
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(gradients, again))
    assert (gradients[0][0] == 0).all(), "<pad> must not be trained"


def test_order_and_company_change_nothing():
    words, regions = WordEncoder(10, 3, word_dim=4).double(), RegionEncoder(6, 3).double()
    (tokens, lengths), (features, mask) = sentences(), images()
    order = torch.tensor([2, 0, 3, 1])
    together, shuffled = words(tokens, lengths).values, words(tokens[order], lengths[order]).values
    assert torch.allclose(shuffled, together[order], atol=1e-14)
    assert torch.allclose(words.states(tokens[order], lengths[order])[1], words.states(tokens, lengths)[1][order], atol=1e-14)
    for i, n in enumerate(lengths.tolist()):
        assert torch.allclose(words(tokens[i:i + 1, :n], lengths[i:i + 1]).values[0], together[i, :n], atol=1e-14)
        m = int(mask[i].sum())
        assert torch.allclose(regions(features[i:i + 1, :m]).values[0], regions(features, mask).values[i, :m], atol=1e-14)


def test_gradients():
    words, regions = WordEncoder(10, 3, word_dim=4).double(), RegionEncoder(6, 3).double()
    (tokens, lengths), (features, mask) = sentences(), images()
    assert torch.autograd.gradcheck(lambda x: regions(x, mask).values, features.requires_grad_())
    for encoder, inputs in ((words, (tokens, lengths)), (regions, (features.detach(), mask))):
        names, weights = zip(*encoder.named_parameters())

        def by_weights(*w, encoder=encoder, inputs=inputs, names=names):
            return torch.func.functional_call(encoder, dict(zip(names, w)), inputs).values

        assert torch.autograd.gradcheck(by_weights, [w.detach().clone().requires_grad_() for w in weights])


def test_gradient_is_finite_where_a_region_projects_to_zero():
    encoder = RegionEncoder(6, 3)
    features = torch.zeros(1, 2, 6, requires_grad=True)  # zero bias: both projections are exactly zero
    encoder(features).values.sum().backward()
    assert features.grad.isfinite().all() and encoder.project.weight.grad.isfinite().all()


def test_standardise_travels_with_the_weights():
    one, two = RegionEncoder(3, 2), RegionEncoder(3, 2)
    one.standardise(torch.tensor([1.0, 2.0, 1e6]), torch.tensor([2.0, 0.0, 1e-3]))
    assert one.scale.tolist() == [2.0, 1.0, 1.0]  # constant, and constant but for rounding
    two.load_state_dict(one.state_dict())
    x = torch.randn(2, 4, 3)
    assert torch.equal(one(x).values, two(x).values)
    for mean, std in ((torch.zeros(2), torch.ones(2)), (torch.zeros(3), -torch.ones(3)), (torch.full((3,), torch.nan), torch.ones(3))):
        with pytest.raises(ValueError, match="mean and std"): one.standardise(mean, std)


def test_fragments():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x = Fragments(torch.randn(2, 3, 4) * mask[:, :, None], mask)
    assert len(x) == 2 and x.lengths.tolist() == [2, 1]
    assert torch.equal(x[1].values, x.values[1:]) and torch.equal(x[[1, 0]].mask, mask.flip(0)) and len(x[:1]) == 1
    assert torch.equal(x[torch.tensor([1, 1])].values, x.values[[1, 1]]) and len(list(x)) == 2
    assert x.trimmed().mask.shape == (2, 2) and x[1:].trimmed().mask.shape == (1, 1)
    joined = Fragments.cat([x[1:].trimmed(), x, x.padded(6)])
    assert joined.values.shape == (5, 6, 4) and joined.lengths.tolist() == [1, 2, 1, 2, 1]
    assert torch.equal(joined.values[1:3, :3], x.values) and (joined.values[~joined.mask] == 0).all()
    assert x.to(F64).values.dtype == F64 and x.to(F64).mask.dtype == torch.bool
    for values, bad in ((torch.zeros(2, 3), mask), (torch.zeros(2, 2, 4), mask), (x.values, mask.float())):
        with pytest.raises(ValueError, match="boolean mask"): Fragments(values, bad)


def test_refuses_features():
    encoder = RegionEncoder(6, 3)
    features, mask = images()
    features = features.float()
    with pytest.raises(ValueError, match=r"\(images, regions, 6\), got \(4, 5, 7\).*region_dim=7"): encoder(torch.zeros(4, 5, 7))
    with pytest.raises(ValueError, match="expected region features"): encoder(features[0])
    with pytest.raises(ValueError, match=r"no region at all in image\(s\) \[2\]"):
        encoder(features, mask & (torch.arange(4) != 2)[:, None])
    for bad in (torch.nan, torch.inf, -torch.inf):
        spoiled = features.clone()
        spoiled[1, 0, 3] = bad
        with pytest.raises(ValueError, match=r"NaN or infinity in a region of image\(s\) \[1\]"): encoder(spoiled, mask)
    with pytest.raises(ValueError, match="boolean mask of shape"): check_features(features, mask[:, :4], 6)


def test_refuses_tokens():
    encoder = WordEncoder(10, 3, word_dim=4)
    tokens, lengths = sentences()
    zero, long = torch.tensor([5, 0, 3, 2]), torch.tensor([6, 1, 3, 2])
    for wrong, message in ((zero, "from 0 to 5"), (long, "between 1 and 5"), (lengths[:3], "lengths")):
        with pytest.raises(ValueError, match=message): encoder(tokens, wrong)
    for wrong in (10, 5000, -1):
        spoiled = tokens.clone()
        spoiled[0, 2] = wrong
        with pytest.raises(ValueError, match=f"word id {wrong} is outside this model's vocabulary of 10"): encoder(spoiled, lengths)
    with pytest.raises(ValueError, match="at least one row"): check_tokens(tokens[:0], lengths[:0], 10)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 3), st.sampled_from([0.0, 7.0, float("nan")]), st.booleans())
def test_any_lengths(lengths, extra, garbage, normalise):
    "Whatever the lengths and whatever stands in padding: each row is what it is alone, and zero beyond."
    torch.manual_seed(sum(lengths))
    words, regions = WordEncoder(10, 3, word_dim=4, normalise=normalise).double(), RegionEncoder(6, 3, normalise=normalise).double()
    nn.init.normal_(regions.project.bias)
    lengths = torch.tensor(lengths)
    mask = torch.arange(int(lengths.max()) + extra) < lengths[:, None]
    tokens = torch.randint(1, 10, mask.shape).masked_fill(~mask, 999)
    features = torch.randn(*mask.shape, 6, dtype=F64).masked_fill(~mask[:, :, None], garbage)
    T, V = words(tokens, lengths), regions(features, mask)
    assert torch.equal(T.mask, mask) and torch.equal(V.lengths, lengths)
    for i, n in enumerate(lengths):
        assert (T.values[i, n:] == 0).all() and (V.values[i, n:] == 0).all()
        assert torch.allclose(words(tokens[i:i + 1, :n], lengths[i:i + 1]).values[0], T.values[i, :n], atol=1e-13)
        assert torch.allclose(regions(features[i:i + 1, :n]).values[0], V.values[i, :n], atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=4))
def test_fragments_that_are_joined_come_apart_again(parts):
    "Rows of any lengths, also of none: cat keeps them in order, trimmed cuts what nobody uses."
    made = []
    for lengths in parts:
        mask = torch.arange(max(lengths) + 1) < torch.tensor(lengths)[:, None]
        made.append(Fragments(torch.randn(*mask.shape, 2) * mask[:, :, None], mask))
    joined, start = Fragments.cat(made), 0
    assert joined.lengths.tolist() == [n for lengths in parts for n in lengths]
    assert joined.trimmed().mask.shape[1] == max(n for lengths in parts for n in lengths)
    for part in made:
        again = joined[start:start + len(part)].trimmed()
        assert torch.equal(again.values, part.trimmed().values) and torch.equal(again.mask, part.trimmed().mask)
        start += len(part)

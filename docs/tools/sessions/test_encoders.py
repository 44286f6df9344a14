"Given tests of session 2: chapter 4."

import pytest
import torch
from adapters import Fragments, RegionEncoder, WordEncoder, check_features, check_tokens, scaled

from cmr.exercise import close

MASK = torch.tensor([[True, True, False], [True, False, False]])
VALUES = torch.arange(12.).reshape(2, 3, 2) * MASK[..., None]
TOKENS, LENGTHS = torch.tensor([[4, 5, 6, 7], [7, 4, 0, 0]]), torch.tensor([4, 2])


def test_Fragments__shapes():
    "a mask of another shape, or one that isn't boolean, is refused with a ValueError"
    for mask in (MASK[:, :2], MASK.float(), MASK[:1]):
        with pytest.raises(ValueError): Fragments(VALUES, mask)
    with pytest.raises(ValueError): Fragments(VALUES[0], MASK)


def test_Fragments__rows():
    "an int gives one row as Fragments, a list gives several; lengths count the real ones"
    found = Fragments(VALUES, MASK)
    close(found.lengths, [2, 1])
    assert len(found) == 2 and len(found[1]) == 1 and len(found[[1, 0]]) == 2
    close(found[1].values[0], VALUES[1]); close(found[[1, 0]].mask, MASK.flip(0))


def test_Fragments__padded():
    "padding adds zero columns with False; trimming takes off what is padding in every row"
    found = Fragments(VALUES, MASK)
    wide = found.padded(5)
    close(wide.values[:, 3:], torch.zeros(2, 2, 2)); close(wide.mask.sum(1), [2, 1])
    close(wide.trimmed().values, VALUES[:, :2]); close(wide.trimmed().mask, MASK[:, :2])


def test_Fragments__cat():
    "rows of several, padded to the widest"
    both = type(Fragments(VALUES, MASK)).cat([Fragments(VALUES[:, :2], MASK[:, :2]), Fragments(VALUES, MASK)])
    close(both.mask, torch.cat([MASK, MASK])); close(both.values[2:], VALUES); close(both.values[:2, 2], torch.zeros(2, 2))


def test_Fragments__to():
    "another dtype for the values, and the mask stays boolean"
    found = Fragments(VALUES, MASK).to(torch.float64)
    assert found.values.dtype == torch.float64 and found.mask.dtype == torch.bool


def test_check_features():
    "nan in a real region, an image without any region, a wrong width: ValueError; nan in padding is nobody's business"
    bad = VALUES.clone(); bad[1, 2] = torch.nan
    check_features(bad, MASK, 2)
    bad[1, 0] = torch.inf
    for features, mask, width in ((bad, MASK, 2), (VALUES, MASK, 3), (VALUES, MASK & torch.tensor([[True], [False]]), 2), (VALUES, MASK.float(), 2)):
        with pytest.raises(ValueError): check_features(features, mask, width)


def test_scaled():
    "to length one, to mean 0 and variance 1, or as it is; zeros stay zero"
    x = torch.tensor([[3., 4.], [0., 0.]])
    close(scaled(x, True), [[.6, .8], [0, 0]])
    close(scaled(x, "layer"), [[-1., 1.], [0, 0]], 1e-3)
    close(scaled(x, False), x)


def encoder(normalise=True):
    found = RegionEncoder(2, 2, normalise)
    with torch.no_grad(): found.project.weight.copy_(torch.tensor([[1., 0.], [0., 2.]])); found.project.bias.copy_(torch.tensor([1., 0.]))
    return found


def test_RegionEncoder():
    "Eq. 1 by hand: (2, 2) becomes (3, 4), of length one (0.6, 0.8)"
    features = torch.tensor([[[2., 2.], [5., 5.]]])
    found = encoder()(features, torch.tensor([[True, False]]))
    close(found.values, [[[.6, .8], [0, 0]]])


def test_RegionEncoder__raw():
    "CAMP's Eq. 15: the same without the norm"
    features = torch.tensor([[[2., 2.], [5., 5.]]])
    close(encoder(False)(features, torch.tensor([[True, False]])).values, [[[3, 4], [0, 0]]])


def test_RegionEncoder__padding():
    "whatever stands in a padded row, nothing comes of it: neither in the value nor in the gradient"
    features, mask = torch.tensor([[[2., 2.], [torch.nan, torch.inf]]]), torch.tensor([[True, False]])
    model = encoder()
    model(features, mask).values.sum().backward()
    assert model.project.weight.grad.isfinite().all(), "nan in the weights' gradient: the padding reached the product"


def test_RegionEncoder__standardise():
    "features are shifted and scaled first; a constant column is only shifted"
    model = encoder(False)
    model.standardise(torch.tensor([1., 3.]), torch.tensor([2., 0.]))
    close(model(torch.tensor([[[5., 5.]]])).values, [[[3., 4.]]])
    with pytest.raises(ValueError): model.standardise(torch.tensor([1., 3.]), torch.tensor([-2., 1.]))


def test_check_tokens():
    "the mask of real words; a length of 0 or an unknown id is refused, junk in the padding isn't"
    junk = TOKENS.clone(); junk[1, 3] = 99
    close(check_tokens(junk, LENGTHS, 8), [[1, 1, 1, 1], [1, 1, 0, 0]])
    for tokens, lengths, vocabulary in ((TOKENS, torch.tensor([4, 0]), 8), (TOKENS, torch.tensor([5, 2]), 8), (TOKENS, LENGTHS, 7), (-TOKENS, LENGTHS, 8)):
        with pytest.raises(ValueError): check_tokens(tokens, lengths, vocabulary)


def words(**settings):
    torch.manual_seed(0)
    return WordEncoder(8, 3, 5, **settings).double()


def test_WordEncoder():
    "Eq. 2: the mean of both readers' states, of length one"
    model = words()
    both, _ = model.gru(model.embed(TOKENS[:1]))
    expected = (both[..., :3] + both[..., 3:]) / 2
    close(model(TOKENS, LENGTHS).values[0], (expected / expected.norm(dim=-1, keepdim=True))[0])
    close(words(normalise=False)(TOKENS, LENGTHS).values[0], expected[0])


def test_WordEncoder__padding():
    "a short caption gives the same alone as beside a long one, and zeros beyond its length"
    model = words()
    found = model(TOKENS, LENGTHS)
    close(found.values[1, :2], model(TOKENS[1:, :2], LENGTHS[1:]).values[0])
    close(found.values[1, 2:], torch.zeros(2, 3))
    junk = TOKENS.clone(); junk[1, 2:] = 5
    close(model(junk, LENGTHS).values, found.values)


def test_WordEncoder__states():
    "the last states are those at each caption's own end"
    model = words(bidirectional=False)
    states, last = model.states(TOKENS, LENGTHS)
    close(last, torch.stack([states.values[0, 3], states.values[1, 1]]))

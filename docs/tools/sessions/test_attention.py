"Given tests of session 3: chapter 7."

import pytest
import torch
from adapters import SCAN, attend, clip, fragment_scores, one_of, pool, positive, released_normalize, sharpen, similarities

from cmr.encoders import Fragments
from cmr.exercise import close

DRAW = torch.Generator().manual_seed(0)
WORD_MASK, REGION_MASK = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool(), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
WORDS = torch.randn(2, 3, 5, generator=DRAW, dtype=torch.float64) * WORD_MASK[..., None]          # (Q, q, d)
REGIONS = torch.randn(3, 4, 5, generator=DRAW, dtype=torch.float64) * REGION_MASK[..., None]      # (R, r, d)
LAMBDA = 6.


def cosine(a, b): return torch.where((a.norm() == 0) | (b.norm() == 0), 0., a @ b / (a.norm() * b.norm()).clamp(min=1e-12))


def one(words, regions):
    "Eq. 3 to 5 for one pair without padding, as loops: context (q, d), weights (q, r)."
    z = torch.stack([torch.stack([cosine(x, y) for y in regions]) for x in words]).clamp(min=0)
    columns = torch.stack([z[:, j] / z[:, j].norm() if z[:, j].norm() > 0 else z[:, j] for j in range(z.shape[1])], 1)
    e = (LAMBDA * columns).exp()
    weights = e / e.sum(1, keepdim=True)
    return weights @ regions, weights


def pairs():
    for r in range(3):
        for q in range(2): yield r, q, WORDS[q, WORD_MASK[q]], REGIONS[r, REGION_MASK[r]]


def test_similarities():
    "Eq. 3: the cosine of every query with every response; a zero row gives 0"
    found = similarities(WORDS[None], REGIONS)
    close(found.shape, [3, 2, 3, 4])
    for r, q, x, y in pairs():
        for a in range(len(x)):
            for b in range(len(y)): close(found[r, q, a, b], cosine(x[a], y[b]), 1e-9)
    close(found[:, 1, 2], torch.zeros(3, 4))


def test_similarities__own_queries():
    "where every response has queries of its own (a later step), and the released code's dot product"
    own = torch.randn(3, 2, 3, 5, generator=DRAW, dtype=torch.float64)
    close(similarities(own, REGIONS)[1, 0, 2, 1], cosine(own[1, 0, 2], REGIONS[1, 1]), 1e-9)
    close(similarities(own, REGIONS, "released")[1, 0, 2, 1], own[1, 0, 2] @ REGIONS[1, 1], 1e-9)


def test_released_normalize():
    "the length plus 1e-8 in the divisor, and a gradient that is finite at zero"
    x = torch.tensor([[3., 4.], [0., 0.]], dtype=torch.float64, requires_grad=True)
    close(released_normalize(x), [[.6, .8], [0, 0]], 1e-7)
    close(released_normalize(torch.tensor([[1e-8, 0.]], dtype=torch.float64)), [[.5, 0.]], 1e-3)
    released_normalize(x)[:, 0].sum().backward()
    assert x.grad.isfinite().all(), "nan in the gradient of a zero row"
    close(released_normalize(torch.tensor([[3., 0.], [4., 2.]], dtype=torch.float64), 0), [[.6, 0], [.8, 1]], 1e-6)


def test_clip():
    "negative similarities become 0, then length one along the axis that was asked for"
    z = torch.tensor([[3., -1.], [4., -1.]], dtype=torch.float64)
    close(clip(z, 0), [[.6, 0], [.8, 0]])
    close(clip(z, 1), [[1, 0], [1, 0]])
    close(clip(z.T, 0, "released")[:, 0], [3 / 9.01 ** .5, -.1 / 9.01 ** .5], 1e-5)


def test_sharpen():
    "Eq. 4 normalises over the queries: words compete for a region, and padded words don't take part"
    z = torch.tensor([[.3, .6], [.4, -.2], [9., 9.]], dtype=torch.float64)[None, None]
    close(sharpen(z, torch.tensor([[True, True, False]]))[0, 0], [[.6, 1.], [.8, 0.], [0., 0.]])


def test_attend():
    "Eq. 3 to 5 for every pair, against loops over each pair alone"
    contexts, weights = attend(WORDS[None], REGIONS, WORD_MASK, REGION_MASK, LAMBDA)
    for r, q, x, y in pairs():
        c, a = one(x, y)
        close(contexts[r, q, :len(x)], c, 1e-9); close(weights[r, q, :len(x), :len(y)], a, 1e-9)


def test_attend__padding():
    "a padded region has a weight of exactly 0, and each row adds up to 1"
    _, weights = attend(WORDS[None], REGIONS, WORD_MASK, REGION_MASK, LAMBDA)
    close(weights[1, ..., 2:], torch.zeros(2, 3, 2), 0); close(weights.sum(-1), torch.ones(3, 2, 3), 1e-9)


def test_fragment_scores():
    "Eq. 11: the cosine of a word with what it found"
    contexts = torch.randn(3, 2, 3, 5, generator=DRAW, dtype=torch.float64)
    found = fragment_scores(WORDS[None], contexts)
    close(found[2, 0, 1], cosine(WORDS[0, 1], contexts[2, 0, 1]), 1e-9); close(found[:, 1, 2], torch.zeros(3))


def test_one_of():
    "the value itself, or a ValueError that says what is known"
    assert one_of("pooling", "max", ("mean", "max")) == "max"
    with pytest.raises(ValueError, match="mean"): one_of("pooling", "min", ("mean", "max"))


def test_positive():
    "a positive number, or a ValueError"
    assert positive("lambda", 2.) == 2.
    for bad in (0, -1., float("inf"), float("nan")):
        with pytest.raises(ValueError): positive("lambda", bad)


def test_pool():
    "over real fragments only: mean, sum, maximum, and log-sum-exp between mean and maximum"
    scores, mask = torch.tensor([[[-.5, -.3, 7.]]], dtype=torch.float64), torch.tensor([[True, True, False]])
    close(pool(scores, mask), [[-.4]]); close(pool(scores, mask, "sum"), [[-.8]]); close(pool(scores, mask, "max"), [[-.3]])
    e = torch.tensor([-3., -1.8], dtype=torch.float64).exp().sum().log() / 6
    close(pool(scores, mask, "lse"), [[float(e)]], 1e-9)
    with pytest.raises(ValueError): pool(scores, mask, "median")


def test_SCAN():
    "the score of each pair: the mean over the words of their cosines with what they found"
    model = SCAN(4, 9, 5, 3, inverse_temperature=LAMBDA).double()
    images, captions = Fragments(REGIONS, REGION_MASK), Fragments(WORDS, WORD_MASK)
    found = model.score(images, captions)
    for r, q, x, y in pairs():
        c, _ = one(x, y)
        close(found[r, q], torch.stack([cosine(*both) for both in zip(x, c)]).mean(), 1e-9)


def test_SCAN__image():
    "in the direction image regions ask, and the result is (images, captions) again"
    model = SCAN(4, 9, 5, 3, direction="image", pooling="max", inverse_temperature=LAMBDA).double()
    found = model.score(Fragments(REGIONS, REGION_MASK), Fragments(WORDS, WORD_MASK))
    for r, q, x, y in pairs():
        c, _ = one(y, x)
        close(found[r, q], torch.stack([cosine(*both) for both in zip(y, c)]).max(), 1e-9)

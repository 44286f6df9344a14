"Given tests of session 5: chapter 10."

import pytest
import torch
from adapters import MessageAggregation, affinity, attention_weights, even_weights, facing, message

from cmr.encoders import Fragments
from cmr.exercise import close

DRAW = torch.Generator().manual_seed(0)
WORD_MASK, REGION_MASK = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool(), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
WORDS = Fragments(torch.randn(2, 3, 5, generator=DRAW, dtype=torch.float64), WORD_MASK)
REGIONS = Fragments(torch.randn(3, 4, 5, generator=DRAW, dtype=torch.float64), REGION_MASK)


def test_affinity():
    "Eq. 1: the dot product of each region with each word, a row a region"
    found = affinity(REGIONS.values[:, None], WORDS.values[None])
    close(found.shape, [3, 2, 4, 3]); close(found[2, 1, 3, 0], REGIONS.values[2, 3] @ WORDS.values[1, 0], 1e-9)


def test_attention_weights():
    "Eq. 2: divided by the root of the width, then a softmax over real responses; padding gets exactly 0"
    a = torch.tensor([[2., 0., 50.], [-1., -2., 50.]], dtype=torch.float64)
    e = torch.tensor([[1., 0.], [-.5, -1.]], dtype=torch.float64).exp()
    found = attention_weights(a, torch.tensor([True, True, False]), 4)
    close(found[:, :2], e / e.sum(1, keepdim=True), 1e-9); close(found[:, 2], [0, 0], 0)


def test_message():
    "Eq. 3: the responses, mixed by the weights"
    weights = torch.tensor([[.25, .75], [1., 0.]], dtype=torch.float64)
    close(message(weights, torch.tensor([[4., 0.], [0., 8.]], dtype=torch.float64)), [[1., 6.], [4., 0.]])


def test_facing():
    "an axis for each other: (I, 1, m, d) and (1, C, n, d); different widths are a ValueError"
    V, v, T, t = facing(REGIONS, WORDS)
    close(V.shape, [3, 1, 4, 5]); close(v.shape, [3, 1, 4]); close(T.shape, [1, 2, 3, 5]); close(t.shape, [1, 2, 3])
    with pytest.raises(ValueError): facing(REGIONS, Fragments(WORDS.values[..., :4], WORD_MASK))


def test_even_weights():
    "the same for every real response, 0 for padding"
    close(even_weights(REGION_MASK, torch.float64)[1], [[.5, .5, 0, 0]]); assert even_weights(REGION_MASK, torch.float64).dtype == torch.float64


def aggregation(**settings):
    torch.manual_seed(0)
    return MessageAggregation(5, **settings).double()


def test_MessageAggregation():
    "one affinity, read along both its sides: words mix regions, regions mix words"
    block = aggregation(hidden=4)
    found = block(REGIONS, WORDS)
    for i in range(3):
        for c in range(2):
            v, t = REGIONS.values[i, REGION_MASK[i]], WORDS.values[c, WORD_MASK[c]]
            a = block.project_regions(v) @ block.project_words(t).T / 2
            close(found.to_words[i, c, :len(t)], a.T.softmax(-1) @ v, 1e-9); close(found.to_regions[i, c, :len(v)], a.softmax(-1) @ t, 1e-9)
            close(found.word_weights[i, c, :len(t), len(v):], torch.zeros(len(t), 4 - len(v)), 0)


def test_MessageAggregation__even():
    "without attention every fragment gets the other side's mean"
    found = aggregation(attention=False)(REGIONS, WORDS)
    close(found.to_words[1, 1, 0], REGIONS.values[1, :2].mean(0), 1e-9); close(found.to_regions[0, 1, 3], WORDS.values[1, :2].mean(0), 1e-9)
    with pytest.raises(ValueError): aggregation(hidden=0)

"""The sparse backward: loss and gradient are those of the whole score matrix."""

import pytest
import torch

from cmr.attention import SCAN
from cmr.data import Batch
from cmr.imram import IMRAM
from cmr.losses import triplet
from cmr.matcher import VSE
from cmr.training import batch_scores, looked_at

MODELS = {"vse": (VSE, {}), "scan t-i": (SCAN, {"direction": "text", "pooling": "lse"}), "scan i-t": (SCAN, {"direction": "image"}),
          "text": (IMRAM, {"direction": "text"}), "image": (IMRAM, {"direction": "image", "memory": "gate"}), "full": (IMRAM, {"variant": "released"})}


def make_batch(size=9):
    torch.manual_seed(1)
    lengths = torch.randint(1, 8, (size,))
    tokens = torch.randint(4, 20, (size, int(lengths.max()))) * (torch.arange(int(lengths.max())) < lengths[:, None])
    mask = torch.rand(size, 5) > 0.3
    mask[:, 0] = True
    image = torch.arange(size)
    image[3] = image[1]                                     # two captions of one image
    features = torch.randn(size, 5, 8).double() * mask[..., None]
    features[3], mask[3] = features[1], mask[1]
    return Batch(features, mask, tokens, lengths, image, torch.arange(size))


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_are_those_of_the_whole_matrix(name):
    matcher, args = MODELS[name]
    torch.manual_seed(0)
    model, batch = matcher(8, 20, 6, 5, **args).double(), make_batch()
    whole = model(batch.features, batch.tokens, batch.lengths, batch.mask)
    found = []
    for scores in (whole, batch_scores(model, batch)):
        loss = triplet(scores, 0.2, "hardest", batch.same_image)
        found.append((loss, torch.autograd.grad(loss, list(model.parameters()))))
    assert found[0][0] > 0 and torch.allclose(found[0][0], found[1][0], atol=1e-10)
    for a, b in zip(found[0][1], found[1][1]): assert torch.allclose(a, b, atol=1e-10)


def test_all_negatives_take_the_whole_matrix():
    model, batch = IMRAM(8, 20, 6, 5, direction="text").double(), make_batch()
    assert torch.allclose(batch_scores(model, batch, "all"), model(batch.features, batch.tokens, batch.lengths, batch.mask), atol=1e-12)


def test_pairs_that_are_looked_at_are_few_and_enough():
    torch.manual_seed(0)
    for _ in range(20):
        scores, same_image = torch.randn(7, 7), torch.eye(7, dtype=torch.bool)
        rows, columns = looked_at(scores, same_image)
        pairs = set(zip(rows.tolist(), columns.tolist()))
        rivals = scores.masked_fill(same_image, -torch.inf)
        assert len(pairs) == len(rows) <= 21
        assert pairs >= {(i, i) for i in range(7)} | set(enumerate(rivals.argmax(1).tolist())) | {(i, c) for c, i in enumerate(rivals.argmax(0).tolist())}


def test_a_tie_counts_once():
    scores = torch.zeros(3, 3)
    rows, columns = looked_at(scores, torch.eye(3, dtype=torch.bool))
    assert len(set(zip(rows.tolist(), columns.tolist()))) == len(rows)

"""The sparse backward behind `score`: loss and gradient are those of the whole score matrix in its plain form."""

import pytest
import torch

from cmr.attention import SCAN
from cmr.data import Batch
from cmr.imram import IMRAM
from cmr.losses import triplet

MODELS = {"scan t-i": (SCAN, {"direction": "text", "pooling": "lse"}), "scan i-t": (SCAN, {"direction": "image"}),
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


@pytest.mark.parametrize("negatives", ["hardest", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_are_those_of_the_plain_form(name, negatives):
    matcher, args = MODELS[name]
    torch.manual_seed(0)
    model, batch = matcher(8, 20, 6, 5, **args).double(), make_batch()
    found = []
    for model.engine in (False, True):
        scores = model(batch.features, batch.tokens, batch.lengths, batch.mask)
        loss = triplet(scores, 0.2, negatives, batch.same_image)
        found.append((scores, loss, *torch.autograd.grad(loss, list(model.parameters()))))
    assert found[0][1] > 0
    for a, b in zip(*found): assert torch.allclose(a, b, atol=1e-10)

"Given tests of session 6: chapter 13."

import pytest
import torch
from adapters import look_imram, look_scan, one_pair

from cmr import IMRAM, SCAN
from cmr.attention import attend, fragment_scores
from cmr.encoders import Fragments
from cmr.exercise import close

DRAW = torch.Generator().manual_seed(0)
WORD_MASK, REGION_MASK = torch.tensor([[1, 1, 0]]).bool(), torch.tensor([[1, 1, 1, 0]]).bool()
WORDS = Fragments(torch.randn(1, 3, 5, generator=DRAW, dtype=torch.float64) * WORD_MASK[..., None], WORD_MASK)
REGIONS = Fragments(torch.randn(1, 4, 5, generator=DRAW, dtype=torch.float64) * REGION_MASK[..., None], REGION_MASK)


def test_one_pair():
    "without padding; more than one image or caption is a ValueError"
    image, caption = one_pair(REGIONS, WORDS)
    close(image.values, REGIONS.values[:, :3]); close(caption.values, WORDS.values[:, :2]); assert caption.mask.all()
    with pytest.raises(ValueError): one_pair(Fragments.cat([REGIONS, REGIONS]), WORDS)


def test_look_scan():
    "the weights of the real words over the real regions, and each word's cosine with what it found"
    model = SCAN(4, 9, 5, 3, inverse_temperature=4.).double()
    seen = look_scan(model, REGIONS, WORDS)
    x = WORDS.values[None]
    context, weights = attend(x, REGIONS.values, WORD_MASK, REGION_MASK, 4.)
    close(seen.weights, weights[0, :, :2, :3], 1e-9); close(seen.scores, fragment_scores(x, context)[0, :, :2], 1e-9)
    with pytest.raises(TypeError): look_scan(SCAN(4, 9, 5, 3, direction="image").double(), REGIONS, WORDS)


def test_look_imram():
    "a step a row: the last step asks with a moved query, the score stays that of the original words"
    torch.manual_seed(0)
    model = IMRAM(4, 9, 5, 3, steps=2).double()
    seen = look_imram(model, REGIONS, WORDS)
    x = original = WORDS.values[None, :, :2]
    with torch.no_grad():
        for k in range(2):
            context, weights = attend(x, REGIONS.values[:, :3], WORD_MASK[:, :2], REGION_MASK[:, :3], 9.)
            close(seen.weights[k], weights[0, 0], 1e-9); close(seen.scores[k], fragment_scores(original, context)[0, 0], 1e-9)
            x = model.ram["text"].update(x, context)
    with pytest.raises(TypeError): look_imram(IMRAM(4, 9, 5, 3, direction="image").double(), REGIONS, WORDS)

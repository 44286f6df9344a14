"Given tests of session 4: chapter 9."

import pytest
import torch
from adapters import IMRAM, RAM, direction_scores, match_steps

from cmr.attention import attend, fragment_scores
from cmr.encoders import Fragments
from cmr.exercise import close

DRAW = torch.Generator().manual_seed(0)
WORD_MASK, REGION_MASK = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool(), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
WORDS = Fragments(torch.randn(2, 3, 5, generator=DRAW, dtype=torch.float64) * WORD_MASK[..., None], WORD_MASK)
REGIONS = Fragments(torch.randn(2, 4, 5, generator=DRAW, dtype=torch.float64) * REGION_MASK[..., None], REGION_MASK)


def block(**settings):
    torch.manual_seed(0)
    return RAM(5, **settings).double()


def test_RAM():
    "Eq. 8: look, then update; the context of the look and the next query"
    ram = block()
    x = WORDS.values[None]
    context, after = ram(x, REGIONS.values, WORD_MASK, REGION_MASK)
    expected, weights = attend(x, REGIONS.values, WORD_MASK, REGION_MASK, 9.)
    close(context, expected, 1e-9); close(after, ram.memory(x, expected), 1e-9)
    close(ram.look(x, REGIONS.values, WORD_MASK, REGION_MASK)[1], weights, 1e-9)


def test_RAM__renormalise():
    "unit length after an update where that was asked for; lambda is handed on"
    ram = block(renormalise=True, inverse_temperature=3.)
    x = WORDS.values[None]
    context, after = ram(x, REGIONS.values, WORD_MASK, REGION_MASK)
    close(after[0, 0].norm(dim=-1), torch.ones(3), 1e-6)
    close(context, attend(x, REGIONS.values, WORD_MASK, REGION_MASK, 3.)[0], 1e-9)


def steps(ram, k):
    "Eq. 9 and 11 written out."
    original = x = WORDS.values[None]
    for _ in range(k):
        context, weights = ram.look(x, REGIONS.values, WORD_MASK, REGION_MASK)
        yield x, context, weights, fragment_scores(original, context)
        x = ram.update(x, context)


def test_match_steps():
    "each step asks with what the step before left, and scores against the original words"
    ram = block()
    found = list(match_steps(ram, WORDS, REGIONS, 3))
    assert len(found) == 3, f"{len(found)} steps instead of 3"
    for mine, expected in zip(found, steps(ram, 3)):
        for a, b in zip((mine.query, mine.context, mine.weights, mine.scores), expected): close(a, b, 1e-9)


def test_match_steps__last():
    "after the last step nothing is updated: a block without a memory can do one step"
    assert len(list(match_steps(block(memory=None), WORDS, REGIONS, 1))) == 1


def test_direction_scores():
    "(K, I, C) in both directions: the mean over the asking side's real fragments"
    ram = block()
    text = direction_scores(ram, REGIONS, WORDS, "text", 2)
    expected = torch.stack([(s * WORD_MASK).sum(-1) / WORD_MASK.sum(-1) for *_, s in steps(ram, 2)])
    close(text, expected, 1e-9)
    image = direction_scores(ram, WORDS, REGIONS, "image", 2)     # the same question with the two sides exchanged
    close(image, expected.transpose(1, 2), 1e-9)


def model(**settings):
    torch.manual_seed(0)
    return IMRAM(4, 9, 5, 3, **settings).double().eval()


def test_IMRAM():
    "the score is the sum of all steps and of both directions"
    full = model(steps=2)
    found = full.step_scores(REGIONS, WORDS)
    parts = sum(direction_scores(ram, REGIONS, WORDS, asks, 2) for asks, ram in full.ram.items())
    close(found, parts, 1e-9); close(full.score(REGIONS, WORDS), found.sum(0), 1e-9)
    assert set(full.ram) == {"image", "text"} and set(model(direction="text").ram) == {"text"}


def test_IMRAM__one_step():
    "with one step there is nothing to learn between encoders and score"
    assert not list(model(steps=1).ram.parameters()), "a block that never updates has weights"


def test_IMRAM__refused():
    "no steps, or an unknown direction or memory: ValueError"
    for settings in ({"steps": 0}, {"direction": "both"}, {"memory": "lstm"}):
        with pytest.raises(ValueError): model(**settings)

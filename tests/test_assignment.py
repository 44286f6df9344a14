"""Hard assignment over regions that see each other, against the equations written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cmr
from cmr.encoders import Fragments
from cmr.fast import pair_scores, training_scores
from cmr.lens import look
from cmr.shelf.assignment import HardAssignment, RegionMessages


def literal(block: RegionMessages, x: torch.Tensor) -> torch.Tensor:
    "Real regions (m, d), one after the other."
    n, width = block.norm(x), x.shape[1] // block.heads
    found = []
    for i in range(len(x)):
        edges = [(block.own(n[i]) + block.other(n[j])).relu() for j in range(len(x))]
        weights = [[float(torch.exp(block.share(e)[h])) for e in edges] for h in range(block.heads)]
        parts = [sum(w * e[h * width:(h + 1) * width] for w, e in zip(row, edges)) / sum(row) for h, row in enumerate(weights)]
        found.append(x[i] + block.out(torch.cat(parts)))
    return torch.stack(found)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(0, 3), st.sampled_from([1, 2, 4]), st.integers(0, 99))
def test_messages_are_those_of_the_equation_and_padding_says_nothing(real, padding, heads, seed):
    torch.manual_seed(seed)
    block, x = RegionMessages(8, heads).double(), torch.randn(1, real + padding, 8, dtype=torch.float64)
    mask = (torch.arange(real + padding) < real)[None]
    with torch.no_grad():
        found = block(Fragments(x, mask)).values[0]
        assert torch.allclose(found[:real], literal(block, x[0, :real]), atol=1e-12, rtol=0)
    assert not found[real:].any()


@pytest.mark.parametrize("context", [True, False])
def test_scores_are_the_mean_over_words_of_their_best_regions(context):
    torch.manual_seed(1)
    model = HardAssignment(5, 12, embed_dim=8, word_dim=6, context=context).double().eval()
    features, tokens, lengths = torch.randn(4, 6, 5).double(), torch.randint(4, 12, (5, 7)), torch.tensor([7, 1, 3, 5, 2])
    mask = torch.arange(6) < torch.tensor([[6], [1], [4], [2]])
    images, captions = model.encode_images(features, mask), model.encode_captions(tokens, lengths)
    found = model.score(images, captions)
    for i in range(4):
        for c in range(5):
            words, regions = captions.values[c, :lengths[c]], images.values[i, mask[i]]
            one = sum(max(torch.cosine_similarity(t, v, 0) for v in regions) for t in words) / lengths[c]
            assert torch.allclose(found[i, c], one, atol=1e-12, rtol=0)
    assert torch.allclose(pair_scores(model, images, captions[:4]), found.diagonal(), atol=1e-12, rtol=0)
    assert torch.allclose(training_scores(model, images, captions), found, atol=1e-12, rtol=0)
    seen = look(model, images[1], captions[0])
    assert seen.weights.tolist() == [[[1.0]] * 7] and torch.allclose(seen.scores.mean(), found[1, 0])




def test_it_is_known_by_its_name_and_heads_must_divide_the_width():
    assert isinstance(cmr.create_model("hardassignment", region_dim=4, vocab_size=9, embed_dim=8, word_dim=4), cmr.HardAssignment)
    for heads in (0, 3):
        with pytest.raises(ValueError, match="can't be cut"): RegionMessages(8, heads)

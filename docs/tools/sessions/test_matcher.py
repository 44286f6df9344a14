"Given tests of session 2: chapter 5."

import torch
from adapters import VSE, as_fragments

from cmr.exercise import close


def test_as_fragments():
    "(B, d) becomes (B, 1, d), one real fragment a row"
    found = as_fragments(torch.arange(6.).reshape(3, 2))
    close(found.values, torch.arange(6.).reshape(3, 1, 2)); close(found.mask, torch.ones(3, 1))


def model():
    torch.manual_seed(0)
    return VSE(region_dim=4, vocab_size=9, embed_dim=6, word_dim=3).double().eval()


FEATURES, MASK = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(5) < torch.tensor([[5], [2], [1]])
TOKENS, LENGTHS = torch.tensor([[4, 5, 6], [7, 4, 0]]), torch.tensor([3, 2])


def test_VSE__score():
    "all pairs at once, (I, C), each the cosine of two vectors"
    vse = model()
    images, captions = vse.encode_images(FEATURES, MASK), vse.encode_captions(TOKENS, LENGTHS)
    found = vse.score(images, captions)
    for i in range(3):
        for c in range(2): close(found[i, c], torch.cosine_similarity(images.values[i, 0], captions.values[c, 0], 0))


def test_VSE__padding():
    "padding changes nothing: neither on the side of the regions nor on that of the words"
    vse = model()
    found = vse(FEATURES, TOKENS, LENGTHS, MASK)
    noisy = torch.where(MASK[..., None], FEATURES, 7.)
    close(vse(noisy, TOKENS, LENGTHS, MASK), found)
    close(vse(FEATURES[1:2, :2], TOKENS[1:, :2], LENGTHS[1:]), found[1:2, 1:])


def test_VSE__one_vector():
    "each side is a single vector, of length one"
    vse = model()
    for side in (vse.encode_images(FEATURES, MASK), vse.encode_captions(TOKENS, LENGTHS)):
        close(side.values.norm(dim=-1), torch.ones(len(side.values), 1))

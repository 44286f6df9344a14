"Given tests of session 5: chapter 12."

import pytest
import torch
from adapters import FragmentPooling, Matching, ablation, all_gates, begin_as_cosine, branch_shares, fragment_gates, mean_gates, pair_gates, pair_vectors

from cmr import CAMP
from cmr.encoders import Fragments
from cmr.exercise import close

DRAW = torch.Generator().manual_seed(0)
WORD_MASK, REGION_MASK = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool(), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
WORDS = Fragments(torch.randn(2, 3, 6, generator=DRAW, dtype=torch.float64) * WORD_MASK[..., None], WORD_MASK)
REGIONS = Fragments(torch.randn(3, 4, 6, generator=DRAW, dtype=torch.float64) * REGION_MASK[..., None], REGION_MASK)
MATCHING = torch.tensor([[True, False], [False, True], [False, False]])


def camp(**settings):
    torch.manual_seed(0)
    return CAMP(4, 9, 6, 3, **settings).double().eval()


def test_branch_shares():
    "each branch's softmax over real fragments, then the mean of the branches"
    logits = torch.tensor([[0., 1.], [1., 1.], [9., 9.]], dtype=torch.float64)
    e = torch.tensor([0., 1.], dtype=torch.float64).softmax(0)
    close(branch_shares(logits, torch.tensor([True, True, False])), [(float(e[0]) + .5) / 2, (float(e[1]) + .5) / 2, 0.], 1e-9)


def pooling(**settings):
    torch.manual_seed(0)
    return FragmentPooling(6, **settings).double()


def test_FragmentPooling():
    "Eq. 10 and 11: logits over the root of d, a softmax over real fragments, and their mixture"
    block = pooling()
    for c in range(2):
        x = WORDS.values[c, WORD_MASK[c]]
        shares = (block.scorer(x)[:, 0] / 6 ** .5).softmax(0)
        close(block(WORDS.values, WORD_MASK)[c], shares @ x, 1e-9)


def test_FragmentPooling__padding():
    "the weight of padding is exactly 0"
    close(pooling().weights(WORDS.values, WORD_MASK)[1, 2], 0., 0)


def test_FragmentPooling__mean():
    "without attention the plain mean of what is real; no branch at all is a ValueError"
    close(pooling(attention=False)(REGIONS.values, REGION_MASK)[1], REGIONS.values[1, :2].mean(0), 1e-9)
    with pytest.raises(ValueError): pooling(branches=0)


def test_Matching():
    "two layers on the sum of both vectors, to one number a pair; or their cosine"
    torch.manual_seed(0)
    v, t = REGIONS.values[:, :1], WORDS.values[None, :, 0]
    block = Matching(6).double()
    close(block(v, t), block.layers(v + t)[..., 0], 1e-9); close(block(v, t).shape, [3, 2])
    close(Matching(6, "cosine")(v, t), torch.cosine_similarity(v, t, -1), 1e-9)
    joined = Matching(6, join="concat").double()
    close(joined(v, t), joined.layers(torch.cat(torch.broadcast_tensors(v, t), -1))[..., 0], 1e-9)


def test_begin_as_cosine():
    "the logit of unit vectors is about ten times their cosine"
    torch.manual_seed(0)
    first, last = torch.nn.Linear(64, 768), torch.nn.Linear(768, 1)
    torch.nn.init.zeros_(first.bias)
    begin_as_cosine(first, last, 64)
    def logit(x): return last(first(x).relu()).item()
    right = torch.zeros(64); right[:2] = 1
    assert abs(logit(right)) < 2, f"{logit(right):.2f} for two unit vectors at a right angle: expected about 0"
    opposite = torch.zeros(64)
    assert abs(logit(opposite) + 10) < 2, f"{logit(opposite):.2f} for opposite vectors: expected about -10"
    spread = torch.full((64,), 2 / 8.)                                  # of length 2 as well
    close(logit(spread), 10., 2.); close(logit(-right), logit(right), 1e-3)


def test_pair_vectors():
    "messages, fusion, pooling: v* and t* of every pair"
    model = camp()
    v, t = pair_vectors(model, REGIONS, WORDS)
    close(v.shape, [3, 2, 6])
    for i in range(3):
        for c in range(2):
            one_v, one_t = pair_vectors(model, Fragments(REGIONS.values[i:i + 1, REGION_MASK[i]], REGION_MASK[i:i + 1, REGION_MASK[i]]),
                                        Fragments(WORDS.values[c:c + 1, WORD_MASK[c]], WORD_MASK[c:c + 1, WORD_MASK[c]]))
            close(v[i, c], one_v[0, 0], 1e-9); close(t[i, c], one_t[0, 0], 1e-9)
    close(model.matching(v, t), model.logits(REGIONS, WORDS), 1e-9)


def test_pair_vectors__base():
    "the base model pools each side on its own"
    model = camp(interaction=False)
    v, t = pair_vectors(model, REGIONS, WORDS)
    close(v[:, 0], model.pool_regions(REGIONS.values, REGION_MASK), 1e-9); close(t[0], model.pool_words(WORDS.values, WORD_MASK), 1e-9)


def test_ablation():
    "rows of Table 3 as arguments, several together; rows that exclude each other are a ValueError"
    assert ablation("no-gates", "mean-pooling") == {"gates": False, "pooling": "mean"} and ablation() == {}
    for rows in (("no-gate",), ("concat", "product")):
        with pytest.raises(ValueError): ablation(*rows)


def test_all_gates():
    "the gates of regions and of words for every pair, from the messages to each; none is a ValueError"
    model = camp()
    g, h = all_gates(model, REGIONS, WORDS)
    messages = model.aggregation(REGIONS, WORDS)
    close(g, (REGIONS.values[:, None] * messages.to_regions).sigmoid(), 1e-9); close(h, (WORDS.values[None] * messages.to_words).sigmoid(), 1e-9)
    with pytest.raises(ValueError): all_gates(camp(gates=False), REGIONS, WORDS)


def by_pair(model):
    g, h = all_gates(model, REGIONS, WORDS)
    return torch.stack([torch.stack([(g[i, c, REGION_MASK[i]].mean() + h[i, c, WORD_MASK[c]].mean()) / 2 for c in range(2)]) for i in range(3)])


def test_pair_gates():
    "a pair's gate: a mean over features and real fragments of each side, then of the two sides"
    model = camp()
    close(pair_gates(model, REGIONS, WORDS), by_pair(model).detach(), 1e-9); close(pair_gates(model, REGIONS, WORDS, 1), by_pair(model).detach(), 1e-9)


def test_mean_gates():
    "the mean over matching pairs, and over the others; both kinds are needed"
    model = camp()
    table = by_pair(model).detach()
    close(mean_gates(model, REGIONS, WORDS, MATCHING), [table[MATCHING].mean(), table[~MATCHING].mean()], 1e-9)
    close(mean_gates(model, REGIONS, WORDS, torch.tensor([0, 1])), [table[MATCHING].mean(), table[~MATCHING].mean()], 1e-9)
    with pytest.raises(ValueError): mean_gates(model, REGIONS, WORDS, torch.zeros(3, 2).bool())


def test_fragment_gates():
    "one pair, its real fragments only: a mean over features"
    model = camp()
    g, h = fragment_gates(model, REGIONS[1], WORDS[1])
    expected = all_gates(model, REGIONS, WORDS)
    close(g, expected[0][1, 1, :2].mean(-1).detach(), 1e-9); close(h, expected[1][1, 1, :2].mean(-1).detach(), 1e-9)
    with pytest.raises(ValueError): fragment_gates(model, REGIONS, WORDS)

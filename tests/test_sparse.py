"""The sparse backward pass, for any model: loss and gradient are those of the whole score matrix, or it says why not."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmr.attention import SCAN
from cmr.camp import CAMP
from cmr.encoders import Fragments, RegionEncoder, WordEncoder
from cmr.fast import AnyModel, pair_scores, plan, scores_of, sparse, training_scores
from cmr.imram import IMRAM
from cmr.losses import triplet
from cmr.matcher import VSE, Matcher

F64 = torch.float64


class Meeting(Matcher):
    "A matcher nobody wrote a plan for: each word's mixture of regions, and a layer on how it agrees with the word."
    def __init__(self, region_dim: int = 8, vocab_size: int = 20, embed_dim: int = 6, word_dim: int = 5):
        super().__init__()
        self.image_encoder, self.text_encoder = RegionEncoder(region_dim, embed_dim), WordEncoder(vocab_size, embed_dim, word_dim)
        self.key, self.out = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, 1)

    def score(self, images, captions):
        A = torch.einsum("imd,cnd->icnm", self.key(images.values), captions.values)
        context = A.masked_fill(~images.mask[:, None, None], -torch.inf).softmax(-1) @ images.values[:, None]
        return (self.out((context * captions.values).tanh())[..., 0] * captions.mask).sum(-1) / captions.lengths


class Curious(Meeting):
    "It looks at numbers, which torch.vmap can't."
    def score(self, images, captions): return super().score(images, captions) * (2 if images.values.detach().sum() < 1e9 else 1)


class Own(Meeting):
    "It scores pairs as it likes."
    def score_pairs(self, images, captions):
        self.called = True
        return torch.stack([self.logits(images[p], captions[p])[0, 0] for p in range(len(images))])


class Heir(Own):
    "Whose score is another than the inherited score_pairs is made for."
    def score(self, images, captions): return super().score(images, captions).exp()


class Doubled(Meeting):
    "Its loss needs two numbers of a pair."
    def logits(self, images, captions): return torch.stack([self.score(images, captions), self.score(images, captions).sin()], -1)


class Dropping(Meeting):
    "It draws random numbers while it scores."
    def __init__(self, region_dim: int = 8, vocab_size: int = 20, embed_dim: int = 6, word_dim: int = 5):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        self.drop = nn.Dropout(0.5)

    def score(self, images, captions): return super().score(Fragments(self.drop(images.values), images.mask), captions)


MODELS = {"scan t-i": (SCAN, {"direction": "text", "pooling": "lse"}), "scan i-t": (SCAN, {"direction": "image"}),
          "text": (IMRAM, {"direction": "text"}), "image": (IMRAM, {"direction": "image", "memory": "gate"}), "full": (IMRAM, {"variant": "released"}),
          "camp": (CAMP, {}), "base": (CAMP, {"interaction": False}), "vse": (VSE, {}),
          "mapped": (Meeting, {}), "blocks": (Curious, {}), "own pairs": (Own, {}), "heir": (Heir, {})}


def made(cls, seed=0, **args):
    torch.manual_seed(seed)
    return cls(8, 20, 6, 5, **args).double()


def inputs(size=9):
    "Features, tokens, lengths, mask, and which pairs are of one image: captions 1 and 3 are."
    torch.manual_seed(1)
    lengths = torch.randint(1, 8, (size,))
    tokens = torch.randint(4, 20, (size, int(lengths.max()))) * (torch.arange(int(lengths.max())) < lengths[:, None])
    mask = torch.rand(size, 5) > 0.3
    mask[:, 0] = True
    features = torch.randn(size, 5, 8).double() * mask[..., None]
    features[3], mask[3] = features[1], mask[1]
    image = torch.arange(size)
    image[3] = image[1]
    return features, tokens, lengths, mask, image[:, None] == image


def encoded(model, features, tokens, lengths, mask, same=None): return model.encode_images(features, mask), model.encode_captions(tokens, lengths)


def sides(I=5, C=7, d=6, grad=True):
    torch.manual_seed(2)
    v, t = (torch.arange(k) < torch.randint(1, k + 1, (rows, 1)) for rows, k in ((I, 4), (C, 6)))
    return tuple(Fragments((torch.randn(*m.shape, d, dtype=F64) * m[..., None]).requires_grad_(grad), m) for m in (v, t))


def close(a, b, tolerance=1e-10):
    a, b = (torch.zeros(()) if x is None else x for x in (a, b))
    assert torch.isfinite(a).all() and (a - b).abs().max() < tolerance, float((a - b).abs().max())


def same_gradients(ours, theirs, leaves, slope):
    for a, b in zip(*(torch.autograd.grad((s * slope).sum(), leaves, allow_unused=True, retain_graph=True) for s in (ours, theirs))): close(a, b)


def leaves_of(model, images, captions): return [images.values, captions.values, *(p for n, p in model.named_parameters() if "encoder" not in n)]


@pytest.mark.parametrize("negatives", ["hardest", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_are_those_of_the_plain_form(name, negatives):
    model, batch = made(MODELS[name][0], **MODELS[name][1]), inputs()
    found = []
    for engine in (False, True):
        scores = training_scores(model, *encoded(model, *batch), engine=engine)
        loss = triplet(scores, 0.2, negatives, batch[-1])
        found.append((scores, loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)))
    assert found[0][1] > 0
    for a, b in zip(*found): close(a, b)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 2**31), st.floats(0, 1),
       st.integers(1, 40), st.sampled_from([Meeting, Curious, Own, IMRAM, CAMP]))
def test_any_lengths_blocks_and_slopes(regions, words, seed, share, pairs, cls):
    model = made(cls)
    torch.manual_seed(seed)
    images, captions = (Fragments((torch.randn(len(k), max(k), 6, dtype=F64) * m[..., None]).requires_grad_(), m)
                        for k in (regions, words) for m in [torch.arange(max(k)) < torch.tensor(k)[:, None]])
    slope = torch.randn(len(regions), len(words), dtype=F64) * (torch.rand(len(regions), len(words)) <= share)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "pairs_at_once", lambda *args: pairs)
        ours, theirs = sparse.planned_scores(plan(model), images, captions), model.logits(images, captions)
        close(ours, theirs)
        same_gradients(ours, theirs, leaves_of(model, images, captions), slope)


# Pairs

@pytest.mark.parametrize("cls", [Meeting, Curious, Own, Heir, Doubled, VSE, SCAN, IMRAM, CAMP])
def test_pairs_are_the_diagonal(cls):
    model, (images, captions) = made(cls), sides(7, 7)
    close(AnyModel(model).pairs(*AnyModel(model).prepare(images, captions)), sparse._diagonal(model.logits(images, captions)))
    for engine in (True, False): close(pair_scores(model, images, captions, engine), model.score(images, captions).diag())


def test_what_can_be_mapped_is_mapped(monkeypatch):
    asked = []
    monkeypatch.setattr(sparse, "_diagonal", lambda block: asked.append(1) or block.diagonal())
    images, captions = sides(7, 7)
    for cls, blocks in ((Meeting, 0), (IMRAM, 0), (CAMP, 0), (Curious, 2)):
        asked.clear()
        sparse.paired(made(cls).score, images, captions)
        assert len(asked) == blocks, cls


def test_only_what_has_a_slope_is_scored_again(monkeypatch):
    counted = []
    original = AnyModel.pairs
    monkeypatch.setattr(AnyModel, "pairs", lambda self, a, b: counted.append(len(a["mask"])) or original(self, a, b))
    model, (images, captions) = made(Meeting), sides(16, 16)
    scores = training_scores(model, images, captions)
    slope, = torch.autograd.grad(triplet(scores), scores, retain_graph=True)
    triplet(scores).backward()
    assert sum(counted) == (slope != 0).sum() <= 3 * 16
    counted.clear()
    (0 * training_scores(model, images, captions)).sum().backward()
    assert not counted


def test_own_pairs_are_used_while_they_belong_to_the_score():
    own, heir, (images, captions) = made(Own), made(Heir), sides()
    for model in (own, heir):
        training_scores(model, images, captions)[1, 2].backward()
        assert hasattr(model, "called") == (model is own)


def test_logits_with_more_axes():
    model, (images, captions) = made(Doubled), sides()
    scores, plain = training_scores(model, images, captions), model.logits(images, captions)
    close(scores, plain)
    dense = torch.randn(5, 7, 2, dtype=F64)
    for slope in (dense, dense * (torch.arange(7) == 3)[:, None], 0 * dense): same_gradients(scores, plain, leaves_of(model, images, captions), slope)


def test_one_vector_a_side_is_scored_directly(monkeypatch):
    monkeypatch.setattr(sparse, "planned_scores", None)
    model, batch = made(VSE), inputs()
    assert training_scores(model, *encoded(model, *batch)).requires_grad
    images, captions = sides()
    assert training_scores(made(Meeting), images, captions, engine=False).requires_grad


def test_scores_are_what_the_model_says():
    images, captions = sides()
    for model in (made(CAMP, output="probability"), made(CAMP), made(IMRAM), made(Doubled), made(Meeting)):
        for engine in (True, False): close(scores_of(model, images, captions, engine), model.score(images, captions))


# Weights that are replaced

def forms(): return [made(Meeting), made(IMRAM), made(CAMP), made(IMRAM, memory="att")]


@pytest.mark.parametrize("k", range(4))
def test_a_weight_replaced_before_the_backward_pass_is_noticed(k):
    model, (images, captions) = forms()[k], sides()
    scores = training_scores(model, images, captions)
    name, weight = [(n, p) for n, p in model.named_parameters() if "encoder" not in n][0]
    owner = model.get_submodule(name.rpartition(".")[0])
    setattr(owner, name.rpartition(".")[2], nn.Parameter(weight.detach() * 2))
    with pytest.raises(RuntimeError, match="a weight was replaced between scoring and its backward pass.*engine=False"): triplet(scores[:, :5]).backward()
    setattr(owner, name.rpartition(".")[2], weight)                               # put back, all is as it was
    triplet(scores[:, :5]).backward()
    assert weight.grad is not None


@pytest.mark.parametrize("k", range(4))
def test_a_functional_call_is_noticed(k):
    "The weights that scored are gone when the backward pass comes."
    model, batch = forms()[k], inputs()
    other = {name: (2 * p.detach()).requires_grad_() for name, p in model.named_parameters()}

    class Step(nn.Module):
        def __init__(self, engine):
            super().__init__()
            self.model, self.engine = model, engine

        def forward(self, *batch): return training_scores(self.model, *encoded(self.model, *batch), engine=self.engine)
    named = {f"model.{name}": p for name, p in other.items()}
    scores, dense = (torch.func.functional_call(Step(engine), named, batch) for engine in (True, False))
    close(scores, dense)
    with pytest.raises(RuntimeError, match="torch.func.functional_call"): triplet(scores).backward()
    triplet(dense).backward()                                                     # as the message says
    assert all(p.grad is not None for p in other.values())


def test_changed_in_place_is_noticed():
    model, (images, captions) = made(Meeting), sides()
    scores = training_scores(model, images, captions)
    with torch.no_grad(): model.key.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"): scores.sum().backward()


def test_two_scores_before_two_backward_passes():
    "Steps may be accumulated, and a copy is another model."
    model, (images, captions) = made(Meeting), sides()
    scores = [training_scores(m, images, captions) for m in (model, copy.deepcopy(model), model)]
    for s in scores: triplet(s[:, :5]).backward()
    expected = torch.autograd.grad(2 * triplet(model.logits(images, captions)[:, :5]), model.key.weight)[0]
    close(model.key.weight.grad, expected)


# Random numbers

def drawn(model, images, captions, slope, engine):
    "Scores, gradients and the numbers drawn afterwards, from one seed."
    torch.manual_seed(7)
    scores = training_scores(model, images, captions, engine=engine)
    grads = torch.autograd.grad((scores * slope).sum(), leaves_of(model, images, captions), allow_unused=True)
    return scores, grads, torch.rand(3)


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_random_numbers_come_again(share):
    "One block, all of one length: the plain form draws the same numbers, and its gradient is the expected one; a few slopes or all."
    model = made(Dropping)
    images, captions = (Fragments(s.values.detach().requires_grad_(), torch.ones_like(s.mask)) for s in sides(6, 8))
    slope = torch.randn(6, 8, dtype=F64) * (torch.rand(6, 8) < share)
    (scores, grads, after), (plain, expected, plain_after) = (drawn(model, images, captions, slope, engine) for engine in (True, False))
    close(scores, plain)
    for a, b in zip(grads, expected): close(a, b)
    assert torch.equal(after, plain_after)                                        # the backward pass leaves the generator where it was
    assert (scores - training_scores(model.eval(), images, captions)).abs().max() > 1e-2


@pytest.mark.parametrize("pairs", [1, 4, 13])
def test_random_numbers_of_many_blocks_and_lengths(pairs, monkeypatch):
    "The gradient is that of the very blocks of the forward pass."
    monkeypatch.setattr(sparse, "pairs_at_once", lambda *args: pairs)
    model, (images, captions) = made(Dropping), sides()
    slope = torch.randn(5, 7, dtype=F64)
    scores, grads, after = drawn(model, images, captions, slope, True)
    torch.manual_seed(7)
    own = plan(model)
    (rows, m), (columns, n) = (sparse.shortest_first(x.mask) for x in (images, captions))
    first, second = own.prepare(images[rows], captions[columns])
    found = torch.zeros(5, 7, dtype=F64)
    for i, k, c, l in sparse.blocks(m, n, pairs): found[i, c] = own.all_pairs(sparse.cut(first, i, k), sparse.cut(second, c, l))  # noqa: E741
    found = found[rows.argsort()][:, columns.argsort()]
    close(scores, found)
    expected = torch.autograd.grad((found * slope).sum(), leaves_of(model, images, captions), allow_unused=True)
    for a, b in zip(grads, expected): close(a, b)
    assert torch.equal(after, torch.rand(3))


def test_a_memory_with_dropout():
    model, (images, captions) = made(IMRAM), [Fragments(s.values, torch.ones_like(s.mask)) for s in sides(5, 5)]
    for ram in model.ram.values(): ram.memory = nn.Sequential()
    class Forgetting(nn.Module):
        def __init__(self, memory):
            super().__init__()
            self.memory = memory

        def forward(self, x, c): return nn.functional.dropout(self.memory(x, c), 0.3, self.training)
    for direction, ram in made(IMRAM).ram.items(): model.ram[direction].memory = Forgetting(ram.memory)
    assert type(plan(model)) is AnyModel
    slope = torch.randn(5, 5, dtype=F64)
    (scores, grads, _), (plain, expected, _) = (drawn(model, images, captions, slope, engine) for engine in (True, False))
    close(scores, plain)
    for a, b in zip(grads, expected): close(a, b)


def test_without_random_numbers_the_generator_is_not_touched(monkeypatch):
    monkeypatch.setattr(sparse, "_again_in_order", None)
    model, (images, captions) = made(Dropping).eval(), sides()
    torch.manual_seed(3)
    training_scores(model, images, captions)[0, 0].backward()
    after = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_random_numbers_of_a_gpu():
    model = made(Dropping).cuda()
    images, captions = (Fragments(s.values.detach().cuda().requires_grad_(), torch.ones_like(s.mask).cuda()) for s in sides(6, 8))
    slope = torch.randn(6, 8, dtype=F64).cuda()
    (scores, grads, after), (plain, expected, plain_after) = (drawn(model, images, captions, slope, engine) for engine in (True, False))
    close(scores.cpu(), plain.cpu())
    for a, b in zip(grads, expected): close(a.cpu(), b.cpu())
    assert torch.equal(after, plain_after)


# Products: MKL's or oneDNN's

@pytest.fixture
def by_onednn(monkeypatch):
    "Products are made as where MKL holds back, however small they are."
    if not torch.backends.mkldnn.is_available(): pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(sparse, "mkl_holds_back", lambda: True)
    for name in ("MANY", "WIDE"): monkeypatch.setattr(sparse, name, 1)


def rounding(a, b):
    "A bound on the error of a @ b in float32, whatever the order of the additions (Higham: n u |a| |b|, here twice that)."
    return a.shape[-1] * 2.0 ** -23 * (a.double().abs() @ b.double().abs()) + 1e-30


@pytest.mark.parametrize("shape", [(5, 7), (1, 3, 4, 7), (2, 1, 300, 7), (0, 7)])
@pytest.mark.parametrize("size", [3, 2**18])
def test_a_product_by_onednn(shape, size, by_onednn, monkeypatch):
    "Values and gradients lie within the rounding of float32, of a cut or an expanded matrix too; float64 and mixed precision stay where they were."
    monkeypatch.setattr(sparse, "SLICE", size)
    x, w, g = torch.randn(shape, requires_grad=True), torch.randn(9, 14, requires_grad=True), torch.randn(*shape[:-1], 9)
    half = w.chunk(2, 1)[1]
    exact, flat, slope = x.double() @ half.double().T, x.reshape(-1, 7), g.reshape(-1, 9)
    y = sparse.product(x, half)                                     # with a graph, which holds no tensor that can't be looked into
    for_x, for_w = torch.autograd.grad(y, [x, w], g)
    assert ((for_x - g.double() @ half.double()).abs() <= rounding(g, half)).all() and not for_w[:, :7].any()
    assert ((for_w[:, 7:] - slope.double().T @ flat.double()).abs() <= rounding(slope.T, flat)).all()
    with torch.no_grad():
        y, begun = sparse.product(x, half), torch.randn(*shape[:-1], 9)
        assert y.shape == exact.shape and y.dtype == torch.float32 and ((y - exact).abs() <= rounding(x, half.T)).all()
        sums = sparse.product(x, half, begun.clone())
        assert ((sums - begun - exact).abs() <= rounding(x, half.T) + 2.0 ** -22 * (exact.abs() + begun.abs())).all()
        wide = sparse.product(x.double(), half.double())
        assert wide.dtype == F64 and (wide - exact).abs().sum() < 1e-10
        with torch.autocast("cpu", torch.bfloat16): assert sparse.product(x, half).dtype == torch.bfloat16
        turned = x.transpose(0, 1).contiguous().transpose(0, 1)
        assert ((sparse.product(turned, half) - exact).abs() <= rounding(x, half.T)).all()


@pytest.mark.parametrize("model", [IMRAM, SCAN, CAMP])
def test_a_model_whose_products_onednn_makes(model, by_onednn):
    "In float32 no further from the float64 model than a hundred times the plain float32 form is, or 1e-4."
    torch.manual_seed(0)
    single = model(8, 20, embed_dim=16, word_dim=5)
    double = copy.deepcopy(single).double()
    features, tokens, lengths = torch.randn(6, 5, 8), torch.randint(1, 20, (6, 4)), torch.tensor([4, 2, 3, 1, 4, 4])
    def slopes(model, dtype, score):
        images, captions = model.encode_images(features.to(dtype)), model.encode_captions(tokens, lengths)
        scores = score(model, images, captions)
        weights = [p for p in model.parameters()]
        return [scores.detach(), *(g for g in torch.autograd.grad(triplet(scores), weights, allow_unused=True) if g is not None)]
    exact, plain = (slopes(m, kind, lambda m, *sides: m.logits(*sides)) for m, kind in ((double, F64), (single, torch.float32)))
    for ours, theirs, wanted in zip(slopes(single, torch.float32, training_scores), plain, exact, strict=True):
        assert (ours - wanted).abs().max() <= max(1e-4, 100 * float((theirs - wanted).abs().max()))


def test_where_mkl_holds_back(monkeypatch):
    "Only with AVX-512 that isn't Intel's, MKL and oneDNN; asked once."
    sparse.mkl_holds_back.cache_clear()
    read = []
    for maker, able, wanted in (("AuthenticAMD", "AVX512", True), ("GenuineIntel", "AVX512", False), ("AuthenticAMD", "AVX2", False)):
        monkeypatch.setattr(sparse.Path, "is_file", lambda self: True)
        monkeypatch.setattr(sparse.Path, "read_text", lambda self, maker=maker: read.append(maker) or f"vendor_id\t: {maker}\n")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda able=able: able)
        for library in ("mkl", "mkldnn"): monkeypatch.setattr(getattr(torch.backends, library), "is_available", lambda: True)
        assert sparse.mkl_holds_back() is sparse.mkl_holds_back() is wanted
        sparse.mkl_holds_back.cache_clear()
    assert len(read) == 3
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not sparse.mkl_holds_back()
    sparse.mkl_holds_back.cache_clear()

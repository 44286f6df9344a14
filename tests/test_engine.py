"""The engine: literal scores, the plain form's gradients, whatever the blocks, in float64."""

import copy
import itertools
from functools import partial

import literal_imram as literal
import pytest
import torch

from cmr.attention import SCAN, released_normalize
from cmr.encoders import Fragments
from cmr.fast import AnyModel, Recurrences, engine, pair_scores, plan, sparse, training_scores
from cmr.imram import DIRECTIONS, IMRAM, RAM
from cmr.losses import triplet
from cmr.matcher import Matcher
from cmr.memory import MEMORIES, Distill


def ragged(lengths, d=4, seed=0):
    "Unit vectors padded with zeros, and the same as a list without padding."
    torch.manual_seed(seed)
    rows = [torch.nn.functional.normalize(torch.randn(n, d, dtype=torch.float64), dim=-1) for n in lengths]
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return Fragments(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask), rows


VARIANTS = [("paper", False), ("paper", True), ("released", False), ("released", True)]
LOSSES = {"hardest": triplet, "all": partial(triplet, negatives="all"), "mean": lambda s: s.mean(), "two": lambda s: s[0, 1] - 2 * s[-1, 0]}


def build(cls=IMRAM, d=4, seed=0, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    return cls(3, 9, d, 3, **{"inverse_temperature": 4.0, **options}).to(dtype)


def fast(model):
    "A model's scores by the engine, which must have a plan for it."
    assert isinstance(plan(model), Recurrences)
    return lambda images, captions: training_scores(model, images, captions)


@pytest.fixture(scope="module")
def lists(): return ragged([3, 1, 2, 3], seed=1), ragged([2, 4, 1, 3], seed=2)


@pytest.fixture
def sides(lists): return tuple(Fragments(s.values.clone().requires_grad_(), s.mask) for s, _ in lists)


def close(a, b, tolerance=1e-10):
    assert a.shape == b.shape and torch.isfinite(a).all()
    assert not a.numel() or (a - b).abs().max() < tolerance, float((a - b).abs().max())


def gradients(score, loss, images, captions, model):
    "Gradients of both sides and of the memory's weights; None where there is none."
    leaves = [x for x in (images.values, captions.values, *(model.ram.parameters() if hasattr(model, "ram") else ())) if x.requires_grad]
    return torch.autograd.grad(loss(score(images, captions)), leaves, allow_unused=True)


def same_gradients(model, images, captions, loss, tolerance=1e-10):
    for ours, theirs in zip(*(gradients(score, loss, images, captions, model) for score in (partial(training_scores, model), model.score)), strict=True):
        if ours is None and theirs is None: continue
        close(torch.zeros_like(theirs) if ours is None else ours, torch.zeros_like(ours) if theirs is None else theirs, tolerance)


def blocks_of(monkeypatch, pairs, with_graph=None):
    "From now on blocks and chunks hold so many pairs, wherever they fit."
    monkeypatch.setattr(sparse, "pairs_at_once", lambda plan, images, captions, graph=False: with_graph or pairs if graph else pairs)


# Scores

def released(X, Y, K, name, p, lam, renormalise):
    "One pair and one direction of the released code: leaky relu, dot products, `renormalise` on or off."
    original, total = torch.stack(X), 0
    x, y = original, torch.stack(Y)
    for _ in range(K):
        c = literal.released_attention(x[None], y[None], lam)[0]
        total = total + literal.released_cosine(original, c).mean()
        x = torch.stack([literal.aggregate(name, p, a, b) for a, b in zip(x, c)])
        if renormalise: x = literal.l2norm(x, -1)
    return total


def expected_score(model, V, T, name, variant, renormalise):
    "The literal's scores of a variant; the paper's form with `renormalise` scales each new query, which its cosines ignore but its memory doesn't."
    p = {side: dict(ram.memory.named_parameters()) if ram.memory else {} for side, ram in model.ram.items()}
    name = name if model.steps > 1 else "add"
    if variant == "paper" and not renormalise: return literal.imram(V, T, model.steps, model.direction, name, p, 4.0).sum(0)

    def one(X, Y, side):
        if variant == "released": return released(X, Y, model.steps, name, p[side], 4.0, renormalise)
        original, total, now = X, 0, X
        for _ in range(model.steps):
            C, _ = literal.attention(now, Y, 4.0)
            total = total + sum(literal.cos(x, c) for x, c in zip(original, C)) / len(C)
            now = list(literal.l2norm(torch.stack([literal.aggregate(name, p[side], x, c) for x, c in zip(now, C)]), -1))
        return total
    directions = DIRECTIONS[model.direction]
    return torch.stack([torch.stack([sum(one(*((list(t), list(v)) if direction == "text" else (list(v), list(t))), direction) for direction in directions) for t in T]) for v in V])


@pytest.mark.parametrize("name,direction,steps", [(n, d, k) for n, d, k in itertools.product(MEMORIES, DIRECTIONS, (1, 2, 3)) if k > 1 or n == "add"])
@torch.no_grad()
def test_scores_are_the_literal_ones(lists, name, direction, steps):
    (images, V), (captions, T) = lists
    for variant, renormalise in VARIANTS[:1] if (direction, steps) != ("full", 3) else VARIANTS:
        model = build(steps=steps, direction=direction, memory=name, variant=variant, renormalise=renormalise)
        close(fast(model)(images, captions), expected_score(model, V, T, name, variant, renormalise))


@pytest.mark.parametrize("name,direction,steps,form", list(itertools.product(MEMORIES, DIRECTIONS, (1, 2, 3), VARIANTS)))
@torch.no_grad()
def test_scores_are_the_plain_ones(lists, name, direction, steps, form):
    (images, _), (captions, _) = lists
    model = build(steps=steps, direction=direction, memory=name, variant=form[0], renormalise=form[1])
    scores = model.score(images, captions)
    close(fast(model)(images, captions), scores)
    i, c = torch.tensor([3, 0, 0, 2]), torch.tensor([1, 1, 3, 0])
    close(pair_scores(model, images[i], captions[c]), scores[i, c])


@pytest.mark.parametrize("direction,pooling,variant", list(itertools.product(("text", "image"), ("mean", "sum", "max", "lse"), ("paper", "released"))))
def test_scan_too(lists, sides, direction, pooling, variant):
    (_, V), (_, T) = lists
    model = build(SCAN, direction=direction, pooling=pooling, variant=variant)
    if variant == "paper": close(fast(model)(*sides), literal.scan(V, T, direction, pooling, 4.0))
    for loss in LOSSES.values(): same_gradients(model, *sides, loss)


@torch.no_grad()
def test_responses_need_no_unit_length(lists):
    "Eq. 4 cancels a response's length, so the engine does not divide by it."
    images, captions = (Fragments(s.values * torch.rand(*s.mask.shape, 1, dtype=torch.float64) * 3, s.mask) for s, _ in lists)
    for variant in ("paper", "released"):
        model = build(variant=variant)
        close(fast(model)(images, captions), model.score(images, captions))


# Gradients

@pytest.mark.parametrize("name,direction,form", list(itertools.product(MEMORIES, DIRECTIONS, VARIANTS)))
def test_gradients_are_the_plain_ones(sides, name, direction, form):
    model = build(steps=3, direction=direction, memory=name, variant=form[0], renormalise=form[1])
    for loss in LOSSES.values(): same_gradients(model, *sides, loss)


@pytest.mark.parametrize("steps", (1, 2))
def test_gradients_with_fewer_steps(sides, steps):
    for loss in LOSSES.values(): same_gradients(build(steps=steps), *sides, loss)


@pytest.mark.parametrize("direction,variant,name", [("full", "paper", "distill"), ("text", "released", "gate"), ("image", "paper", "att")])
def test_gradcheck(direction, variant, name):
    model = build(steps=3, direction=direction, variant=variant, memory=name, d=3)
    (images, _), (captions, _) = ragged([2, 1], 3, seed=3), ragged([1, 2], 3, seed=4)

    def score(v, t, *weights): return fast(model)(Fragments(v, images.mask), Fragments(t, captions.mask))
    assert torch.autograd.gradcheck(score, (images.values.requires_grad_(), captions.values.requires_grad_(), *model.ram.parameters()))


def test_ties_have_the_plain_forms_gradient(sides):
    "Images 0, 2 and 3 are the same; the maximum shares its slope among all that tie."
    model, captions = build(), sides[1]
    copies = Fragments(sides[0].values.detach()[[0, 1, 0, 0]].requires_grad_(), sides[0].mask[[0, 1, 0, 0]])
    with torch.no_grad(): scores = fast(model)(copies, captions), model.score(copies, captions)
    tied = torch.stack(scores)[:, [0, 1, 0, 0]].requires_grad_()                                    # equal to the last bit, whatever the processor
    slope, = torch.autograd.grad(triplet(tied[0]), tied)
    assert ((slope[0] > 0) & (slope[0] < 0.9)).sum() >= 3
    same_gradients(model, copies, captions, lambda s: (s * slope[0]).sum())
    if all(torch.equal(s[0], s[2]) and torch.equal(s[0], s[3]) for s in scores): same_gradients(model, copies, captions, triplet)


def test_only_what_has_a_slope_is_scored_again(monkeypatch):
    (images, _), (captions, _) = ragged([3] * 16, seed=5), ragged([2, 4] * 8, seed=6)
    model, counted = build(direction="text"), []
    images.values.requires_grad_()
    original = Recurrences.pairs
    monkeypatch.setattr(Recurrences, "pairs", lambda self, a, b: counted.append(len(a["mask"])) or original(self, a, b))
    scores = fast(model)(images, captions)
    slope, = torch.autograd.grad(triplet(scores), scores, retain_graph=True)
    triplet(scores).backward()
    assert sum(counted) == (slope != 0).sum() <= 3 * 16
    counted.clear()
    triplet(fast(model)(images, captions) - 100 * (1 - torch.eye(16)), 0.2).backward()                                     # every hinge is satisfied: nothing to do
    assert not counted


def test_planted_bug_is_caught(lists, monkeypatch):
    "A context's length without its mixed terms: right for perpendicular responses only."
    (images, V), (captions, T) = lists
    model = build(memory="add")
    expected = expected_score(model, V, T, "add", "paper", False)
    monkeypatch.setattr(engine, "gram", lambda y: torch.diag_embed(y.pow(2).sum(-1)))
    with torch.no_grad(), pytest.raises(AssertionError): close(fast(model)(images, captions), expected)


# Blocks, order, padding

@pytest.mark.parametrize("pairs,with_graph", [(1, 1), (2, 3), (3, 2), (5, 1), (7, 100), (100, 4)])
def test_blocks_of_every_size(sides, monkeypatch, pairs, with_graph):
    model = build(steps=3)
    blocks_of(monkeypatch, pairs, with_graph)
    close(fast(model)(*sides).detach(), model.score(*sides).detach())
    for loss in LOSSES.values(): same_gradients(model, *sides, loss)


def test_a_tiny_bound_holds_one_pair(sides, monkeypatch):
    monkeypatch.setitem(sparse.BLOCK, "cpu", (1, 1))
    model = build(steps=3, memory="gate")
    assert sparse.pairs_at_once(plan(model), *plan(model).prepare(*sides)) == 1
    close(fast(model)(*sides).detach(), model.score(*sides).detach())
    for loss in LOSSES.values(): same_gradients(model, *sides, loss)


@pytest.mark.parametrize("m,n,room", [(m, n, room) for m, n in ((7, 5), (1, 9), (9, 1), (3, 40), (40, 3)) for room in (1, 2, 7, 8, 9, 50, 1000)])
def test_blocks_cover_every_pair_once(m, n, room):
    regions, words, seen = sorted([1 + i % 4 for i in range(m)]), sorted([1 + 3 * i % 7 for i in range(n)]), torch.zeros(m, n)
    for i, k, c, l in sparse.blocks(regions, words, room):  # noqa: E741
        seen[i, c] += 1
        assert 0 < seen[i, c].numel() <= room and k == max(regions[i]) and l == max(words[c])
    assert (seen == 1).all()


@pytest.mark.parametrize("direction,form", list(itertools.product(DIRECTIONS, VARIANTS)))
def test_padding_and_order_change_nothing(sides, direction, form):
    images, captions = sides
    model = build(direction=direction, variant=form[0], renormalise=form[1])
    scores = fast(model)(images, captions).detach()
    junk = [Fragments(torch.nn.functional.pad(s.values.detach(), (0, 0, 0, 3)).masked_fill(~torch.nn.functional.pad(s.mask, (0, 3))[..., None], 7.0),
                      torch.nn.functional.pad(s.mask, (0, 3))) for s in sides]
    close(fast(model)(*junk).detach(), scores)
    junk[0].values.requires_grad_()
    fast(model)(*junk).sum().backward()
    assert (junk[0].values.grad[~junk[0].mask] == 0).all()
    i, c = torch.tensor([2, 0, 3, 1]), torch.tensor([3, 1, 0])
    close(fast(model)(images[i], captions[c]).detach(), scores[i][:, c])


def test_a_mask_may_have_holes(sides):
    mask = torch.tensor([[True, False, True], [False, False, True], [True, True, True], [False, True, False]])
    images = Fragments((torch.randn(4, 3, 4, dtype=torch.float64) * mask[..., None]).requires_grad_(), mask)
    assert sparse.reach(mask).tolist() == [3, 3, 3, 2] and sparse.reach(mask[:0, :0]).tolist() == []
    model = build()
    close(fast(model)(images, sides[1]).detach(), model.score(images, sides[1]).detach())
    for loss in LOSSES.values(): same_gradients(model, images, sides[1], loss)


def test_empty_sides(sides):
    images, captions = sides
    for model in (build(), build(SCAN, direction="image")):
        assert fast(model)(images[:0], captions).shape == (0, 4) and fast(model)(images, captions[:0]).shape == (4, 0)
        assert fast(model)(images[:0].trimmed(), captions[:0].trimmed()).shape == (0, 0)
        fast(model)(images[:0], captions).sum().backward()


# What may go wrong

def test_frozen_sides_and_frozen_memory(sides):
    images, captions = sides
    model, still = build(), [Fragments(s.values.detach(), s.mask) for s in sides]
    same_gradients(model, *still, triplet)                                        # only the memory learns
    for p in model.ram["text"].parameters(): p.requires_grad_(False)
    for loss in LOSSES.values(): same_gradients(model, images, captions, loss)    # one of two is frozen
    same_gradients(model, still[0], captions, triplet)
    model.ram.requires_grad_(False)
    same_gradients(model, images, captions, triplet)                              # only the encoders learn
    assert all(p.grad is None for p in model.parameters())
    assert not fast(model)(*still).requires_grad                                  # nobody does
    with torch.no_grad(): assert not fast(build())(images, captions).requires_grad


def test_a_weight_without_slope_gets_none_or_zero(sides):
    model = build()
    grads = torch.autograd.grad(0 * fast(model)(*sides).sum(), [*model.ram.parameters()], allow_unused=True)
    assert all(g is None or (g == 0).all() for g in grads)


def test_changed_weights_and_fragments_are_noticed(sides):
    images, captions = sides
    model = build()
    scores = fast(model)(images, captions)
    with torch.no_grad(): next(model.ram.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"): scores.sum().backward()
    model, moved = build(), Fragments(images.values * 1, images.mask)
    scores = fast(model)(moved, captions)
    moved.values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"): scores.sum().backward()


def test_no_second_derivative(sides):
    grad, = torch.autograd.grad(fast(build())(*sides).pow(2).sum(), sides[0].values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"): grad.sum().backward()


def test_encoders_get_their_gradient():
    features, tokens, lengths = torch.randn(4, 5, 3).double(), torch.randint(4, 9, (4, 6)), torch.tensor([6, 1, 3, 2])
    found = []
    for use in (True, False):
        model = build()
        triplet(training_scores(model, model.encode_images(features), model.encode_captions(tokens, lengths), engine=use)).backward()
        found.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*found, strict=True): close(ours, theirs)


@pytest.mark.parametrize("variant", ("paper", "released"))
@pytest.mark.parametrize("zero", ("region", "word", "both"))
def test_a_zero_fragment(sides, variant, zero):
    images, captions = (Fragments(s.values.detach().clone(), s.mask) for s in sides)
    if zero in ("region", "both"): images.values[0, 1] = images.values[1, 0] = 0    # one of three, and all there is
    if zero in ("word", "both"): captions.values[1, 2] = captions.values[2, 0] = 0
    for s in (images, captions): s.values.requires_grad_()
    model = build(variant=variant)
    close(fast(model)(images, captions).detach(), model.score(images, captions).detach())
    for loss in LOSSES.values():
        for g in gradients(fast(model), loss, images, captions, model): assert torch.isfinite(g).all()


def test_opposed_fragments_have_finite_gradients():
    y = torch.tensor([[[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[[0.0, 1.0, 0, 0]]], dtype=torch.float64, requires_grad=True)
    sides = Fragments(y, torch.ones(1, 2, dtype=torch.bool)), Fragments(x, torch.ones(1, 1, dtype=torch.bool))
    model = build()
    score = fast(model)(*sides)                                                   # the word's context is exactly zero
    close(score.detach(), model.score(*sides).detach())
    score.sum().backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all()


# Precision: fragments without negative numbers and a memory that adds, so that every product, sum and cosine is positive. Then nothing cancels, Eq. 4
# is far from its jump at zero, and a result's relative error is bounded by how many roundings led to it: below 100 a step, in three steps, times lambda
# where they pass through the softmax's exponent. In other places one rounding may move a gradient by any amount.

def positive(lengths, d, seed):
    s, _ = ragged(lengths, d, seed=seed)
    return Fragments(torch.nn.functional.normalize(s.values.abs(), dim=-1), s.mask)


def relative(a, b): return float((a.double() - b.double()).norm() / b.double().norm())


def fixed_slope(scores): return (scores.double() * torch.arange(1, scores.numel() + 1, dtype=torch.float64).reshape(scores.shape).cos()).sum()


@pytest.mark.parametrize("variant", ("paper", "released"))
@pytest.mark.parametrize("steps", (1, 3))
def test_float32_is_near(variant, steps):
    sides = positive([7, 9, 3, 8] * 2, 64, 1), positive([4, 12, 6, 1] * 2, 64, 2)
    exact = build(d=64, memory="add", inverse_temperature=4.0, variant=variant, steps=steps)
    rough, bound = copy.deepcopy(exact).float(), 100 * 3 * 4 * torch.finfo(torch.float32).eps
    found = []
    for model, dtype in ((exact, torch.float64), (rough, torch.float32)):
        leaves = [Fragments(s.values.to(dtype).requires_grad_(), s.mask) for s in sides]
        score = fast(model) if model is rough else model.score
        scores = score(*leaves)
        found.append([scores.detach(), *torch.autograd.grad(fixed_slope(scores), [s.values for s in leaves])])
    assert relative(found[1][0], found[0][0]) < bound
    for a, b in zip(found[1][1:], found[0][1:]): assert relative(a, b) < 100 * bound   # a gradient is a difference of positive terms


@pytest.mark.parametrize("steps", (1, 3))
def test_bf16_products_give_float32_scores(steps):
    images, captions = (Fragments(s.values.float().requires_grad_(), s.mask) for s in (positive([5, 3, 4, 5] * 4, 32, 1), positive([2, 7, 4, 3] * 4, 32, 2)))
    model = build(d=32, dtype=torch.float32, memory="add", steps=steps, inverse_temperature=4.0)
    plain = model.score(images, captions)
    exact = torch.autograd.grad(fixed_slope(plain), [images.values, captions.values])
    with torch.autocast("cpu", torch.bfloat16):
        scores = fast(model)(images, captions)
        fixed_slope(fast(model)(images, captions)).backward()                      # inside the region, too
    assert scores.dtype == torch.float32 and 0 < relative(scores.detach(), plain.detach()) < 2**-8 * 10
    for found in (torch.autograd.grad(fixed_slope(scores), [images.values, captions.values]), [images.values.grad, captions.values.grad]):
        for a, b in zip(found, exact): assert 0 < relative(a, b) < 0.5


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_learns_in_mixed_precision(name):
    images, captions = (Fragments(s.values.float().requires_grad_(), s.mask) for s in (positive([5, 3, 4, 5], 8, 1), positive([2, 7, 4, 3], 8, 2)))
    model = build(d=8, dtype=torch.float32, memory=name)
    with torch.autocast("cpu", torch.bfloat16): scores = fast(model)(images, captions)
    scores.sum().backward()
    assert scores.dtype == torch.float32 and all(x.grad.isfinite().all() for x in (images.values, captions.values, *model.ram.parameters()))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_fragments_in_half_precision_give_float32_scores(dtype):
    sides = [Fragments(s.values.to(dtype), s.mask) for s in (positive([3, 1, 2, 3], 4, 1), positive([2, 4, 1, 3], 4, 2))]
    with torch.no_grad():
        scores = fast(build(dtype=dtype, memory="add"))(*sides)
        expected = build(memory="add").score(*(Fragments(s.values.double(), s.mask) for s in sides))
    assert scores.dtype == torch.float32 and relative(scores, expected) < 20 * torch.finfo(dtype).eps


# Parts

def test_rescaling_is_the_released_one(lists):
    (images, _), (captions, _) = lists
    own = plan(build(variant="released", renormalise=True))
    assert own.text.rescale is own.image.rescale is released_normalize and own.text.variant == "released"


def test_the_last_update_is_not_made(sides, monkeypatch):
    calls = []
    original = engine.Recurrence.update
    monkeypatch.setattr(engine.Recurrence, "update", lambda self, *parts: calls.append(1) or original(self, *parts))
    for steps in (1, 2, 3):
        calls.clear()
        with torch.no_grad(): fast(build(steps=steps, direction="text"))(*sides)
        assert len(calls) == steps - 1


@torch.no_grad()
def test_buffers_are_shared_and_large_enough(sides, monkeypatch):
    own, short = plan(build(steps=3)), plan(build(steps=1))
    V, T = own.prepare(*sides)
    for room in (1, 4, 50):
        spaces = own.spaces(V, T, room)
        assert [len(s) for s in spaces] == [2, 2] and all(x.numel() == room * 4 * 4 for s in spaces for x in s)
    assert [len(s) for s in short.spaces(*short.prepare(*sides), 4)] == [0, 0]


def test_memory_needed_grows_with_everything():
    own, sizes = plan(build()), {"a": 50, "b": 60, "m": 5, "n": 6}
    base = own.floats_per_tile(**sizes, like=torch.zeros(0, 8))
    for key, value in sizes.items(): assert own.floats_per_tile(**{**sizes, key: 2 * value}, like=torch.zeros(0, 8)) > base
    assert own.floats_per_tile(**sizes, like=torch.zeros(0, 16)) > base
    assert own.floats_per_tile(1, 1, 36, 60, torch.zeros(0, 1024)) >= own.floats_per_pair(36, 60, 1024)


# Who gets the plan

class Loud(IMRAM):
    def score(self, images, captions): return 2 * super().score(images, captions)


class Weighted(IMRAM):
    def step_scores(self, images, captions): return super().step_scores(images, captions) * torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)[:, None, None]


class OtherLogits(SCAN):
    def logits(self, images, captions): return self.score(images, captions).pow(2)


class OtherEncoders(IMRAM):
    def encode_images(self, features, mask=None): return super().encode_images(features.abs(), mask)


class Forgetful(Distill):
    def forward(self, x, c): return super().forward(x, 0 * c)


class OtherBlock(RAM):
    def update(self, x, c): return x


@pytest.mark.parametrize("cls", [Loud, Weighted, OtherLogits])
def test_a_subclass_with_other_scores_gets_the_plan_of_any_model(cls, sides):
    model = build(cls)
    assert type(plan(model)) is AnyModel
    close(training_scores(model, *sides), model.logits(*sides))
    assert (training_scores(model, *sides) - training_scores(build(cls.__mro__[1]), *sides)).abs().max() > 1e-3
    assert isinstance(plan(build(OtherEncoders)), Recurrences)


def test_a_score_put_into_a_model_is_not_overlooked(sides):
    model = build()
    model.score = lambda images, captions: 3 * IMRAM.score(model, images, captions)
    assert type(plan(model)) is AnyModel
    close(training_scores(model, *sides), 3 * training_scores(build(), *sides))


@pytest.mark.parametrize("part", [Forgetful, OtherBlock])
def test_parts_that_the_engine_does_not_know(part, sides):
    "An unknown memory or block: its own scores and gradients, by the plan of any model."
    model = build()
    for ram in model.ram.values():
        if part is Forgetful: ram.memory = Forgetful(4).double()
    if part is OtherBlock: model.ram["text"] = OtherBlock(4, inverse_temperature=4.0).double()
    assert type(plan(model)) is AnyModel
    for loss in LOSSES.values(): same_gradients(model, *sides, loss)
    assert type(plan(Matcher())) is AnyModel


def test_one_step_needs_no_memory(sides):
    assert isinstance(plan(build(steps=1)), Recurrences) and build(steps=1).ram["text"].memory is None


class Glued(torch.utils._python_dispatch.TorchDispatchMode):
    "Counts what is glued together to a matrix of this shape."
    def __init__(self, *shape):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.count += function is torch.ops.aten.cat.default and tuple(found.shape) == self.shape
        return found


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_of_the_halves_are_glued_once(lists, monkeypatch, direction):
    "However many blocks are scored again: one cat for each of a memory's two matrices, and the gradients of the plain form."
    model = build(d=8, direction=direction)
    sides = [Fragments(torch.cat([side.values, side.values.flip(0)], -1), side.mask) for side, _ in lists]
    weights = [p for ram in model.ram.values() for p in ram.parameters()]
    expected = torch.autograd.grad(triplet(model.score(*sides)), weights)
    monkeypatch.setitem(sparse.BLOCK, "cpu", (1, 1))                                  # a pair at a time
    with Glued(8, 16) as glued: found = torch.autograd.grad(triplet(training_scores(model, *sides)), weights)
    assert glued.count == 2 * len(model.ram)
    for a, b in zip(found, expected): assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_a_plan_that_was_made_without_a_graph_still_has_gradients(lists):
    model, (images, captions) = build(), [side for side, _ in lists]
    with torch.no_grad(): own = plan(model)
    weights = [p for ram in model.ram.values() for p in ram.parameters()]
    found, expected = (torch.autograd.grad(triplet(s), weights) for s in (sparse.planned_scores(own, images, captions), model.score(images, captions)))
    for a, b in zip(found, expected): assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_sides_are_prepared_once_for_both_passes(lists, monkeypatch):
    model, sides, calls = build(), [side for side, _ in lists], []
    original = Recurrences.prepare
    monkeypatch.setattr(Recurrences, "prepare", lambda self, *both: calls.append(1) or original(self, *both))
    weights = [p for ram in model.ram.values() for p in ram.parameters()]
    scores = training_scores(model, *sides)
    first, second = (torch.autograd.grad(triplet(scores), weights, retain_graph=True) for _ in range(2))
    assert len(calls) == 1
    for a, b in zip(first, second): assert torch.equal(a, b)

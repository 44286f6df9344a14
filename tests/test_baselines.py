"""The baselines against a literal reading, float64; their losses; and what every matcher has to keep."""

import json
import math

import literal_baselines as literal
import pytest
import torch

from cmr.data import Vocabulary
from cmr.encoders import Fragments
from cmr.fast import floats_per_pair, pair_scores, score_all, training_scores
from cmr.losses import Triplet, make_loss
from cmr.saving import load, model_class, save
from cmr.shelf.baselines import (
    CMPM,
    DEVISE,
    DVSA,
    ORDER,
    PIE,
    PVSE,
    VSRN,
    MeanWords,
    ProjectionMatching,
    RegionGraph,
    best_regions,
    mean_region,
    projection_matching,
)

F64 = torch.float64
ALL = {"devise": (DEVISE, {}, literal.devise), "order": (ORDER, {}, literal.order), "order-plain": (ORDER, {"unit": False}, literal.order),
       "dvsa": (DVSA, {}, literal.dvsa), "cmpm": (CMPM, {}, literal.vse),
       "pvse": (PVSE, {}, literal.pvse), "pvse-1": (PVSE, {"heads": 1}, literal.pvse),
       "pvse-3": (PVSE, {"heads": 3}, literal.pvse), "vsrn": (VSRN, {}, literal.vsrn), "vsrn-0": (VSRN, {"layers": 0}, literal.vsrn),
       "vsrn-1": (VSRN, {"layers": 1}, literal.vsrn)}
every = pytest.mark.parametrize("name", ALL)


def model_of(name, dtype=F64, seed=0):
    "A small model in which no weight is zero."
    torch.manual_seed(seed)
    kind, options, _ = ALL[name]
    model = kind(5, 10, embed_dim=4, word_dim=3, **options).to(dtype)
    for p in model.parameters(): torch.nn.init.normal_(p, std=0.6)
    model.image_encoder.standardise(torch.randn(5), torch.rand(5) + 0.5)
    return model


def raw(images=3, captions=4, m=4, n=6, seed=1):
    "Features with gaps in the mask, tokens of every length."
    torch.manual_seed(seed)
    mask = torch.rand(images, m) < 0.7
    mask[:, 1] = True
    return torch.randn(images, m, 5, dtype=F64), torch.randint(4, 10, (captions, n)), torch.randint(1, n + 1, (captions,)), mask


def encoded(model, features, tokens, lengths, mask): return model.encode_images(features, mask), model.encode_captions(tokens, lengths)


def scores_of(model, *batch): return model.score(*encoded(model, *batch))


def logits_of(model, *batch): return training_scores(model, *encoded(model, *batch))


def same(a, b, tolerance=1e-10): return (a - b).abs().max() < tolerance


@every
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_is_its_equations(name, seed):
    model, (features, tokens, lengths, mask) = model_of(name, seed=seed), raw(seed=seed + 10)
    slow = [[ALL[name][2](model, f[real].tolist(), t[:n].tolist()) for t, n in zip(tokens, lengths)] for f, real in zip(features, mask)]
    assert same(scores_of(model, features, tokens, lengths, mask), torch.tensor(slow, dtype=F64))


@every
def test_gradients(name):
    model, (features, tokens, lengths, mask) = model_of(name), raw(2, 3, 3, 4)
    assert torch.autograd.gradcheck(lambda f, w: _with_words(model, w, f, tokens, lengths, mask),
                                    (features.requires_grad_(), model.text_encoder.embed.weight.detach().clone().requires_grad_()))


def _with_words(model, words, features, tokens, lengths, mask):
    return torch.func.functional_call(_Scores(model), {"model.text_encoder.embed.weight": words}, (features, tokens, lengths, mask))


class _Scores(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *batch): return scores_of(self.model, *batch)


@every
def test_padding_order_and_tiles_change_nothing(name):
    model, (features, tokens, lengths, mask) = model_of(name), raw(5, 7)
    scores = scores_of(model, features, tokens, lengths, mask).detach()
    nan = torch.nn.functional.pad(features.masked_fill(~mask[:, :, None], torch.nan), (0, 0, 0, 3), value=torch.inf)
    longer = torch.nn.functional.pad(tokens.masked_fill(torch.arange(6) >= lengths[:, None], 9), (0, 2), value=1)
    assert same(scores_of(model, nan, longer, lengths, torch.nn.functional.pad(mask, (0, 3))), scores, 1e-12)
    rows, columns = torch.randperm(5), torch.randperm(7)
    assert same(scores_of(model, features[rows], tokens[columns], lengths[columns], mask[rows]), scores[rows][:, columns], 1e-12)
    with torch.no_grad(): images, captions = model.encode_images(features, mask), model.encode_captions(tokens, lengths)
    assert same(model.score(images.padded(9), captions.padded(8)), scores, 1e-12)
    (m, d), n = images.values.shape[1:], captions.values.shape[1]
    for pairs in (1, 3, 20):
        bound = 8 * pairs * (m * d + n * d + 1 + floats_per_pair(model, m, n, d))
        assert same(score_all(model, images, captions, max_bytes=bound, progress=False), scores, 1e-12)
    assert same(pair_scores(model, images[[4, 0]], captions[[6, 6]]), scores[[4, 0], [6, 6]], 1e-12)


@every
def test_a_step_against_the_gradient_makes_the_loss_smaller(name):
    "The loss that training uses reaches every weight, from features and tokens: exactly so far as a straight line goes."
    model, (features, tokens, lengths, mask) = model_of(name), raw(6, 6)
    loss = model.default_loss().warm_up(logits_of(model, features, tokens, lengths, mask))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert loss > 0 and all(g is not None and torch.isfinite(g).all() for g in gradients) and any(g.any() for g in gradients)
    square, step = sum(g.square().sum() for g in gradients).item(), 1e-7
    with torch.no_grad():
        for p in model.parameters(): p -= step * p.grad
        fallen = loss - model.default_loss().warm_up(logits_of(model, features, tokens, lengths, mask))
    assert fallen.item() == pytest.approx(step * square, rel=1e-2)


@every
def test_saved_and_found_by_name(name, tmp_path):
    model, vocabulary, batch = model_of(name, torch.float32), Vocabulary(["a", "red", "blue", "star", "ring", "above"]), raw()
    batch = batch[0].float(), *batch[1:]
    save(model, vocabulary, tmp_path / "model")
    again, _ = load(tmp_path / "model")
    assert type(again) is type(model) is model_class(type(model).__name__.lower()) and again.region_dim == 5 and again.vocab_size == 10
    assert scores_of(again, *batch).equal(scores_of(model, *batch))
    assert json.loads((tmp_path / "model" / "config.json").read_text()).items() >= {"embed_dim": 4, "word_dim": 3, **ALL[name][1]}.items()


@every
def test_half_precision(name):
    model, (features, tokens, lengths, mask) = model_of(name, torch.float32), raw()
    right = scores_of(model, features.float(), tokens, lengths, mask)
    with torch.autocast("cpu", torch.bfloat16): near = scores_of(model, features.float(), tokens, lengths, mask)
    assert near.dtype == torch.float32 and torch.isfinite(near).all() and (near - right).abs().max() < 0.1 * max(1, right.abs().max())


@pytest.mark.parametrize("name", ["cmpm", "pvse", "devise", "order", "vsrn"])
def test_a_sum_over_features_is_taken_in_float32(name):
    "Under autocast, sides of any precision are compared as without it: bfloat16 keeps eight bits, and a sum of 512 products loses more."
    model = ALL[name][0](5, 10, 512, 3, **ALL[name][1])
    torch.manual_seed(0)
    k = 2 if name == "pvse" else 1
    sides = [Fragments(torch.randn(4, k, 512).bfloat16(), torch.ones(4, k, dtype=torch.bool)) for _ in range(2)]
    exact = [Fragments(side.values.double(), side.mask) for side in sides]
    for how in (model.score, model.logits):
        with torch.autocast("cpu", torch.bfloat16): found = how(*sides)
        right = how(*exact)
        bound = 512 * 2**-23 * exact[0].values.norm(dim=2).max() * exact[1].values.norm(dim=2).max()  # n * eps * |x| |z|
        assert found.dtype == torch.float32 and (found - right).abs().max() < (512 if name == "order" else 1) * bound


@every
def test_bad_input(name):
    model, (features, tokens, lengths, mask) = model_of(name), raw()
    with pytest.raises(ValueError, match="no region at all in image"): model.encode_images(features, mask & (torch.arange(3) > 0)[:, None])
    with pytest.raises(ValueError, match="NaN or infinity in a region"): model.encode_images(features * torch.nan, mask)
    with pytest.raises(ValueError, match=r"images, regions, 5"): model.encode_images(features[:, :, :4], mask)
    with pytest.raises(ValueError, match="word id 10 is outside"): model.encode_captions(torch.full_like(tokens, 10), lengths)
    with pytest.raises(ValueError, match="caption lengths go from 0"): model.encode_captions(tokens, torch.zeros_like(lengths))


@pytest.mark.parametrize("kind", [DEVISE, ORDER, DVSA])
def test_all_rivals_count(kind):
    torch.manual_seed(0)
    scores, together = torch.randn(5, 5, dtype=F64), torch.zeros(5, 5, dtype=torch.bool)
    together[0, 3] = together[3, 0] = True
    loss = kind(5, 10, 4, 3).default_loss()
    slow = sum(max(0.0, (loss.margin - scores[b, b] + rival).item()) for b in range(5) for c in range(5) if c != b and not together[b, c]
               for rival in (scores[b, c], scores[c, b]))
    assert loss(scores, together).item() == pytest.approx(slow, abs=1e-10)
    with pytest.raises(ValueError, match="square"): loss(scores[:3])


def test_papers_losses():
    papers = {DEVISE: Triplet(0.1, "all"), ORDER: Triplet(0.05, "all"), DVSA: Triplet(1.0, "all"), PVSE: Triplet(0.1), VSRN: Triplet(0.2),
              CMPM: ProjectionMatching()}
    assert {kind: kind(5, 10, 4, 3).default_loss() for kind in papers} == papers
    assert make_loss("projection_matching") == ProjectionMatching()
    assert [kind.warmup_steps for kind in papers] == [0, 0, 0, 450, 450, 0]


# CMPM

def batch_of_pairs():
    model, (features, tokens, lengths, mask) = model_of("cmpm"), raw(5, 5)
    together = torch.eye(5, dtype=torch.bool)
    together[1, 3] = together[3, 1] = together[1, 4] = together[4, 1] = together[3, 4] = together[4, 3] = True
    return model, (features, tokens, lengths, mask), together


def test_projection_matching_is_its_equations():
    model, (features, tokens, lengths, mask), together = batch_of_pairs()
    both = [[literal.projection(model, f[real].tolist(), t[:n].tolist()) for t, n in zip(tokens, lengths)]
            for f, real in zip(features, mask)]
    scores = logits_of(model, features, tokens, lengths, mask)
    assert same(scores, torch.tensor(both, dtype=F64))
    eye = torch.eye(5, dtype=torch.bool)
    for match, given in ((eye, None), (together, together), (together, together & ~eye)):
        slow = literal.projection_matching(both, match.long().tolist())
        assert model.default_loss()(scores, given).item() == pytest.approx(slow, abs=1e-10)


def test_projections_rank_as_cosines_do():
    model, batch, _ = batch_of_pairs()
    onto_captions, onto_images = logits_of(model, *batch).unbind(-1)
    cosines = scores_of(model, *batch)
    assert onto_captions.argsort(1).equal(cosines.argsort(1)) and onto_images.argsort(0).equal(cosines.argsort(0))


def test_projection_matching_gradient_and_order():
    model, (features, tokens, lengths, mask), together = batch_of_pairs()
    def loss(f, order=slice(None)):
        return model.default_loss()(logits_of(model, f[order], tokens[order], lengths[order], mask[order]), together[order][:, order])
    order = torch.randperm(5)
    assert same(loss(features), loss(features, order))
    assert torch.autograd.gradcheck(loss, features.requires_grad_())


def test_projection_matching_by_hand_and_at_extremes():
    assert projection_matching(torch.zeros(2, 2, 2)).item() == pytest.approx(2 * (math.log(0.5) + math.log(0.5e8)), rel=1e-5)
    far = (200 * torch.eye(4))[..., None].expand(4, 4, 2).clone().requires_grad_()
    wrong = (200 * torch.eye(4).roll(1, 0))[..., None].expand(4, 4, 2).clone().requires_grad_()
    assert abs(projection_matching(far).item()) < 1e-4
    assert projection_matching(wrong).item() == pytest.approx(8 * math.log(1e8), rel=1e-4)
    for x in (far, wrong):
        projection_matching(x).backward()
        assert torch.isfinite(x.grad).all()
    assert projection_matching(far.bfloat16()).dtype == torch.float32


def test_a_vector_of_length_zero_has_a_finite_gradient():
    x = torch.zeros(3, 1, 4, dtype=F64, requires_grad=True)
    z, one = torch.randn(3, 1, 4, dtype=F64, requires_grad=True), torch.ones(3, 1, dtype=torch.bool)
    model = model_of("cmpm")
    sides = Fragments(x, one), Fragments(z, one)
    (model.default_loss()(model.logits(*sides)) + model.score(*sides).sum()).backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(z.grad).all()


@pytest.mark.parametrize("scores, message", [
    (torch.zeros(3, 3), r"\(B, B, 2\)"), (torch.zeros(3, 3, 3), r"\(B, B, 2\)"), (torch.zeros(2, 3, 2), "square"),
    (torch.full((3, 3, 2), torch.nan), "NaN or infinity"), (torch.full((3, 3, 2), -torch.inf), "NaN or infinity"),
    (torch.stack((torch.full((3, 3), torch.inf), torch.full((3, 3), -torch.inf)), -1), "NaN or infinity"),
    (torch.zeros(1, 1, 2), "no negatives")])
def test_projection_matching_refuses(scores, message):
    with pytest.raises(ValueError, match=message): projection_matching(scores)


def test_cmpm_scores_are_cosines_and_its_logits_projections():
    model, batch, _ = batch_of_pairs()
    for mode in (True, False):
        model.train(mode)
        assert model(*batch).equal(scores_of(model, *batch))
        assert model(*batch).shape == (5, 5) and logits_of(model, *batch).shape == (5, 5, 2)


# What each one is about

def test_a_bag_of_words_does_not_read():
    first, second, lengths = torch.tensor([[4, 5, 6, 7, 4, 8, 9]]), torch.tensor([[4, 8, 6, 7, 4, 5, 9]]), torch.tensor([7])
    for name in ALL:
        model = model_of(name)
        apart = (model.encode_captions(first, lengths).values - model.encode_captions(second, lengths).values).abs().max()
        assert apart < 1e-12 if name == "devise" else apart > 1e-4


def test_only_vsrn_walks():
    features, mask, turn = raw()[0][:, :4], torch.ones(3, 4, dtype=torch.bool), [2, 0, 3, 1]
    for name in ALL:
        model = model_of(name)
        captions = model.encode_captions(torch.tensor([[4, 5]]), torch.tensor([2]))
        before, after = (model.score(model.encode_images(f, mask), captions) for f in (features, features[:, turn]))
        moved = (before - after).abs().max()
        assert moved > 1e-6 if name.startswith("vsrn") else moved < 1e-12


def side(*rows): return Fragments(torch.tensor(rows, dtype=F64)[:, None], torch.ones(len(rows), 1, dtype=torch.bool))


def test_order_by_hand():
    model, images, captions = model_of("order-plain"), side((3.0, 4.0), (1.0, 0.0)), side((0.6, 0.8), (2.0, 0.0))
    assert same(model.score(images, captions), torch.tensor([[0.0, 0.0], [-0.64, -1.0]], dtype=F64), 1e-12)
    assert not same(model.score(captions, images).T, model.score(images, captions), 0.5)
    assert (model.score(images, side((0.0, 0.0))) == 0).all()  # the most general caption is above everything


def test_order_embeddings_have_no_signs_and_unit_length():
    for name, unit in (("order", True), ("order-plain", False)):
        model, (features, tokens, lengths, mask) = model_of(name), raw()
        for x in (model.encode_images(features, mask), model.encode_captions(tokens, lengths)):
            assert (x.values >= 0).all() and same(x.values.norm(dim=-1), torch.ones(len(x), 1, dtype=F64), 1e-12) == unit


def test_best_regions_by_hand():
    V = Fragments(torch.tensor([[[4.0, 2], [2, 6]], [[-1, 0], [0, 0]]], dtype=F64), torch.tensor([[True, True], [True, False]]))
    S = Fragments(torch.tensor([[[1.0, 0], [0, 1]], [[2, 0], [0, 0]]], dtype=F64), torch.tensor([[True, True], [True, False]]))
    values, which = best_regions(V, S)
    assert values[:, 0].tolist() == [[4, 6], [-1, 0]] and which[0, 0].tolist() == [0, 1] and (which[1] == 0).all()
    assert model_of("dvsa").score(V, S).tolist() == [[10, 8], [-1, -2]]
    assert mean_region(V).tolist() == [[3, 4], [-1, 0]]


def test_heads_look_at_real_fragments_only():
    torch.manual_seed(0)
    local = Fragments(torch.randn(2, 4, 6), torch.tensor([[True, True, False, False], [True, False, True, True]]))
    pie = PIE(6, 3, heads=5)
    weights = pie.weights(local)
    assert weights.shape == (2, 5, 4) and same(weights.sum(2), torch.ones(2, 5), 1e-6)
    assert (weights.masked_select(~local.mask[:, None]) == 0).all()
    views = pie(torch.randn(2, 3), local)
    assert views.values.shape == (2, 5, 3) and same(views.values.norm(dim=-1), torch.ones(2, 5), 1e-5) and views.mask.all()
    assert PIE(1, 3, 2).hidden.out_features == 1


def test_best_pair_by_hand():
    a = Fragments(torch.tensor([[[1.0, 0], [0, 1]]]), torch.ones(1, 2, dtype=torch.bool))
    b = Fragments(torch.tensor([[[0.6, 0.8], [-1, 0]]]), torch.ones(1, 2, dtype=torch.bool))
    assert PVSE(5, 10, 2, 3).score(a, b).item() == pytest.approx(0.8)


def test_graph_by_hand_and_at_first():
    graph = RegionGraph(2).double()
    V = Fragments(torch.tensor([[[4.0, 2], [2, 6]], [[1, 0], [0, 0]]], dtype=F64), torch.tensor([[True, True], [True, False]]))
    assert graph(V).values.equal(V.values)
    for layer in (graph.query, graph.key, graph.message, graph.back): layer.weight.data = torch.eye(2, dtype=F64)
    assert graph.affinity(V).tolist() == [[[10, 10], [10, 20]], [[1, 0], [0, 0]]]
    assert graph(V).values.tolist() == [[[64, 82], [82, 146]], [[2, 0], [0, 0]]]


def test_regions_are_read_in_their_order_whatever_the_mask():
    model, features = model_of("vsrn"), raw()[0]
    gaps = torch.tensor([[True, False, True, True]] * 3)
    assert same(model.encode_images(features, gaps).values, model.encode_images(features[:, [0, 2, 3]]).values, 1e-12)


def test_mean_words():
    words = MeanWords(6, 2, 3).double()
    one = words(torch.tensor([[4, 5, 0]]), torch.tensor([2])).values[0, 0]
    assert same(one, words.project((words.embed.weight[4] + words.embed.weight[5]) / 2), 1e-12)


@pytest.mark.parametrize("kind, wrong", [(PVSE, {"heads": 0}), (VSRN, {"layers": -1})])
def test_wrong_arguments_are_named(kind, wrong):
    (name, value), = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"): kind(5, 10, **wrong)


def test_sizes():
    shapes = {name: sum(p.numel() for p in kind(2048, 100).parameters()) for name, kind in
              (("devise", DEVISE), ("order", ORDER), ("cmpm", CMPM), ("dvsa", DVSA), ("pvse", PVSE), ("vsrn", VSRN))}
    assert shapes["devise"] < shapes["order"] == shapes["cmpm"] < shapes["dvsa"] < shapes["pvse"] < shapes["vsrn"]


@pytest.mark.parametrize("kind", [DEVISE, ORDER, DVSA, CMPM])
def test_a_warm_up_keeps_the_scale_of_a_loss_that_counts_all_rivals(kind):
    "The training loop's first steps and its later ones must not differ by a factor of B - 1."
    scores, loss = torch.rand(5, 5, 2) if kind is CMPM else torch.rand(5, 5), kind(6, 9, 4, 3).default_loss()
    assert torch.equal(loss.warm_up(scores), loss(scores))


@pytest.mark.parametrize("kind", [DEVISE, ORDER, DVSA, CMPM, PVSE, VSRN])
def test_a_standstill_is_the_loss_of_equal_scores(kind):
    loss = kind(6, 9, 4, 3).default_loss()
    equal = torch.full((7, 7, 2) if kind is CMPM else (7, 7), 0.3, dtype=F64)
    assert loss.standstill(7) == pytest.approx(loss(equal).item() / 7, rel=1e-6)

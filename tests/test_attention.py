"""Cross-modal attention and SCAN against a literal reading, float64."""

import literal_imram as literal
import pytest
import torch

from cmr.attention import SCAN, attend, clip, fragment_scores, pool, released_normalize, sharpen, similarities
from cmr.encoders import Fragments
from cmr.fast import score_all
from cmr.fast.scoring import tile_bytes
from cmr.matcher import MODELS
from cmr.saving import model_class
from cmr.testing import check_matcher


def ragged(lengths, d=4, seed=0):
    "Unit vectors padded with zeros, and the same as a list without padding."
    torch.manual_seed(seed)
    rows = [torch.nn.functional.normalize(torch.randn(n, d, dtype=torch.float64), dim=-1) for n in lengths]
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return Fragments(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask), rows


def same(a, b, tolerance=1e-10): return (a - b).abs().max() < tolerance


@pytest.fixture
def sides(): return ragged([3, 1, 4], seed=1), ragged([2, 5, 1, 3], seed=2)


def test_attend_is_the_equations(sides):
    (images, V), (captions, T) = sides
    context, weights = attend(captions.values[None], images.values, captions.mask, images.mask, 9.0)
    for i, v in enumerate(V):
        for j, t in enumerate(T):
            c, alpha = literal.attention(list(t), list(v), 9.0)
            assert same(context[i, j, :len(t)], torch.stack(c)) and same(weights[i, j, :len(t), :len(v)], torch.stack(alpha))
            assert (weights[i, j, :, len(v):] == 0).all()


def test_later_steps_have_their_own_queries_for_every_response(sides):
    (images, _), (captions, _) = sides
    once = attend(captions.values[None], images.values, captions.mask, images.mask)
    copied = attend(captions.values[None].expand(3, -1, -1, -1), images.values, captions.mask, images.mask)
    assert same(once[0], copied[0]) and same(once[1], copied[1])
    stretched = attend(7 * captions.values[None], images.values, captions.mask, images.mask)
    assert same(stretched[0], once[0])  # the paper's form is a cosine: length does not matter


def test_sharpen_goes_over_queries_and_past_padding():
    z = torch.tensor([[[[0.8, 0.96, -0.8], [0.0, 0.8, 0.0], [7.0, 7.0, 7.0]]]], dtype=torch.float64)  # the third query is padding
    found = sharpen(z, torch.tensor([[True, True, False]]))
    by_hand = [[1.0, 0.96 / (0.96**2 + 0.8**2) ** 0.5, 0.0], [0.0, 0.8 / (0.96**2 + 0.8**2) ** 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert same(found[0, 0], torch.tensor(by_hand, dtype=torch.float64), 1e-12)
    assert same(clip(z[0, 0, :2], 0), found[0, 0, :2], 1e-12)


def test_similarities_are_cosines_or_products(sides):
    (images, V), (captions, T) = sides
    long = 3 * captions.values[None]
    for variant, of in (("paper", literal.cos), ("released", lambda x, y: 3 * literal.dot(x, y))):
        z = similarities(long, images.values, variant)
        assert z.shape == (3, 4, 5, 4)
        for i, v in enumerate(V):
            for j, t in enumerate(T):
                assert same(z[i, j, :len(t), :len(v)], torch.tensor([[of(x, y) for y in v] for x in t], dtype=torch.float64))


@pytest.mark.parametrize("direction", ["text", "image"])
@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "lse"])
def test_scan_is_the_equations(sides, direction, pooling):
    (images, V), (captions, T) = sides
    model = SCAN(3, 9, 4, 3, direction=direction, pooling=pooling, inverse_temperature=4.0).double()
    assert same(model.score(images, captions), literal.scan(V, T, direction, pooling, 4.0))


@pytest.mark.parametrize("direction", ["text", "image"])
def test_gradient_is_the_literals_and_finite_differences(direction):
    V, T = (torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    V, T = (torch.nn.functional.normalize(x, dim=-1) for x in (V, T))
    model = SCAN(3, 9, 4, 3, direction=direction, pooling="lse").double()
    real = torch.ones(2, 3, dtype=torch.bool)

    def score(V, T): return model.score(Fragments(V, real), Fragments(T, real))
    a, b = (V.clone().requires_grad_(), T.clone().requires_grad_()), (V.clone().requires_grad_(), T.clone().requires_grad_())
    weight = torch.randn(2, 2, dtype=torch.float64)
    (score(*a) * weight).sum().backward()
    (literal.scan(list(b[0]), list(b[1]), direction, "lse", 9.0) * weight).sum().backward()
    assert same(a[0].grad, b[0].grad) and same(a[1].grad, b[1].grad)
    assert torch.autograd.gradcheck(score, a)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_gradient_is_finite_where_a_whole_column_is_clipped(variant):
    x = torch.tensor([[[[1.0, 0.0], [0.6, 0.8]]]], requires_grad=True)
    y = torch.tensor([[[-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], requires_grad=True)  # clipped, fine, padding
    context, weights = attend(x, y, torch.ones(1, 2, dtype=torch.bool), torch.tensor([[True, True, False]]), variant=variant)
    (context.sum() + weights.pow(2).sum() + fragment_scores(x, context).sum()).backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all() and torch.isfinite(weights).all()


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("direction", ["text", "image"])
def test_padding_order_and_tiles_change_nothing(sides, variant, direction):
    (images, _), (captions, _) = sides
    model = SCAN(3, 9, 4, 3, direction=direction, pooling="lse", variant=variant).double()
    scores = model.score(images, captions)
    wider = Fragments(torch.nn.functional.pad(images.values, (0, 0, 0, 2)), torch.nn.functional.pad(images.mask, (0, 2)))
    wider.values[:, -1] = 5.0  # whatever stands in the padding of the queries' or responses' rows
    longer = Fragments(torch.nn.functional.pad(captions.values, (0, 0, 0, 3)), torch.nn.functional.pad(captions.mask, (0, 3)))
    assert same(model.score(wider, longer), scores, 1e-12)
    order, turn = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    assert same(model.score(images[order], captions[turn]), scores[order][:, turn], 1e-12)
    for engine in (True, False):
        for tile in ((3, 4), (2, 2), (1, 1)):
            bound = tile_bytes(model, images, captions, *tile, engine)
            assert same(score_all(model, images, captions, max_bytes=bound, progress=False, engine=engine), scores, 1e-12)


def test_pool_worked_by_hand():
    scores, mask = torch.tensor([[[0.1, 0.5, 9.0]]]), torch.tensor([[True, True, False]])
    found = {name: pool(scores, mask, name).item() for name in ("mean", "sum", "max", "lse")}
    expected = {"mean": 0.3, "sum": 0.6, "max": 0.5, "lse": 0.5144681}  # log(e^0.6 + e^3.0) / 6
    assert found == pytest.approx(expected, abs=1e-5)


def test_released_normalize_is_gentle_at_zero():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    released_normalize(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert same(released_normalize(x)[0], torch.tensor([3.0, 4.0], dtype=torch.float64) / (5 + 1e-8), 1e-15)


def test_whole_model_trains_from_features_and_tokens():
    model = SCAN(3, 9, 4, 3)
    scores = model(torch.randn(2, 5, 3), torch.randint(4, 9, (3, 6)), torch.tensor([6, 1, 3]))
    scores.sum().backward()
    assert scores.shape == (2, 3) and all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("wrong", [{"direction": "full"}, {"direction": "sideways"}, {"pooling": "median"}, {"variant": "mine"},
                                   {"inverse_temperature": 0.0}, {"inverse_temperature": float("nan")}, {"lse_temperature": -1.0}])
def test_wrong_arguments_are_named(wrong):
    (name, _), = wrong.items()
    with pytest.raises(ValueError, match=name): SCAN(3, 9, 4, 3, **wrong)


def test_scan_is_registered_and_its_base_is_not():
    assert model_class("scan") is SCAN and "attentionmatcher" not in MODELS


@pytest.mark.parametrize("options", [{}, {"direction": "image", "pooling": "lse"}, {"variant": "released"}])
def test_scan_holds_what_every_matcher_must(options): check_matcher(SCAN, **options)

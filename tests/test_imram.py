"""IMRAM against a literal reading of Eq. 3-12, float64."""

import itertools

import literal_imram as literal
import pytest
import torch
from test_attention import ragged, same

from cmr.attention import SCAN
from cmr.encoders import Fragments
from cmr.fast import pair_scores, score_all
from cmr.fast.scoring import tile_bytes
from cmr.imram import DIRECTIONS, IMRAM, RAM, direction_scores, match_steps
from cmr.matcher import Matcher
from cmr.memory import MEMORIES
from cmr.saving import model_class
from cmr.testing import check_matcher


def build(seed=0, **options):
    torch.manual_seed(seed)
    return IMRAM(3, 9, 4, 3, **{"inverse_temperature": 4.0, **options}).double()


def parameters(model):
    "direction -> the memory's parameters, by the names the literal uses."
    return {direction: {k: p.detach().clone().requires_grad_() for k, p in ram.memory.named_parameters()} if ram.memory else None
            for direction, ram in model.ram.items()}


def literal_scores(model, V, T, name, p):
    "The literal's K step scores; a model of one step never updates, so any memory will do there."
    name = name if model.steps > 1 else "add"
    return literal.imram(V, T, model.steps, model.direction, name, p or {}, model.ram[next(iter(model.ram))].inverse_temperature)


@pytest.fixture
def sides(): return ragged([3, 1, 2], seed=1), ragged([2, 4, 1], seed=2)


@pytest.mark.parametrize("name,direction,steps", list(itertools.product(MEMORIES, DIRECTIONS, (1, 2, 3))))
def test_scores_are_the_equations(sides, name, direction, steps):
    (images, V), (captions, T) = sides
    model = build(steps=steps, direction=direction, memory=name)
    expected = literal_scores(model, V, T, name, parameters(model))
    assert model.step_scores(images, captions).shape == (steps, 3, 3)
    assert same(model.step_scores(images, captions), expected)
    assert same(model.score(images, captions), expected.sum(0))


@pytest.mark.parametrize("name", MEMORIES)
def test_gradients_are_the_literals(sides, name):
    (images, V), (captions, T) = sides
    model = build(steps=2, memory=name)
    p = parameters(model)
    images.values.requires_grad_()
    V = [v.clone().requires_grad_() for v in V]
    weight = torch.randn(3, 3, dtype=torch.float64)
    (model.score(images, captions) * weight).sum().backward()
    (literal_scores(model, V, T, name, p).sum(0) * weight).sum().backward()
    for i, v in enumerate(V):
        assert same(images.values.grad[i, :len(v)], v.grad)
        assert (images.values.grad[i, len(v):] == 0).all()
    for direction, ram in model.ram.items():
        for key, q in ram.memory.named_parameters(): assert same(q.grad, p[direction][key].grad)


@pytest.mark.parametrize("direction,variant", list(itertools.product(DIRECTIONS, ("paper", "released"))))
def test_gradcheck(direction, variant):
    model = build(steps=2, direction=direction, variant=variant, renormalise=variant == "released")
    (images, _), (captions, _) = ragged([2, 1], seed=3), ragged([1, 3], seed=4)

    def score(v, t): return model.score(Fragments(v, images.mask), Fragments(t, captions.mask))
    assert torch.autograd.gradcheck(score, (images.values.requires_grad_(), captions.values.requires_grad_()))


@pytest.mark.parametrize("direction,variant", list(itertools.product(DIRECTIONS, ("paper", "released"))))
def test_padding_order_and_tiles_change_nothing(sides, direction, variant):
    (images, _), (captions, _) = sides
    model = build(direction=direction, variant=variant)
    scores = model.score(images, captions)
    wider = Fragments(torch.nn.functional.pad(images.values, (0, 0, 0, 2), value=3.0), torch.nn.functional.pad(images.mask, (0, 2)))
    longer = Fragments(torch.nn.functional.pad(captions.values, (0, 0, 0, 3), value=-2.0), torch.nn.functional.pad(captions.mask, (0, 3)))
    assert same(model.score(wider, longer), scores, 1e-12)
    order = torch.tensor([2, 0, 1])
    assert same(model.score(images[order], captions[order.flip(0)]), scores[order][:, order.flip(0)], 1e-12)
    for engine in (True, False):
        for tile in ((3, 3), (2, 1), (1, 1)):
            bound = tile_bytes(model, images, captions, *tile, engine)
            assert same(score_all(model, images, captions, max_bytes=bound, progress=False, engine=engine), scores, 1e-12)


def test_ram_is_equation_8_and_the_loop_is_equation_9(sides):
    (images, V), (captions, T) = sides
    ram = RAM(4, inverse_temperature=4.0).double()
    context, updated = ram(captions.values[None], images.values, captions.mask, images.mask)
    p = dict(ram.memory.named_parameters())
    c, _ = literal.attention(list(T[1]), list(V[0]), 4.0)
    assert same(context[0, 1, :4], torch.stack(c))
    assert same(updated[0, 1, 2], literal.aggregate("distill", p, T[1][2], c[2]))
    steps = list(match_steps(ram, captions, images, 3))
    assert len(steps) == 3 and same(steps[1].query, updated) and steps[2].weights.shape == (3, 3, 4, 3)


def test_the_last_memory_update_is_not_made(sides):
    (images, _), (captions, _) = sides
    model, calls = build(direction="text"), []
    memory = model.ram["text"].memory
    memory.register_forward_hook(lambda *_: calls.append(1))
    model.score(images, captions)
    assert len(calls) == 2
    calls.clear()
    for made, _ in enumerate(match_steps(model.ram["text"], captions, images, 3)): assert len(calls) == made  # made when it is asked for
    assert len(calls) == 2


def test_two_blocks_are_independent_and_one_serves_all_steps():
    names = [name for name, _ in build().ram.named_parameters()]
    assert len(names) == 8 and {n.split(".")[0] for n in names} == {"image", "text"}
    assert len(list(build(direction="text").ram.parameters())) == 4 and not list(build(steps=1).ram.parameters())


def test_gradient_is_finite_where_a_column_is_clipped():
    model = build()
    one, away = torch.ones(1, 1, dtype=torch.bool), torch.tensor([[[1., 0, 0, 0]]], dtype=torch.float64)
    images, captions = Fragments(away, one), Fragments(-away, one)
    images.values.requires_grad_()
    model.score(images, captions).sum().backward()
    assert torch.isfinite(images.values.grad).all() and all(torch.isfinite(p.grad).all() for p in model.ram.parameters())


def test_a_model_is_trained_saved_and_found_again(tmp_path):
    model = IMRAM(3, 9, 4, 3, steps=2, direction="text", memory="gate", inverse_temperature=5.0, variant="released", renormalise=True)
    batch = torch.randn(2, 5, 3), torch.randint(4, 9, (3, 6)), torch.tensor([6, 1, 3])
    model(*batch).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    model.save_pretrained(tmp_path)
    again = Matcher.from_pretrained(tmp_path)
    assert type(again) is model_class("imram") is IMRAM and torch.equal(again(*batch), model(*batch))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": -1}, {"steps": 1.5}, {"direction": "both"}, {"memory": "lstm"},
                                   {"variant": "mine"}, {"inverse_temperature": 0}, {"inverse_temperature": float("inf")}])
def test_wrong_arguments_are_named(wrong):
    (name, _), = wrong.items()
    with pytest.raises(ValueError, match=name): IMRAM(3, 9, 4, 3, **wrong)
    if name != "memory": return
    with pytest.raises(ValueError, match=name): IMRAM(3, 9, 4, 3, steps=1, **wrong)


@pytest.mark.parametrize("direction,variant,steps", list(itertools.product(DIRECTIONS, ("paper", "released"), (1, 3))))
def test_pairs_are_the_diagonal_of_all_pairs(sides, direction, variant, steps):
    (images, _), (captions, _) = sides
    model = build(direction=direction, variant=variant, steps=steps)
    i, c = torch.tensor([0, 2, 2, 1]), torch.tensor([1, 1, 0, 2])
    scores = model.score(images, captions)
    for engine in (True, False): assert same(pair_scores(model, images[i], captions[c], engine), scores[i, c])
    assert all(same(model.score(images[[a]], captions[[b]])[0, 0], scores[a, b]) for a, b in zip(i.tolist(), c.tolist()))


def test_one_step_of_words_is_scan():
    torch.manual_seed(0)
    scan = SCAN(3, 9, 4, 3, direction="text", pooling="mean").double()
    torch.manual_seed(0)
    imram = IMRAM(3, 9, 4, 3, steps=1, direction="text").double()
    assert all(torch.equal(a, b) for a, b in zip(scan.parameters(), imram.parameters()))
    assert len(list(scan.parameters())) == len(list(imram.parameters()))
    features, tokens, lengths = torch.randn(2, 4, 3).double(), torch.tensor([[4, 5, 6], [7, 8, 0]]), torch.tensor([3, 2])
    assert same(scan(features, tokens, lengths), imram(features, tokens, lengths))


def test_the_full_model_is_the_sum_of_its_directions(sides):
    (images, _), (captions, _) = sides
    model = build()
    parts = [direction_scores(ram, images, captions, direction) for direction, ram in model.ram.items()]
    assert parts[0].shape == (3, 3, 3) and same(model.step_scores(images, captions), parts[0] + parts[1])
    assert not same(parts[0], parts[1], 1e-3)


def test_scores_refer_to_the_original_query(sides):
    "The planted bug of the chapter, context compared with the moved query, is another function from the second step on."
    (images, _), (captions, _) = sides
    first, second, _ = match_steps(build(memory="add", direction="text").ram["text"], captions, images, 3)
    for step, differs in ((first, False), (second, True)):
        moved = torch.cosine_similarity(step.query, step.context, dim=-1).masked_fill(~captions.mask, 0)
        assert same(step.scores.masked_fill(~captions.mask, 0), moved, 1e-6) != differs


@pytest.mark.parametrize("options", [{}, {"steps": 1, "direction": "image"},
                                     {"direction": "text", "variant": "released", "renormalise": True}])
def test_imram_holds_what_every_matcher_must(options): check_matcher(IMRAM, **options)

"CAMP against a literal reading of Eq. 1-14 and of the released code's computation, float64."

import itertools
import json

import literal_camp as literal
import pytest
import torch

from cmr.aggregation import MessageAggregation
from cmr.camp import (
    ABLATIONS,
    CAMP,
    FORM,
    SLOPE,
    FragmentPooling,
    Matching,
    ablation,
    complete_form,
    form_modules,
    fragment_gates,
    mean_gates,
    pair_gates,
    pair_vectors,
)
from cmr.data import Vocabulary
from cmr.encoders import Fragments
from cmr.fast import AnyModel, MessagePassing, camp_engine, floats_per_tile, pair_scores, plan, score_all, scores_of, training_scores
from cmr.fast.camp_engine import _asking, equal_lengths, fusion_halves, is_separable, weighted_sum
from cmr.fast.scoring import tile_bytes
from cmr.fusion import GatedFusion
from cmr.losses import MatchingBCE, Triplet, matching_bce, triplet
from cmr.matcher import MODELS
from cmr.saving import load, save

PARTS = {"aggregation": "aggregation", "image": "fuse_regions", "text": "fuse_words"}
FORMS = [dict(gates=g, fusion=f, residual=r, attention=a)
         for g, f, r, a in itertools.product(("element", "scalar", False), ("sum", "concat", "product"), (True, False), (True, False))]
FORMS += [dict(normalise="vectors"), dict(join="concat"), dict(normalise="both", start="base"), dict(normalise="both", start="base", join="concat"),
          dict(gates="scalar", fusion="concat", normalise="vectors", join="concat", branches=2)]
FORMS += [dict(branches=3), dict(gates="scalar", branches=2, hidden=5), dict(fusion=False), dict(fusion=False, attention=False, branches=2)]
EVERY = {**{name: dict(form) for name, form in ABLATIONS.items()}, "released": dict(variant="released"),
         "released sum": dict(variant="released", fusion="sum", branches=2), "released attention": dict(variant="released", fusion=False, matching="cosine"),
         "scalar": dict(gates="scalar", branches=3, hidden=5), "scalar product": dict(gates="scalar", fusion="product"),
         "scalar, mean": dict(gates="scalar", pooling="mean", residual=False), "open concat": dict(gates=False, fusion="concat"),
         "no fusion, mean": dict(fusion=False, pooling="mean"), "unit": dict(normalise="vectors"), "layer": dict(normalise="fragments"),
         "side by side": dict(normalise="both", join="concat"), "from the base model": dict(normalise="both", start="base"),
         "all, scalar": dict(normalise="both", start="base", join="concat", gates="scalar"), "layer base": dict(normalise="fragments", interaction=False)}


def built(seed=1, d=6, **form):
    "A small CAMP in float64 whose biases aren't zero."
    torch.manual_seed(seed)
    model = CAMP(3, 9, d, 4, **form).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"): p.normal_()
    return model


def sides(**kwargs):
    "Fragments of 3 images and 4 captions with junk behind the real ones, and the same as lists."
    (v, v_mask, V), (t, t_mask, T) = literal.batch(**kwargs)
    return Fragments(v, v_mask), Fragments(t, t_mask), V, T


def same(a, b, atol=1e-10): return torch.allclose(a, b, atol=atol, rtol=0)


def parameters(model):
    "The literal's parameters, out of the model's."
    p = {part: dict(getattr(model, name).named_parameters()) for part, name in PARTS.items() if hasattr(model, name)}
    for side, pool in (("image_pool", model.pool_regions), ("text_pool", model.pool_words)): p[side] = list(pool.scorer[0].weight) if pool.attention else []
    return {**p, "match": dict(model.matching.layers.named_parameters()) if model.form["matching"] == "mlp" else {}}


def literal_options(form):
    fuse = form.get("fusion") is not False
    return dict(attention=form.get("attention", True), gates=form.get("gates", "element") or None, operation=form.get("fusion", "sum") or "sum",
                residual=form.get("residual", True), fuse=fuse, join=form.get("join", "sum"), unit=form.get("normalise") in ("vectors", "both"))


@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(map(str, f.values())))
def test_scores_are_the_equations(form):
    model, (images, captions, V, T) = built(**form), sides(m=3, n=4)
    with torch.no_grad():
        expected = literal.camp(V, T, parameters(model), **literal_options(form))
        assert type(plan(model)) is MessagePassing
        for engine in (False, True):
            assert same(training_scores(model, images, captions, engine), expected)
            assert same(pair_scores(model, images, captions[[3, 0, 1]], engine), expected[range(3), [3, 0, 1]])
        likely = built(**form, output="probability")
        for engine in (False, True): assert same(scores_of(likely, images, captions, engine), expected.sigmoid())


@pytest.mark.parametrize("form", [{}, dict(gates="scalar", fusion="concat", branches=2), dict(normalise="both", start="base", join="concat")],
                         ids=["paper", "scalar concat", "departures"])
def test_gradients_are_the_literals(form):
    model, (images, captions, V, T) = built(d=4, **form), sides(m=3, n=3, d=4)
    images.values.requires_grad_(); captions.values.requires_grad_()
    V, T = ([[x.clone().requires_grad_() for x in row] for row in side] for side in (V, T))
    weight = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = [p for name, p in model.named_parameters() if "encoder" not in name]
    ours = torch.autograd.grad((training_scores(model, images, captions) * weight).sum(), [images.values, captions.values, *own])
    flat = [x for side in (V, T) for row in side for x in row]
    scores = literal.camp(V, T, parameters(model), **literal_options(form))
    theirs = torch.autograd.grad((scores * weight).sum(), [*flat, *own])
    found = [ours[k][i, j] for k, side in enumerate((V, T)) for i, row in enumerate(side) for j in range(len(row))]
    for a, b in zip([*found, *ours[2:]], theirs): assert same(a, b)
    assert (ours[0][~images.mask] == 0).all() and (ours[1][~captions.mask] == 0).all()


@pytest.mark.parametrize("name", EVERY)
def test_engine_and_plain_form_agree(name):
    "Scores and gradients, from slopes everywhere, in few places and nowhere."
    model, (images, captions, _, _) = built(**EVERY[name]), sides()
    dense = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for engine in (False, True):
        x, y = (side.values.clone().requires_grad_() for side in (images, captions))
        scores = training_scores(model, Fragments(x, images.mask), Fragments(y, captions.mask), engine)
        wanted = [x, y, *(p for k, p in model.named_parameters() if "encoder" not in k)]
        gradients = [torch.autograd.grad((scores * w).sum(), wanted, retain_graph=True, allow_unused=True) for w in (dense, dense * (dense > 1), 0 * dense)]
        gradients = [torch.zeros_like(p) if g is None else g for part in gradients for g, p in zip(part, wanted)]
        found.append([scores, pair_scores(model, images, captions[:3], engine), *gradients])
    for a, b in zip(*found): assert same(a, b)
    assert found[0][0].std() > 1e-3


@pytest.mark.parametrize("name", ["full", "scalar", "released", "no-fusion", "no-attention", "layer", "from the base model", "all, scalar"])
def test_loss_and_gradient_from_tokens(name):
    model = built(**EVERY[name])
    torch.manual_seed(2)
    features, lengths, tokens = torch.randn(9, 5, 3).double(), torch.randint(1, 8, (9,)), torch.randint(4, 9, (9, 7))
    same_image = torch.eye(9, dtype=torch.bool)
    same_image[1, 3] = same_image[3, 1] = True
    found = []
    for engine in (False, True):
        scores = training_scores(model, model.encode_images(features), model.encode_captions(tokens, lengths), engine)
        loss = model.default_loss()(scores, same_image)
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for a, b in zip(*found): assert same(a, b)


@pytest.mark.parametrize("name", ["full", "released", "no-residual", "mean-pooling", "joint-embedding", "base", "side by side", "from the base model"])
def test_gradcheck(name):
    model, (images, captions, _, _) = built(d=3, **EVERY[name]), sides(I=2, C=2, m=2, n=3, d=3)

    def score(v, t): return training_scores(model, Fragments(v, images.mask), Fragments(t, captions.mask))
    assert torch.autograd.gradcheck(score, (images.values.requires_grad_(), captions.values.requires_grad_()))


@pytest.mark.parametrize("name", EVERY)
def test_padding_order_and_tiles_change_nothing(name):
    model, (images, captions, _, _) = built(**EVERY[name]), sides()
    def fast(images, captions): return training_scores(model, images, captions)
    with torch.no_grad(): scores = fast(images, captions)
    wider = Fragments(torch.nn.functional.pad(images.values, (0, 0, 0, 2), value=3.), torch.nn.functional.pad(images.mask, (0, 2)))
    longer = Fragments(torch.nn.functional.pad(captions.values, (0, 0, 0, 3), value=-2.), torch.nn.functional.pad(captions.mask, (0, 3)))
    rows, columns = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    shuffled = Fragments(captions.values[:, order], captions.mask[:, order])                       # masks with holes
    with torch.no_grad():
        for how in (fast, model.logits):
            assert same(how(wider, longer), scores, 1e-12) and same(how(images, shuffled), scores, 1e-12)
            assert same(how(images[rows], captions[columns]), scores[rows][:, columns], 1e-12)
    for bound in (40_000, 100_000, 10 ** 8):
        for engine in (False, True): assert same(score_all(model, images, captions, bound, False, engine=engine), scores, 1e-12)


@pytest.mark.parametrize("size", [1, 3, 10 ** 6])
@pytest.mark.parametrize("name", ["full", "scalar", "released"])
def test_small_and_large_blocks(name, size, monkeypatch):
    model, (images, captions, _, _) = built(**EVERY[name]), sides()
    with torch.no_grad(): expected = model.logits(images, captions)
    monkeypatch.setattr(MessagePassing, "floats_per_pair", lambda self, m, n, d: 2**22 // size)
    with torch.no_grad(): assert same(training_scores(model, images, captions), expected)


# Table 3

def stages(ablated, full, images, captions):
    "What `ablated` makes, stage by stage, of what `full` made up to there."
    sent = full.aggregation(images, captions)
    regions, words = images.values[:, None], captions.values[None]
    fused = full.fuse_regions(regions, sent.to_regions), full.fuse_words(words, sent.to_words)
    v, t = pair_vectors(full, images, captions)
    other = ablated.aggregation(images, captions)
    yield "messages", [other.to_regions, other.to_words]
    yield "fused", [ablated.fuse_regions(regions, sent.to_regions), ablated.fuse_words(words, sent.to_words)]
    yield "vectors", [ablated.pool_regions(fused[0], images.mask[:, None]), ablated.pool_words(fused[1], captions.mask[None])]
    yield "score", [ablated.matching(v, t)]
    yield "loss", [ablated.default_loss()(full.matching(v, t)[:, :3])]


DIFFERS = {"full": [], "no-attention": ["messages"], "no-fusion": ["fused"], "no-gates": ["fused"], "no-residual": ["fused"], "mean-pooling": ["vectors"],
           "concat": ["fused"], "product": ["fused"], "joint-embedding": ["score", "loss"], "mlp-ranking": ["loss"], "bce-all": ["loss"]}


@pytest.mark.parametrize("name", DIFFERS)
def test_an_ablation_differs_where_it_should_and_only_there(name):
    full, other, (images, captions, _, _) = built(), built(seed=2, **ablation(name)), sides()
    state, own = full.state_dict(), other.state_dict()
    other.load_state_dict({k: p for k, p in state.items() if k in own and p.shape == own[k].shape}, strict=False)
    with torch.no_grad():
        pairs = zip(stages(full, full, images, captions), stages(other, full, images, captions))
        assert [stage for (stage, a), (_, b) in pairs if not all(same(x, y, 1e-6) for x, y in zip(a, b))] == DIFFERS[name]
    assert {k: v for k, v in other.form.items() if v != full.form[k]} == {**ablation(name), **({"objective": "ranking"} if name == "joint-embedding" else {})}


def test_the_base_model_never_lets_the_sides_meet():
    model, (images, captions, V, T) = built(**ablation("base")), sides()
    assert not any(word in name for name, _ in model.named_parameters() for word in ("aggregation", "fuse", "matching"))
    v, t = ([literal.pooled(x, list(pool.scorer[0].weight)) for x in side] for side, pool in ((V, model.pool_regions), (T, model.pool_words)))
    expected = torch.stack([torch.stack([torch.cosine_similarity(a, b, dim=0) for b in t]) for a in v])
    assert type(plan(model)) is AnyModel                                  # two vectors and a product: nothing to save
    for engine in (False, True):
        assert same(training_scores(model, images, captions, engine), expected) and same(pair_scores(model, images, captions[:3], engine), expected.diag())
    assert model.form["objective"] == "ranking" and same(model.default_loss()(expected[:, :3]), triplet(expected[:, :3]))
    assert same(model.score(images, captions[:1]), expected[:, :1])


def test_limits_in_which_ablation_and_full_model_agree():
    full, (images, captions, _, _) = built(), sides()
    with torch.no_grad(): full.aggregation.project_words.weight.zero_()
    even = built(**ablation("no-attention"))
    even.load_state_dict(full.state_dict(), strict=False)
    assert same(even.score(images, captions), full.score(images, captions))
    full = built()
    with torch.no_grad(): full.pool_regions.scorer[0].weight.zero_(); full.pool_words.scorer[0].weight.zero_()
    flat = built(**ablation("mean-pooling"))
    flat.load_state_dict(full.state_dict(), strict=False)
    assert same(flat.score(images, captions), full.score(images, captions))
    full, halves = built(), built(**ablation("concat"))
    state = full.state_dict()
    halves.load_state_dict({k: torch.cat([p, p], 1) if "fuse" in k and k.endswith("weight") else p for k, p in state.items()})
    assert same(halves.score(images, captions), full.score(images, captions))


def test_ablations_by_name():
    assert len(ABLATIONS) == 12 and all(isinstance(CAMP(3, 9, 4, 4, **form), CAMP) for form in ABLATIONS.values())
    assert ablation("no-gates", "mean-pooling") == {"gates": False, "pooling": "mean"} and ablation("full") == {}
    with pytest.raises(ValueError, match="ablation='w/o gates' is not known.*no-gates.*bce-all"): ablation("w/o gates")
    with pytest.raises(ValueError, match="no-fusion and concat exclude each other: fusion"): ablation("no-fusion", "concat")


@pytest.mark.parametrize("wrong", [
    dict(fusion=False, gates="scalar"), dict(fusion=False, residual=False), dict(interaction=False, gates="element"), dict(interaction=False, attention=False),
    dict(interaction=False, fusion="concat"), dict(interaction=False, hidden=4), dict(interaction=False, matching="mlp"), dict(attention=False, hidden=4),
    dict(pooling="mean", branches=4), dict(matching="cosine", objective="bce"), dict(matching="cosine", output="probability"),
    dict(variant="released", fusion="product"), dict(interaction=False, objective="bce-all")], ids=str)
def test_what_excludes_each_other_is_refused(wrong):
    with pytest.raises(ValueError, match="exclude each other"): CAMP(3, 9, 4, 4, **wrong)


@pytest.mark.parametrize(("wrong", "said"), [
    (dict(fusion="mean"), "fusion='mean'.*sum, concat, product, False"), (dict(gates="vector"), "gates='vector'.*element, scalar, False"),
    (dict(pooling="max"), "pooling='max'.*attention, mean"), (dict(matching="dot"), "matching='dot'.*mlp, cosine"),
    (dict(objective="hinge"), "objective='hinge'.*bce, bce-all, ranking"), (dict(variant="theirs"), "variant='theirs'.*paper, released"),
    (dict(output="cosine"), "output='cosine'.*logit, probability"), (dict(branches=0), "branches=0"), (dict(hidden=0), "hidden=0"),
    (dict(gates=True), "gates=True")], ids=str)
def test_unknown_choices_are_named(wrong, said):
    with pytest.raises(ValueError, match=said): CAMP(3, 9, 4, 4, **wrong)


def test_defaults_are_the_papers():
    form = CAMP(3, 9, 4, 4).form
    assert form == dict(interaction=True, attention=True, hidden=None, gates="element", fusion="sum", residual=True, pooling="attention", branches=1,
                        matching="mlp", objective="bce", output="logit", normalise=None, join="sum", start=None)
    model = CAMP(3, 9)
    assert model.image_encoder.project.out_features == 1024 and model.text_encoder.embed.embedding_dim == 300
    assert not model.image_encoder.normalise and not model.text_encoder.normalise
    assert complete_form({**form, "gates": None, "fusion": None, "branches": None, "variant": "released", "dim": 3})["branches"] == 4
    assert tuple(form) == FORM and MODELS["camp"] is CAMP and (CAMP.warmup_steps, CAMP.max_words) == (450, 50)
    assert model.default_loss() == MatchingBCE()


def test_weights_are_drawn_in_the_order_of_their_names():
    "So that a seed gives the weights that it always gave."
    for form in (dict(), dict(variant="released")):
        model = CAMP(3, 9, 4, 4, **form)
        torch.manual_seed(5)
        parts = form_modules(4, model.form, model.variant)
        torch.manual_seed(5)
        aggregation = MessageAggregation(4)
        fusions = [GatedFusion(4, model.form["gates"], model.form["fusion"]) for _ in range(2)]
        pools = [FragmentPooling(4, model.form["branches"], True, bool(form)) for _ in range(2)]
        for part, again in zip(parts, (aggregation, *fusions, *pools, Matching(4, "mlp", "concat" if form else "sum"))):
            for a, b in zip(part.parameters(), again.parameters()): assert torch.equal(a, b)
    names = [name.partition(".")[0] for name, _ in model.named_parameters()]
    assert list(dict.fromkeys(names)) == ["image_encoder", "text_encoder", "aggregation", "fuse_regions", "fuse_words", "pool_regions", "pool_words", "matching"]


# What departs from the paper, and how it starts

def test_fragments_that_are_normalised_have_mean_0_and_variance_1():
    plain, model = built(), built(normalise="fragments")
    torch.manual_seed(2)
    features, lengths, tokens = torch.randn(3, 5, 3).double(), torch.tensor([4, 2, 7]), torch.randint(4, 9, (3, 7))
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
    for old, new in ((plain.encode_images(features, mask), model.encode_images(features, mask)),
                     (plain.encode_captions(tokens, lengths), model.encode_captions(tokens, lengths))):
        assert torch.equal(old.mask, new.mask) and (new.values[~new.mask] == 0).all()
        for x, y in zip(old.values[old.mask], new.values[new.mask]):
            mean = sum(x) / len(x)
            root = torch.sqrt(sum((number - mean) ** 2 for number in x) / len(x) + 1e-5)
            assert same(y, torch.stack([(number - mean) / root for number in x]))
    assert set(plain.state_dict()) == set(model.state_dict())  # LayerNorm has no weights here


@pytest.mark.parametrize("join", ["sum", "concat"])
def test_the_logit_begins_as_ten_cosines(join):
    torch.manual_seed(0)
    match = Matching(64, join=join, unit=True, as_cosine=True).double()
    v, t = torch.nn.functional.normalize(torch.randn(2, 2000, 64).double(), dim=-1)
    t = t + 3 * torch.rand(2000, 1).double() * v
    off = match(v, t) - 2 * SLOPE * torch.cosine_similarity(v, t, dim=-1)
    assert off.std() < .1 and abs(off.mean()) < .1 and match(v, t).std() > 1
    assert same(match(v, 5 * t), match(v, t), 1e-9)


@pytest.mark.parametrize("join", ["sum", "concat"])
def test_a_camp_that_starts_from_the_base_model_ranks_as_it_does(join):
    "With the base model's encoders and pooling the very first scores are ten times its cosines, but for the pieces' error."
    torch.manual_seed(0)
    images, captions = Fragments(torch.randn(12, 5, 16), torch.ones(12, 5).bool()), Fragments(torch.randn(20, 4, 16), torch.ones(20, 4).bool())
    base = CAMP(6, 9, embed_dim=16, word_dim=4, interaction=False, normalise="fragments")
    model = CAMP(6, 9, embed_dim=16, word_dim=4, normalise="both", start="base", join=join)
    model.load_state_dict(base.state_dict(), strict=False)
    for fuse in (model.fuse_regions, model.fuse_words):
        for p in fuse.linear.parameters(): torch.nn.init.zeros_(p)
    with torch.no_grad(): ours, theirs = model.score(images, captions), 2 * SLOPE * base.score(images, captions)
    assert (ours - theirs).abs().max() < .7 and torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > .995


def test_from_the_base_model_F_begins_small():
    first, other = built(), built(normalise="both", start="base")
    for name in ("fuse_regions", "fuse_words"):
        most = [getattr(model, name).linear.weight.abs().max() for model in (first, other)]
        assert most[1] < .11 * (6 / 12) ** .5 and most[0] > .5 * (6 / 12) ** .5


def test_a_config_from_before_the_options_loads(tmp_path):
    model = CAMP(3, 9, 6, 4)
    for key in ("normalise", "join", "start"): del model._hub_mixin_config[key]
    save(model, Vocabulary([*"abcde"]), tmp_path)
    assert "start" not in json.loads((tmp_path / "config.json").read_text())
    again, _ = load(tmp_path)
    assert again.form == model.form and all(torch.equal(p, again.state_dict()[name]) for name, p in model.state_dict().items())


# The loss

def test_the_loss_is_equation_14():
    torch.manual_seed(0)
    logits = 3 * torch.randn(4, 4, dtype=torch.float64)
    loss = built().default_loss()
    assert same(loss(logits), literal.hardest_bce(logits.sigmoid())) and same(loss.warm_up(logits), matching_bce(logits, "all"))
    assert same(built(objective="bce-all").default_loss()(logits), matching_bce(logits, "all"))
    ranking = built(objective="ranking").default_loss()
    assert ranking == Triplet(of="probability") and same(ranking(logits), triplet(logits.sigmoid()))
    assert same(ranking.warm_up(logits), triplet(logits.sigmoid(), negatives="all") / 3)
    cosines = logits.tanh()
    assert built(matching="cosine").default_loss() == Triplet() and same(built(matching="cosine").default_loss()(cosines), triplet(cosines))


@pytest.mark.parametrize("name", ["full", "bce-all", "mlp-ranking", "joint-embedding"])
def test_losses_refuse(name):
    loss = built(**ablation(name)).default_loss()
    for bad in (torch.inf, -torch.inf, torch.nan):
        with pytest.raises(ValueError, match="NaN or infinity"): loss(torch.tensor([[bad, 0.], [0., 1.]]))
    with pytest.raises(ValueError, match="no negatives"): loss(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="no negatives"): loss(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="square"): loss(torch.zeros(2, 3))


def test_saturated_logits_keep_their_gradient():
    logits = torch.tensor([[-40., 30.], [30., -40.]], requires_grad=True)
    built().default_loss()(logits).backward()
    assert logits.grad.abs().min() > .9


# The authors' code

@pytest.mark.parametrize(("fusion", "branches"), list(itertools.product(("concat", "sum"), (1, 4))))
def test_the_released_scores(fusion, branches):
    states = literal.released_states(fusion=fusion, branches=branches)
    model, sentences = CAMP.from_released(states, fusion=fusion, branches=branches), [[1, 5, 7, 2], [1, 4, 2], [1, 9, 9, 6, 11, 2], [3]]
    features = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(s) for s in sentences], batch_first=True)
    expected = literal.released_camp(states, features, sentences, fusion)
    with torch.no_grad():
        found = model(features, tokens, torch.tensor([len(s) for s in sentences]))
        assert found.dtype == torch.float64 and same(found, expected)
        V, T = model.encode_images(features), model.encode_captions(tokens, torch.tensor([len(s) for s in sentences]))
        for engine in (True, False):
            assert same(training_scores(model, V, T, engine).sigmoid(), expected) and same(scores_of(model, V, T, engine), expected)
            assert same(pair_scores(model, V, T[:3], engine), expected.diag())
    logits = CAMP.from_released(states, fusion, branches, output="logit")
    with torch.no_grad(): assert same(logits.score(V, T).sigmoid(), expected)
    assert not model.training and model.variant == "released" and expected.std() > 1e-3


def test_released_one_way_reader_prefix_and_dtype():
    states = literal.released_states()
    one_way = [states[0], {k: w for k, w in states[1].items() if not k.endswith("_reverse")}, states[2]]
    model = CAMP.from_released([{f"module.{k}": w.float() for k, w in state.items()} for state in one_way])
    features = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(7))
    with torch.no_grad(): found = model(features, torch.tensor([[1, 5, 7]]), torch.tensor([3]))
    assert found.dtype == torch.float32 and same(found.double(), literal.released_camp(one_way, features.double(), [[1, 5, 7]]), 1e-5)


def test_released_weights_that_do_not_fit_are_named():
    states = literal.released_states()
    def without(k, name): return [{n: w for n, w in s.items() if not (j == k and n == name)} for j, s in enumerate(states)]
    for k, name in ((0, "fc.bias"), (0, "fc.weight"), (1, "embed.weight"), (1, "rnn.bias_hh_l0"), (2, "img_key_fc.weight"), (2, "reduce_layer_2.linear.2.bias"), (2, "fc_out.3.weight")):
        with pytest.raises(ValueError, match=name): CAMP.from_released(without(k, name))
    with pytest.raises(ValueError, match="img_query_fc.weight"): CAMP.from_released([*states[:2], {**states[2], "img_query_fc.weight": torch.zeros(4, 4)}])
    with pytest.raises(ValueError, match="fc_1.0.weight.*fc_out.0.weight|fc_out.0.weight.*fc_1.0.weight"): CAMP.from_released(states, fusion="sum")
    with pytest.raises(ValueError, match="reduce_layer_1.linear.2.weight"): CAMP.from_released(states, branches=2)
    with pytest.raises(ValueError, match="fusion='product'.*concat, sum"): CAMP.from_released(states, fusion="product")
    for wrong in (states[:2], states[2], [states[0], states[1], list(states[2])]):
        with pytest.raises(ValueError, match="three state dicts"): CAMP.from_released(wrong)


def test_released_weights_can_be_trained_further():
    model = CAMP.from_released(literal.released_states()).train()
    torch.manual_seed(0)
    V, T = model.encode_images(torch.randn(3, 4, 5).double()), model.encode_captions(torch.tensor([[5, 6], [7, 8], [9, 4]]), torch.tensor([2, 2, 2]))
    logits = training_scores(model, V, T)
    assert same(model.score(V, T), logits.sigmoid())
    model.default_loss()(logits).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# Parts

@pytest.mark.parametrize("options", [{}, dict(branches=3), dict(attention=False), dict(deep=True, branches=4)], ids=str)
def test_pooling(options):
    torch.manual_seed(0)
    pool, (images, _, V, _) = FragmentPooling(6, **options).double(), sides()
    found = pool(images.values, images.mask)
    for row, fragments in zip(found, V):
        if options.get("attention") is False: expected = literal.mean(fragments)
        elif options.get("deep"): expected = literal.released_pool({f"x.linear.{k}.{n}": p for k in (0, 2) for n, p in pool.scorer[k].named_parameters()}, "x", fragments)
        else: expected = literal.pooled(fragments, list(pool.scorer[0].weight))
        assert same(row, expected)
    assert same(pool.weights(images.values, images.mask).sum(-1), torch.ones(3, dtype=torch.float64)) and (pool.weights(images.values, images.mask)[~images.mask] == 0).all()
    assert torch.autograd.gradcheck(lambda x: pool(x, images.mask), images.values.requires_grad_())


def test_matching():
    torch.manual_seed(0)
    v, t = torch.randn(3, 1, 6).double(), torch.randn(1, 4, 6).double()
    mlp = Matching(6).double()
    assert same(mlp(v, t)[2, 1], literal.matching_logit(v[2, 0], t[0, 1], dict(mlp.layers.named_parameters())))
    assert same(Matching(6, "cosine")(v, t), torch.cosine_similarity(v, t, dim=-1)) and Matching(6, join="concat").double()(v, t).shape == (3, 4)
    zero = torch.zeros(1, 6, requires_grad=True)
    Matching(6, "cosine")(zero, torch.ones(1, 6)).sum().backward()
    assert zero.grad.isfinite().all()


def test_rows_of_equal_length():
    mask = torch.arange(5) < torch.tensor([1, 1, 3, 5, 5])[:, None]
    assert equal_lengths(mask) == [(slice(0, 2), 1), (slice(2, 3), 3), (slice(3, 5), 5)]
    assert _asking({"values": torch.zeros(5, 5, 2)}, 1)["values"].shape == (5, 1, 5, 2)


@pytest.mark.parametrize("form", [dict(gates="scalar"), dict(gates="scalar", fusion="concat"), dict(gates=False), dict(gates=False, fusion="concat")], ids=str)
def test_halves_of_a_fusion(form):
    "g (W x + W t) + b inside F: what can be multiplied before the sides meet."
    fusion, x, message = built(**form).fuse_regions, *torch.randn(2, 3, 4, 6).double()
    for_x, for_message = fusion_halves(fusion)
    apart = (fusion.gates(x, message) * (x @ for_x.T + message @ for_message.T) + fusion.linear.bias).relu() + x
    assert is_separable(fusion) and same(apart, fusion(x, message))
    for other in (dict(), dict(fusion="product"), dict(gates="scalar", fusion="product"), dict(fusion=False)): assert not is_separable(built(**other).fuse_regions)


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (5, 2, 3, 4), (1, 1, 1, 1)])
def test_a_weighted_sum_also_of_a_piece(shape):
    shares, whole = torch.rand(shape[:3], dtype=torch.float64), torch.randn(shape[0], 7 + shape[1] * shape[2], shape[3], dtype=torch.float64)
    piece = whole[:, 7:].unflatten(1, shape[1:3])
    assert torch.allclose(weighted_sum(shares, piece), (shares[..., None] * piece).sum(2), atol=1e-12)


def test_no_padded_row_goes_through_F(monkeypatch):
    "The pair loop's largest products run over real fragments only."
    model, (images, captions, _, _) = built(), sides()
    rows, product = [], camp_engine.product
    monkeypatch.setattr(camp_engine, "product", lambda x, w, out: rows.append(len(x)) or product(x, w, out))
    with torch.no_grad(): training_scores(model, images, captions)
    assert sum(rows) == len(captions) * int(images.mask.sum()) + len(images) * int(captions.mask.sum())


# Gates, files, precision

@pytest.mark.parametrize("gates", ["element", "scalar"])
def test_gates(gates):
    model, (images, captions, V, T) = built(gates=gates), sides()
    table, p = pair_gates(model, images, captions, at_once=3), parameters(model)
    for i, j in ((0, 0), (2, 1), (1, 3)):
        to_words, to_regions, _, _ = literal.messages(V[i], T[j], p["aggregation"])
        g, h = ([literal.gate(x, message, gates).mean() for x, message in zip(*side)] for side in ((V[i], to_regions), (T[j], to_words)))
        found = fragment_gates(model, images[i], captions[j])
        assert same(found[0], torch.stack(g)) and same(found[1], torch.stack(h))
        assert same(table[i, j], (literal.mean(g) + literal.mean(h)) / 2)
    matching = torch.arange(3)[:, None] == torch.tensor([0, 1, 2, 2])
    found = mean_gates(model, images, captions, [0, 1, 2, 2])
    assert found == mean_gates(model, images, captions, matching)
    assert abs(found.matching - table[matching].mean()) < 1e-10 and abs(found.other - table[~matching].mean()) < 1e-10
    assert not table.requires_grad


def test_gates_that_are_not_there():
    images, captions, _, _ = sides()
    for form in (dict(gates=False), dict(fusion=False), dict(interaction=False)):
        with pytest.raises(ValueError, match="no gates"): pair_gates(built(**form), images, captions)
    with pytest.raises(ValueError, match="one image and one caption"): fragment_gates(built(), images, captions)
    with pytest.raises(ValueError, match="both kinds"): mean_gates(built(), images[:1], captions, [0, 0, 0, 0])


@pytest.mark.parametrize("name", ["full", "base", "no-gates", "no-fusion", "joint-embedding", "released"])
def test_saved_and_loaded(name, tmp_path):
    vocabulary = Vocabulary(["a", "red", "ball", "box", "sky"])
    torch.manual_seed(0)
    model, (images, captions, _, _) = CAMP(3, len(vocabulary), 6, 4, **EVERY[name]), sides()
    save(model, vocabulary, tmp_path)
    again, _ = load(tmp_path)
    assert type(again) is CAMP and again.form == model.form and again.variant == model.variant
    images, captions = images.to(torch.float32), captions.to(torch.float32)
    with torch.no_grad(): assert same(again.score(images, captions), model.score(images, captions), 1e-6)


@pytest.mark.parametrize("name", ["full", "scalar", "released", "no-fusion", "product"])
def test_bfloat16(name):
    "Under autocast both forms are as near to float32 as bfloat16's eight bits let them be, and their gradients are finite."
    torch.manual_seed(0)
    model = CAMP(3, 9, 32, 16, **EVERY[name])
    features, tokens, lengths = torch.randn(6, 5, 3), torch.randint(4, 9, (6, 7)), torch.tensor([7, 3, 5, 2, 1, 4])
    exact = model(features, tokens, lengths).detach()
    for engine in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            rough = training_scores(model, model.encode_images(features), model.encode_captions(tokens, lengths), engine)
        assert rough.dtype == torch.float32 and 0 < (rough - exact).detach().abs().max() < 20 * 2**-8 * max(1, float(exact.abs().max()))
        model.default_loss()(rough).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_frozen_encoders_get_no_gradient():
    model = built()
    for part in (model.image_encoder, model.text_encoder, model.aggregation): part.requires_grad_(False)
    torch.manual_seed(0)
    images, captions = model.encode_images(torch.randn(4, 5, 3).double()), model.encode_captions(torch.randint(4, 9, (4, 6)), torch.tensor([6, 2, 3, 1]))
    model.default_loss()(training_scores(model, images, captions)).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_who_gets_the_plan():
    class Other(CAMP):
        def logits(self, images, captions): return 2 * super().logits(images, captions)

    class Shut(FragmentPooling): pass
    torch.manual_seed(0)
    other, shut, (images, captions, _, _) = Other(3, 9, 6, 4).double(), built(), sides()
    shut.pool_words = Shut(6).double()
    for model in (other, shut):
        assert type(plan(model)) is AnyModel and same(training_scores(model, images, captions), model.logits(images, captions))


def test_what_a_tile_needs_is_bounded():
    for engine, form in ((True, {}), (True, dict(interaction=False)), (False, {})):
        model = CAMP(3, 9, 64, 4, **form)
        wide = [Fragments(torch.zeros(1, k, 64), torch.ones(1, k, dtype=torch.bool)) for k in (36, 12)]
        small, large = tile_bytes(model, *wide, 4, 4, engine), tile_bytes(model, *wide, 64, 64, engine)
        assert 0 < small < large
    own, model = plan(built(d=64)), built(d=64)
    assert own.floats_per_tile(500, 500, 36, 12, torch.zeros(0, 64)) < floats_per_tile(model, 500, 500, 36, 12, 64) / 100

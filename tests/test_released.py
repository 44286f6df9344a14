"""`from_released` against an independent reading of the authors' released computation, caption by caption, float64."""

import itertools

import literal_imram as literal
import pytest
import torch

from cmr.attention import SCAN
from cmr.camp import CAMP
from cmr.fast import score_all
from cmr.imram import IMRAM
from cmr.matcher import VSE
from cmr.shelf import from_released
from cmr.shelf.released import CAMP_MODULES, SCAN_MODULES, family, imram_modules, rename

CAPTIONS = [[1, 5, 7, 2], [1, 4, 2], [1, 9, 9, 6, 11, 2], [3]]


def features(): return torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def scores_of(model):
    lengths = torch.tensor([len(c) for c in CAPTIONS])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(c) for c in CAPTIONS], batch_first=True)
    with torch.no_grad(): return model(features(), tokens, lengths)


@pytest.mark.parametrize("direction,steps,renormalise", list(itertools.product(("full", "image", "text"), (1, 2, 3), (False, True))))
def test_imram_gives_the_released_scores(direction, steps, renormalise):
    state = literal.released_state()
    model = IMRAM.from_released(state, steps=steps, direction=direction, inverse_temperature=11.0, renormalise=renormalise)
    expected = literal.released_imram(state, features(), CAPTIONS, steps, direction, 11.0, renormalise)
    assert scores_of(model).dtype == torch.float64
    assert (scores_of(model) - expected.sum(0)).abs().max() < 1e-10
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(c) for c in CAPTIONS], batch_first=True)
    encoded = model.encode_images(features()), model.encode_captions(tokens, torch.tensor([4, 3, 6, 1]))
    assert (model.step_scores(*encoded) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("direction,pooling,bidirectional",
                         list(itertools.product(("image", "text"), ("mean", "sum", "max", "lse"), (True, False))))
def test_scan_gives_the_released_scores(direction, pooling, bidirectional):
    state = literal.released_state("fc", gates=False, bidirectional=bidirectional, seed=3)
    model = SCAN.from_released(state, direction=direction, pooling=pooling, inverse_temperature=4.0)
    expected = literal.released_scan(state, features(), CAPTIONS, direction, pooling, 4.0)
    assert (scores_of(model) - expected).abs().max() < 1e-10


def halves(state):
    "What SCAN's training saves: the state dicts of its two encoders, without their names in front."
    parts = "img_enc.", "txt_enc."
    return [{name.removeprefix(part): x for name, x in state.items() if name.startswith(part)} for part in parts]


def test_scan_takes_the_two_state_dicts_that_it_saves():
    state = literal.released_state("fc", gates=False, seed=3)
    for parts in (halves(state), [{f"module.{name}": x for name, x in part.items()} for part in halves(state)], tuple(halves(state))):
        assert torch.equal(scores_of(SCAN.from_released(parts)), scores_of(SCAN.from_released(state)))
    with pytest.raises(ValueError, match="got 3 state dicts: SCAN saves two"): SCAN.from_released([*halves(state), {}])
    with pytest.raises(ValueError, match="img_enc.embed.weight"): SCAN.from_released(halves(state)[::-1])


def test_the_engine_gives_the_released_scores():
    for model in (IMRAM.from_released(literal.released_state()), SCAN.from_released(literal.released_state("fc", gates=False))):
        lengths = torch.tensor([len(c) for c in CAPTIONS])
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(c) for c in CAPTIONS], batch_first=True)
        with torch.no_grad(): sides = model.encode_images(features()), model.encode_captions(tokens, lengths)
        assert (score_all(model, *sides, progress=False) - scores_of(model)).abs().max() < 1e-10


def test_the_family_is_found_by_the_class():
    class Mine(IMRAM): pass
    state = literal.released_state()
    mine = Mine.from_released(state)
    assert type(mine) is Mine and torch.equal(scores_of(mine), scores_of(from_released(IMRAM, state)))
    for wrong in (VSE, torch.nn.Linear):
        with pytest.raises(ValueError, match=f"no released weights are known for {wrong.__name__}: .*SCAN, IMRAM and CAMP"):
            from_released(wrong, {})
    class Other(VSE): pass
    family.register(Other, lambda cls, state, half=False: (cls, state, half))
    assert Other.from_released({"a": 1}, half=True) == (Other, {"a": 1}, True)


@pytest.mark.parametrize("kind, modules", [(SCAN, SCAN_MODULES), (IMRAM, imram_modules(3, "full")[0]), (CAMP, CAMP_MODULES)])
def test_every_weight_of_a_model_has_a_name_in_its_authors_files(kind, modules):
    ours = {name.rpartition(".")[0] for name, _ in kind(5, 9, 4, 3, variant="released").named_parameters()}
    assert ours == set(modules) and len(set(modules.values())) == len(modules)
    back = {theirs: our for our, theirs in modules.items()}
    assert all(rename(rename(f"{name}.weight", modules), back) == f"{name}.weight" for name in ours)
    assert rename("nobody.weight", modules) is None


def test_the_two_variants_differ():
    state = literal.released_state()
    model = IMRAM.from_released(state)
    released = scores_of(model)
    for part in model.ram.values(): part.variant = "paper"
    assert (scores_of(model) - released).abs().max() > 1e-3


def test_module_prefix_and_dtype():
    state = literal.released_state()
    wrapped = IMRAM.from_released({f"module.{k}": v.float() for k, v in state.items()})
    assert all(p.dtype == torch.float32 for p in wrapped.parameters())
    assert (scores_of(wrapped) - scores_of(IMRAM.from_released(state)).float()).abs().max() < 1e-4
    assert not wrapped.training


def test_the_models_weights_are_copies():
    state = literal.released_state()
    before = state["gate_t2i.weight"].clone()
    model = IMRAM.from_released(state)
    with torch.no_grad(): model.ram["text"].memory.gate.weight.zero_()
    assert torch.equal(state["gate_t2i.weight"], before)


def test_weights_of_the_other_direction_may_be_there_or_not():
    state = literal.released_state()
    half = {k: v for k, v in state.items() if "i2t" not in k}
    assert torch.equal(scores_of(IMRAM.from_released(half, direction="text")), scores_of(IMRAM.from_released(state, direction="text")))
    with pytest.raises(ValueError, match="linear_i2t.weight.*gate_i2t.bias|gate_i2t.bias.*linear_i2t.weight"):
        IMRAM.from_released(half, direction="full")


@pytest.mark.parametrize("name", ["txt_enc.rnn.bias_hh_l0", "gate_t2i.weight", "img_enc.fc_local.weight", "txt_enc.embed.weight",
                                  "img_enc.fc_local.bias"])
def test_a_missing_weight_is_named(name):
    state = literal.released_state()
    del state[name]
    with pytest.raises(ValueError, match=name): IMRAM.from_released(state)


def test_unknown_and_misshapen_weights_are_named():
    state = literal.released_state()
    with pytest.raises(ValueError, match="img_enc.cnn.weight"): IMRAM.from_released({**state, "img_enc.cnn.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="txt_enc.rnn.weight_ih_l1"):
        IMRAM.from_released({**state, "txt_enc.rnn.weight_ih_l1": torch.zeros(1)})
    with pytest.raises(ValueError, match="gate_t2i.bias"): IMRAM.from_released({**state, "gate_t2i.bias": torch.zeros(9)})
    with pytest.raises(ValueError, match="img_enc.fc"): SCAN.from_released(state)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"direction": "both"}, {"inverse_temperature": -1.0}])
def test_wrong_arguments_are_named(wrong):
    (name, _), = wrong.items()
    with pytest.raises(ValueError, match=name): IMRAM.from_released(literal.released_state(), **wrong)

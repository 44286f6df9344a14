"""`from_released` against an independent reading of the authors' released computation, caption by caption, float64."""

import argparse
import itertools
import json
import pickle
from fractions import Fraction as FractionalSettings

import literal_imram as literal
import pytest
import torch
from literal_camp import released_states
from typer.testing import CliRunner

from cmr.attention import SCAN
from cmr.camp import CAMP
from cmr.cli import app
from cmr.data import Vocabulary
from cmr.fast import score_all
from cmr.imram import IMRAM
from cmr.matcher import VSE
from cmr.saving import load
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


# --- the authors' files

def saved(path, model, legacy=False, **settings):
    "A checkpoint as the authors' training saves it."
    opt = argparse.Namespace(learning_rate=2e-4, data_path="data", bi_gru=True, **settings) if settings else None
    content = {"epoch": 30, "model": model, "best_rsum": 412.5, "Eiters": 7, **({"opt": opt} if opt else {})}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def words_json(path, words=8):
    "The published vocabulary: as many words as the checkpoint's embedding, marks included."
    Vocabulary([f"w{i}" for i in range(words)]).save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: content[key] for key in ("word2idx", "idx2word", "idx")}))
    return path


def command(*words, code=0):
    result = CliRunner().invoke(app, ["import", "checkpoint", *map(str, words)])
    assert result.exit_code == code and "Traceback" not in result.output and "error of the package" not in result.output, result.output
    return " ".join(result.output.split())


SCAN_OPT = {"cross_attn": "i2t", "agg_func": "LogSumExp", "lambda_lse": 5.0, "lambda_softmax": 4.0, "raw_feature_norm": "clipped_l2norm"}
IMRAM_OPT = {"model_mode": "text_IMRAM", "iteration_step": 2, "lambda_softmax": 11.0, "no_IMRAM_norm": False}
SCAN_STATE, IMRAM_STATE, CAMP_STATES = literal.released_state("fc", gates=False, seed=3), literal.released_state(), released_states()
FILES = {"scan": (halves(SCAN_STATE), SCAN_OPT, lambda: SCAN.from_released(SCAN_STATE, "image", "lse", 4.0, 5.0)),
         "imram": ({f"module.{k}": v for k, v in IMRAM_STATE.items()}, IMRAM_OPT, lambda: IMRAM.from_released(IMRAM_STATE, 2, "text", 11.0, True)),
         "camp": ([{f"module.{k}": v for k, v in state.items()} for state in CAMP_STATES], {"measure": "gate_fusion", "fusion_func": "concat"},
                  lambda: CAMP.from_released(CAMP_STATES))}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_of_the_authors_becomes_our_folder_with_their_scores(tmp_path, name, legacy):
    model, opt, expected = FILES[name]
    file = saved(tmp_path / "model_best.pth.tar", model, legacy, **opt)
    said = command(file, tmp_path / "out", "--family", name, "--vocabulary", words_json(tmp_path / "vocab.json"))
    assert f"this is {name.upper()}'s checkpoint" in said
    found, vocabulary = load(tmp_path / "out")
    assert (scores_of(found) - scores_of(expected())).abs().max() < 1e-12 and scores_of(found).dtype == torch.float64
    assert found.config == expected().config
    assert vocabulary.marks and vocabulary.max_words == (49 if name == "camp" else None)  # 47 words and both marks, as the authors' data.py cuts
    assert len(vocabulary) == 12


def test_the_command_line_goes_before_the_checkpoint(tmp_path):
    file = saved(tmp_path / "m.pth.tar", IMRAM_STATE, **IMRAM_OPT)
    said = command(file, tmp_path / "out", "--family", "imram", "--direction", "full", "--steps", 1)
    assert "steps 1" in said and "without --vocabulary" in said
    expected = IMRAM.from_released(IMRAM_STATE, 1, "full", 11.0, True)
    assert (scores_of(IMRAM.from_pretrained(tmp_path / "out")) - scores_of(expected)).abs().max() < 1e-12
    said = command(saved(tmp_path / "bare.pth.tar", IMRAM_STATE), tmp_path / "bare", "--family", "imram")
    assert "says nothing of its settings" in said
    torch.save(IMRAM_STATE, tmp_path / "state.pth")  # the state dict alone
    command(tmp_path / "state.pth", tmp_path / "state", "--family", "imram")
    assert (scores_of(IMRAM.from_pretrained(tmp_path / "state")) - scores_of(IMRAM.from_released(IMRAM_STATE))).abs().max() < 1e-12


class Launch:
    "What a malicious pickle does when it is read."
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (self.path, "w")


def wrong_files(folder):
    "Checkpoints that must be refused, and words that must be said."
    bad = {**IMRAM_STATE}
    yield "other family", saved(folder / "a.pth.tar", FILES["scan"][0], **SCAN_OPT), "it is of scan"
    yield "missing", saved(folder / "b.pth.tar", {k: v for k, v in bad.items() if k != "gate_t2i.bias"}), "gate_t2i.bias"
    yield "NaN", saved(folder / "c.pth.tar", {**bad, "gate_t2i.bias": torch.full((4,), torch.nan, dtype=torch.float64)}), "gate_t2i.bias holds NaN"
    yield "whole numbers", saved(folder / "d.pth.tar", {**bad, "gate_t2i.bias": torch.ones(4, dtype=torch.int64)}), "expected an array of floating"
    yield "text", saved(folder / "e.pth.tar", {**bad, "gate_t2i.bias": "x"}), "weight gate_t2i.bias is str"
    yield "two precisions", saved(folder / "f.pth.tar", {**bad, "gate_t2i.bias": torch.ones(4)}), "one precision"
    yield "huge", saved(folder / "g.pth.tar", {**bad, "txt_enc.embed.weight": torch.zeros(1, 3, dtype=torch.float64).expand(10**11, 3)}), "more numbers than the file"
    yield "settings", saved(folder / "h.pth.tar", bad, **{**IMRAM_OPT, "raw_feature_norm": "softmax"}), "raw_feature_norm=softmax"
    yield "kinds of settings", saved(folder / "i.pth.tar", bad, **{**IMRAM_OPT, "iteration_step": "three"}), "iteration_step"
    yield "steps", saved(folder / "j.pth.tar", bad, **{**IMRAM_OPT, "iteration_step": 2**70}), "iteration_step"
    yield "malicious", saved(folder / "k.pth.tar", bad, x=Launch(str(folder / "launched"))), "which could run code"
    yield "malicious, old format", saved(folder / "l.pth.tar", bad, True, x=Launch(str(folder / "launched"))), "which could run code"
    yield "own class", saved(folder / "m.pth.tar", bad, x=FractionalSettings(1, 2)), "which could run code"
    good = saved(folder / "n.pth.tar", bad).read_bytes()
    for name, content in (("cut", good[:len(good) // 2]), ("empty", b""), ("text", b"no checkpoint"), ("pickle", pickle.dumps({"model": Launch(str(folder / "launched"))}))):
        (folder / f"{name}.pth.tar").write_bytes(content)
        yield name, folder / f"{name}.pth.tar", f"{name}.pth.tar"
    damaged = bytearray(good)
    damaged[good.index(IMRAM_STATE["gate_t2i.bias"].numpy().tobytes()) + 3] ^= 255
    (folder / "damaged.pth.tar").write_bytes(damaged)
    yield "damaged", folder / "damaged.pth.tar", "damaged"
    for value in (None, 3, [], {}, "x", [IMRAM_STATE], [1, 2], {1: torch.ones(1)}, {"a": None}, [[]] * 3):
        yield f"model {value!r:.20}", saved(folder / "o.pth.tar", value), "o.pth.tar"
    torch.save([1, {"a": 2}], folder / "p.pth")
    yield "list", folder / "p.pth", "p.pth"
    yield "missing file", folder / "none.pth.tar", "none.pth.tar"
    yield "folder", folder, "folder"


def test_wrong_checkpoints_end_in_one_line_and_run_nothing(tmp_path):
    (tmp_path / "files").mkdir()
    for name, file, words in wrong_files(tmp_path / "files"):
        said = command(file, tmp_path / "out", "--family", "imram", code=2)
        assert words in said and said.startswith("Error: ") and said.count("Error") == 1, (name, said)
        assert not (tmp_path / "out").exists() and not (tmp_path / "files" / "launched").exists(), name


def test_a_vocabulary_that_does_not_fit_is_refused_by_name(tmp_path):
    file = saved(tmp_path / "m.pth.tar", IMRAM_STATE)
    (tmp_path / "f30k_vocab.pkl").write_bytes(pickle.dumps({"word2idx": Launch(str(tmp_path / "launched"))}))
    said = command(file, tmp_path / "out", "--family", "imram", "--vocabulary", tmp_path / "f30k_vocab.pkl", code=2)
    assert "f30k_vocab.pkl" in said and "pickle" in said and not (tmp_path / "launched").exists()
    said = command(file, tmp_path / "out", "--family", "imram", "--vocabulary", words_json(tmp_path / "v.json", 5), code=2)
    assert "9 words" in said and "12" in said and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("mine")
    assert "not empty" in command(file, tmp_path / "out", "--family", "imram", code=2) and (tmp_path / "out" / "config.json").read_text() == "mine"
    assert "imram has no pooling, fusion" in command(file, tmp_path / "new", "--family", "imram", "--pooling", "lse", "--fusion", "sum", code=2)
    assert "steps" in command(file, tmp_path / "new", "--family", "imram", "--steps", 0, code=2)


def test_sizes_are_read_from_weights_of_two_axes():
    with pytest.raises(ValueError, match="weights with two axes"): SCAN.from_released({"img_enc.fc.weight": torch.ones(3), "txt_enc.embed.weight": torch.ones(4, 2)})

"""Probabilities of answers: what they are made of, that they can be trusted, and which files are refused."""

import json

import numpy as np
import pytest
import torch

from cmr.data import open_split
from cmr.fast import encode_all, score_all
from cmr.matcher import VSE
from cmr.saving import load, save
from cmr.search.calibration import (
    FILE,
    SIGNS,
    Evidence,
    Judged,
    Questions,
    auroc,
    curve,
    draw_gallery,
    draw_questions,
    fit_calibration,
    fit_logistic,
    judge,
    look_closer,
    measure,
    read_calibration,
    rival_leads,
    signs,
    spread,
    strangers,
    usual_scores,
    words_of_a_kind,
    write_calibration,
)
from cmr.world.scenes import load_entries, truth

SAMPLE = "data/sample"


@pytest.fixture(scope="module")
def shipped():
    model, vocabulary = load(f"{SAMPLE}/imram")
    return model, vocabulary, open_split(SAMPLE, "sample"), truth(load_entries(f"{SAMPLE}/sample_scenes.json"))


@pytest.fixture(scope="module")
def calibration(shipped):
    model, vocabulary, split, true = shipped
    return fit_calibration(model, split, vocabulary, true, captions=60, sizes=(6, 10))


def test_auroc_counts_pairs():
    dice = np.random.default_rng(0)
    yes, no = dice.integers(0, 5, 40).astype(float), dice.integers(0, 5, 30).astype(float)
    by_hand = np.mean([(a > b) + (a == b) / 2 for a in yes for b in no])
    assert abs(auroc(yes, no) - by_hand) < 1e-12
    with pytest.raises(ValueError, match="both"): auroc(yes, no[:0])


def test_curve_and_measures_of_probabilities_that_are_fair():
    dice = np.random.default_rng(0)
    p = dice.random(20_000)
    y = dice.random(20_000) < p
    fair, bold = measure(p, y), measure(np.where(p > .5, 1 - (1 - p) / 4, p / 4), y)
    assert fair.ece < .02 < .1 < bold.ece and fair.log_loss < bold.log_loss and fair.brier < bold.brier
    assert abs(fair.auroc - bold.auroc) < 1e-12              # an order has no level
    assert curve(p, y)[:, 2].sum() == 20_000


def test_logistic_finds_what_made_the_answers():
    dice = np.random.default_rng(1)
    x = np.c_[dice.normal(3, 5, 6000), dice.normal(size=6000), np.ones(6000)]
    z = .4 * (x[:, 0] - 3) - x[:, 1]
    y = dice.random(6000) < 1 / (1 + np.exp(-z))
    found = fit_logistic(x, y)
    assert np.allclose(np.array(found.weights)[:2] / found.spread[:2], [.4, -1], atol=.1) and found.weights[2] == 0
    # at the minimum the gradient of the penalised loss is zero
    used = (x - found.mean) / found.spread
    assert np.abs(used.T @ (found.probability(x) - y) + found.weights).max() < 1e-6
    with pytest.raises(ValueError, match="all"): fit_logistic(x, np.ones(6000, bool))
    with pytest.raises(ValueError, match="weights"): found.probability(x[:, :2])


def test_logistic_of_what_can_be_told_apart_is_finite():
    x = np.r_[-np.ones(50), np.ones(50)][:, None]
    found = fit_logistic(x, x[:, 0] > 0)
    assert np.isfinite(found.weights).all() and found.probability(x)[-1] > .95


def test_words_of_a_kind_stand_between_the_same_neighbours():
    # 4 and 5 stand between 8 and 9; 6 and 7 end what 9 begins
    kinds = words_of_a_kind([[8, 4, 9, 6], [8, 5, 9, 7], [8, 4, 9, 7], [8, 5, 9, 6]], 10)
    assert kinds[4] == [5] and kinds[5] == [4] and kinds[6] == [7] and kinds[3] == [] and kinds[0] == []


def test_rival_leads_are_scores_of_whole_sentences(shipped):
    model, vocabulary, split, _ = shipped
    images, _ = encode_all(model, split, vocabulary, progress=False)
    words = vocabulary.encode("a red circle touches a ring")
    red, blue, green = (vocabulary.word2idx[word] for word in ("red", "blue", "green"))
    kinds = [[] for _ in range(len(vocabulary))]
    kinds[red] = [blue, green]
    found = rival_leads(model, images[:3], words, kinds)
    assert found.shape == (3, len(words)) and found.isnan().sum() == 3 * (len(words) - 1)
    said = [words, *([other if word == red else word for word in words] for other in (blue, green))]
    with torch.no_grad(): scores = score_all(model, images[:3], model.encode_captions(torch.tensor(said), torch.tensor([len(words)] * 3)))
    expected = (scores[:, 1:] - scores[:, :1]).amax(1)
    assert torch.allclose(found[:, words.index(red)], expected, atol=1e-4)


def test_signs_have_names_and_need_no_words():
    evidence = Evidence(torch.tensor([.5, .3, .1]), 40, [5, 3], None, torch.full((2,), torch.nan))
    found = dict(zip(SIGNS, signs(evidence, usual_scores([], 10)), strict=True))
    assert abs(found["gap"] - .2) < 1e-6 and abs(found["lead"] - .3) < 1e-6 and found["unknown"] == 1 and found["length"] == 2
    assert found["words"] == found["weakest"] == found["rival"] == 0
    rival = dict(zip(SIGNS, signs(evidence._replace(rivals=torch.tensor([.25, -1.])), usual_scores([], 10)), strict=True))
    assert rival["rival"] == .5 and rival["rivals"] == .25   # a lead counts once for each of two words
    alone = signs(evidence._replace(scores=torch.tensor([.5]), size=1), usual_scores([], 10))
    assert alone[SIGNS.index("gap")] == 0 and np.isfinite(alone).all()


def test_usual_scores_of_rare_words_are_those_of_all():
    seen = [Evidence(torch.ones(1), 9, [4, 5], torch.tensor([.9, .1]), torch.zeros(2))] * 100
    seen.append(Evidence(torch.ones(1), 9, [6], torch.tensor([-1.]), torch.zeros(1)))
    found = usual_scores(seen, 8)
    assert .85 < found.mean[4] < .9 and .1 < found.mean[5] < .15 and .2 < found.mean[6] < .4 and abs(found.mean[7] - found.mean[0]) < 1e-12
    assert found.compare([4], torch.tensor([found.mean[4]])).item() == pytest.approx(0, abs=1e-5)


def test_galleries_have_an_answer_or_none():
    dice, true = np.random.default_rng(0), np.arange(30) < 3
    for size in (2, 12, 27):
        for answer in (True, False):
            rows = draw_gallery(true, size, answer, dice)
            assert len({*rows.tolist()}) == size and true[rows].any() == answer
    with pytest.raises(ValueError, match="27 wrong"): draw_gallery(true, 28, False, dice)


def test_halves_share_no_image(shipped):
    model, vocabulary, split, true = shipped
    asking = Questions(model, split, vocabulary, true, most=20)
    seen = []
    asking.ask = lambda c, rows, _: seen.append((asking.own[c], {*rows.tolist()}))  # type: ignore[method-assign]
    halves = np.arange(12), np.arange(12, 24)
    draw_questions(asking, halves, (6, 10))
    assert len(seen) > 40
    for own, rows in seen: assert {*halves[int(own >= 12)].tolist()} >= rows


def test_probabilities_rank_and_are_written_and_read(shipped, calibration, tmp_path):
    model, vocabulary, split, true = shipped
    assert calibration.best.auroc > .6 and calibration.whether.auroc > .6
    images, captions = encode_all(model, split, vocabulary, progress=False)
    scores = score_all(model, images, captions, progress=False)
    some = {True: [], False: []}
    for c in range(0, 120, 4):
        for rows in (np.arange(24), np.flatnonzero(~true[:, c])):
            found, order = scores[rows, c].sort(descending=True)
            best = int(rows[order[0]])
            evidence = look_closer(model, images[best:best + 1], captions[c:c + 1], vocabulary.encode(split.captions[c]), calibration.kinds, found, len(rows))
            p = calibration.probability(evidence)
            assert len(p) == len(rows) and ((0 <= p) & (p <= 1)).all() and (p[1:] <= p[0]).all()
            some[bool(true[rows, c].any())].append(calibration.some(evidence))
            assert calibration.matches(evidence) == (some[bool(true[rows, c].any())][-1] >= calibration.threshold)
    assert np.mean(some[True]) > np.mean(some[False]) + .1
    save(model, vocabulary, tmp_path)
    assert read_calibration(tmp_path) is None
    write_calibration(calibration, tmp_path)
    assert read_calibration(tmp_path) == read_calibration(tmp_path, model) == calibration


def test_another_models_and_damaged_files_are_refused(shipped, calibration, tmp_path):
    model, vocabulary, _, _ = shipped
    other, _ = load(f"{SAMPLE}/imram")
    with torch.no_grad(): next(other.parameters())[0, 0] += 1
    save(other, vocabulary, tmp_path)
    write_calibration(calibration, tmp_path)
    with pytest.raises(ValueError, match="another model"): read_calibration(tmp_path)
    whole = json.loads((tmp_path / FILE).read_text())
    for change in ({"right": {**whole["right"], "weights": whole["right"]["weights"][1:]}}, {"kinds": whole["kinds"][1:]},
                   {"kinds": [[999], *whole["kinds"][1:]]}, {"usual": {**whole["usual"], "spread": [0., *whole["usual"]["spread"][1:]]}},
                   {"later": {**whole["later"], "spread": [0.] * 4}}, {"threshold": 2}, {"points": "none"}):
        (tmp_path / FILE).write_text(json.dumps({**whole, **change}))
        with pytest.raises(ValueError, match=FILE): read_calibration(tmp_path, model)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ValueError, match="calibration"): read_calibration(tmp_path, model)


def test_a_model_of_one_vector_has_no_words_but_rivals(shipped):
    _, vocabulary, split, true = shipped
    torch.manual_seed(0)
    model = VSE(split.region_dim, len(vocabulary), 16, 8)
    asking = Questions(model, split, vocabulary, true, most=4)
    one = draw_questions(asking, [np.arange(24)], (10,))[0][0]
    assert one.evidence.found is None and not one.evidence.rivals.isnan().all() and len(one.right) == 10


def test_a_judge_asks_everyone_and_bootstraps_images(shipped, calibration):
    model, vocabulary, split, true = shipped
    asking = Questions(model, split, vocabulary, true, most=30, seed=2, kinds=calibration.kinds)
    having, without = asking.whole(True), asking.whole(False)
    assert all(one.there and one.evidence.size == 24 for one in having)
    assert not any(one.there for one in without)
    assert [one.evidence.size for one in without] == [24 - int(true[:, c].sum()) for c in asking.asked]
    found = judge(calibration, having + without, np.r_[asking.own, asking.own])
    assert found.there.sum() == 30 and (found.right <= found.there).all()
    low, high = spread(found, draws=100)
    assert low <= auroc(found.some[found.there], found.some[~found.there]) <= high and low < high
    # an interval over images is wider than one that takes captions of one image for independent
    copied = Judged(*(np.repeat(x, 4) for x in found))
    assert np.allclose(spread(copied, draws=100), (low, high))
    others = strangers(split, [f"a red circle touches a {word}" for word in ("ring", "star", "pole", "heart") * 6])
    assert others.n_images == 24 and len(others) == 24


def test_the_command_writes_file_and_figure(shipped, tmp_path):
    import shutil

    from typer.testing import CliRunner

    from cmr.cli import app
    model, vocabulary, _, _ = shipped
    save(model, vocabulary, tmp_path / "model")
    shutil.copytree(SAMPLE, tmp_path / "data", ignore=shutil.ignore_patterns("imram", "*pictures*"))
    found = CliRunner().invoke(app, ["calibrate", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--split", "sample", "--captions", "40"])
    assert found.exit_code == 0, found.output
    assert "AUROC" in found.output and (tmp_path / "model" / "reliability.png").stat().st_size > 1000
    assert read_calibration(tmp_path / "model").data
    judged = CliRunner().invoke(app, ["calibrate", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--judge", "sample",
                                      "--captions", "20", "--figure", str(tmp_path / "curve.svg")])
    assert judged.exit_code == 0, judged.output
    assert judged.output.count("AUROC 95%") == 2 and "of others that are true of none" in judged.output and (tmp_path / "curve.svg").is_file()
    kept = (tmp_path / "model" / FILE).read_bytes()
    odd = CliRunner().invoke(app, ["calibrate", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--figure", "f.xyz"])
    assert odd.exit_code == 2 and "ends in .png" in odd.output and (tmp_path / "model" / FILE).read_bytes() == kept
    (tmp_path / "model" / FILE).unlink()
    refused = CliRunner().invoke(app, ["calibrate", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--judge", "sample"])
    assert refused.exit_code == 2 and "fit one first" in refused.output

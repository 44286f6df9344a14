"""Pairs of images that share batches, and what is dropped at random."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import cmr
from cmr.cli import app
from cmr.data import ImageCaptions, Vocabulary, batches, open_split, write_split
from cmr.data.sampling import bring_together, drop_regions, drop_words, stream
from cmr.training import RECIPES, Recipe, batch_scores, train
from cmr.training.twins import Twins, read_twins, world_twins, write_twins
from cmr.world import make_scenes
from cmr.world.scenes import is_true, load_entries
from tests.tiny import RECIPE, weights


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    make_scenes(folder, 3, {"train": 36, "dev": 12}, progress=False)
    return folder


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(2, 9), st.integers(0, 99), st.data())
def test_an_order_keeps_every_caption_once(images, size, seed, data):
    owner = np.repeat(np.arange(images), data.draw(st.integers(1, 5)))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, images - 1), st.integers(0, images - 1)).filter(lambda p: p[0] != p[1]), max_size=20))
    order = np.random.default_rng(seed).permutation(len(owner))
    found = bring_together(order, owner, np.array(pairs).reshape(-1, 2), size)
    assert sorted(found.tolist()) == list(range(len(owner)))
    if not pairs: assert found.tolist() == order.tolist()


@pytest.mark.parametrize("size", [2, 5, 8, 32])
def test_twins_share_a_batch(size):
    owner, pairs = np.repeat(np.arange(60), 5), np.arange(40).reshape(-1, 2)     # a third of the images stands alone
    for seed in range(5):
        found = bring_together(np.random.default_rng(seed).permutation(300), owner, pairs, size)
        rows = [owner[found[i:i + size]] for i in range(0, 300, size)]
        apart = sum(1 for batch in rows for i in batch if i < 40 and (i ^ 1) not in batch)
        assert apart <= 2 * size                                                  # of 200, those of the last batches
        same_place = sum(1 for i in range(0, 300, size) for c in found[i:i + size] if owner[c] < 40 and
                         (c + 5 if owner[c] % 2 == 0 else c - 5) in found[i:i + size])
        assert same_place >= 200 - 2 * size


def test_many_pairs_and_no_single_caption_between_them():
    owner = np.repeat(np.arange(2000), 5)
    found = bring_together(np.random.default_rng(0).permutation(10000), owner, np.arange(2000).reshape(-1, 2), 7)
    rows = [owner[found[i:i + 7]] for i in range(0, 10000, 7)]
    assert sum(1 for batch in rows for i in batch if (i ^ 1) not in batch) <= .2 * 10000   # each border of an odd size parts at most one pair


def test_an_epoch_goes_on_where_it_was(drawn):
    split = open_split(drawn, "train")
    words, pairs = Vocabulary.build(split.captions, min_count=1), world_twins(load_entries(drawn / "train_scenes.json")).together
    how = dict(seed=2, epoch=1, together=pairs, drop=(.3, .3))
    whole, rest = list(batches(split, words, 8, **how)), list(batches(split, words, 8, start=5, **how))
    for a, b in zip(whole[5:], rest, strict=True):
        assert torch.equal(a.tokens, b.tokens) and torch.equal(a.features, b.features) and torch.equal(a.caption, b.caption)
    again = list(batches(split, words, 8, **{**how, "epoch": 2}))
    assert any(not torch.equal(a.tokens, b.tokens) for a, b in zip(whole, again))


def test_shares_are_those_asked_for():
    caption, rows = np.arange(4, 24), np.ones((50, 2))
    lost = np.mean([(drop_words(caption, .25, stream(0, 0, n, 1)) == 3).mean() for n in range(1000)])
    gone = np.mean([1 - len(drop_regions(rows, .25, stream(0, 0, n, 2))) / 50 for n in range(1000)])
    assert abs(lost - .25) < 5 * np.sqrt(.25 * .75 / 20000) and abs(gone - .25) < 5 * np.sqrt(.25 * .75 / 50000)
    assert (drop_words(np.array([1, 7, 2]), .99, stream(0, 0, 0, 1)) == [1, 7, 2]).all()   # the last word stays


def test_what_is_true_of_both_is_no_negative(drawn):
    split = open_split(drawn, "train")
    words = Vocabulary.build(split.captions, min_count=1)
    model = cmr.create_model("vse", split.region_dim, len(words), embed_dim=8, word_dim=8)
    batch = next(iter(batches(split, words, 6, shuffle=False)))                   # five captions of image 0, one of image 1
    plain, known = (batch_scores(model, batch, twins=twins)[1] for twins in (None, Twins(np.array([[0, 1]]), np.array([[1, 2]]))))
    assert (known ^ plain).nonzero().tolist() == [[5, 2]]


def test_the_world_knows_its_twins(drawn):
    entries = load_entries(drawn / "train_scenes.json")
    found = world_twins(entries)
    assert found.together.tolist() == [[i, e.twin] for i, e in enumerate(entries) if e.twin > i] and len(found.together) == 6
    assert len(found.also_true) == sum(is_true(c.meaning, entries[e.twin].scene) for e in entries if e.twin >= 0 for c in e.captions)


@pytest.mark.parametrize("text, message", [
    ('{"together": [[0, 36]]}', r"\[0, 36\] is no pair of a split with 36 images"), ('{"together": [[-1, 3]]}', r"\[-1, 3\] is no pair"),
    ('{"together": [[2, 2]]}', r"\[2, 2\] is no pair"), ('{"together": []}', "together"), ('{"together": [[0, 1]], "also_true": [[0, 900]]}', "also_true"),
    ("[1", "train_twins.json"), ('{"together": [[0, 1, 2]]}', "together")])
def test_a_damaged_list_is_refused(drawn, tmp_path, text, message):
    (tmp_path / "train_twins.json").write_text(text)
    with pytest.raises(ValueError, match=message): read_twins(tmp_path, open_split(drawn, "train"))


def test_no_list_says_what_makes_one(world, tmp_path):
    from dataclasses import replace
    with pytest.raises(FileNotFoundError, match="cmr mine MODEL"): train(replace(RECIPE, twins=True), world, tmp_path / "run", progress=False)


def test_twins_change_a_training_and_resuming_does_not(world, tmp_path):
    from dataclasses import replace
    data = tmp_path / "data"
    data.mkdir()
    for path in world.iterdir(): (data / path.name).write_bytes(path.read_bytes())
    write_twins(Twins(np.arange(20).reshape(-1, 2)), data / "train_twins.json")
    recipe = replace(RECIPE, twins=True, word_dropout=.2, region_dropout=.2, standardise="common")
    train(recipe, data, tmp_path / "whole", progress=False)
    train(recipe, data, tmp_path / "parts", progress=False, max_steps=4)
    train(recipe, data, tmp_path / "parts", resume=True, progress=False)
    train(RECIPE, data, tmp_path / "plain", progress=False)
    whole, parts, plain = (weights(tmp_path / name) for name in ("whole", "parts", "plain"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole) and not torch.equal(whole["image_encoder.project.weight"], plain["image_encoder.project.weight"])
    write_twins(Twins(np.arange(20).reshape(2, 10).T), data / "train_twins.json")
    with pytest.raises(ValueError, match="twins was .*, now .*data folder the run began with"): train(recipe, data, tmp_path / "parts", resume=True, progress=False)
    scale = whole["image_encoder.scale"]
    assert (scale == scale[0]).all() and not (plain["image_encoder.scale"] == plain["image_encoder.scale"][0]).all()


@pytest.mark.parametrize("settings, message", [({"word_dropout": 1.0}, "word_dropout=1.0: a share"), ({"region_dropout": -.1}, "region_dropout=-0.1: a share"),
                                               ({"standardise": "each"}, "standardise='each': choose"), ({"twins": "yes"}, "twins='yes'")])
def test_recipes_refuse_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message): Recipe("odd", **settings)
    assert not RECIPES["scenes"].twins


def test_mining_finds_pairs_and_a_training_takes_them(world, whole, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for path in world.iterdir(): (data / path.name).write_bytes(path.read_bytes())
    said = CliRunner().invoke(app, ["mine", str(whole[0]), "--data", str(data), "--doubt", "9"])
    assert said.exit_code == 0 and "cmr train --data" in said.output, said.output
    pairs = np.array(json.loads((data / "train_twins.json").read_text())["together"])
    assert len(np.unique(pairs)) == pairs.size and pairs.max() < 20
    read_twins(data, open_split(data, "train"))
    said = CliRunner().invoke(app, ["mine", str(whole[0]), "--data", str(data), "--doubt", "9", "--out", str(tmp_path / "mine.json")])
    assert "train_twins.json" in said.output and "cmr train" not in said.output and (tmp_path / "mine.json").is_file()  # no training reads that one
    said = CliRunner().invoke(app, ["mine", str(whole[0]), "--data", str(tmp_path)])
    assert said.exit_code == 2 and "no split" in said.output


def test_pairs_are_checked_against_the_split():
    split = ImageCaptions(np.ones((3, 2, 2), np.float32), ["a b"] * 3, [0, 1, 2])
    with pytest.raises(ValueError, match="images 0 to 7 should share batches"):
        batches(split, Vocabulary.build(split.captions, min_count=1), 2, together=np.array([[0, 7]]))


def test_a_caption_that_both_have_is_true_of_both(tmp_path):
    from cmr.search.mining import mine_twins, one_each
    captions = ["a dog runs", "a cat", "A dog  runs", "a bird", "a dog runs", "a fish"]
    write_split(tmp_path / "train.h5", np.random.default_rng(0).normal(size=(3, 2, 4)).astype("float32"), captions, np.arange(3).repeat(2))
    found = one_each([(.5, 0, 1), (.4, 1, 2)], open_split(tmp_path, "train"))
    assert found.together.tolist() == [[0, 1]] and sorted(found.also_true.tolist()) == [[0, 2], [1, 0]]
    assert one_each([(.5, 2, 1)], open_split(tmp_path, "train")).also_true.tolist() == [[2, 2], [1, 4]]
    write_split(tmp_path / "one/train.h5", np.ones((1, 2, 4), "float32"), ["a dog"], np.arange(1))
    with pytest.raises(ValueError, match="one image only"): mine_twins(None, open_split(tmp_path / "one", "train"), None)

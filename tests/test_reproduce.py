"""The papers' tables, made again: what is trained and kept, what is refused, and what is said of an order."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cmr.cli import app
from cmr.recall import compare, recalls
from cmr.training import RECIPES, loop, reproduce
from cmr.training.reproduce import BEGIN, END, Order, find_orders, find_table, order, orders_text, r_sum, read_kept, section, write_section
from cmr.world import make_scenes

BUDGET = replace(RECIPES["scenes"], args={"embed_dim": 8, "word_dim": 6}, epochs=1, batch_size=16, save_every=0.0)
QUIET = {"device": "cpu", "progress": False}
MARKS = f"# Page\n\n{BEGIN}\nold\n{END}\n\nrest\n"


def made(table, data, at, seeds=(0, 1), recipe=BUDGET, **how):
    return reproduce.reproduce(table, data, seeds, recipe, at / "results", at / "runs", command=f"cmr reproduce {table}", **{**QUIET, **how})


def said(*words, code=0):
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    "A drawn world of few scenes. Nobody writes into it."
    folder = tmp_path_factory.mktemp("drawn") / "few"
    make_scenes(folder, counts={"train": 30, "dev": 10, "test": 12}, progress=False)
    return folder


@pytest.fixture(scope="module")
def done(few, tmp_path_factory):
    "CAMP's Table 2, two rows and two seeds, and IMRAM's Table 6. Nobody writes into it."
    at = tmp_path_factory.mktemp("done")
    return at, made("camp-2", few, at) + made("imram-6", few, at)


@pytest.fixture
def copy(done, tmp_path):
    "A folder with the same kept runs, to be damaged."
    from shutil import copytree
    return Path(copytree(done[0] / "results", tmp_path / "results"))


def test_what_the_papers_print_is_whole():
    "Every trained row exists, every order is of rows that are there, and the printed numbers have that order."
    trained = set()
    for name in reproduce.TABLES:
        found = find_table(name)
        trained |= set(found.rows.values())
        assert found.orders and all(len(cells) == len(found.columns) - 1 for cells in found.printed.values())
        for first, second in found.orders:
            if found.words: assert {first.split(",")[0], second.split(",")[0]} <= set(found.words)
            else: assert {first, second} <= set(found.rows)
            if {first, second} <= set(found.printed): assert sum(found.printed[first]) > sum(found.printed[second])
    assert trained == set(reproduce.ROWS) and len(find_table("camp-3").orders) == 11
    six = find_table("imram-6")
    for first, second in six.orders:
        (a, i), (b, j) = (name.split(", step ") for name in (first, second))
        assert six.printed[i][six.columns.index(a) - 1] > six.printed[j][six.columns.index(b) - 1]


def test_a_run_is_kept_with_what_is_needed_later(done, few):
    at, results = done
    assert [(run["label"], run["seed"]) for run in results[:4]] == [("camp-full", 0), ("camp-base", 0), ("camp-full", 1), ("camp-base", 1)]
    for run in results:
        file = at / "results" / "few" / f"{run['label']}-seed{run['seed']}.json"
        assert json.loads(file.read_text()) == run and str(few.parent) not in file.read_text()   # no place of this machine
        counts = np.array(run["hits"].split(), float).reshape(1, 12, 7)
        assert recalls(counts, np.ones((1, 1, 12)))[0, -1] == pytest.approx(run["report"]["rsum"]) and run["data"] == "few"
        assert run["recipe"]["seed"] == run["seed"] and run["world"]["twin"] >= 0 and run["machine"]["date"] and run["command"]
    assert [set(run.get("words", ())) for run in results[3:5]] == [set(), {"nouns", "verbs", "adjectives", "others", "regions"}]
    assert (at / "results/few/imram-text-k3-seed0.png").is_file()


def test_what_is_kept_is_not_trained_again(done, few, tmp_path, copy, monkeypatch):
    "Not even without the weights, and not for another table that shares the row; one more seed is."
    monkeypatch.setattr("cmr.training.compare.train", lambda *a, **k: pytest.fail("trained"))
    again = reproduce.reproduce("camp-2", few, (0, 1), BUDGET, copy, tmp_path / "none", **QUIET)
    assert again == done[1][:4] and not (tmp_path / "none").exists()
    assert reproduce.reproduce("imram-fig3", few, (0,), BUDGET, copy, tmp_path / "none", **QUIET) == done[1][4:5]
    with pytest.raises(pytest.fail.Exception): reproduce.reproduce("camp-2", few, (2,), BUDGET, copy, tmp_path / "none", **QUIET)


def test_what_was_kept_by_another_recipe_or_of_other_data_is_refused(few, tmp_path, copy):
    for recipe, message in ((replace(BUDGET, lr=0.1), "another recipe"), (replace(BUDGET, epochs=2), "another recipe")):
        with pytest.raises(ValueError, match=rf"camp-full-seed0.json was made with {message}: delete it"):
            reproduce.reproduce("camp-2", few, (0,), recipe, copy, tmp_path / "runs", **QUIET)
    make_scenes(tmp_path / "few", counts={"train": 30, "dev": 10, "test": 12}, seed=1, progress=False)
    with pytest.raises(ValueError, match="another content of data"):
        reproduce.reproduce("camp-2", tmp_path / "few", (0,), BUDGET, copy, tmp_path / "runs", **QUIET)
    file = copy / "few" / "camp-full-seed1.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "fingerprint": {**content["fingerprint"], "test.h5": "0"}}))
    with pytest.raises(ValueError, match="is of other data than the runs beside it"): read_kept(copy / "few")


@pytest.mark.parametrize("change,message", [
    ({"hits": "1 2 3"}, "3 numbers: expected rows of 7"), ({"hits": None}, "hits"), ({"hits": "x"}, "could not convert"), ({"words": {"nouns": "1 2"}}, "rows of 4"),
    ({"report": {}}, "report"), ({"command": 3}, "command"), ({"label": None}, "label"), ({"fingerprint": 3}, "fingerprint"),
])
def test_a_damaged_file_is_one_line(change, message, few, copy):
    file = copy / "few" / "camp-base-seed1.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **change}))
    (copy / "page.md").write_text(MARKS)
    text = said("reproduce", "--write", copy / "page.md", "--out", copy, code=2)
    assert text.count("\n") == 1 and "camp-base-seed1.json" in text and message in text and (copy / "page.md").read_text() == MARKS


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_what_is_no_json_is_one_line(content, copy):
    (copy / "few" / "camp-base-seed0.json").write_bytes(content)
    with pytest.raises(ValueError, match="camp-base-seed0.json"): section(copy, copy / "page.md")


def test_better_numbers_by_hand_are_not_believed(copy):
    file = copy / "few" / "camp-full-seed0.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "report": {**content["report"], "rsum": content["report"]["rsum"] + 5}}))
    with pytest.raises(ValueError, match="the hits give R@sum"): read_kept(copy / "few")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system lacks")
def test_a_killed_one_goes_on(few, done, tmp_path):
    "Killed in its third training: two are kept, and the same call comes to the same numbers."
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)
            true, calls = loop.train_step, []
            def killed(*args):
                calls.append(1)
                if len(calls) == 25: os.kill(os.getpid(), signal.SIGKILL)
                return true(*args)
            loop.train_step = killed
            made("camp-2", few, tmp_path)
        finally: os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list((tmp_path / "results").rglob("*.json"))) == 2
    assert [run["report"] for run in made("camp-2", few, tmp_path)] == [run["report"] for run in done[1][:4]]


def planted(right, seeds=3, images=150, seed=0):
    "Hits of a row that finds what it asks for in so many percent of the cases."
    rng = np.random.default_rng([seed, right])
    return [np.concatenate([rng.random((images, 6)) < right / 100, np.ones((images, 1))], axis=1) for _ in range(seeds)]


def test_a_planted_order_is_found():
    good, bad, same = planted(70), planted(55), planted(70, seed=1)
    assert order(good, bad, r_sum).verdict == "holds" and order(bad, good, r_sum).verdict == "reversed"
    assert order(good, same, r_sum).verdict == "can't be told"
    whole = compare(np.mean(good, 0)[None], np.mean(bad, 0)[None], draws=2000)["rsum"]
    found = order(good, bad, r_sum)
    assert (found.difference, found.low, found.high) == pytest.approx((whole.difference, whole.low, whole.high))
    assert len(found.seeds) == 3 and np.mean(found.seeds) == pytest.approx(found.difference)


def test_both_have_to_agree():
    "The interval over images, and each seed."
    assert Order(2.0, 1.0, 3.0, [3.0, 1.0]).verdict == "holds" and Order(-2.0, -3.0, -1.0, [-1.0, -3.0]).verdict == "reversed"
    assert Order(2.0, 1.0, 3.0, [2.0]).verdict == "one seed"                                       # another training may say otherwise
    for odd in (Order(2.0, 1.0, 3.0, [5.0, -1.0]), Order(2.0, -1.0, 5.0, [1.0, 3.0]), Order(-2.0, -3.0, -1.0, [-5.0, 1.0]), Order(0.0, 0.0, 0.0, [0.0, 0.0])):
        assert odd.verdict == "can't be told"


def test_a_planted_order_stands_in_the_text(done):
    "Kept runs with other hits: what the page says of them is what was planted."
    found, (run, *_) = find_table("camp-2"), done[1]
    def row(right, seed): return {s: {**run, "hits": " ".join(map(str, hits.ravel().astype(int)))} for s, hits in enumerate(planted(right, seed=seed))}
    for first, second, word in ((70, 50, "holds"), (50, 70, "reversed"), (60, 60, "can't be told")):
        rows = {"camp-full": row(first, 2), "camp-base": row(second, 3)}
        text = orders_text(found, find_orders(found, rows))
        assert f"- CAMP (ours) above Base model: **{word}**" in text and f"The paper's orders here: {word} 1." in text
    del rows["camp-base"][0]
    assert len(find_orders(found, rows)[found.orders[0]].seeds) == 2                                # those that both have
    rows["camp-base"].clear()
    assert find_orders(found, rows) == {} and "1 more were not measured" in orders_text(found, {})


def test_words_are_counted_as_the_paper_does(done, few):
    "Against a literal count: a word is salient if its score is above the mean of its caption's."
    from cmr.data import open_split
    from cmr.fast.scoring import encode_all
    from cmr.lens import look
    from cmr.saving import load
    from cmr.world.scenes import NOUNS
    at, results = done
    model, vocabulary = load(at / "runs/few/imram-text-k3-seed0/best")
    test = open_split(few, "test")
    images, captions = encode_all(model, test, vocabulary, progress=False)
    salient, nouns = np.zeros(3), 0
    for c, i in enumerate(test.image_of_caption.tolist()):
        scores = look(model, images[[i]], captions[[c]]).scores
        for j, word in enumerate(vocabulary.decode(vocabulary.encode(test.captions[c])).split()):
            if word in NOUNS: nouns, salient = nouns + 1, salient + [float(row[j] > row.mean()) for row in scores]
    kept = reproduce.read_numbers(results[4]["words"]["nouns"], 4).sum(0)
    assert kept.tolist() == [nouns, *salient]


def test_the_page_is_drawn_from_what_is_kept(done, copy):
    page = copy / "page.md"
    page.write_text(MARKS)
    said("reproduce", "--write", page, "--out", copy)
    first = page.read_bytes()
    write_section(copy, page)
    text = page.read_text()
    assert page.read_bytes() == first and text.startswith("# Page\n") and text.endswith(f"{END}\n\nrest\n") and "\nold\n" not in text
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### IMRAM, Table 6 (Text-IMRAM, K = 3, MS COCO): salient words, percent, on few",
        "### IMRAM, Figure 3 (Text-IMRAM, K = 3): the attention of single words, on few", "### CAMP, Table 2 (Flickr30K), on few", "### CAMP, Table 3 (Flickr30K), on few"]
    assert "10 more were not measured" in text
    ours, papers = text.split("### CAMP, Table 2")[1].split("### ")[0].split("The paper's (")
    assert "| Base model |" in ours and "68.1" not in ours and "| CAMP (ours) | 68.1 | 89.7 | 95.2 | 51.5 | 77.1 | 85.3 |" in papers
    assert "| Base model |" not in papers and "`cmr reproduce camp-2`" in ours and "few/imram-text-k3-seed0.png" in text
    for wrong in ("", BEGIN, f"{END}{BEGIN}", MARKS + MARKS):
        page.write_text(wrong)
        with pytest.raises(ValueError, match="has no place for the tables"): write_section(copy, page)


def test_other_captions_need_a_tagger(world, tmp_path, monkeypatch):
    import nltk
    monkeypatch.setattr(nltk, "pos_tag", lambda words: [(word, {"dog": "NN", "runs": "VBZ", "red": "JJ"}.get(word, "DT")) for word in words])
    assert reproduce.tagger(world, "test")(["a", "red", "dog", "runs"]) == [None, "adjectives", "nouns", "verbs"]
    def missing(words): raise LookupError("averaged_perceptron_tagger_eng")
    monkeypatch.setattr(nltk, "pos_tag", missing)
    with pytest.raises(ValueError, match="NLTK_DATA=FOLDER"): made("imram-6", world, tmp_path)
    assert not list(tmp_path.iterdir())


def test_command_line(few, tmp_path, monkeypatch):
    assert "there are imram-1, imram-4, imram-5" in said("reproduce", "imram-9", "--data", few, code=2)
    assert "--seeds 'x'" in said("reproduce", "camp-2", "--data", few, "--seeds", "x", code=2)
    assert "name a table (imram-1" in said("reproduce", code=2) and "Examples" in said("reproduce", "--help")
    assert "no setting legs" in said("reproduce", "camp-2", "--data", few, "--set", "legs=3", "--out", tmp_path, "--runs", tmp_path, code=2)
    few_words = ("--data", few, "--epochs", 1, "--set", "embed_dim=8", "--set", "word_dim=6", "--device", "cpu", "--runs", tmp_path / "runs")
    text = said("reproduce", "camp-2", *few_words, "--seeds", "0,1", "--out", tmp_path / "results")
    command = "cmr reproduce camp-2 --data few --epochs 1 --set embed_dim=8 --set word_dim=6"
    assert f"Here, by `{command}`" in text and "| Base model |" in text and "4 of 4: camp-base, seed 1" in text
    def stopped(*args): raise KeyboardInterrupt
    monkeypatch.setattr(loop, "train_step", stopped)
    monkeypatch.setattr(sys, "argv", ["cmr", "reproduce", "camp-2", "--seeds", "2"])
    text = said("reproduce", "camp-2", *few_words, "--seeds", "2", "--out", tmp_path / "results", code=130)
    assert "stopped in camp-full, seed 2 (1 of 2), all saved; go on with the same command: cmr reproduce camp-2 --seeds 2" in text


@pytest.mark.parametrize("table,setting", [("camp-2", "interaction=false"), ("imram-5", "memory=add"), ("imram-4", "steps=1"), ("imram-6", "direction=full")])
def test_what_rows_differ_in_cannot_be_set(table, setting, few, tmp_path):
    text = said("reproduce", table, "--data", few, "--set", setting, "--out", tmp_path, "--runs", tmp_path, code=2)
    assert f"--set {setting.split('=')[0]}: that is what the rows of {table}" in text and not any(tmp_path.iterdir())


def test_other_files_beside_the_runs_are_left_alone(copy):
    (copy / "few" / "notes.json").write_text("{")
    assert "camp-base" in read_kept(copy / "few")

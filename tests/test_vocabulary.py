"Tokens and vocabulary: by hand, against the published format, and with files that are wrong."

import json

import pytest

from cmr.data.vocabulary import END, MARKS, PAD, START, UNK, Vocabulary, tokenize, unknown_share

CAPTIONS = ["A dog runs.", "A dog, a ball!", "The dog's ball"]


def published(*words, **changes):
    ordered = [*MARKS, *words]
    word2idx, idx2word = {w: i for i, w in enumerate(ordered)}, {str(i): w for i, w in enumerate(ordered)}
    return {"word2idx": word2idx, "idx2word": idx2word, "idx": len(ordered), **changes}


@pytest.mark.parametrize(("caption", "tokens"), [
    ("A dog runs.", ["a", "dog", "runs", "."]),
    ("The man's dog doesn't bite!", ["the", "man", "'s", "dog", "does", "n't", "bite", "!"]),
    ("  Two\tdogs , one ball ", ["two", "dogs", ",", "one", "ball"]),
    ("Ein Café (rot)", ["ein", "café", "(", "rot", ")"]),
])
def test_tokens(caption, tokens):
    assert tokenize(caption) == tokens


@pytest.mark.parametrize("caption", ["", "   ", "\n\t"])
def test_empty_caption(caption):
    with pytest.raises(ValueError, match="empty caption"): tokenize(caption)
    with pytest.raises(ValueError, match="empty caption"): Vocabulary(["dog"]).encode(caption)


def test_plain_captions_are_cut_as_by_nltk():
    "The quick way for plain captions and NLTK's own agree, on words that NLTK cuts and marks in odd places too."
    import random

    from nltk.tokenize import NLTKWordTokenizer
    judge, chance = NLTKWordTokenizer(), random.Random(0)
    words = ["a", "dog", "cannot", "3", "5,000", "gonna", "it", "wanna", "x2", "n", "t", "tis", "more", "Don't", "o'clock", "\u00e9t\u00e9"]
    for _ in range(5000):
        caption = " ".join(chance.choice(words) + chance.choice(["", "", "", ",", ".", "!"]) for _ in range(chance.randint(1, 5)))
        caption += chance.choice(["", " .", ".", "  ", ","])
        assert tokenize(caption) == judge.tokenize(caption.lower()), caption


def test_marks_have_the_published_numbers():
    assert (PAD, START, END, UNK) == (0, 1, 2, 3)
    assert Vocabulary(["dog"]).idx2word == ["<pad>", "<start>", "<end>", "<unk>", "dog"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_minimum_count(count):
    times = {"a": 3, "dog": 3, "ball": 2, "runs": 1, ".": 1, ",": 1, "!": 1, "the": 1, "'s": 1}
    vocabulary = Vocabulary.build(CAPTIONS, min_count=count)
    assert set(vocabulary.words) == {w for w, n in times.items() if n >= count}
    assert [times[w] for w in vocabulary.words] == sorted((times[w] for w in vocabulary.words), reverse=True)
    assert Vocabulary.build(reversed(CAPTIONS), min_count=count) == vocabulary


def test_default_minimum_count_is_four():
    assert Vocabulary.build(["dog"] * 4 + ["cat"] * 3).words == ["dog"]
    with pytest.raises(ValueError, match="min_count=4"): Vocabulary.build(["cat"] * 3)
    with pytest.raises(ValueError, match="no word"): Vocabulary.build([])


def test_encode_and_decode():
    vocabulary = Vocabulary(["a", "dog", "."])
    assert vocabulary.encode("A dog runs.") == [4, 5, UNK, 6]
    assert vocabulary.decode([START, 4, 5, UNK, 6, END, PAD, PAD]) == "a dog <unk> ."
    assert Vocabulary(vocabulary.words, marks=True).encode("A dog runs.") == [START, 4, 5, UNK, 6, END]
    with pytest.raises(ValueError, match="number 7"): vocabulary.decode([7])
    with pytest.raises(ValueError, match="number -1"): vocabulary.decode([-1])


@pytest.mark.parametrize("marks", [False, True])
def test_unknown_words_only(marks):
    "One rare caption stops nothing; a vocabulary that knows less than half of a split is refused by check_vocabulary."
    assert Vocabulary(["dog"], marks=marks).encode("Ein Hund") == ([START, UNK, UNK, END] if marks else [UNK, UNK])


@pytest.mark.parametrize("marks", [False, True])
def test_the_cut(marks):
    caption = " ".join(["dog", "cat"] * 60)
    ids = Vocabulary(["dog", "cat"], marks=marks, max_words=50).encode(caption)
    assert len(ids) == 50
    assert ids == ([START, *[4, 5] * 24, END] if marks else [4, 5] * 25)
    assert Vocabulary(["dog"], marks=marks, max_words=50).encode("dog") == Vocabulary(["dog"], marks=marks).encode("dog")
    with pytest.raises(ValueError, match="no room"): Vocabulary(["dog"], marks=marks, max_words=2 * marks)


def test_words_stand_once():
    with pytest.raises(ValueError, match="'dog' stands twice"): Vocabulary(["dog", "cat", "dog"])
    with pytest.raises(ValueError, match="'<unk>' stands twice"): Vocabulary(["dog", "<unk>"])


@pytest.mark.parametrize("settings", [{}, {"marks": True}, {"max_words": 50}, {"marks": True, "max_words": 7}])
def test_save_and_load(tmp_path, settings):
    vocabulary = Vocabulary(["a", "dog", "café", "n't"], **settings)
    vocabulary.save(tmp_path / "new" / "vocab.json")
    assert Vocabulary.load(tmp_path / "new" / "vocab.json") == vocabulary
    content = json.loads((tmp_path / "new" / "vocab.json").read_text(encoding="utf-8"))
    assert {key: content[key] for key in ("word2idx", "idx2word", "idx")} == published(*vocabulary.words)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["vocab.json"]


def test_a_published_file(tmp_path):
    path = tmp_path / "f30k_precomp_vocab.json"
    path.write_text(json.dumps(published("dog", "a")))
    assert Vocabulary.load(path) == Vocabulary(["dog", "a"])
    assert Vocabulary.load(path, marks=True, max_words=50) == Vocabulary(["dog", "a"], marks=True, max_words=50)
    no_idx = published("dog", "a")
    del no_idx["idx"]
    path.write_text(json.dumps(no_idx))
    assert Vocabulary.load(path) == Vocabulary(["dog", "a"])


BAD = {
    "a list": ([1, 2], "is not a vocabulary"),
    "another json": ({"images": []}, "is not a vocabulary"),
    "words in a list": (published("dog", idx2word=[*MARKS, "dog"]), "is not a vocabulary"),
    "bad special numbers": ({"word2idx": {"<unk>": 0, "<pad>": 1, "<start>": 2, "<end>": 3},
                             "idx2word": {"0": "<unk>", "1": "<pad>", "2": "<start>", "3": "<end>"}, "idx": 4}, "numbers 0 to 3 must be"),
    "no special words": ({"word2idx": {"dog": 0}, "idx2word": {"0": "dog"}, "idx": 1}, "numbers 0 to 3 must be"),
    "a number missing": (published("dog", idx2word={**{str(i): w for i, w in enumerate(MARKS)}, "5": "dog"}), "contradict"),
    "edited": (published("dog", word2idx={**{w: i for i, w in enumerate(MARKS)}, "cat": 4}), "contradict"),
    "wrong idx": (published("dog", idx=9), "contradict"),
    "numbers for words": (published("dog", idx2word={**published("dog")["idx2word"], "4": 5}), "is not a vocabulary: idx2word.4"),
    "text for numbers": (published("dog", word2idx={**published("dog")["word2idx"], "dog": "4"}), "is not a vocabulary: word2idx.dog"),
    "half numbers": (published("dog", word2idx={**published("dog")["word2idx"], "dog": 4.5}), "is not a vocabulary: word2idx.dog"),
    "text for marks": (published("dog", marks="no"), "is not a vocabulary: marks"),
    "no words kept": (published("dog", max_words=0), "is not a vocabulary: max_words"),
    "no room for a word": (published("dog", marks=True, max_words=2), "leaves no room for a word"),
    "half a length": (published("dog", max_words=7.5), "is not a vocabulary: max_words"),
    "a number beyond all": (published("dog", word2idx={**published("dog")["word2idx"], "dog": 2**70}), "contradict"),
    "escapes": ({"word2idx": {}, "idx2word": {str(i): "\x1b[2J\n" for i in range(4)}}, "numbers 0 to 3 must be"),
    "empty": ({}, "is not a vocabulary"),
}


@pytest.mark.parametrize("name", BAD)
def test_no_vocabulary(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / "vocab.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as problem: Vocabulary.load(tmp_path / "vocab.json")
    assert "vocab.json" in str(problem.value)
    assert not {"\n", "\x1b"} & set(str(problem.value))


@pytest.mark.parametrize("content", [b"", b'{"word2idx": {"<pa', b"\xff\xfe\x00"])
def test_a_file_cut_short(tmp_path, content):
    (tmp_path / "vocab.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"vocab\.json"): Vocabulary.load(tmp_path / "vocab.json")


def test_a_byte_order_mark(tmp_path):
    (tmp_path / "vocab.json").write_bytes(json.dumps(published("dog")).encode("utf-8-sig"))
    assert Vocabulary.load(tmp_path / "vocab.json") == Vocabulary(["dog"])


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no vocabulary at"): Vocabulary.load(tmp_path / "vocab.json")


def test_a_write_broken_off_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "vocab.json"
    Vocabulary(["dog"]).save(path)
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"vocab\.json: No space left on device; what was there before is still whole"):
        Vocabulary(["cat"]).save(path)
    assert Vocabulary.load(path) == Vocabulary(["dog"])
    assert [p.name for p in tmp_path.iterdir()] == ["vocab.json"]


def test_unknown_share():
    assert unknown_share(["a dog bites a zebra"], Vocabulary(["a", "dog"])) == 2 / 5
    assert unknown_share(CAPTIONS, Vocabulary.build(CAPTIONS, min_count=1)) == 0
    assert unknown_share([], Vocabulary(["a"])) == 0

"""Sentences as numbers: tokens, and the vocabulary that counts them."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from nltk.tokenize import NLTKWordTokenizer

from ..files import atomic_write

_tokenizer = NLTKWordTokenizer()

def tokenize(
    caption: str,  # a sentence as a person wrote it
) -> list[str]:    # its tokens in lower case, punctuation apart
    "Lower-cased NLTK tokens, by the tokenizer that needs no downloads; raises ValueError where nothing is left."
    tokens = _tokenizer.tokenize(caption.lower())
    if not tokens: raise ValueError(f"empty caption {caption!r}: a caption needs at least one word; remove it or write one")
    return tokens

def frequent_words(
    captions: Iterable[str],  # the captions of the training split, and of no other
    min_count: int = 4,       # words seen less often are left out
) -> list[str]:               # most frequent word first, equals in alphabetical order
    "Count the words of some captions and keep the frequent ones; raises ValueError where none is."
    counts = Counter(token for caption in captions for token in tokenize(caption))
    kept = sorted((word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))
    if not kept: raise ValueError(f"no word occurs min_count={min_count} times in these captions: lower it, or give more captions")
    return kept

PAD, START, END, UNK = 0, 1, 2, 3
MARKS = ("<pad>", "<start>", "<end>", "<unk>")

def published(
    words: Sequence[str],           # the four marks, then the words
    marks: bool = False,            # as for Vocabulary
    max_words: int | None = None,   # as for Vocabulary
) -> str:                           # json; other readers ignore the keys marks and max_words
    "A vocabulary in the format of the papers' code: word2idx, idx2word (whose keys are strings, as json has no others) and idx."
    word2idx, idx2word = {word: i for i, word in enumerate(words)}, {str(i): word for i, word in enumerate(words)}
    content = {"word2idx": word2idx, "idx2word": idx2word, "idx": len(words), "marks": marks, "max_words": max_words}
    return json.dumps(content, ensure_ascii=False)

def ordered_words(
    content: object,  # what a json file held
) -> list[str]:       # the four marks, then the words, by number
    "The words of a published vocabulary in order; raises ValueError where the content is none, or contradicts itself."
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("word2idx", "idx2word")):
        raise ValueError("no vocabulary: expected the keys word2idx, idx2word and idx")
    words = [content["idx2word"].get(str(i)) for i in range(len(content["idx2word"]))]
    if tuple(words[:len(MARKS)]) != MARKS:
        raise ValueError(f"numbers 0 to 3 must be {', '.join(MARKS)}, but they are {', '.join(map(str, words[:4]))}")
    if content["word2idx"] != {word: i for i, word in enumerate(words)} or content.get("idx", len(words)) != len(words):
        raise ValueError("word2idx, idx2word and idx contradict each other: the file is damaged, take another copy")
    return words

def read_vocabulary(
    path: str | Path,  # a .json file in the published format
) -> dict:             # words (from number 4 on), marks, max_words
    "Words and settings of a file; a published one has no settings. Raises FileNotFoundError, or ValueError naming the file."
    path = Path(path)
    if not path.is_file(): raise FileNotFoundError(f"no vocabulary at {path}: make one with Vocabulary.build(captions).save({str(path)!r})")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"words": ordered_words(content)[len(MARKS):], "marks": content.get("marks", False), "max_words": content.get("max_words")}
    except ValueError as problem: raise ValueError(f"{path}: {problem}") from problem

def check_words(
    words: Sequence[str],    # the four marks, then the words
    marks: bool,             # as for Vocabulary
    max_words: int | None,   # as for Vocabulary
) -> None:
    "Raise ValueError where a word stands twice, or max_words leaves no room for one."
    twice = [word for word, n in Counter(words).items() if n > 1]
    if twice: raise ValueError(f"the word {twice[0]!r} stands twice: give every word once, and leave {', '.join(MARKS)} out")
    least = 3 if marks else 1
    if max_words is not None and max_words < least:
        raise ValueError(f"max_words={max_words} leaves no room for a word: use {least} or more, or None")

def token_numbers(
    caption: str,              # a sentence
    word2idx: dict[str, int],  # number of each word
) -> list[int]:                # one number a token, UNK where there is none
    "Look every token up; raises ValueError where no token is known."
    ids = [word2idx.get(token, UNK) for token in tokenize(caption)]
    if set(ids) == {UNK}: raise ValueError(f"caption of unknown words only: {caption!r}; is this the vocabulary of another data set?")
    return ids

def cut_and_mark(
    ids: list[int],         # numbers of a caption's tokens
    marks: bool,            # put <start> and <end> around them
    max_words: int | None,  # keep at most so many, marks included
) -> list[int]:
    "A caption's row of numbers as a model reads it."
    kept = ids[:None if max_words is None else max_words - 2 * marks]
    return [START, *kept, END] if marks else kept

def real_numbers(
    ids: Iterable[int],  # a row of numbers, padded and marked or not
    count: int,          # entries of the vocabulary
) -> list[int]:          # those of words
    "Leave out padding and marks; raises ValueError at a number that no word has."
    ids = [int(i) for i in ids]
    bad = [i for i in ids if not 0 <= i < count]
    if bad: raise ValueError(f"no word has number {bad[0]}: this vocabulary ends at {count - 1}")
    return [i for i in ids if i not in (PAD, START, END)]

class Vocabulary:
    "Words and their numbers; 0 to 3 are <pad>, <start>, <end> and <unk>."

    def __init__(self,
        words: Iterable[str],          # the words in order; the first gets number 4
        marks: bool = False,           # put <start> and <end> around every caption, as the released code does
        max_words: int | None = None,  # cut longer captions to this many tokens, marks included (CAMP: 50)
    ):
        self.words, self.marks, self.max_words = list(words), marks, max_words
        self.idx2word = [*MARKS, *self.words]
        self.word2idx = {word: i for i, word in enumerate(self.idx2word)}
        check_words(self.idx2word, marks, max_words)

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int = 4, marks: bool = False, max_words: int | None = None) -> "Vocabulary":
        "Number the words that the training captions use `min_count` times or more; ValueError where there is none."
        return cls(frequent_words(captions, min_count), marks, max_words)

    def encode(self, caption: str) -> list[int]:
        "One number a token, at most max_words of them; raises ValueError where no token is known."
        return cut_and_mark(token_numbers(caption, self.word2idx), self.marks, self.max_words)

    def decode(self, ids: Iterable[int]) -> str:
        "The words of a row of numbers, without padding and marks; raises ValueError at a number that no word has."
        return " ".join(self.idx2word[i] for i in real_numbers(ids, len(self)))

    def save(self, path: str | Path) -> None:
        "Write the published json format, with two more keys: marks and max_words."
        with atomic_write(path) as partial: partial.write_text(published(self.idx2word, self.marks, self.max_words), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, **settings) -> "Vocabulary":
        "Read a vocabulary; `marks` and `max_words`, where given, go before what the file says. Raises as `read_vocabulary` does."
        return cls(**{**read_vocabulary(path), **settings})

    def __len__(self) -> int: return len(self.idx2word)
    def __contains__(self, word: str) -> bool: return word in self.word2idx
    def __eq__(self, other: object) -> bool: return isinstance(other, Vocabulary) and vars(self) == vars(other)
    def __repr__(self) -> str: return f"Vocabulary({len(self)} entries, marks={self.marks}, max_words={self.max_words})"

def unknown_share(
    captions: Sequence[str],  # sentences
    vocabulary: Vocabulary,   # the words that are known
) -> float:                   # between 0 and 1
    "Share of all tokens that the vocabulary does not know."
    tokens = [token for caption in captions for token in tokenize(caption)]
    return sum(token not in vocabulary for token in tokens) / max(len(tokens), 1)

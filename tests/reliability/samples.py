"""Small valid files of every kind that the command line reads: what the catalogue damages."""

import contextlib
import io
import json
import os
import random
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SMALL = ["--embed-dim", "8", "--set", "word_dim=6", "--device", "cpu"]
QUICK = ["--model", "vse", "--epochs", "1", "--batch-size", "8", *SMALL]
COUNTS = {"train": 8, "dev": 4, "test": 4}
WORDS = ("runs", "sits"), ("big", "small"), ("dog", "cat", "bird"), ("red", "blue", "green"), ("here", "there", "outside")


def caption(i: int) -> str:
    "Caption number i: 108 different ones, each word often."
    i, chosen = i * 25 % 108, []
    for words in WORDS:
        chosen.append(words[i % len(words)])
        i //= len(words)
    return "a {1} {3} {2} {0} {4}".format(*chosen)


def regions(n: int, seed: int) -> np.ndarray:  # (n, 3, 6) float32
    "Random features; the last region of the first image is padding."
    made = np.random.default_rng(seed).normal(size=(n, 3, 6)).astype(np.float32)
    made[0, 2] = 0
    return made


def write_scan(folder: Path) -> None:
    "The SCAN layout with ids, mask and boxes, two captions an image."
    folder.mkdir()
    first = 0
    for seed, (split, n) in enumerate(COUNTS.items()):
        mask = np.ones((n, 3), bool)
        mask[0, 2] = False
        np.save(folder / f"{split}_ims.npy", regions(n, seed))
        np.save(folder / f"{split}_mask.npy", mask)
        np.save(folder / f"{split}_boxes.npy", np.tile(np.float32([.1, .2, .6, .9]), (n, 3, 1)))
        (folder / f"{split}_caps.txt").write_text("".join(caption(first + i) + "\n" for i in range(2 * n)))
        first += 2 * n
        (folder / f"{split}_ids.txt").write_text("".join(f"{split}-{i}.jpg\n" for i in range(n)))


def _images() -> list[tuple[str, str, list[str]]]:
    "(name, split, captions) of sixteen images."
    splits = ["train"] * 8 + ["val"] * 4 + ["test"] * 4
    return [(f"{i:04}.jpg", split, [caption(5 * i + k) for k in range(5)]) for i, split in enumerate(splits)]


SCORES = ["--data", "big", "--split", "train", "--device", "cpu", "--scores", "scores/all.npy", "--max-memory", "200KB"]


def write_big(folder: Path) -> None:
    "Data that takes a moment to read, convert and score."
    folder.mkdir()
    for seed, (split, n) in enumerate({"train": 200, "dev": 30, "test": 30}.items()):
        np.save(folder / f"{split}_ims.npy", np.random.default_rng(seed).normal(size=(n, 8, 6)).astype(np.float32))
        (folder / f"{split}_caps.txt").write_text("".join(caption(i) + "\n" for i in range(2 * n)))


def write_photos(folder: Path) -> None:
    "Forty small pictures of noise."
    folder.mkdir()
    noise = np.random.default_rng(0)
    for i in range(40): Image.fromarray(noise.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / f"{i}.png")


def write_karpathy(folder: Path) -> None:
    "Karpathy's json with features of all images and their names."
    folder.mkdir()
    images = [{"filename": name, "split": split, "imgid": i, "sentids": [5 * i + k for k in range(5)],
               "sentences": [{"tokens": text.split(), "raw": text, "imgid": i, "sentid": 5 * i + k} for k, text in enumerate(captions)]}
              for i, (name, split, captions) in enumerate(_images())]
    (folder / "dataset.json").write_text(json.dumps({"images": images, "dataset": "small"}))
    np.save(folder / "regions.npy", regions(16, 5))
    (folder / "names.txt").write_text("".join(f"{name}\n" for name, *_ in _images()))


def write_captions(folder: Path) -> None:
    "Captions as csv, tsv, .token, COCO's json, LAVIS' list and one json object a line."
    folder.mkdir()
    pairs = [(i, k, name, split, text) for i, (name, split, texts) in enumerate(_images()) for k, text in enumerate(texts)]
    texts = {
        "captions.csv": "image,caption\n" + "".join(f"{name},{text}\n" for _, _, name, _, text in pairs),
        "results.csv": "image_name| comment_number| comment\n" + "".join(f"{name}| {k}| {text}\n" for _, k, name, _, text in pairs),
        "captions.tsv": "image\tcaption\n" + "".join(f"{name}\t{text}\n" for _, _, name, _, text in pairs),
        "results.token": "".join(f"{name}#{k}\t{text}\n" for _, k, name, _, text in pairs),
        "lines.jsonl": "".join(json.dumps({"image": name, "caption": text}) + "\n" for _, _, name, _, text in pairs),
        "lavis.json": json.dumps([{"image": name, "caption": list(texts)} for name, _, texts in _images()]),
        "coco.json": json.dumps({
            "info": {}, "licenses": [], "images": [{"id": i, "file_name": name} for i, (name, *_) in enumerate(_images())],
            "annotations": [{"id": 5 * i + k, "image_id": i, "caption": text} for i, k, _, _, text in pairs]}),
    }
    for name, text in texts.items(): (folder / name).write_text(text)


def write_released(folder: Path) -> None:
    "A checkpoint as SCAN's code saves it: the state dicts of two encoders, and its options."
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    def random(*shape): return torch.randn(*shape, generator=draw)
    words, word_dim, width, regions = 12, 6, 8, 6
    gru = {f"rnn.{kind}_l0{end}": random(3 * width, *((word_dim,) if kind == "weight_ih" else (width,) if kind == "weight_hh" else ()))
           for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") for end in ("", "_reverse")}
    states = [{"fc.weight": random(width, regions), "fc.bias": random(width)}, {"embed.weight": random(words, word_dim), **gru}]
    about = Namespace(embed_size=width, word_dim=word_dim, cross_attn="t2i", lambda_softmax=9.0, agg_func="Mean", bi_gru=True)
    torch.save({"epoch": 3, "model": states, "best_rsum": 300.0, "opt": about, "Eiters": 5}, folder / "model_best.pth.tar")
    names = ["<pad>", "<start>", "<end>", "<unk>", *(f"word{i}" for i in range(words - 4))]
    content = {"word2idx": {word: i for i, word in enumerate(names)}, "idx2word": {str(i): word for i, word in enumerate(names)},
               "idx": len(names)}
    (folder / "vocab.json").write_text(json.dumps(content))


def command(*words: object) -> str:
    "Run the command line in this process (which warms it, too) and return what it printed; it has to end well."
    from cmr.cli import app
    said, status = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try: app([str(word) for word in words])
        except SystemExit as end: status = end.code or 0
    if status: raise SystemExit(f"cmr {' '.join(map(str, words))} ended with {status} on valid input:\n{said.getvalue()}")
    return said.getvalue()


def has(*words: str) -> bool:
    "Is there such a command, or such a subcommand?"
    try: command(*words, "--help")
    except SystemExit: return False
    return True


def visible(folder: Path) -> list[Path]:
    "The files of a folder that are no hidden, unfinished ones."
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def write_scores(name: str, words: list[str]) -> None:
    "Scores that were cut off: the same command killed again and again until it was killed halfway."
    dice, folder = random.Random(0), Path(name).parent
    for _ in range(60):
        child = os.fork()
        if not child:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (1, 2): os.dup2(null, stream)
            try: command(*words)
            finally: os._exit(0)
        until = time.monotonic() + 20
        while len(visible(folder)) < 2 and time.monotonic() < until: time.sleep(0.0005)
        time.sleep(dice.uniform(0, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        notes = [path.read_text() for path in visible(folder) if path.suffix == ".json"]
        if not Path(name).exists() and len(visible(folder)) > 1 and notes and '"done":0' not in notes[0].replace(" ", ""): return
        for left in folder.iterdir(): left.unlink()
    print("no evaluation could be caught halfway: cut-off scores are left out", file=sys.stderr)


def write_all(base: Path) -> None:
    "Make all samples in a folder, which becomes the current one; paths in them are relative."
    base.mkdir(parents=True)
    os.chdir(base)
    write_scan(base / "scan")
    write_karpathy(base / "karpathy")
    write_captions(base / "bring")
    write_released(base / "released")
    (base / "mine.py").write_text("answer = 42\n")
    command("data", "convert", "scan", "h5")
    command("data", "scenes", "--train", 8, "--dev", 4, "--test", 4, "--out", "world")
    command("train", "--data", "h5", "--out", "run", *QUICK)
    command("train", "--data", "h5", "--out", "part", *QUICK, "--epochs", 2, "--max-steps", 3)
    command("train", "--data", "world", "--out", "scene-run", *QUICK)
    (base / "index").mkdir()
    command("search", "run", "a red dog", "--data", "h5", "--device", "cpu", "--index", "index/gallery.safetensors")
    command("compare", "vse", "--data", "h5", "--epochs", 1, "--embed-dim", 8, "--device", "cpu", "--out", "table")
    (base / "scores").mkdir()
    write_big(base / "big")
    write_photos(base / "photos")
    write_scores("scores/all.npy", ["evaluate", "run", *SCORES])

"""20,000 pictures on disk: processor time of a query, and what a shortlist loses. `python tests/benchmarks/search.py`, some two minutes."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import cmr
from cmr.data import open_split
from cmr.fast.scoring import evaluating
from cmr.saving import load
from cmr.search import Search, ask, learn_maps, write_gallery

ROOT = Path(__file__).parent.parent.parent
COPIES, NOISE = 5, 0.3


def blocks(model, features):
    "The features encoded, and copies with noise."
    deviation, rng = features.reshape(-1, features.shape[2]).std(0), np.random.default_rng(0)
    for copy in range(COPIES):
        for i in range(0, len(features), 250):
            x = features[i:i + 250]
            if copy: x = x + (NOISE * deviation * rng.standard_normal(x.shape)).astype(np.float32)
            with evaluating(model): yield model.encode_images(torch.from_numpy(x))


def kept(finder, queries, sizes=(50, 100, 200, 400)):
    "For each shortlist, in percent: queries whose first answer is in it, and the share of the first ten."
    found = {n: [0, 0] for n in sizes}
    for query in queries:
        asked = ask(finder.model, finder.vocabulary, query)
        full = finder.images.search(asked, None, 10)[1][0]
        for n in sizes:
            part = finder.images.search(asked, n, 10)[1][0]
            found[n][0] += int(part[0] == full[0])
            found[n][1] += len(set(part.tolist()) & set(full.tolist())) / 10
    return {n: [round(100 * x / len(queries)) for x in counts] for n, counts in found.items()}


def main():
    torch.set_num_threads(1)
    model, vocabulary = load(ROOT / "data/sample/imram")
    splits = [open_split(ROOT / "data/scenes", name) for name in ("train", "dev", "test")]
    features = np.concatenate([np.asarray(split.features[:], np.float32) for split in splits])
    wide = cmr.create_model("imram", model.region_dim, len(vocabulary), embed_dim=256, word_dim=64, steps=3, direction="text").eval()
    queries, out = splits[2].captions[::25][:100], Path(tempfile.mkdtemp())
    for name, one, maps in (("d = 64", model, None), ("d = 64, fitted", model, learn_maps(model, splits[0], vocabulary)), ("d = 256", wide, None)):
        path = out / f"{name}.safetensors"
        write_gallery(path, one, blocks(one, features), [str(i) for i in range(COPIES * len(features))], maps=maps)
        clock = time.process_time()
        finder = Search((one, vocabulary), path)
        finder(queries[0])
        opened, took = time.process_time() - clock, []
        for query in queries:
            clock = time.process_time()
            finder(query)
            took.append(1000 * (time.process_time() - clock))
        print(f"{name}: opened in {opened:.2f} s; a query {np.median(took):.0f} ms, worst {max(took):.0f} ms", kept(finder, queries[:40]) if one is model else "")


if __name__ == "__main__": main()

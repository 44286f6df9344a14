"""`check_matcher` tells the author of a matcher what is wrong with it."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn.functional import pad

from cmr.data.datasets import Batch
from cmr.data.vocabulary import Vocabulary
from cmr.encoders import Fragments
from cmr.fast.scoring import score_all
from cmr.fast.sparse import plan, training_scores
from cmr.losses import Loss
from cmr.matcher import Matcher
from cmr.saving import load, save
from cmr.training.distributed import all_reduce_gradients
from cmr.training.loop import batch_scores

REGION_DIM, WORDS = 6, 8  # of the example; the vocabulary has four marks more


class Example(NamedTuple):
    "Six images of different size with a caption of different length each."
    features: Tensor  # (6, 5, REGION_DIM)
    mask: Tensor      # (6, 5)
    tokens: Tensor    # (6, 7)
    lengths: Tensor   # (6,)

    def encoded(self, model: Matcher) -> tuple[Fragments, Fragments]:
        "Both sides as the model encodes them."
        return model.encode_images(self.features, self.mask), model.encode_captions(self.tokens, self.lengths)

    def scores(self, model: Matcher) -> Tensor:
        "What the model makes of them, without a graph."
        with torch.no_grad(): return model.score(*self.encoded(model))

    def rows(self, rows) -> Example:
        "Some of the pairs."
        return Example(*(x[rows] for x in self))


def make_example(dtype: torch.dtype = torch.float64) -> Example:
    "Always the same one: full and short rows, a caption of one word, an image with a hole in its mask and one with a region of zeros."
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(6, 5, REGION_DIM, generator=draw, dtype=torch.float64).to(dtype)
    mask = torch.arange(5) < torch.tensor([5, 2, 4, 1, 5, 3])[:, None]
    mask[2, 1], features[4, 2] = False, 0
    lengths = torch.tensor([4, 7, 1, 3, 7, 2])
    tokens = torch.randint(4, 4 + WORDS, (6, 7), generator=draw) * (torch.arange(7) < lengths[:, None])
    return Example(features * mask[..., None], mask, tokens, lengths)


def need(fine: bool, problem: str) -> None:
    "AssertionError with a sentence that helps."
    if not fine: raise AssertionError(problem)


def near(a: Tensor, b: Tensor, tolerance: float = 1e-8) -> bool:
    "Equal shapes, and numbers that differ by rounding at most, relative to the largest; a NaN is near to nothing."
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance * (1 + b.abs().max())).all())


def check_shapes(model: Matcher, example: Example) -> None:
    "Encoders give Fragments, `score` gives a finite (I, C)."
    images, captions = example.encoded(model)
    for name, side in (("encode_images", images), ("encode_captions", captions)):
        need(isinstance(side, Fragments) and len(side) == 6,
             f"{name} must give Fragments with a row for each item; it gave {type(side).__name__}")
        need(not side.values[~side.mask].any(),
             f"{name} must leave zeros where mask is False: whoever sums over all fragments would count padding")
    scores = model.score(images[:2], captions)
    need(tuple(scores.shape) == (2, 6),
         f"score must give a row for each image and a column for each caption: (2, 6) here, not {tuple(scores.shape)}")
    need(bool(scores.isfinite().all()), "score gives NaN or infinity: look for a division by a length of zero, or a softmax over nothing")


def check_padding(model: Matcher, example: Example) -> None:
    "What stands behind a row's last region or word, or in a hole of the mask, changes no score."
    scores, (f, mask, tokens, lengths) = example.scores(model), example
    noisy = torch.where(mask[..., None], f, torch.full_like(f, 3.5))
    need(near(Example(noisy, mask, tokens, lengths).scores(model), scores),
         "a region that the mask calls padding changes the scores: mask it in every sum, mean, softmax and maximum")
    wider = Example(pad(f, (0, 0, 0, 3)), pad(mask, (0, 3)), pad(tokens, (0, 2)), lengths)
    need(near(wider.scores(model), scores), "more padding changes the scores: nothing may depend on how wide a batch happens to be")
    images, captions = example.encoded(model)
    for words in (captions, Fragments(-captions.values, captions.mask)):  # turned round, no word finds a region that fits
        with torch.no_grad():
            whole, found = model.score(images, words), model.score(images.padded(9), words.padded(9))
            alone = torch.stack([torch.cat([model.score(images[i].trimmed(), words[c].trimmed())[:, 0]
                                            for c in range(6)]) for i in range(6)])
        need(near(alone, whole),
             "a pair alone, without padding, has another score than in a batch: `score` has to look at the masks of both sides")
        need(near(found, whole), "padding of encoded fragments changes the scores: `score` has to look at the masks of both sides")


def check_order(model: Matcher, example: Example) -> None:
    "Rows know nothing of each other: another order, or fewer of them, gives the same scores."
    rows, scores = [4, 0, 5, 2], example.scores(model)
    need(near(example.rows(rows).scores(model), scores[rows][:, rows]),
         "the order of the batch, or who else is in it, changes the scores: no row may depend on others")


def check_tiles(model: Matcher, example: Example) -> None:
    "Scored in tiles, all comes out as in one piece."
    images, captions = example.encoded(model)
    found = torch.cat([torch.cat([model.score(images[i:i + 4], captions[c:c + 2]) for c in (0, 2, 4)], 1) for i in (0, 4)])
    need(near(found, example.scores(model)), "tiles of images by captions give other scores than all at once")
    need(near(score_all(model, images, captions, progress=False), example.scores(model)), "cmr.score_all gives other scores than score")


def gradients(model: Matcher, example: Example, engine: bool) -> list[Tensor]:
    "Of the model's loss, for every weight."
    model.zero_grad()
    scores = training_scores(model, *example.encoded(model), engine=engine)
    need(scores.requires_grad, "no weight gets a gradient: is `score` detached, or computed under no_grad?")
    model.default_loss()(scores).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters() if p.requires_grad]


def check_gradient(model: Matcher, example: Example) -> None:
    "The gradient is finite, and the sparse backward pass, which scores single pairs again, gives the one that plain autograd gives."
    need(isinstance(model.default_loss(), Loss), "default_loss must give a cmr.losses.Loss: its settings and its standstill are asked for")
    images, captions = example.encoded(model)
    own, wanted = plan(model), model.logits(images, captions)
    need(near(own.pairs(*own.prepare(images, captions)), wanted[range(6), range(6)]),
         "a pair alone has other `logits` than among others: they must not depend on other pairs, and `score_pairs` must give the same")
    before = {name: x.nan_to_num() + 0 for name, x in model.named_buffers() if name in model.state_dict()}
    with torch.no_grad(): model.train().logits(images, captions)
    changed = [name for name, x in model.eval().named_buffers() if name in before and not torch.equal(x.nan_to_num() + 0, before[name])]
    need(not changed, f"scoring changes {', '.join(changed)} in training, as normalisation over a batch does: a pair that is scored again "
                      "must come out the same")
    plain, sparse = (gradients(model, example, engine) for engine in (False, True))
    need(all(bool(g.isfinite().all()) for g in plain),
         "a gradient is NaN or infinite: look for a square root, norm or division at zero (one region of the example is zero)")
    need(any(bool(g.any()) for g in plain), "no weight gets a gradient: is `score` detached, or computed under no_grad?")
    need(all(near(a, b) for a, b in zip(sparse, plain, strict=True)),
         "the sparse backward pass gives another gradient than plain autograd: `logits` of a pair must not depend on other pairs")


def check_saving(model: Matcher, example: Example) -> None:
    "Saved and loaded it gives the same scores."
    vocabulary = Vocabulary([f"word{n}" for n in range(WORDS)])
    with tempfile.TemporaryDirectory() as folder:
        save(model, vocabulary, folder)
        copy = type(model).from_pretrained(folder)
        need(near(example.scores(copy), example.scores(model)),
             "loaded again it gives other scores: is there state outside of parameters and buffers, or an argument that json cannot hold?")
        try: load(folder)
        except ValueError as problem:
            need("unknown model" not in str(problem), "cmr.load does not find it by name: put @register above the class")


def check_bf16(model: Matcher, example: Example) -> None:
    "In mixed precision scores are float32, and near: bfloat16 keeps eight bits, so 5% of the largest score is a lot."
    exact, short = example.scores(model), Example(example.features.float(), *example[1:])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16): found = model.float().score(*short.encoded(model))
    model.double()
    need(found.dtype == torch.float32,
         f"under autocast score gives {found.dtype}: take sums over features in float32 (cmr.similarity.wide)")
    need(near(found.double(), exact, .05),
         "under autocast to bfloat16 the scores are far from the exact ones: take sums in float32 (cmr.similarity.wide)")


def one_process(rank: int, world_size: int, file: str, model: Matcher, example: Example, queue) -> None:
    "One of some processes that share a batch: puts the gradients it ends with into a queue, or what went wrong."
    torch.set_num_threads(1)
    try:
        distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world_size,
                                       timeout=timedelta(seconds=60))
        part = example.rows(slice(rank * 3, rank * 3 + 3))
        everything = Batch(*part, torch.arange(rank * 3, rank * 3 + 3), torch.arange(3))
        scores, same = batch_scores(model, everything)
        model.default_loss()(scores, same).backward()
        all_reduce_gradients(list(model.parameters()))
        queue.put([None if p.grad is None else p.grad.tolist() for p in model.parameters()])
        distributed.barrier()
        distributed.destroy_process_group()
    except Exception as problem: queue.put(f"{type(problem).__name__}: {problem}")  # noqa: BLE001


def check_two_processes(model: Matcher, example: Example) -> None:
    "Two processes that share a batch end with the gradient of one that has it all. (Where processes can't be forked, this is left out.)"
    if "fork" not in multiprocessing.get_all_start_methods(): return
    plain = gradients(model, example, engine=True)
    model.zero_grad()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        queue = context.Queue()
        shared = 2, str(Path(folder) / "store"), model, example, queue
        processes = [context.Process(target=one_process, args=(rank, *shared)) for rank in (0, 1)]
        for process in processes: process.start()
        found = [queue.get(timeout=120) for _ in processes]
        for process in processes: process.join()
    for result in found:
        need(not isinstance(result, str), f"two processes that share a batch fail: {result}")
        pairs = [(g, p) for g, p in zip(result, model.parameters()) if p.requires_grad]
        trained = [torch.zeros_like(p) if g is None else torch.tensor(g, dtype=p.dtype).view_as(p) for g, p in pairs]
        need(all(near(a, b) for a, b in zip(trained, plain, strict=True)),
             "two processes that share a batch get another gradient than one that has it all")


CHECKS: dict[str, Callable[[Matcher, Example], None]] = {
    "shapes": check_shapes, "padding": check_padding, "order": check_order, "tiles": check_tiles, "gradient": check_gradient,
    "save and load": check_saving, "bf16": check_bf16, "two processes": check_two_processes}


def small_model(cls: type[Matcher], **arguments) -> Matcher:
    "A model of the class for the example, small where it has embed_dim and word_dim, in float64."
    known = cls._hub_mixin_init_parameters
    sizes = {key: size for key, size in (("embed_dim", 8), ("word_dim", 5)) if key in known}
    torch.manual_seed(0)
    return cls(region_dim=REGION_DIM, vocab_size=4 + WORDS, **{**sizes, **arguments}).double().eval()  # type: ignore[call-arg]


def check_matcher(
    cls: type[Matcher],       # takes region_dim and vocab_size, and arguments of its own
    only: tuple[str, ...] = (), # names in CHECKS; none: all of them
    **arguments,              # the class's own
) -> list[str]:               # what was checked
    "Check a matcher: padding, order, tiles, gradient, saving, mixed precision, two processes. AssertionError lists all that is wrong."
    problems, names = [], list(only or CHECKS)
    for name in names:
        try: CHECKS[name](small_model(cls, **arguments), make_example())
        except Exception as problem:  # noqa: BLE001  whatever a matcher raises is what its author wants to read
            problems.append(f"{name}: {problem if isinstance(problem, AssertionError) else f'{type(problem).__name__}: {problem}'}")
    said = "\n".join(f"- {problem}" for problem in problems)
    if problems: raise AssertionError(f"{cls.__name__} has {len(problems)} of {len(names)} problems:\n{said}")
    return names

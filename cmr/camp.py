"""When picture and sentence have exchanged their messages, one question is left: do they belong together?"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cmr.aggregation import MessageAggregation, even_weights, facing
from cmr.attention import one_of
from cmr.encoders import Fragments, RegionEncoder, WordEncoder
from cmr.fusion import GATES, OPERATIONS, GatedFusion
from cmr.losses import Loss, MatchingBCE, Triplet
from cmr.matcher import Matcher, register
from cmr.similarity import l2_normalize, wide


def branch_shares(
    logits: Tensor, # (..., k, branches) what each branch gives each fragment
    mask: Tensor,   # (..., k) True where a fragment is real, at least once in a row
) -> Tensor:        # (..., k), a row adds up to 1; 0 where a fragment is padding
    "The softmax of each branch over the fragments, and the branches' mean (CAMP Eq. 10)."
    return logits.transpose(-1, -2).masked_fill(~mask[..., None, :], -torch.inf).softmax(-1).mean(-2)


class FragmentPooling(nn.Module):
    "One vector of many fragments, each weighed for what it is (CAMP Eq. 10-11); ValueError without a branch."
    def __init__(
        self,
        dim: int,               # d
        branches: int = 1,      # attention heads; their results are averaged
        attention: bool = True, # False: the plain mean (Table 3, "w/o attn-based agg")
        deep: bool = False,     # Linear, ReLU, Linear and no root of d (released code)
    ):
        super().__init__()
        if branches < 1: raise ValueError(f"branches={branches!r}: attention needs at least one branch")
        self.attention, self.scale = attention, 1. if deep else dim ** -.5
        if not attention: return                                      # nothing to learn
        begin: list[Any] = [nn.Linear(dim, dim), nn.ReLU()] if deep else []
        layers = [*begin, nn.Linear(dim, branches, bias=deep)]
        self.scorer = nn.Sequential(*layers)
        for layer in layers[::2]: nn.init.xavier_uniform_(layer.weight)

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        "Shares (..., k) of fragments (..., k, d), 0 for padding (Eq. 10)."
        if not self.attention: return even_weights(mask, x.dtype)[..., 0, :]
        return branch_shares(self.scorer(x) * self.scale, mask)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        "Fragments (..., k, d) and mask (..., k) to vectors (..., d) (Eq. 11)."
        return torch.einsum("...k,...kd->...d", self.weights(x, mask), x)


class Matching(nn.Module):
    "From v* and t* to a score: two layers on their sum (CAMP Eq. 13 before its sigmoid), or their cosine."
    def __init__(
        self,
        dim: int,           # d
        kind: str = "mlp",  # "mlp", or "cosine" (Table 3, "joint embedding")
        join: str = "sum",  # what the MLP is shown: "sum" (paper) or "concat" (released code)
    ):
        super().__init__()
        self.kind = one_of("matching", kind, ("mlp", "cosine"))
        self.join = one_of("join", join, ("sum", "concat"))
        if kind == "cosine": return                                   # nothing to learn
        shown = 2 * dim if join == "concat" else dim
        first, last = nn.Linear(shown, dim), nn.Linear(dim, 1)
        self.layers = nn.Sequential(first, nn.ReLU(), last)
        for layer in (first, last): nn.init.xavier_uniform_(layer.weight); nn.init.zeros_(layer.bias)

    def forward(self, v: Tensor, t: Tensor) -> Tensor:
        "Vectors (..., d) of images and captions to logits or cosines (...); the axes broadcast."
        if self.kind == "cosine": return torch.einsum("...d,...d->...", l2_normalize(v), l2_normalize(t))
        joined = v + t if self.join == "sum" else torch.cat(torch.broadcast_tensors(v, t), -1)
        return self.layers(joined).squeeze(-1)


ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {}, "base": {"interaction": False},
    "no-attention": {"attention": False}, "no-fusion": {"fusion": False}, "no-gates": {"gates": False},
    "no-residual": {"residual": False}, "mean-pooling": {"pooling": "mean"},
    "concat": {"fusion": "concat"}, "product": {"fusion": "product"},
    "joint-embedding": {"matching": "cosine"}, "mlp-ranking": {"objective": "ranking"},
    "bce-all": {"objective": "bce-all"},
}

def ablation(
    *names: str,       # rows of ABLATIONS, taken together
) -> dict[str, Any]:   # arguments for CAMP
    "Rows of CAMP's Table 3 as arguments; ValueError for an unknown row, and for two that set the same thing."
    found: dict[str, Any] = {}
    for name in names:
        for key, value in ABLATIONS[one_of("ablation", name, tuple(ABLATIONS))].items():
            if found.setdefault(key, value) != value:
                raise ValueError(f"ablations {' and '.join(names)} exclude each other: "
                                 f"{key} can't be both {found[key]!r} and {value!r}")
    return found


VARIANT_FORMS: dict[str, dict[str, Any]] = {
    "paper": {"gates": "element", "fusion": "sum", "branches": 1},
    "released": {"gates": "scalar", "fusion": "concat", "branches": 4},
}
CHOICES = {"gates": (*GATES, False), "fusion": (*OPERATIONS, False), "pooling": ("attention", "mean"),
           "matching": ("mlp", "cosine"), "objective": ("bce", "bce-all", "ranking"),
           "output": ("logit", "probability")}
IDLE = (("interaction", False, ("attention", "hidden", "gates", "fusion", "residual")),
        ("fusion", False, ("gates", "residual")), ("attention", False, ("hidden",)),
        ("pooling", "mean", ("branches",)))  # with the first two, the last have nothing to do
FORM = ("interaction", "attention", "hidden", "gates", "fusion", "residual", "pooling", "branches",
        "matching", "objective", "output")   # the arguments of CAMP that say what it computes

def refuse(
    why: str, # two choices
) -> None:
    "ValueError."
    raise ValueError(f"{why}: these exclude each other, leave one of them out")

def check_form(
    form: dict[str, Any], # a value for each of FORM; None where nothing was said
) -> None:
    "ValueError for a choice that nobody knows, and for one that leaves another nothing to do."
    for key, known in CHOICES.items():
        if form[key] is not None and form[key] not in known:
            raise ValueError(f"{key}={form[key]!r} is not known; choose one of {', '.join(map(str, known))}")
    for key, value, others in IDLE:
        for other in others:
            if form[key] == value and form[other] not in (None, True):
                refuse(f"{key}={value!r} and {other}={form[other]!r}")

def complete_form(
    arguments: dict[str, Any], # CAMP's arguments, those of FORM and "variant" among them
) -> dict[str, Any]:           # those of FORM, None replaced by what follows from the others
    "What kind of CAMP is meant; ValueError for choices that nobody knows or that exclude each other."
    variant, form = arguments["variant"], {key: arguments[key] for key in FORM}
    follows = dict(VARIANT_FORMS[one_of("variant", variant, tuple(VARIANT_FORMS))])
    check_form(form)
    matching = form["matching"] or ("mlp" if form["interaction"] else "cosine")
    objective = form["objective"] or ("bce" if matching == "mlp" else "ranking")
    if matching == "mlp" and not form["interaction"]: refuse("interaction=False and matching='mlp'")
    if matching == "cosine" and (objective != "ranking" or form["output"] == "probability"):
        refuse(f"a cosine, and objective={objective!r}, output={form['output']!r}")
    if variant == "released" and form["fusion"] == "product":
        refuse("variant='released' and fusion='product'")
    follows |= {"matching": matching, "objective": objective}
    return {key: follows.get(key) if value is None else value for key, value in form.items()}


def form_modules(
    dim: int,             # d
    form: dict[str, Any], # as `complete_form` gives it
    variant: str,         # "paper" or "released"
) -> tuple[Any, ...]:     # aggregation, fusion of regions and of words (or None), pooling of each, matching
    "The modules between the encoders and the score."
    deep, fuse = variant == "released", bool(form["fusion"])
    passing: list[Any] = [None] * 3
    if form["interaction"]:
        fusion = dim, form["gates"] or None, form["fusion"] or "sum", form["residual"], fuse
        aggregation = MessageAggregation(dim, form["hidden"], form["attention"])
        passing = [aggregation, GatedFusion(*fusion), GatedFusion(*fusion)]
    pooling = dim, form["branches"], form["pooling"] == "attention", deep
    join = "concat" if deep and form["fusion"] == "concat" else "sum"
    matching = dim, form["matching"], join
    return *passing, FragmentPooling(*pooling), FragmentPooling(*pooling), Matching(*matching)


def pair_vectors(
    model: CAMP,
    images: Fragments,   # (I, m, d)
    captions: Fragments, # (C, n, d)
) -> tuple[Tensor, Tensor]: # (I, C, d) each; of the base model (I, 1, d) and (1, C, d)
    "v* and t* of every image with every caption (CAMP Eq. 1-11)."
    V, v_mask, T, t_mask = facing(images, captions)
    if model.form["interaction"]:
        messages = model.aggregation(images, captions)
        V, T = model.fuse_regions(V, messages.to_regions), model.fuse_words(T, messages.to_words)
    return model.pool_regions(V, v_mask), model.pool_words(T, t_mask)


def form_scores(
    form: dict[str, Any], # as `complete_form` gives it
    logits: Tensor,       # (...)
) -> Tensor:              # (...)
    "What a CAMP of this form calls its score: its logits, or their probabilities (CAMP Eq. 13)."
    return wide(logits).sigmoid() if form["output"] == "probability" else logits


def form_loss(
    form: dict[str, Any], # as `complete_form` gives it
) -> Loss:
    "CAMP's own loss: Eq. 14, or the ranking loss of the probability or of the cosine (Eq. 12)."
    probability, ranking = form["matching"] == "mlp", form["objective"] == "ranking"
    if ranking: return Triplet(of="probability" if probability else "score")
    return MatchingBCE("all" if form["objective"] == "bce-all" else "hardest")


def has_gates(
    form: dict[str, Any], # as `complete_form` gives it
) -> bool:
    "Whether there are gates to look at."
    return bool(form["interaction"] and form["gates"] and form["fusion"])


def all_gates(
    model: CAMP,
    images: Fragments,   # (I, m, d)
    captions: Fragments, # (C, n, d)
) -> tuple[Tensor, Tensor]: # (I, C, m, d or 1) and (I, C, n, d or 1)
    "How far each region and each word opens (CAMP Eq. 5 and 7). ValueError for a model without gates."
    if not model.gated: raise ValueError("this model has no gates to look at")
    V, _, T, _ = facing(images, captions)
    messages = model.aggregation(images, captions)
    return model.fuse_regions.gates(V, messages.to_regions), model.fuse_words.gates(T, messages.to_words)


@register
class CAMP(Matcher):
    "Cross-modal adaptive message passing (Wang et al. 2019), with an argument for each row of its Table 3."
    warmup_steps, max_words = 450, 50 # hardest negatives alone teach fresh weights that nothing matches
    def __init__(self,
        region_dim: int,                  # f: width of a region's feature
        vocab_size: int,                  # words in the vocabulary
        embed_dim: int = 1024,            # d: width of a fragment
        word_dim: int = 300,              # width of a word embedding
        hidden: int | None = None,        # d_h, width of the projections in Eq. 1; None: d
        interaction: bool = True,         # False: the base model, each side pooled on its own
        attention: bool = True,           # False: average fragments as messages
        gates: str | bool | None = None,  # "element", "scalar" or False; None: the variant's
        fusion: str | bool | None = None, # "sum", "concat", "product" or False; None: the variant's
        residual: bool = True,            # False: only what F makes
        pooling: str = "attention",       # "attention" or "mean"
        branches: int | None = None,      # attention heads of the pooling; None: the variant's
        matching: str | None = None,      # "mlp" or "cosine"; None: "mlp", for the base model "cosine"
        objective: str | None = None,     # "bce" (Eq. 14), "bce-all", "ranking" (Eq. 12); None: by `matching`
        variant: str = "paper",           # "paper" or "released"
        output: str = "logit",            # what `score` gives: "logit", or "probability" (released code)
        bidirectional: bool = True,       # read captions both ways
    ):
        super().__init__()
        self.form, self.variant = complete_form(locals()), variant
        self.image_encoder = RegionEncoder(region_dim, embed_dim, False)
        self.text_encoder = WordEncoder(vocab_size, embed_dim, word_dim, False, bidirectional)
        (self.aggregation, self.fuse_regions, self.fuse_words,
         self.pool_regions, self.pool_words, self.matching) = form_modules(embed_dim, self.form, variant)
    gated = property(lambda self: has_gates(self.form), doc="Whether it has gates.")
    def logits(self, images: Fragments, captions: Fragments) -> Tensor:
        "Images (I, m, d) with captions (C, n, d): what goes into Eq. 13's sigmoid, or cosines, (I, C)."
        return wide(self.matching(*pair_vectors(self, images, captions)))
    def score(self, images: Fragments, captions: Fragments) -> Tensor:
        "Logits or cosines; probabilities m(I, S) (Eq. 13) where `output` says so: (I, C), ranked alike."
        return form_scores(self.form, self.logits(images, captions))
    def gates(self, images: Fragments, captions: Fragments) -> tuple[Tensor, Tensor]:
        "How far each region and each word opens, (I, C, m, d or 1) and (I, C, n, d or 1), as `all_gates`."
        return all_gates(self, images, captions)
    def default_loss(self) -> Loss: return form_loss(self.form) # as `Matcher` has it


def pair_gates(
    model: CAMP,
    images: Fragments,   # (I, m, d)
    captions: Fragments, # (C, n, d)
    at_once: int = 256,  # captions in a block, beside one image
) -> Tensor:             # (I, C)
    "Each pair's gate: the mean over features and real fragments of a side, then over the two sides."
    def mean(gates, mask): return ((gates.mean(-1) * mask).sum(-1) / mask.sum(-1))[0]
    table = torch.zeros(len(images), len(captions), dtype=images.values.dtype, device=images.values.device)
    with torch.no_grad():
        for i in range(len(images)):
            for c in range(0, len(captions), at_once):
                some = captions[c:c + at_once]
                g, h = model.gates(images[i], some)
                table[i, c:c + at_once] = (mean(g, images.mask[i]) + mean(h, some.mask)) / 2
    return table


class MeanGates(NamedTuple):
    "Mean gates over two kinds of pairs."
    matching: float
    other: float

def mean_gates(
    model: CAMP,
    images: Fragments,   # (I, m, d)
    captions: Fragments, # (C, n, d)
    image_of_caption,    # (C,) each caption's image; or (I, C) bool, True where the two belong together
) -> MeanGates:
    "The mean gate of matching pairs and of others; ValueError without gates, or where one kind is missing."
    image_of_caption = torch.as_tensor(image_of_caption, device=images.mask.device)
    own = torch.arange(len(images), device=images.mask.device)[:, None] == image_of_caption
    matching = image_of_caption if image_of_caption.dtype == torch.bool else own
    if not 0 < int(matching.sum()) < matching.numel():
        raise ValueError(f"{int(matching.sum())} of {matching.numel()} pairs match: both kinds are needed")
    g = pair_gates(model, images, captions)
    return MeanGates(g[matching].mean().item(), g[~matching].mean().item())


def fragment_gates(
    model: CAMP,
    image: Fragments,   # one image (1, m, d)
    caption: Fragments, # one caption (1, n, d)
) -> tuple[Tensor, Tensor]: # (m,) of its regions and (n,) of its words, the real ones only
    "How far each region and word of a pair opens, as a mean over features (to be drawn, CAMP Fig. 5)."
    if len(image) != 1 or len(caption) != 1:
        raise ValueError(f"one image and one caption, please; got {len(image)} and {len(caption)}")
    with torch.no_grad(): g, h = model.gates(image, caption)
    return g[0, 0].mean(-1)[image.mask[0]], h[0, 0].mean(-1)[caption.mask[0]]

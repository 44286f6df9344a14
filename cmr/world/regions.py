"""Pictures as regions: a small detector cuts pieces out of a scene, describes them and names them."""

from importlib.resources import files
from pathlib import Path
from typing import cast

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..data.datasets import write_split
from ..files import atomic_write
from .scenes import COLOURS, PATTERNS, SHAPES, SIZE, SIZES, Scene, draw, make_split, save_entries

WINDOW, STRIDE, LEVELS = 24, 4, (1, 1.5, 2)     # pixels of a crop; grid step; how many times each level shrinks the picture
REGIONS = 36                                    # regions kept of a picture, as in the papers
NAMES = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES), "pattern": PATTERNS}

def as_input(
    pictures: np.ndarray, # (B, 128, 128, 3) uint8
) -> Tensor:              # (B, 3, 128, 128) float32 in 0..1
    "Pictures as the network takes them. ValueError for another shape or type."
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"pictures must be uint8 (B, {SIZE}, {SIZE}, 3) as cmr.world.draw makes them, "
                         f"but are {pictures.dtype} {pictures.shape}")
    return torch.from_numpy(np.array(pictures, order="C")).permute(0, 3, 1, 2).float() / 255

def pyramid(
    pictures: Tensor, # (B, 3, 128, 128) in 0..1
) -> list:            # per level (B, 3, side, side) with side 128, 85, 64
    "The pictures shrunk 1, 1.5 and 2 times: one window size then sees three scales."
    return [F.interpolate(pictures, size=int(SIZE / level), mode="area") if level > 1 else pictures for level in LEVELS]

def windows_across(
    level: float, # how many times the picture is shrunk
) -> int:         # windows side by side
    "How many windows fit in a row of a level."
    return (int(SIZE / level) - WINDOW) // STRIDE + 1

def grid_boxes() -> Tensor: # (W, 4) x1, y1, x2, y2 in pixels of the picture
    "Every candidate box, in the order in which the network names them: level by level, row by row."
    boxes = []
    for level in LEVELS:
        at = torch.arange(windows_across(level), dtype=torch.float32) * STRIDE * level
        y, x = torch.meshgrid(at, at, indexing="ij")
        boxes.append(torch.stack([x, y, x + WINDOW * level, y + WINDOW * level], -1).reshape(-1, 4))
    return torch.cat(boxes)

def cut_windows(
    picture: Tensor, # (3, 128, 128) in 0..1
    windows: Tensor, # (N,) window numbers, as grid_boxes counts them
) -> Tensor:         # (N, 3, 24, 24)
    "The crops that some windows see of a picture."
    crops, start = torch.empty(len(windows), 3, WINDOW, WINDOW), 0
    for level in pyramid(picture[None]):
        grid = level[0].unfold(1, WINDOW, STRIDE).unfold(2, WINDOW, STRIDE)     # (3, across, across, 24, 24), a view
        across = grid.shape[1]
        here = (windows >= start) & (windows < start + across ** 2)
        at = windows[here] - start
        crops[here] = grid[:, at // across, at % across].transpose(0, 1)
        start += across ** 2
    return crops

class Detector(nn.Module):
    "A small CNN that says of a 24 x 24 crop whether it frames an object, and its shape, colour, size and pattern."

    def __init__(self, width: int = 64): # numbers of the penultimate layer
        super().__init__()
        self.width = width
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 24, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, 48, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(48, width, 4), nn.ReLU())
        self.heads = nn.ModuleDict({"object": nn.Conv2d(width, 1, 1)} | {k: nn.Conv2d(width, len(v), 1) for k, v in NAMES.items()})

    def forward(self, crops): # (B, 3, 24, 24), or larger: then a grid of crops, 4 pixels apart
        "The penultimate layer (B, width, h, w) and the answers of each head (B, names, h, w)."
        hidden = self.trunk(crops - 0.5)
        return hidden, {k: head(hidden) for k, head in self.heads.items()}

    def slide(self, pictures: Tensor) -> tuple[Tensor, Tensor]: # (B, 3, 128, 128) -> (B, W, width), (B, W)
        "Look through every window of every level at once: features, and the logit that a window frames an object."
        seen = [self(level) for level in pyramid(pictures)]
        features = torch.cat([hidden.flatten(2) for hidden, _ in seen], 2).transpose(1, 2)
        return features, torch.cat([answers["object"].flatten(1) for _, answers in seen], 1)

def box_iou(
    a: Tensor, # (A, 4) x1, y1, x2, y2
    b: Tensor, # (B, 4)
) -> Tensor:   # (A, B) in 0..1
    "Intersection over union of every pair of boxes."
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b))
    return shared / (area_a[:, None] + area_b[None] - shared)

def thing_boxes(
    scene: Scene,
) -> Tensor: # (things, 4) x1, y1, x2, y2 in pixels
    "The frame of each thing, whatever stands in front of it."
    corners = [t.corners() for t in scene.things]
    return torch.tensor(np.array([[*c.min(0), *c.max(0)] for c in corners]), dtype=torch.float32)

def frame_quality(
    scene: Scene,
    boxes: Tensor, # (W, 4) in pixels
) -> Tensor:       # (W, things) in 0..1
    "How well each box frames each thing: centred on it, and 1.15 times as wide."
    things = thing_boxes(scene)
    centre = (boxes[:, None, :2] + boxes[:, None, 2:] - things[None, :, :2] - things[None, :, 2:]).abs().amax(-1) / 2
    side, want = boxes[:, None, 2] - boxes[:, None, 0], (things[:, 2:] - things[:, :2]).amax(-1)[None] * 1.15
    return (1 - centre / (0.5 * want)).clamp(min=0) * torch.minimum(side / want, want / side)

def label_windows(
    scene: Scene,
    boxes: Tensor, # (W, 4) in pixels
) -> tuple:        # (W,) the thing each box frames best, (W,) in 0..1 how well
    "Which thing each box shows."
    quality = frame_quality(scene, boxes)
    return quality.argmax(1), quality.amax(1)

def pick_windows(
    quality: Tensor, # (W,) how well each window frames anything
    each: int,       # windows to pick
    generator: torch.Generator,
) -> Tensor:         # (each,) window numbers
    "Half of them windows that frame a thing well, half windows that nearly do, or background."
    well = (quality > 0.55) + 1e-9
    nearly = 0.05 + (quality > 0.2).float() * (quality < 0.5)
    half = each // 2
    return torch.cat([torch.multinomial(well, half, generator=generator), torch.multinomial(nearly, each - half, generator=generator)])

def sample_crops(
    entries: list,        # I entries of a split, for what their scenes hold
    pictures: np.ndarray, # (I, 128, 128, 3) uint8, the same scenes drawn
    each: int = 24,       # crops of a picture
    seed: int = 0,
) -> tuple:               # crops (N, 3, 24, 24) in 0..1, labels {name: (N,)}, quality (N,)
    "Cut labelled crops out of pictures. ValueError where pictures and entries differ in number."
    if len(entries) != len(pictures):
        raise ValueError(f"{len(entries)} entries but {len(pictures)} pictures: give the picture of each entry, in order")
    generator, boxes = torch.Generator().manual_seed(seed), grid_boxes()
    labels: dict[str, list[Tensor]] = {k: [] for k in NAMES}
    crops, quality = [], []
    for entry, picture in zip(entries, pictures):
        best, good = label_windows(entry.scene, boxes)
        pick = pick_windows(good, each, generator)
        crops.append(cut_windows(as_input(picture[None])[0], pick)); quality.append(good[pick])
        for key, names in NAMES.items():
            labels[key].append(torch.tensor([names.index(getattr(t, key)) for t in entry.scene.things])[best[pick]])
    return torch.cat(crops), {k: torch.cat(v) for k, v in labels.items()}, torch.cat(quality)

def detector_loss(
    answers: dict,   # of each head, (B, names, 1, 1)
    labels: dict,    # {name: (B,)} what the nearest thing is
    quality: Tensor, # (B,) in 0..1 how well the crop frames it
) -> Tensor:         # a number
    "Binary cross-entropy towards how well a crop frames a thing, plus cross-entropy of its names where it does."
    framed = quality > 0.5
    loss = F.binary_cross_entropy_with_logits(answers["object"].flatten(), quality)
    if not framed.any(): return loss
    for key, target in labels.items(): loss = loss + F.cross_entropy(answers[key].flatten(1)[framed], target[framed])
    return loss

def train_detector(
    entries: list,        # I entries of a split
    pictures: np.ndarray, # (I, 128, 128, 3) uint8
    epochs: int = 8,
    batch: int = 128,     # crops
    lr: float = 2e-3,     # Adam's; the schedule peaks at twice that
    seed: int = 0,
    progress: bool = True,
) -> Detector:            # in eval mode
    "Teach a network to name what its crops frame. ValueError where there are not crops enough for a batch."
    torch.manual_seed(seed)
    crops, labels, quality = sample_crops(entries, pictures, seed=seed)
    steps = epochs * (len(crops) // batch)
    if steps < 1:
        raise ValueError(f"{len(crops)} crops make no batch of {batch}: give more pictures, a smaller batch, or epochs of 1 or more")
    model = Detector()
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr * 2, total_steps=steps)
    bar = tqdm(total=steps, desc="detector", delay=2, disable=not progress)
    for _ in range(epochs):
        for pick in torch.randperm(len(crops)).split(batch):
            if len(pick) < batch: continue
            loss = detector_loss(model(crops[pick])[1], {k: v[pick] for k, v in labels.items()}, quality[pick])
            optimiser.zero_grad(); loss.backward(); optimiser.step(); schedule.step()
            bar.update(); bar.set_postfix(loss=f"{loss.item():.3f}")
    bar.close()
    return model.eval()

WEIGHTS = Path(str(files("cmr") / "weights" / "detector.safetensors"))      # trained on 1,500 scenes; ships with the package

def save_detector(
    model: Detector,
    path: str | Path, # a .safetensors file
) -> None:
    "Write the weights, whole or not at all."
    with atomic_write(path) as partial: partial.write_bytes(safetensors.torch.save(model.state_dict()))

def load_detector(
    path: str | Path = WEIGHTS, # a file that save_detector wrote
) -> Detector:                  # in eval mode
    "A trained detector: by default the one that ships. FileNotFoundError, or ValueError for a file that is not a detector's."
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. load_detector() takes the weights that ship; "
                                "save_detector writes those of train_detector")
    try:
        state = safetensors.torch.load_file(path)
        model = Detector(len(state["trunk.6.weight"]))
        model.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as problem:
        raise ValueError(f"{path}: not a detector's weights, or only a part of them ({problem}). "
                         "Copy the file again, or write it with save_detector") from problem
    return model.eval()

def keep_best(
    scores: Tensor,         # (..., W) that a window frames an object
    overlaps: Tensor,       # (W, W) of the windows, as box_iou gives them
    count: int = REGIONS,
    threshold: float = 0.4, # a window that overlaps a better one by more than this is dropped
) -> Tensor:                # (..., count) window numbers, best first
    "Non-maximum suppression on a fixed grid of windows. ValueError for scores not finite, or where fewer than `count` windows survive."
    if not scores.isfinite().all():
        raise ValueError("window scores hold NaN or infinity: the pictures or the detector's weights are broken")
    rivals = (overlaps > threshold).fill_diagonal_(True)
    kept: list[Tensor] = []
    left = scores
    for _ in range(count):
        if left.amax(-1).min() == -torch.inf:
            raise ValueError(f"only {len(kept)} of {count} windows survive at threshold {threshold}: raise it, or lower count")
        kept.append(left.argmax(-1))
        left = left.masked_fill(rivals[kept[-1]], -torch.inf)
    return torch.stack(kept, -1)

def box_geometry(
    boxes: Tensor, # (..., 4) x1, y1, x2, y2 in 0..1
) -> Tensor:       # (..., 8) corners, centre, width and height
    "Where a box stands and how large it is, as numbers that a linear layer can use."
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([low, high, (low + high) / 2, high - low], -1)

@torch.no_grad()
def encode_pictures(
    pictures: np.ndarray,             # (I, 128, 128, 3) uint8
    detector: Detector | None = None, # default: the one that ships with the package
    batch: int = 32,                  # pictures at a time
    progress: bool = True,
) -> tuple:                           # features (I, 36, width + 8) float32, boxes (I, 36, 4) float32 in 0..1
    "The 36 best windows of each picture: penultimate layer and geometry. ValueError for no pictures, or other ones than draw makes."
    if not len(pictures): raise ValueError("no pictures to encode")
    detector, grid = detector or load_detector(), grid_boxes()
    overlaps, place = box_iou(grid, grid), grid / SIZE
    geometry, features, boxes = box_geometry(place), [], []
    bar = tqdm(total=len(pictures), desc="regions", unit="picture", delay=2, disable=not progress)
    for start in range(0, len(pictures), batch):
        hidden, score = detector.slide(as_input(pictures[start:start + batch]))
        keep = keep_best(score, overlaps)
        features.append(torch.cat([hidden.take_along_dim(keep[..., None], 1), geometry[keep]], -1)); boxes.append(place[keep])
        bar.update(len(hidden))
    bar.close()
    return torch.cat(features).numpy(), torch.cat(boxes).numpy()

@torch.no_grad()
def name_regions(
    features: np.ndarray,             # (..., width + 8), or only the first `width` numbers
    detector: Detector | None = None, # the one that made them; default: the one that ships with the package
) -> dict:                            # "object": (...) probability; "shape", "colour", "size", "pattern": (...) names
    "What the heads say of saved region features."
    detector = detector or load_detector()
    hidden = torch.as_tensor(features)[..., :detector.width]
    heads = {k: cast(nn.Conv2d, head) for k, head in detector.heads.items()}
    logits = {k: F.linear(hidden, head.weight.flatten(1), head.bias) for k, head in heads.items()}
    return {"object": logits["object"][..., 0].sigmoid().numpy()} | {k: np.array(v)[logits[k].argmax(-1).numpy()] for k, v in NAMES.items()}

def write_scenes(
    folder: Path,
    split: str,           # its name, part of the seed
    count: int,           # pictures
    seed: int,            # another seed is another world
    detector: Detector,   # makes the region features
    progress: bool,       # show bars with time left
) -> Path:                # {split}.h5
    "Draw one split and encode it: {split}.h5, {split}_pictures.npy and {split}_scenes.json."
    entries = make_split(split, count, seed, progress)
    pictures = np.stack([draw(e.scene) for e in tqdm(entries, desc=f"{split}: drawing", delay=2, disable=not progress)])
    features, boxes = encode_pictures(pictures, detector, progress=progress)
    with atomic_write(folder / f"{split}_pictures.npy") as partial, open(partial, "wb") as file: np.save(file, pictures)
    save_entries(entries, folder / f"{split}_scenes.json")
    image_of_caption = np.repeat(np.arange(count), [len(e.captions) for e in entries])
    captions = [c.text for e in entries for c in e.captions]
    ids = [f"{split}-{i}" for i in range(count)]
    return write_split(folder / f"{split}.h5", features, captions, image_of_caption, ids, boxes)

def make_scenes(
    folder: str | Path,                    # where to write
    seed: int = 0,                         # another seed is another world
    counts: dict[str, int] | None = None,  # pictures of each split; None: train 3,000, dev 500, test 500
    progress: bool = True,                 # show bars with time left
) -> list[Path]:                           # the HDF5 files
    "Draw the built-in world and encode it: {split}.h5, {split}_pictures.npy and {split}_scenes.json for each split."
    counts, detector = counts or {"train": 3000, "dev": 500, "test": 500}, load_detector()
    return [write_scenes(Path(folder), split, count, seed, detector, progress) for split, count in counts.items()]

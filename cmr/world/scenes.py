"""Drawn scenes, sentences about them, and which sentence is true of which scene."""

import json
import math
import random
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from ..files import atomic_write

SIZE = 128                                             # canvas, pixels each way
COLOURS = {"red": (205, 45, 45), "orange": (230, 130, 30), "yellow": (225, 205, 50), "green": (60, 150, 70),
           "blue": (50, 85, 195), "purple": (125, 60, 160), "pink": (230, 130, 175), "brown": (125, 80, 45)}
LIGHT = ((235, 232, 222), (214, 224, 232), (226, 216, 226), (216, 228, 212), (200, 200, 205))  # backgrounds
SIZES = {"small": (8, 10), "large": (14, 17)}          # radius of the circle around a thing: least and most, pixels
PATTERNS = ("plain", "striped", "dotted")
RELATIONS = ("touches", "covers", "surrounds", "points at", "leans on", "carries", "left of", "above")
PLACES = RELATIONS[6:]                                 # the two that are no verbs

def turn(
    points: np.ndarray, # (n, 2) pixels
    degrees: float,     # clockwise on the screen, where y points down
) -> np.ndarray:        # (n, 2)
    "Rotate points about the origin. Rounded, so that the last bit of a machine's sine decides nothing."
    a = math.radians(degrees)
    return np.round(points @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]), 9)

def around(
    radii: list,          # n distances from the origin
    start: float = -90.0, # where the first corner stands, degrees; -90 is the top
) -> np.ndarray:          # (n, 2) corners
    "Corners at equal angles and the given distances."
    a = np.radians(start) + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([np.cos(a), np.sin(a)], 1) * np.asarray(radii)[:, None]

ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.78

def heart() -> np.ndarray: # (40, 2) corners
    "A heart inside the unit circle."
    t = ANGLES
    x, y = np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return np.stack([x * 0.9, y * 0.9], 1)

def moon() -> np.ndarray: # (50, 2) corners
    "A crescent: along a large arc and back along a smaller one."
    a, b = np.linspace(-0.75 * np.pi, 0.75 * np.pi, 30), np.linspace(0.62 * np.pi, -0.62 * np.pi, 20)
    outer, inner = np.stack([-np.cos(a), np.sin(a)], 1), np.stack([0.42 - 0.8 * np.cos(b), 0.8 * np.sin(b)], 1)
    return np.concatenate([outer, inner]) * 0.95

def cross(
    w: float = 0.3, # half the width of a bar
) -> np.ndarray:    # (12, 2) corners
    "An upright cross inside the unit circle."
    corners = [[-w, -1], [w, -1], [w, -w], [1, -w], [1, w], [w, w], [w, 1], [-w, 1], [-w, w], [-1, w], [-1, -w], [-w, -w]]
    return np.array(corners) * 0.93

OUTLINES = {  # shape -> (corners, corners of its hole or None)
    "circle": (CIRCLE * 0.92, None),
    "square": (SQUARE, None),
    "triangle": (around([1] * 3), None),
    "diamond": (np.array([[0, -1], [0.66, 0], [0, 1], [-0.66, 0]]), None),
    "star": (around([1, 0.42] * 5), None),
    "cross": (cross(), None),
    "heart": (heart(), None),
    "moon": (moon(), None),
    "ring": (CIRCLE, CIRCLE * 0.68),
    "frame": (SQUARE * 1.15, SQUARE * 0.82),
    "arrow": (np.array([[1, 0], [0.2, -0.62], [0.2, -0.22], [-1, -0.22], [-1, 0.22], [0.2, 0.22], [0.2, 0.62]]), None),
    "pole": (np.array([[-0.16, -1], [0.16, -1], [0.16, 1], [-0.16, 1]]), None),
}
SHAPES = tuple(OUTLINES)

def outline(
    shape: str,  # one of SHAPES
) -> tuple:      # (outer, hole): corner arrays (n, 2) in a circle of radius 1; hole is None but for ring and frame
    "The corners of a shape, upright and centred; an unknown shape raises ValueError."
    if shape not in OUTLINES: raise ValueError(f"unknown shape {shape!r}: one of {', '.join(SHAPES)}")
    return OUTLINES[shape]

@dataclass(frozen=True)
class Thing:
    "One drawn object: what it is (nouns and adjectives) and where it stands (pixels, degrees)."
    shape: str            # one of SHAPES
    colour: str           # one of COLOURS
    size: str             # one of SIZES
    pattern: str          # one of PATTERNS
    x: float = 0.0        # centre, pixels from the left
    y: float = 0.0        # centre, pixels from the top
    radius: float = 10.0  # of the circle around it, pixels
    angle: float = 0.0    # degrees, clockwise

    def place(self, points: np.ndarray) -> np.ndarray:
        "Points (n, 2) of the unit circle, on the canvas."
        return turn(points, self.angle) * self.radius + (self.x, self.y)

    def corners(self) -> np.ndarray:
        "Corners (n, 2) of the outline, pixels."
        return self.place(outline(self.shape)[0])

    def hole(self) -> np.ndarray | None:
        "Corners of the hole; None where there is none."
        points = outline(self.shape)[1]
        return None if points is None else self.place(points)

def fill(
    corners: np.ndarray,     # (n, 2) pixels
    hole: np.ndarray | None = None, # (k, 2) pixels, left empty
    scale: int = 1,          # canvas pixels for one pixel
) -> Image.Image:            # grey, SIZE*scale each way: 255 inside, 0 outside
    "Fill a polygon whose corners are rounded to whole pixels."
    image = Image.new("L", (SIZE * scale, SIZE * scale))
    draw = ImageDraw.Draw(image)
    draw.polygon([tuple(p) for p in np.rint(corners * scale).astype(int).tolist()], fill=255)
    if hole is not None: draw.polygon([tuple(p) for p in np.rint(hole * scale).astype(int).tolist()], fill=0)
    return image

@lru_cache(maxsize=4096)
def body(
    thing: Thing, # any
) -> np.ndarray:  # (128, 128) booleans
    "The pixels that a thing takes, were nothing in front of it."
    return np.asarray(fill(thing.corners(), thing.hole())) > 0

def grow(
    mask: np.ndarray, # (h, w) booleans
    pixels: int = 2,  # how far
) -> np.ndarray:      # (h, w) booleans
    "A mask widened to the four sides."
    for _ in range(pixels):
        wide = mask.copy()
        wide[1:] |= mask[:-1]
        wide[:-1] |= mask[1:]
        wide[:, 1:] |= mask[:, :-1]
        wide[:, :-1] |= mask[:, 1:]
        mask = wide
    return mask

def meet(
    a: Thing,     # one
    b: Thing,     # and another
    gap: int = 2, # pixels
) -> bool:
    "Whether two things come within `gap` pixels of each other."
    if math.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius + gap + 1: return False
    return bool((grow(body(a), gap) & body(b)).any())

def overlap(
    a: Thing, # one
    b: Thing, # and another
) -> int:     # pixels
    "How many pixels both things take."
    if math.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius + 1: return 0
    return int((body(a) & body(b)).sum())

def end(
    thing: Thing,   # an arrow, or anything that has a top
) -> np.ndarray:    # (2,) x and y, pixels
    "The tip of an arrow, the top end of a pole."
    tip = np.array([[1.0, 0.0]]) if thing.shape == "arrow" else np.array([[0.0, -1.0]])
    return (turn(tip, thing.angle) * thing.radius + (thing.x, thing.y))[0]

def near(
    thing: Thing,      # any
    point: np.ndarray, # (2,) x and y, pixels
    reach: float,      # pixels
) -> bool:
    "Whether a thing takes any pixel within `reach` of a point."
    ys, xs = np.nonzero(body(thing))
    return bool(len(xs)) and float(((xs - point[0]) ** 2 + (ys - point[1]) ** 2).min()) <= reach ** 2

def points_at(
    a: Thing,                    # subject
    b: Thing,                    # object
    others: Sequence[Thing] = (), # what else there is, and may stand in the way
) -> bool:
    "Whether a is an arrow whose ray meets b before anything else, and does not touch it."
    if a.shape != "arrow" or meet(a, b): return False
    (x, y), (dx, dy) = end(a), turn(np.array([[1.0, 0.0]]), a.angle)[0]
    for step in range(3, 75):
        i, j = round(y + dy * step), round(x + dx * step)
        if not (0 <= i < SIZE and 0 <= j < SIZE): return False
        if body(b)[i, j]: return True
        if any(body(o)[i, j] for o in others): return False
    return False

def surrounds(
    a: Thing, # subject
    b: Thing, # object
) -> bool:
    "Whether all of b lies inside a's hole."
    hole = a.hole()
    return hole is not None and not bool((body(b) & ~(np.asarray(fill(hole)) > 0)).any())

def holds(
    relation: str,                # one of RELATIONS
    a: Thing,                     # its subject
    b: Thing,                     # its object
    front: bool,                  # a is drawn after b, so in front of it
    others: Sequence[Thing] = (), # the scene's other things: an arrow points at the first one in its way
) -> bool:
    "Whether a relation is true of two things: geometry alone decides. An unknown relation raises ValueError."
    if relation not in RELATIONS: raise ValueError(f"unknown relation {relation!r}: one of {', '.join(RELATIONS)}")
    dx, dy = b.x - a.x, b.y - a.y
    if relation == "left of": return dx >= 14 and abs(dy) <= 0.8 * dx
    if relation == "above": return dy >= 14 and abs(dx) <= 0.8 * dy
    if relation == "points at": return points_at(a, b, others)
    if relation == "surrounds": return surrounds(a, b)
    shared = overlap(a, b)
    if relation == "covers": return front and bool(shared >= 0.12 * body(b).sum())
    if not meet(a, b) or shared > 0.06 * min(body(a).sum(), body(b).sum()): return False
    if relation == "touches": return True
    if relation == "carries": return dy <= -0.4 * (a.radius + b.radius) and abs(dx) <= 0.6 * a.radius and a.shape != "pole"
    return a.shape == "pole" and 15 <= abs(a.angle) <= 50 and near(b, end(a), 4)  # leans on

class Dice:
    "A seeded source of choices whose stream is the same on every machine and in every Python version."
    def __init__(self,
        seed: str | int, # text, or a number
    ):
        self.r = random.Random(seed)

    def unit(self) -> float: return self.r.random()                              # in [0, 1)
    def between(self, low: float, high: float) -> float: return low + (high - low) * self.unit()
    def pick(self, items: Sequence): return items[int(self.unit() * len(items))]    # one of them
    def chance(self, p: float) -> bool: return self.unit() < p                   # true with probability p

    def some(self,
        items: Sequence, # to choose from; left as it is
        count: int,  # how many
    ) -> list:
        "`count` different items, in random order."
        left = list(items)
        return [left.pop(int(self.unit() * len(left))) for _ in range(count)]

def make_thing(
    dice: Dice,             # source of choices
    shapes: tuple = SHAPES, # nouns to choose from
    size: str | None = None, # one of SIZES; None leaves it to the dice
) -> Thing:                 # at the origin
    "A thing with random noun and adjectives."
    shape, size = dice.pick(shapes), size or dice.pick(tuple(SIZES))
    radius = dice.between(*SIZES[size]) * (1.2 if shape in ("pole", "arrow", "ring", "frame") else 1.0)
    angle = {"arrow": dice.between(0, 360), "pole": dice.between(-8, 8)}.get(shape, dice.between(-10, 10))
    return Thing(shape, dice.pick(tuple(COLOURS)), size, dice.pick(PATTERNS), 0.0, 0.0, round(radius, 1), round(angle))

def approach(
    a: Thing,          # stays where it is
    b: Thing,          # is moved
    direction: float,  # from a, degrees
    lower: float = 0.0, # aim at a point that many pixels below a's centre
) -> Thing:            # b where it meets a
    "Bring b from far off towards a, pixel by pixel, until they are a pixel apart."
    dx, dy = turn(np.array([[1.0, 0.0]]), direction)[0]
    for distance in np.arange(a.radius + b.radius + 4, 2, -1):
        moved = replace(b, x=round(a.x + dx * distance, 1), y=round(a.y + lower + dy * distance, 1))
        if meet(a, moved, gap=1): return moved
    return moved

CENTRE = SIZE / 2

def pose_touching(
    dice: Dice, # source of choices
    a: Thing,   # in the middle of the canvas
) -> tuple:     # (Thing, Thing), the one behind first
    "Another thing is brought near from any side."
    return a, approach(a, make_thing(dice), dice.between(0, 360))

def pose_carrying(
    dice: Dice, # source of choices
    a: Thing,   # in the middle of the canvas
) -> tuple:     # (Thing, Thing), the one behind first
    "Another thing is lowered onto something that stands upright."
    a = replace(a, shape=dice.pick(("square", "circle", "heart", "triangle", "frame", "star", "cross")), angle=0)
    return a, approach(a, make_thing(dice, tuple(s for s in SHAPES if s != "pole")), -90 + dice.between(-8, 8))

def pose_covering(
    dice: Dice, # source of choices
    a: Thing,   # in the middle of the canvas
) -> tuple:     # (Thing, Thing), the one behind first
    "Another thing stands in front, half a radius or more away."
    b, direction, far = make_thing(dice), dice.between(0, 360), dice.between(0.5, 0.75)
    dx, dy = turn(np.array([[1.0, 0.0]]), direction)[0] * far * max(a.radius, b.radius)
    return a, replace(b, x=round(CENTRE + dx, 1), y=round(CENTRE + dy, 1))

def pose_surrounding(
    dice: Dice, # source of choices
    a: Thing,   # not used: a larger one takes its place
) -> tuple:     # (Thing, Thing), the one behind first
    "A small thing stands inside a ring or a frame."
    outer = replace(make_thing(dice, ("ring", "frame"), "large"), x=CENTRE, y=CENTRE, radius=20)
    inner = make_thing(dice, tuple(s for s in SHAPES if s not in ("ring", "frame", "arrow")), "small")
    return outer, replace(inner, x=CENTRE, y=CENTRE)

def pose_pointing(
    dice: Dice, # source of choices
    a: Thing,   # in the middle of the canvas
) -> tuple:     # (Thing, Thing), the one behind first
    "An arrow points at the middle from some distance."
    arrow, direction = make_thing(dice, ("arrow",)), dice.between(0, 360)
    dx, dy = turn(np.array([[1.0, 0.0]]), direction)[0] * (a.radius + arrow.radius + dice.between(8, 22))
    return a, replace(arrow, x=round(CENTRE - dx, 1), y=round(CENTRE - dy, 1), angle=round(direction))

def pose_leaning(
    dice: Dice, # source of choices
    a: Thing,   # in the middle of the canvas
) -> tuple:     # (Thing, Thing), the one behind first
    "A tilted pole is pushed against something that stands upright."
    sign = dice.pick((-1, 1))
    pole = replace(make_thing(dice, ("pole",), "large"), angle=round(sign * dice.between(20, 40)))
    a = replace(a, shape=dice.pick(("square", "circle", "star", "heart", "frame", "cross")), angle=0)
    return a, approach(a, pole, 180 if sign > 0 else 0, lower=0.75 * pole.radius)

POSES = ("touches", "covers", "covers", "surrounds", "points at", "points at", "points at", "leans on", "leans on", "carries")
POSE_OF = {"touches": pose_touching, "covers": pose_covering, "surrounds": pose_surrounding, "points at": pose_pointing,
           "leans on": pose_leaning, "carries": pose_carrying}

def pose(
    dice: Dice,    # source of choices
    relation: str, # one of the six verbs among RELATIONS
) -> tuple:        # (Thing, Thing), the one behind first
    "Two things around the middle of the canvas, most likely in a relation."
    return POSE_OF[relation](dice, replace(make_thing(dice), x=CENTRE, y=CENTRE))

def enclosing_circle(
    group: tuple, # of Thing
) -> tuple:       # x, y, radius, pixels
    "Centre and radius of a circle around some things."
    low = np.min([(t.x - t.radius, t.y - t.radius) for t in group], 0)
    high = np.max([(t.x + t.radius, t.y + t.radius) for t in group], 0)
    x, y = (low + high) / 2
    return x, y, max(math.hypot(t.x - x, t.y - y) + t.radius * 0.95 for t in group)

def arrange(
    dice: Dice,   # source of places
    groups: list, # of tuples of Thing; each is moved as a whole
) -> tuple | None: # of Thing, or None after 40 vain tries
    "Set groups of things down where they keep clear of one another."
    placed: list[Thing] = []
    circles: list[tuple[float, float, float]] = []
    for group in groups:
        x, y, r = enclosing_circle(group)
        for _ in range(40):
            nx, ny = dice.between(r + 1, SIZE - r - 1), dice.between(r + 1, SIZE - r - 1)
            if all(math.hypot(nx - cx, ny - cy) > r + cr + 2 for cx, cy, cr in circles): break
        else: return None
        circles.append((nx, ny, r))
        placed += [replace(t, x=round(t.x + nx - x, 1), y=round(t.y + ny - y, 1)) for t in group]
    return tuple(placed)

@dataclass(frozen=True)
class Scene:
    "Things, back to front; which pairs stand in which relation is computed from them."
    things: tuple    # of Thing
    noise: int = 0   # seed of background, light and grain

    @property
    def facts(self) -> tuple: # ((relation, subject index, object index), ...)
        "Every relation that is true of the scene."
        return facts_of(self.things)

@lru_cache(maxsize=20000)
def facts_of(
    things: tuple, # of Thing, back to front
) -> tuple:        # ((relation, i, j), ...)
    "Every true relation among things."
    n = range(len(things))
    return tuple((r, i, j) for i, j in permutations(n, 2) for r in RELATIONS
                 if holds(r, things[i], things[j], i > j, [things[k] for k in n if k not in (i, j)]))

def inside(
    things: tuple, # of Thing
) -> bool:
    "Whether all things lie within the canvas, a pixel from its edge."
    return all(t.corners().min() >= 1 and t.corners().max() <= SIZE - 2 for t in things)

def make_scene(
    dice: Dice,  # source of choices
) -> Scene:      # 2 to 5 things, at least two of them in a relation that is a verb
    "Draw up one scene."
    while True:
        count = dice.pick((2, 3, 3, 4, 4, 5))
        pairs = 2 if count >= 4 and dice.chance(0.5) else 1
        groups = [pose(dice, dice.pick(POSES)) for _ in range(pairs)] + [(make_thing(dice),) for _ in range(count - 2 * pairs)]
        things = arrange(dice, groups)
        if things is None or not inside(things): continue
        if len({(t.shape, t.colour) for t in things}) < count: continue
        scene = Scene(things, int(dice.unit() * 2**31))
        if sum(r not in PLACES for r, _, _ in scene.facts) >= pairs: return scene

def texture(
    thing: Thing,      # whose pattern
    light: np.ndarray, # (3,) its colour
    dark: np.ndarray,  # (3,) the colour of stripes and dots
) -> np.ndarray:       # (128, 128, 3)
    "A thing's colour at every pixel of the canvas: plain, stripes or dots in two shades."
    yy, xx = np.mgrid[:SIZE, :SIZE]
    u, v = xx - int(thing.x), yy - int(thing.y)
    if thing.pattern == "striped": mark = (u + v) % 6 < 3
    elif thing.pattern == "dotted": mark = (u % 5 - 2) ** 2 + (v % 5 - 2) ** 2 <= 2
    else: mark = np.zeros((SIZE, SIZE), bool)
    return np.where(mark[..., None], np.array(dark), np.array(light))

def paint(
    canvas: np.ndarray, # (128, 128, 3) what is behind
    thing: Thing,       # what to paint over it
    dice: Dice,         # shifts its shade
) -> np.ndarray:        # (128, 128, 3)
    "Paint one thing, in a shade of its colour, with soft edges."
    shift = np.array([int(dice.between(-22, 23)) for _ in range(3)])
    light = np.array(COLOURS[thing.colour]) + shift
    shade = light + (70 if sum(light) < 330 else -75)
    alpha = np.asarray(fill(thing.corners(), thing.hole(), scale=2).reduce(2)).astype(int)[..., None]
    return (canvas * (255 - alpha) + texture(thing, light, shade) * alpha) // 255

def draw(
    scene: Scene,    # what to draw
    grain: int = 14, # strength of the noise on every pixel, grey levels
) -> np.ndarray:     # (128, 128, 3) uint8
    "Draw a scene: background, things from back to front, light, grain. Whole-number arithmetic: the same bytes everywhere."
    dice = Dice(scene.noise)
    yy, xx = np.mgrid[:SIZE, :SIZE]
    canvas = np.broadcast_to(np.array(dice.pick(LIGHT)), (SIZE, SIZE, 3)).copy()
    for thing in scene.things: canvas = paint(canvas, thing, dice)
    slope, lean = int(dice.between(-40, 41)), int(dice.between(-40, 41))
    canvas = canvas + ((xx - 64) * slope // 128 + (yy - 64) * lean // 128)[..., None]
    noise = np.random.PCG64(scene.noise).random_raw(SIZE * SIZE * 3 // 8).view(np.uint8).reshape(SIZE, SIZE, 3).astype(int)
    return np.clip(canvas + (noise - 128) * grain // 128, 0, 255).astype(np.uint8)

@dataclass(frozen=True)
class Meaning:
    "What a caption claims: things with these nouns and adjectives exist, all different, in these relations."
    things: tuple      # of claims, each a dict turned into a sorted tuple: (("colour", "red"), ("shape", "ring"))
    relations: tuple   # ((relation, subject index, object index), ...); the indices count `things`

@dataclass(frozen=True)
class Caption:
    "A sentence and what it means."
    text: str          # what a model reads
    meaning: Meaning   # what the judge reads

def fits(
    thing: Thing, # of a scene
    claim: tuple, # (("colour", "red"), ("shape", "ring"))
) -> bool:
    "Whether a thing has every attribute that is claimed of it."
    return all(getattr(thing, key) == value for key, value in claim)

def is_true(
    meaning: Meaning, # what is claimed
    scene: Scene,     # of which scene
) -> bool:
    "Whether a claim is true of a scene: some choice of different things satisfies all of it."
    facts = set(scene.facts)

    def search(chosen):
        k = len(chosen)
        if any((r, chosen[i], chosen[j]) not in facts for r, i, j in meaning.relations if max(i, j) == k - 1): return False
        if k == len(meaning.things): return True
        return any(search((*chosen, n)) for n, thing in enumerate(scene.things) if n not in chosen and fits(thing, meaning.things[k]))

    return search(())

NOUNS = dict.fromkeys(SHAPES + ("picture", "stripes", "dots", "left", "right"), "NOUN")
ADJECTIVES = dict.fromkeys((*COLOURS, *SIZES, *PATTERNS, "little", "big"), "ADJ")
VERBS = dict.fromkeys(("is", "are", "touches", "touching", "meets", "covers", "covered", "hides", "hidden", "surrounds", "surrounded",
                       "encloses", "points", "pointing", "pointed", "aims", "leans", "leaning", "props", "carries", "carried", "holds",
                       "stands", "sits", "rests"), "VERB")
SMALL_WORDS = {**dict.fromkeys(("a", "the", "an", "one", "this"), "DET"), **dict.fromkeys(("and", "while"), "CONJ"),
               **dict.fromkeys(("which", "there", "we"), "PRON"), **dict.fromkeys(("up", "partly", "here"), "ADV"), ",": ".", ".": ".",
               **dict.fromkeys(("of", "to", "at", "on", "by", "in", "inside", "against", "above", "below", "beneath", "with"), "ADP")}
PART_OF_SPEECH = {**NOUNS, **ADJECTIVES, **VERBS, **SMALL_WORDS}      # every word of the world's captions

SAY = {  # ways to say a relation: with subject first, with object first
    "touches": (("touches", "is touching", "meets"), ("touches", "is touching", "meets")),
    "covers": (("covers", "partly covers", "partly hides"), ("is covered by", "is partly hidden by")),
    "surrounds": (("surrounds", "encloses"), ("is surrounded by", "sits inside", "is inside")),
    "points at": (("points at", "is pointing at", "aims at"), ("is pointed at by",)),
    "leans on": (("leans on", "leans against", "is leaning on"), ("props up", "holds up")),
    "carries": (("carries", "holds"), ("stands on", "rests on", "sits on", "is carried by")),
    "left of": (("is left of", "is to the left of"), ("is right of", "is to the right of")),
    "above": (("is above",), ("is below", "is beneath")),
}

SYNONYMS = {"small": ("small", "little"), "large": ("large", "big")}
BEHIND = {"striped": " with stripes", "dotted": " with dots"}         # patterns may also stand behind the noun

def phrase(
    dice: Dice,   # chooses among the wordings
    claim: tuple, # (("colour", "red"), ("shape", "ring"))
) -> str:         # "the red ring"
    "A noun phrase for a claim about one thing."
    said = dict(claim)
    pattern, tail = said.get("pattern", ""), ""
    if pattern in BEHIND and dice.chance(0.3): pattern, tail = "", BEHIND[pattern]
    size = dice.pick(SYNONYMS[said["size"]]) if "size" in said else ""
    adjectives = (pattern, size) if dice.chance(0.25) else (size, pattern)
    words = (dice.pick(("a", "a", "a", "the", "one")), *adjectives, said.get("colour"), said["shape"])
    return " ".join(w for w in words if w).replace("a orange", "an orange") + tail

def clause(
    dice: Dice,    # chooses among the wordings
    relation: str, # one of RELATIONS
    a: str,        # its subject
    b: str,        # its object
) -> tuple:        # (text, whether the object stands last)
    "Two noun phrases and a verb between them, either one first."
    forward, back = SAY[relation]
    if dice.chance(0.6): return f"{a} {dice.pick(forward)} {b}", True
    return f"{b} {dice.pick(back)} {a}", False

def which_clause(
    dice: Dice,  # chooses among the wordings
    fact: tuple, # (relation, i, j)
    names: list, # of the things, as phrases
    used: set,   # numbers of the things that were named
    last: int | None, # the one that was named last
) -> str | None: # ", which is above a star", or None where it hangs on nothing, or by chance
    "A relation as a relative clause that hangs on what was named last."
    relation, i, j = fact
    for here, there, order in ((i, j, 0), (j, i, 1)):
        if here in used and dice.chance(0.6) and last == here: return f", which {dice.pick(SAY[relation][order])} {names[there]}"
    return None

def sentence(
    dice: Dice,       # chooses among the wordings
    meaning: Meaning, # what to say
) -> str:
    "Put a claim into words: one of many wordings, lengths and orders."
    names = [phrase(dice, claim) for claim in meaning.things]
    said: list[str] = []
    used: set[int] = set()
    last = None
    for relation, i, j in meaning.relations:
        text, ends_in_j = clause(dice, relation, names[i], names[j])
        relative = which_clause(dice, (relation, i, j), names, used, last)
        if relative: said[-1] += relative
        else: said.append(text)
        used |= {i, j}
        last = j if ends_in_j else i
    said += [f"there is {names[k]}" for k in range(len(names)) if k not in used]
    text = dice.pick((" and ", " while ", ", ")).join(said)
    return dice.pick(("", "", "", "here ", "in this picture ", "in the picture, ")) + text + dice.pick(("", "."))

INFORMATION = {"shape": math.log2(len(SHAPES)), "colour": 3.0, "size": 1.0, "pattern": math.log2(3)}
SURPRISE = {"touches": 1.0, "covers": 3.0, "surrounds": 3.0, "points at": 3.0, "leans on": 3.0, "carries": 2.5,
            "left of": 1.0, "above": 1.0}

def bits(
    meaning: Meaning, # a claim
) -> float:
    "Roughly how many bits a claim carries: how rarely another scene satisfies it."
    attributes = sum(INFORMATION[key] for claim in meaning.things for key, _ in claim)
    return attributes + sum(SURPRISE[r] for r, _, _ in meaning.relations) - 1.8 * len(meaning.things)

def claim(
    dice: Dice,       # source of choices
    thing: Thing,     # what to name
    must: tuple = (), # adjectives that may not be left out: "colour", "size", "pattern"
) -> tuple:           # (("colour", "red"), ("shape", "ring"))
    "Name a thing by its noun and some of its adjectives."
    chosen = {"shape": thing.shape}
    for key, p in (("colour", 0.75), ("size", 0.35), ("pattern", 0.45)):
        if key in must or dice.chance(p): chosen[key] = getattr(thing, key)
    return tuple(sorted(chosen.items()))

def choose_facts(
    dice: Dice,       # source of choices
    scene: Scene,     # what to speak of
    must: tuple = (), # facts that have to be said; without them, some verb is
) -> list:            # of (relation, i, j)
    "One fact, or two about different pairs of things."
    free = [f for f in scene.facts if f not in must]
    verbs, places = [f for f in free if f[0] not in PLACES], [f for f in free if f[0] in PLACES]
    facts = list(must) or dice.some(verbs, 1)
    if dice.chance(0.5) and free:
        more = dice.pick(verbs if verbs and dice.chance(0.5) or not places else places)
        if {more[1], more[2]} != {facts[0][1], facts[0][2]}: facts.append(more)
    return facts

def claim_about(
    dice: Dice,            # source of choices
    scene: Scene,          # what to speak of
    must: tuple = (),      # facts that have to be said
    colour_of: tuple = (), # indices of things that have to be named, and with their colour
    least: float = 11.5,   # bits
) -> tuple:                # (Meaning, indices of the things that it names)
    "A claim about some of a scene's things: one or two facts, perhaps one more thing."
    while True:
        facts = choose_facts(dice, scene, must)
        indices = list(dict.fromkeys(k for _, i, j in facts for k in (i, j))) + [k for k in colour_of if all(k not in f[1:] for f in facts)]
        others = [k for k in range(len(scene.things)) if k not in indices]
        if others and len(indices) == 2 and dice.chance(0.3): indices.append(dice.pick(others))
        claims = tuple(claim(dice, scene.things[k], ("colour",) if k in colour_of else ()) for k in indices)
        meaning = Meaning(claims, tuple((r, indices.index(i), indices.index(j)) for r, i, j in facts))
        if len(claims) <= 4 and bits(meaning) >= least: return meaning, tuple(indices)

def swap_colours(
    scene: Scene, # any
    i: int,       # index of one thing
    j: int,       # index of another
) -> Scene:
    "The twin in which two things have changed colours."
    giver = {i: scene.things[j], j: scene.things[i]}
    return replace(scene, things=tuple(replace(t, colour=giver.get(k, t).colour) for k, t in enumerate(scene.things)))

def turn_round(
    scene: Scene,  # any
    relation: str, # covers, carries, left of, above
    i: int,        # index of its subject
    j: int,        # index of its object
) -> Scene:
    "The twin in which a relation between two things runs the other way."
    things, a, b = list(scene.things), scene.things[i], scene.things[j]
    things[i], things[j] = (b, a) if relation == "covers" else (replace(b, x=a.x, y=a.y), replace(a, x=b.x, y=b.y))
    if relation == "carries":
        things[i] = replace(things[i], angle=0)
        things[j] = approach(things[i], things[j], -90)
    return replace(scene, things=tuple(things))

def twin_captions(
    dice: Dice,       # source of choices
    scene: Scene,     # one
    twin: Scene,      # and the other
    claims: Callable, # dice -> (Meaning for the scene, Meaning for the twin)
) -> list | None:     # of five (Caption, Caption), or None where 60 tries give fewer
    "Pairs of captions, worded alike, each true of its own scene only."
    pairs: list[tuple[Caption, Caption]] = []
    for _ in range(60):
        mine, theirs = claims(dice)
        if is_true(mine, scene) and is_true(theirs, twin) and not is_true(mine, twin) and not is_true(theirs, scene):
            seed = dice.unit()
            texts = sentence(Dice(f"{seed}"), mine), sentence(Dice(f"{seed}"), theirs)
            if all(texts[0] != p[0].text for p in pairs): pairs.append((Caption(texts[0], mine), Caption(texts[1], theirs)))
        if len(pairs) == 5: return pairs
    return None

def colour_twin(
    dice: Dice,   # source of choices
    scene: Scene, # any
) -> tuple | None: # (Scene, five pairs of captions), or None where the scene has no such twin
    "A twin with two colours changed over, and captions for both."
    pairs = [(i, j) for i, j in combinations(range(len(scene.things)), 2)
             if scene.things[i].colour != scene.things[j].colour and scene.things[i].shape != scene.things[j].shape]
    if not pairs: return None
    i, j = dice.pick(pairs)
    twin = swap_colours(scene, i, j)

    def claims(dice):
        mine, indices = claim_about(dice, scene, colour_of=(i, j))
        theirs = tuple(tuple((key, getattr(twin.things[k], key)) for key, _ in claim) for k, claim in zip(indices, mine.things))
        return mine, replace(mine, things=theirs)

    captions = twin_captions(dice, scene, twin, claims)
    return (twin, captions) if captions else None

def relation_twin(
    dice: Dice,   # source of choices
    scene: Scene, # any
) -> tuple | None: # (Scene, five pairs of captions), or None where the scene has no such twin
    "A twin with one relation turned round, and captions for both."
    facts = [(relation, i, j) for relation, i, j in scene.facts
             if relation in ("covers", "carries", "left of", "above") and scene.things[i].shape != scene.things[j].shape]
    if not facts: return None
    fact = dice.pick([f for f in facts if f[0] in ("covers", "carries")] or facts)
    twin = turn_round(scene, *fact)
    if not inside(twin.things): return None
    relation, i, j = fact

    def claims(dice):
        mine, indices = claim_about(dice, scene, must=(fact,))
        a, b = indices.index(i), indices.index(j)
        return mine, replace(mine, relations=((relation, b, a), *mine.relations[1:]))

    captions = twin_captions(dice, scene, twin, claims)
    return (twin, captions) if captions else None

@dataclass(frozen=True)
class Entry:
    "One picture of a split."
    scene: Scene     # what it shows
    captions: tuple  # five of Caption
    twin: int = -1   # number of its twin's picture, -1 where it has none

def single(
    dice: Dice, # source of choices
) -> tuple:     # (Scene, five of Caption)
    "A scene that has no twin."
    while True:
        scene, captions = make_scene(dice), {}
        for _ in range(30):
            meaning, _ = claim_about(dice, scene)
            text = sentence(dice, meaning)
            captions[text] = Caption(text, meaning)
            if len(captions) == 5: return scene, tuple(captions.values())

def pair(
    dice: Dice, # source of choices
    kind: str,  # "colour" or "relation"
) -> tuple:     # ((Scene, captions), (Scene, captions))
    "A scene and its twin."
    while True:
        scene = make_scene(dice)
        found = (colour_twin if kind == "colour" else relation_twin)(dice, scene)
        if found:
            twin, captions = found
            return (scene, tuple(a for a, _ in captions)), (twin, tuple(b for _, b in captions))

def make_split(
    split: str,            # "train", "dev", "test" or any other name: part of the seed
    count: int,            # pictures
    seed: int = 0,         # another seed is another world
    progress: bool = True, # show a bar where it takes long
) -> list:                 # of Entry
    "Draw up a split: a third of its pictures stand in pairs of twins."
    twins = count // 3 // 2
    entries: list[Entry] = []
    for n in tqdm(range(twins), desc=f"{split}: twins", delay=2, disable=not progress):
        (a, ca), (b, cb) = pair(Dice(f"{seed}-{split}-twin-{n}"), ("colour", "relation")[n % 2])
        k = len(entries)
        entries += [Entry(a, ca, k + 1), Entry(b, cb, k)]
    for n in tqdm(range(count - 2 * twins), desc=f"{split}: scenes", delay=2, disable=not progress):
        entries.append(Entry(*single(Dice(f"{seed}-{split}-{n}"))))
    return entries

def truth(
    entries: list,         # I of Entry
    progress: bool = True, # show a bar where it takes long
) -> np.ndarray:           # (I, C) booleans, C the captions of all entries in order
    "Which caption is true of which picture."
    captions = [c for e in entries for c in e.captions]
    table = np.zeros((len(entries), len(captions)), bool)
    having: dict[tuple, set[int]] = {}                  # which scenes have a thing of that shape and colour
    for i, e in enumerate(entries):
        for t in e.scene.things:
            for key in ((t.shape, t.colour), (t.shape, None)): having.setdefault(key, set()).add(i)
    for c, caption in enumerate(tqdm(captions, desc="truth", delay=2, disable=not progress)):
        claims = [dict(claim) for claim in caption.meaning.things]
        for i in set.intersection(*(having.get((k["shape"], k.get("colour")), set()) for k in claims)):
            table[i, c] = is_true(caption.meaning, entries[i].scene)
    return table

def ceiling(
    truth: np.ndarray,            # (I, C) which caption is true of which picture
    image_of_caption: np.ndarray, # (C,) each caption's own picture
    k: int = 1,                   # the K of R@K
) -> tuple:                       # (text, image): percent
    "The R@K of a model that knows the truth and nothing else: it can only guess among the true ones."
    own = np.zeros_like(truth)
    own[image_of_caption, np.arange(truth.shape[1])] = True

    def best(own, true):
        n, false = int(true.sum()), int((true & ~own).sum())
        return 1 - math.comb(false, k) / math.comb(n, k) if n > k else 1.0

    text = np.mean([best(own[i], truth[i]) for i in range(len(truth)) if own[i].any()])
    image = np.mean([best(own[:, c], truth[:, c]) for c in range(truth.shape[1])])
    return 100 * float(text), 100 * float(image)

def twin_accuracy(
    scores: np.ndarray,           # (I, C) higher is better
    image_of_caption: np.ndarray, # (C,) each caption's own picture
    twin: np.ndarray,             # (I,) number of a picture's twin, -1 where it has none
) -> float:                       # percent; chance is 50, a tie counts as wrong; nan where there are no twins
    "How often a picture scores its own caption over the twin's, where the two are worded alike and one binding differs."
    scores, image_of_caption = np.asarray(scores), np.asarray(image_of_caption)
    right = [scores[i, a] > scores[i, b] for i, j in enumerate(twin) if j >= 0
             for a, b in zip(np.nonzero(image_of_caption == i)[0], np.nonzero(image_of_caption == j)[0])]
    return 100 * float(np.mean(right)) if right else math.nan

def entry_to_json(
    e: Entry, # any
) -> dict:    # of lists, numbers and texts
    "An entry as json has it."
    captions = [{"text": c.text, "things": [dict(k) for k in c.meaning.things], "relations": c.meaning.relations} for c in e.captions]
    return {"things": [vars(t) for t in e.scene.things], "noise": e.scene.noise, "twin": e.twin, "captions": captions}

def entry_from_json(
    e: dict,  # what `entry_to_json` gives
) -> Entry:   # the entry it was made from
    "An entry from json; KeyError, TypeError or AttributeError where it is none."
    captions = tuple(Caption(c["text"], Meaning(tuple(tuple(sorted(k.items())) for k in c["things"]), tuple(map(tuple, c["relations"]))))
                     for c in e["captions"])
    return Entry(Scene(tuple(Thing(**t) for t in e["things"]), e["noise"]), captions, e["twin"])

def save_entries(
    entries: list,    # of Entry
    path: str | Path, # the json to write
) -> None:
    "Write a split's scenes, captions, meanings and twins as json, whole or not at all."
    text = json.dumps([entry_to_json(e) for e in entries], separators=(",", ":"))
    with atomic_write(path) as partial: partial.write_text(text, encoding="utf-8")

def load_entries(
    path: str | Path, # a {split}_scenes.json
) -> list:            # of Entry
    "Read back what `save_entries` wrote; a file that is not such json raises ValueError."
    try: return [entry_from_json(e) for e in json.loads(Path(path).read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{path}: not a scenes file ({problem}); make it again with: cmr data scenes") from problem

@dataclass(frozen=True)
class WorldReport:
    "What only a world whose truth is known can say beside R@K; all but the count in percent."
    twin: float            # a scene scores its own caption over its twin's; chance is 50
    colour_twin: float     # of those, twins whose colours are swapped
    relation_twin: float   # of those, twins whose relation is turned round
    false_negatives: int   # pairs of picture and caption that are true but count as wrong
    text_ceiling: float    # R@1 that knowing the truth allows
    image_ceiling: float   # the same for captions that ask for pictures

    def __str__(self):
        return (f"twin accuracy {self.twin:.1f}% (colours swapped {self.colour_twin:.1f}%, "
                f"relation turned round {self.relation_twin:.1f}%; chance 50%)\n"
                f"ceiling of R@1: text {self.text_ceiling:.1f}%, image {self.image_ceiling:.1f}% "
                f"({self.false_negatives} true pairs count as wrong)")

def recoloured(
    a: Scene, # one
    b: Scene, # its twin
) -> bool:
    "Whether two twins have the same shapes in the same places, so that only colours were swapped."
    return [(t.shape, t.x, t.y) for t in a.things] == [(t.shape, t.x, t.y) for t in b.things]

def world_report(
    scores: np.ndarray,    # (I, C) higher is better
    entries: list | str | Path, # the split's I entries, or the path of its json
    progress: bool = True, # show a bar where it takes long
) -> WorldReport:
    "Twin accuracy, false negatives and the ceiling of R@1 of a split of the built-in world; scores of another shape raise ValueError."
    if not isinstance(entries, list): entries = load_entries(entries)
    own, twin = np.repeat(np.arange(len(entries)), [len(e.captions) for e in entries]), np.array([e.twin for e in entries])
    if np.shape(scores) != (len(entries), len(own)):
        raise ValueError(f"scores are {tuple(np.shape(scores))}, but the scenes hold {len(entries)} pictures and {len(own)} captions")
    colour = np.array([e.twin >= 0 and recoloured(e.scene, entries[e.twin].scene) for e in entries])
    table = truth(entries, progress)
    both, colours, relations = (twin_accuracy(scores, own, np.where(some, twin, -1)) for some in (twin >= 0, colour, ~colour))
    return WorldReport(both, colours, relations, int(table.sum()) - len(own), *ceiling(table, own))

def sheet(
    entries: list,     # of Entry, to show
    columns: int = 4,  # scenes in a row
    zoom: int = 2,     # size of a picture on the page: 1.3 inches for 1
    captions: int = 1, # how many captions under each
    grain: int = 0,    # strength of the noise on every pixel; the pictures that models see have 14
):                     # matplotlib figure
    "A contact sheet: pictures with their captions."
    import matplotlib.pyplot as plt
    rows = -(-len(entries) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(columns * 1.3 * zoom, rows * (1.35 + 0.2 * captions) * zoom), squeeze=False)
    for ax in axes.flat: ax.axis("off")
    for ax, e in zip(axes.flat, entries):
        ax.imshow(draw(e.scene, grain))
        ax.text(0, SIZE + 3, "\n".join(textwrap.fill(c.text, 15 * zoom) for c in e.captions[:captions]), fontsize=7, va="top")
    fig.subplots_adjust(0.01, 0.1, 0.99, 0.99, 0.05, 0.2 * captions)
    return fig

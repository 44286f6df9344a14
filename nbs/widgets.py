"""What one can move in the chapters: a function for each widget, the drawings that it shares with the figure beside it, and a flow chart.

A widget needs ipywidgets (pip install ipywidgets), and says so where there is none; the drawings need only matplotlib.
A plain module beside the notebooks, no part of the package: notebooks run in their own folder, so `import widgets` finds it."""

import functools
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from cmr.fusion import gate, gated
from cmr.lens import frame, light
from cmr.search import ask, summary_vectors
from cmr.similarity import cosine, l2_normalize


def widget(draw):
    "Marks a function that shows controls: without ipywidgets it prints what to install."
    @functools.wraps(draw)
    def shown(*given):
        try: import ipywidgets  # noqa: F401
        except ImportError as missing: return print(f"The controls are left out ({missing}): pip install ipywidgets")
        return draw(*given)
    return shown


def show(*parts):
    "Put controls and a picture one below the other."
    import ipywidgets as ui
    from IPython.display import display
    display(ui.VBox([*parts]))


def keep_size(fig):
    "An invisible frame, so that the page doesn't jump when labels grow."
    fig.add_artist(plt.Rectangle((0, 0), 1, 1, fill=False, lw=0))


def flow_chart(boxes, arrows, title, size=(9.5, 3), green=()):
    "Named boxes at their places (x, y), and arrows between them by their numbers; what is in `green` is that. Gives the axes."
    fig, ax = plt.subplots(figsize=size)
    places = np.array(list(boxes.values()))
    drawn = [ax.text(x, y, name, ha="center", va="center", fontsize=9,
                     bbox=dict(boxstyle="round", fc="#e3f2dc" if name in green else "#dbe9f6")) for name, (x, y) in boxes.items()]
    for a, b in arrows:
        ends = dict(patchA=drawn[a].get_bbox_patch(), patchB=drawn[b].get_bbox_patch(), shrinkA=0, shrinkB=1)
        ax.annotate("", places[b], places[a], arrowprops=dict(arrowstyle="->", color="grey", **ends))
    (left, low), (right, high) = places.min(0), places.max(0)
    ax.set(xlim=(left - .8, right + .8), ylim=(low - .4, high + .4), title=title)
    ax.axis("off")
    return ax


# Chapter 06

def show_scores(ax, scores, title, cmap="Blues", span=(0, 1.1)):
    "A square of numbers (B, B), images by captions; the right pairs in bold."
    ax.imshow(scores, cmap=cmap, vmin=span[0], vmax=span[1])
    for (i, j), value in np.ndenumerate(scores.numpy()):
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", weight="bold" if i == j else "normal")
    n = range(len(scores))
    ax.set(xticks=n, yticks=n, xlabel="caption", ylabel="image", title=title)


def terms(scores, margin=.2, negatives="hardest"):
    "What each image and each caption adds to the loss (Eq. 13): (B,) and (B,)."
    right, rivals = scores.diag(), scores.clone().fill_diagonal_(-torch.inf)
    by_image = (margin - right[:, None] + rivals).clamp(min=0)
    by_caption = (margin - right + rivals).clamp(min=0)
    if negatives == "hardest": return by_image.amax(1), by_caption.amax(0)
    return by_image.sum(1), by_caption.sum(0)


def draw_loss(scores, gradient, margin=.2, negatives="hardest"):
    "Scores with what each row and column adds, and beside them the gradient, by the chapter's function."
    rows, columns = terms(scores, margin, negatives)
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.3), layout="constrained")
    whole = f"Rows add {rows.sum():.2f}, columns {columns.sum():.2f}: loss {rows.sum() + columns.sum():.2f}"
    show_scores(left, scores, whole, span=(-1, 1.8))
    left.set(yticklabels=[f"{i}: +{value:.2f}" for i, value in enumerate(rows)],
             xticklabels=[f"{c}: +{value:.2f}" for c, value in enumerate(columns)])
    show_scores(right, gradient(negatives, scores, margin), "Gradient: red is pushed down, blue up", cmap="RdBu_r", span=(-7, 7))
    plt.show()


@widget
def edit_scores(scores, gradient):
    "Nine boxes hold the scores, with a slider for the margin and a choice of rivals; terms, loss and gradient follow."
    import ipywidgets as ui
    boxes = {f"score_{i}{c}": ui.BoundedFloatText(round(scores[i, c].item(), 2), min=-1, max=1, step=.01, layout={"width": "80px"})
             for i in range(3) for c in range(3)}
    margin = ui.FloatSlider(value=.2, max=.5, step=.05, description="margin")
    choice = ui.ToggleButtons(options=["hardest", "all"], description="rivals", style={"button_width": "80px"})

    def draw(margin, negatives, **cells): draw_loss(torch.tensor([*cells.values()]).view(3, 3), gradient, margin, negatives)

    square = ui.GridBox([*boxes.values()], layout={"grid_template_columns": "repeat(3, 90px)"})
    picture = ui.interactive_output(draw, {"margin": margin, "negatives": choice, **boxes})
    show(ui.HBox([square, ui.VBox([margin, choice])]), picture)


# Chapter 07

WORDS, REGIONS = ["“ball”", "“box”"], ["ball", "box", "sky"]


def draw_turned(plane, X, Y, contexts):
    "Words (2, 2) as solid lines, their contexts (2, 2) as dashed ones, regions (3, 2) as squares."
    arc = torch.linspace(0, torch.pi, 99)
    plane.plot(arc.cos(), arc.sin(), "0.8")
    plane.plot(*Y.T, "ks")
    for p, name in zip(Y, REGIONS): plane.text(1.25 * p[0], 1.13 * p[1], name, ha="center", va="center")
    for i, (word, context) in enumerate(zip(X, contexts)):
        line = dict(color=f"C{i}", markevery=[1])
        plane.plot([0, word[0]], [0, word[1]], "-", lw=2, label=WORDS[i], **line)
        plane.plot([0, context[0]], [0, context[1]], "o--", mfc="w", label=f"context of {WORDS[i]}", **line)
        plane.text(*((.55 + .25 * i) * word), WORDS[i], color=f"C{i}", ha="center", bbox=dict(fc="w", ec="none", pad=1))
    plane.set(xlim=(-1.4, 1.4), ylim=(-.1, 1.25), aspect="equal")
    plane.axis("off")


def draw_weights(bars, weights):
    "The weights (2, 3) of each word on each region."
    for i, row in enumerate(weights):
        style = dict(color=f"C{i}", hatch=["", "//"][i], ec="w", label=WORDS[i])
        drawn = bars.bar([j + .4 * i - .2 for j in range(3)], row.tolist(), .38, **style)
        bars.bar_label(drawn, fmt="%.2f", fontsize=8)
    bars.set(ylim=(0, 1.35), ylabel="weight", yticks=[0, .5, 1])
    bars.set_xticks(range(3), REGIONS)
    bars.legend(fontsize=8, ncol=2, loc="upper center")


def draw_plane(axes, angles, lam, over):
    "Attention on two axes, for the degrees of two words and three regions; Eq. 4 goes over queries, responses, or is off."
    turns = torch.tensor(angles, dtype=torch.float64).deg2rad()
    points = torch.stack([turns.cos(), turns.sin()], 1).round(decimals=9)    # the cosine of 90 degrees is 0
    X, Y = points[:2], points[2:]
    z = cosine(X, Y)                                                         # Eq. 3
    zbar = z if over == "off" else l2_normalize(z.relu(), dim=0 if over == "queries" else 1)
    weights = (lam * zbar).softmax(1)                                        # Eq. 5
    draw_turned(axes[0], X, Y, weights @ Y)
    draw_weights(axes[1], weights)
    axes[0].set_title(f"Eq. 4: {over}")


def show_plane(ball, box, region_1, region_2, region_3, lam, over):
    "`draw_plane` as one figure."
    fig, pair = plt.subplots(1, 2, figsize=(7.2, 2.6), layout="constrained")
    keep_size(fig)
    draw_plane(pair, (ball, box, region_1, region_2, region_3), lam, over)


@widget
def turn_vectors():
    "Sliders turn each word and each region and set lambda; buttons say over what Eq. 4 goes. Contexts and weights follow."
    import ipywidgets as ui
    turned = {"ball": 37, "box": 90, "region_1": 0, "region_2": 53, "region_3": 180}
    names = [*WORDS, *(f"region {name}" for name in REGIONS)]
    controls = {key: ui.IntSlider(angle, 0, 180, description=name) for (key, angle), name in zip(turned.items(), names)}
    controls["lam"] = ui.FloatSlider(4, min=0, max=20, step=.5, description="lambda")
    controls["over"] = ui.ToggleButtons(options=["queries", "responses", "off"], description="Eq. 4 over")
    show(*controls.values(), ui.interactive_output(show_plane, controls))


# Chapter 08

def draw_gate(ax, x, o, g):
    "Query, proposal and the new query (Eq. 7, last part), for a gate of each of the two features: (2,) all."
    g = torch.tensor(g)
    new = g * x + (1 - g) * o
    ax.plot([o[0], x[0]], [o[1], x[1]], "0.3", ls=":")
    ax.add_patch(plt.Rectangle((o[0], 0), x[0] - o[0], o[1], color="0.9", zorder=0))
    arrows = (x, "query x", "C0", "-"), (o, "proposal o", "C1", "--"), (new, "new query x*", "k", "-")
    for v, name, colour, style in arrows:
        ax.plot([0, v[0]], [0, v[1]], style, color=colour, lw=2, marker="o", markevery=[1], label=name)
    near = [torch.cosine_similarity(new, v, dim=0) for v in (x, o)]
    ax.set(xlim=(0, 1.15), ylim=(-.08, 1.45), aspect="equal", xlabel="feature 1", ylabel="feature 2")
    ax.set_title(f"gate {g[0]:.2f}, {g[1]:.2f}\ncosine {near[0]:.2f} with x, {near[1]:.2f} with o", size=10)


def show_gate(x, o, first, second, one):
    "`draw_gate` as one figure; the first feature's gate is the second's too where there is one for both."
    fig, ax = plt.subplots(figsize=(4, 3.6), layout="constrained")
    keep_size(fig)
    draw_gate(ax, x, o, [first, first if one else second])
    ax.legend(fontsize=8, loc="upper left")


@widget
def move_gate(x, o):
    "A slider moves the new query between proposal (0) and query (1); without the tick each feature has its own."
    import ipywidgets as ui
    controls = {"first": ui.FloatSlider(.5, min=0, max=1, step=.01, description="gate"),
                "one": ui.Checkbox(True, description="one gate for both features"),
                "second": ui.FloatSlider(.5, min=0, max=1, step=.01, description="feature 2")}
    show(*controls.values(), ui.interactive_output(lambda **given: show_gate(x, o, **given), controls))


# Chapter 09

def draw_word(words, picture, boxes, seen, word, step):
    "Where one of the words looks at a step (1 to K), and beside it its scores over the steps; the other words' are grey."
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3), layout="constrained")
    keep_size(fig)
    marked = " ".join(f"[{w}]" if n == word else w for n, w in enumerate(words))
    fig.suptitle(textwrap.fill(marked, 75), fontsize=10)
    light(left, picture, boxes, seen.weights[step - 1, word])
    steps = range(1, len(seen.scores) + 1)
    right.plot(steps, seen.scores, color="0.8")
    right.plot(steps, seen.scores[:, word], "C0", lw=2)
    right.plot(step, seen.scores[step - 1, word], "C0o")
    title = f"score of “{words[word]}” at step {step}: {seen.scores[step - 1, word]:.2f}"
    right.set(xticks=steps, xlabel="step", ylim=(-.5, 1), ylabel="score (Eq. 11)", title=title)


@widget
def choose_word(look_at, scenes):
    "Sliders choose a scene, one of its five captions, a word and a step; the picture is lit where the word looks then."
    import ipywidgets as ui
    scene = ui.IntSlider(2, 0, scenes - 1, description="scene")
    caption = ui.IntSlider(0, 0, 4, description="caption")
    word = ui.SelectionSlider(options=[("", 0)], description="word")
    step = ui.IntSlider(1, 1, 3, description="step")

    def looked(scene, caption): return look_at(scene, 5 * scene + caption)

    def other_words(_=None): word.options = [(w, n) for n, w in enumerate(looked(scene.value, caption.value)[0])]

    def draw(scene, caption, word, step): draw_word(*looked(scene, caption), word, step)

    for choice in (scene, caption): choice.observe(other_words, "value")
    other_words()
    word.value = 3
    show(scene, caption, word, step, ui.interactive_output(draw, dict(scene=scene, caption=caption, word=word, step=step)))


# Chapter 11

WORD = torch.tensor([1.6, .8])


def meet(angle, length, kind):
    "A message at an angle (degrees) from the word: message, gates, fused word (Eq. 9 with the identity for F)."
    turn = torch.deg2rad(torch.as_tensor(angle).float()) + torch.atan2(WORD[1], WORD[0])
    sent = length * torch.stack([turn.cos(), turn.sin()], -1)
    g = gate(WORD, sent, kind)
    return sent, g, gated(WORD, sent, g).relu() + WORD


def draw_meeting(angle=100, length=1.5):
    "Word, message and fused word in the plane for both kinds of gates, and the gates by angle."
    fig, (plane, gates) = plt.subplots(1, 2, figsize=(8.6, 3.3), layout="constrained")
    turns = torch.arange(-180, 181)
    for kind, colour, mark in (("element", "C0", "o"), ("scalar", "C1", "s")):
        sent, now, fused = meet(angle, length, kind)
        _, curves, path = meet(turns, length, kind)
        plane.plot(*path.T, color=colour, lw=1)
        plane.plot(*fused, mark, color=colour, ms=9, label=f"fused, {kind} gate")
        for k, (curve, g) in enumerate(zip(curves.T, now)):
            name = f"feature {k + 1}" if kind == "element" else "scalar"
            gates.plot(turns, curve, ("-", "--")[k], color=colour, label=f"{name}: {g:.2f}")
            gates.plot(angle, g, mark, color=colour)
    for name, end, style in (("word", WORD, "-"), ("message", sent, ":")):
        plane.plot(*zip((0, 0), end.tolist()), style, marker="^", markevery=[1], color="black", label=name)
    plane.set(xlim=(-3.5, 6.8), ylim=(-3.5, 5), aspect="equal", title="The fused word (thin: other angles)")
    gates.set(xlabel="angle from word to message", ylabel="gate", ylim=(0, 1.25), xticks=range(-180, 181, 90),
              title="The scalar gate is below 0.5 beyond 90 degrees")
    plane.legend(fontsize=8, loc="lower right")
    gates.legend(fontsize=8, loc="upper center", ncol=3)
    for ax in (plane, gates): ax.grid(alpha=.3)
    plt.show()


@widget
def turn_message():
    "Sliders turn a message around its word and lengthen it; the fused words and the gates follow."
    import ipywidgets as ui
    sliders = dict(angle=ui.IntSlider(100, -180, 180, 10, description="angle"),
                   length=ui.FloatSlider(value=1.5, max=3, step=.25, description="length"))
    show(*sliders.values(), ui.interactive_output(draw_meeting, sliders))


# Chapter 14

@widget
def type_sentence(draw, sentence):
    "A box for any sentence, shown by `draw` when one presses Enter."
    import ipywidgets as ui
    box = ui.Text(sentence, description="search", continuous_update=False, layout=ui.Layout(width="80%"))
    show(box, ui.interactive_output(draw, {"caption": box}))


# Chapter 16

def draw_shortlist(finder, album, sentence, length):
    "The album by its cheap vectors, clear where the model looked: those pictures, best first. Says so where no word is known."
    try: asked = ask(finder.model, finder.vocabulary, sentence)
    except ValueError as refused: return print(refused) or []
    gallery = finder.images
    cheap = summary_vectors(asked, (gallery.maps or {}).get("captions"))
    order, scores = gallery.index.nearest(cheap, len(album))[0].tolist(), gallery.scores(asked)[0]
    looked = sorted(order[:length], key=lambda row: -float(scores[row]))
    fig, axes = plt.subplots(2, 5, figsize=(8, 3.6), layout="constrained")
    for ax, row in zip(axes.flat, order):
        picture = album[Path(gallery.names[row]).stem].resize((120, 120))
        light(ax, picture, [[0, 0, 1, 1]], [float(row in looked)], 255)
        ax.set_title(f"score {scores[row]:.2f}" if row in looked else "not looked at", fontsize=8)
        if row == looked[0]: frame(ax, picture, [.02, .02, .98, .98], "orange")
    fig.suptitle(f"'{sentence}': the model looks at the {length} nearest cheap vectors; its best is framed")
    return [Path(gallery.names[row]).stem for row in looked]


@widget
def shorten_list(finder, album):
    "A box for a sentence and a slider for the shortlist's length; the album shows what the model looked at."
    import ipywidgets as ui

    def draw(sentence, length): draw_shortlist(finder, album, sentence, length); plt.show()

    box = ui.Text("there is a red circle", description="search", continuous_update=False)
    length = ui.IntSlider(3, 1, 10, description="shortlist", continuous_update=False)
    show(box, length, ui.interactive_output(draw, dict(sentence=box, length=length)))

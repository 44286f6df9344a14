"Typical wrong answers to the exercises of chapter 03."

LOOP = """def {name}(scores, image_of_caption):
    text, image = [], []
    for i, row in enumerate(scores):
        own = image_of_caption == i
        text.append({text})
    for c, column in enumerate(scores.T):
        image.append({image})
    return np.array(text), np.array(image)"""

TEXT, IMAGE = "(row[~own] >= row[own].max()).sum()", "(column >= column[image_of_caption[c]]).sum() - 1"


def loop(text=TEXT, image=IMAGE): return LOOP.format(name="my_ranks", text=text, image=image)


WRONG = {
    "my_ranks": [
        # ties are forgiven
        loop("(row[~own] > row[own].max()).sum()", "(column > column[image_of_caption[c]]).sum()"),
        loop(image="(column > column[image_of_caption[c]]).sum()"),
        loop(text="(row[~own] > row[own].max()).sum()"),
        # the picture's other captions count against it
        loop(text="(row >= row[own].max()).sum() - 1"),
        # the worst of its captions counts
        loop(text="(row[~own] >= row[own].min()).sum()"),
        # the right picture counts
        loop(image="(column >= column[image_of_caption[c]]).sum()"),
        # caption c belongs to picture c
        loop(image="(column >= column[c % len(column)]).sum() - 1"),
        # the two in the other order
        loop().replace("return np.array(text), np.array(image)", "return np.array(image), np.array(text)"),
        # places in a sorted list: ties go as the sort leaves them
        """def my_ranks(scores, image_of_caption):
    text = [min(np.where(np.argsort(-row) == c)[0][0] for c in np.flatnonzero(image_of_caption == i)) for i, row in enumerate(scores)]
    image = [np.where(np.argsort(-column) == image_of_caption[c])[0][0] for c, column in enumerate(scores.T)]
    return np.array(text), np.array(image)"""],
    "text_luck": [
        # as if two right ones among the first K counted twice
        "def text_luck(C, n, k): return 100 * n * k / C",
        # with putting back
        "def text_luck(C, n, k): return 100 * (1 - (1 - n / C) ** k)",
        # one right answer
        "def text_luck(C, n, k): return 100 * k / C",
        # a share, not percent
        "def text_luck(C, n, k):\n    from math import comb\n    return 1 - comb(C - n, k) / comb(C, k)",
        # the chance to miss
        "def text_luck(C, n, k):\n    from math import comb\n    return 100 * comb(C - n, k) / comb(C, k)"],
    "sample_r1": [
        # the mean of the pictures' shares: a picture with one caption counts as much as one with five
        "def sample_r1(found, captions, drawn): return 100 * (found[drawn] / captions[drawn]).mean()",
        # a picture that came twice counts once
        "def sample_r1(found, captions, drawn):\n    drawn = np.unique(drawn)\n    return 100 * found[drawn].sum() / captions[drawn].sum()",
        # the captions of all pictures
        "def sample_r1(found, captions, drawn): return 100 * found[drawn].sum() / captions.sum()",
        # a share, not percent
        "def sample_r1(found, captions, drawn): return found[drawn].sum() / captions[drawn].sum()"],
}

WRONG["my_ranks"] += ["""def my_ranks(scores, image_of_caption):
    n = np.bincount(image_of_caption, minlength=len(scores)); start = np.concatenate([[0], n.cumsum()])
    text = []
    for i, row in enumerate(scores):
        own = row[start[i]:start[i + 1]]; rest = np.concatenate([row[:start[i]], row[start[i + 1]:]])
        text.append((rest >= own.max()).sum())
    image = [(col >= col[np.repeat(np.arange(len(scores)), n)[c]]).sum() - 1 for c, col in enumerate(scores.T)]
    return np.array(text), np.array(image)"""]

WRONG["my_ranks"] += ["""def my_ranks(scores, image_of_caption):
    text = [(row[image_of_caption != i] >= row[image_of_caption == i].mean()).sum() for i, row in enumerate(scores)]
    return np.array(text), np.array([(col >= col[image_of_caption[c]]).sum() - 1 for c, col in enumerate(scores.T)])"""]

WRONG["my_ranks"] += ["""def my_ranks(scores, image_of_caption):
    text = [(row[image_of_caption != i] >= row[np.argmax(image_of_caption == i)]).sum() for i, row in enumerate(scores)]
    return np.array(text), np.array([(col >= col[image_of_caption[c]]).sum() - 1 for c, col in enumerate(scores.T)])"""]

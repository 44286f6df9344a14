"Typical wrong answers to the exercises of the workshop notebook on scenes."

WRONG = {
    "false_negatives": [
        "def false_negatives(table, image_of_caption): return int(table.sum())",  # the own pictures counted too
        "def false_negatives(table, image_of_caption): return int(table.sum() - len(table))",  # one own caption for each picture
        "def false_negatives(table, image_of_caption): return int((table.sum(0) > 1).sum())",  # captions, not pairs
    ],
    "between": ["""def between(a, b, c):
    u, v = np.array([c.x - a.x, c.y - a.y]), np.array([b.x - a.x, b.y - a.y])
    share = (u @ v) / (u @ u)
    return bool(np.hypot(*(v - share * u)) <= 6)""",  # anywhere on the line
                """def between(a, b, c):
    return bool(min(a.x, c.x) < b.x < max(a.x, c.x) and abs(b.y - (a.y + c.y) / 2) <= 6)""",  # level lines only
                """def between(a, b, c):
    u, v = np.array([c.x - a.x, c.y - a.y]), np.array([b.x - a.x, b.y - a.y])
    share = u @ v
    return bool(0 < share < 1 and np.hypot(*(v - share * u)) <= 6)"""],  # not divided by the length
    "noun_table": ["""def noun_table(entries):
    has = [{t.shape for t in e.scene.things} for e in entries]
    asked = [{dict(c)["shape"] for c in caption.meaning.things} for e in entries for caption in e.captions]
    return np.array([[q <= h for q in asked] for h in has])""",  # sets: two rings are one
                   """def noun_table(entries):
    from collections import Counter
    has = [Counter(t.shape for t in e.scene.things) for e in entries]
    asked = [Counter(dict(c)["shape"] for c in caption.meaning.things) for e in entries for caption in e.captions]
    return np.array([[q <= h for h in has] for q in asked])""",  # captions by pictures
                   """def noun_table(entries):
    from collections import Counter
    has = [Counter(t.shape for t in e.scene.things) for e in entries]
    asked = [Counter(dict(c)["shape"] for c in caption.meaning.things) for e in entries for caption in e.captions]
    return np.array([[q == h for q in asked] for h in has])"""],  # and no other noun
}

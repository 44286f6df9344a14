"IMRAM Eq. 3 read literally, one pair and one number at a time, in float64."

import math


def cosine(x, y):
    "Rows of x with rows of y, as nested lists; 0 where either has no length."
    table = []
    for a in x.tolist():
        row = []
        for b in y.tolist():
            product = sum(p * q for p, q in zip(a, b, strict=True))
            lengths = math.sqrt(sum(p * p for p in a)) * math.sqrt(sum(q * q for q in b))
            row.append(product / lengths if lengths else 0.0)
        table.append(row)
    return table

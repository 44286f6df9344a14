"Typical wrong answers to the exercises of the workshop notebook on CAMP's plan."

COUNT = """def pair_multiplications(m, n, d, gates):
    tables = {tables}
    fragments = (m + n) * ({sums} * d + {F})
    return (tables + 2) * m * n * d + fragments + d * d + d"""
ONE_OR_TWO, THROUGH_F = '1 if gates == "element" else 2', '(d * d if gates == "element" else 0)'

WRONG = {
    "word_keys": ["def word_keys(T, W_v, W_t): return T @ W_t.T",                                    # the regions' matrix is missing
                  "def word_keys(T, W_v, W_t): return T @ W_v.T @ W_t",                              # the two exchanged
                  "def word_keys(T, W_v, W_t): return (T @ W_t.T @ W_v).T"],
    "pair_multiplications": [COUNT.format(tables="1", sums=3, F=THROUGH_F),                          # no products for scalar gates
                             COUNT.format(tables=ONE_OR_TWO, sums=3, F="d * d"),                     # F for each pair, whatever the gates
                             COUNT.format(tables=ONE_OR_TWO, sums=2, F=THROUGH_F)],                  # no residual
}

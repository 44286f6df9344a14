"Typical wrong answers to the exercises of the workshop notebook on the engine."

WRONG = {
    "forward_operations": ["""def forward_operations(B, n, m, d, K):
    pair = remaining(n, m, d, K) + remaining(m, n, d, K)
    return B * B * pair + B * (once(n, m, d, K) + once(m, n, d, K))""",                              # the first products twice
                           """def forward_operations(B, n, m, d, K):
    pair = remaining(n, m, d, K) + remaining(m, n, d, K) - 2 * n * m * d
    return B * B * (pair + once(n, m, d, K) + once(m, n, d, K))""",                                  # once a pair
                           """def forward_operations(B, n, m, d, K):
    return B * B * (remaining(n, m, d, K) - 2 * n * m * d) + B * once(n, m, d, K)"""],               # one direction
    "added_query": ["""def added_query(dots, weights, G, squares):
    mixed = (G @ weights.flatten(2)).unflatten(2, weights.shape[2:])
    return dots + mixed, squares + (weights * mixed).sum(1)""",                                      # no mixed term 2 x . c
                    """def added_query(dots, weights, G, squares):
    return dots + weights, squares + (weights * (2 * dots + weights)).sum(1)""",                     # as if responses were perpendicular
                    """def added_query(dots, weights, G, squares):
    mixed = (G @ weights.flatten(2)).unflatten(2, weights.shape[2:])
    return mixed, squares + (weights * (2 * dots + mixed)).sum(1)"""],                               # the context alone
}

"Typical wrong answers to the exercises of the workshop notebook on galleries."

WRONG = {
    "shortest": ["""def shortest(full, cheap, share):
    places = (cheap > cheap.gather(1, full.argmax(1, keepdim=True))).sum(1)  # counted from 0
    return int(places.sort().values[int(np.ceil(share * len(places) - 1e-9)) - 1])""",
                 """def shortest(full, cheap, share):
    places = 1 + (full > full.gather(1, cheap.argmax(1, keepdim=True))).sum(1)  # the other way round
    return int(places.sort().values[int(np.ceil(share * len(places) - 1e-9)) - 1])""",
                 "def shortest(full, cheap, share): return int(np.ceil(share * full.shape[1]))"],
    "nearest_in_blocks": ["""def nearest_in_blocks(blocks, queries, k):
    best, rows = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
    for block in blocks:  # every block numbered from 0
        here = torch.arange(len(block)).expand(len(queries), -1)
        best, rows = torch.cat([best, queries @ block.T], 1), torch.cat([rows, here], 1)
        best, at = best.topk(min(k, best.shape[1]))
        rows = rows.gather(1, at)
    return rows""",
                          """def nearest_in_blocks(blocks, queries, k):
    best, rows, seen = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long), 0
    for block in blocks:
        here = torch.arange(seen, seen + len(block)).expand(len(queries), -1)
        best, rows, seen = torch.cat([best, queries @ block.T], 1), torch.cat([rows, here], 1), seen + len(block)
        best, rows = best.topk(min(k, best.shape[1]))  # places in the last table, not rows
    return rows"""],
}

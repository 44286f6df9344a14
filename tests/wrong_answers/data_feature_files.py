"Typical wrong answers to the exercises of the workshop notebook on files of features."

WRONG = {
    "most_regions": ["""def most_regions(rows):
    return rows.names[0], rows.shape[1]""",  # the room, not the regions
                     """def most_regions(rows):
    counts = np.full(rows.shape[0], rows.shape[1]) if rows.mask is None else (~rows.mask).sum(1)
    i = int(counts.argmax())
    return rows.names[i], int(counts[i])""",  # counts the padding
                     """def most_regions(rows):
    counts = np.full(rows.shape[0], rows.shape[1]) if rows.mask is None else rows.mask.sum(1)
    return rows.names[int(counts.argmin())], int(counts.max())"""],  # the name of another row
}

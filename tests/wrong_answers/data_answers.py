"Typical wrong answers to the exercise of the notebook on score matrices."

WRONG = {
    "forgiving_ranks": [
        # true pictures count against each other
        """def forgiving_ranks(scores, true):
    best = np.where(true, scores, -np.inf).max(axis=0)
    return (scores >= best).sum(axis=0) - 1""",
        # zero hides nothing where scores are negative
        """def forgiving_ranks(scores, true):
    best = (scores * true).max(axis=0)
    return ((scores >= best) & ~true).sum(axis=0)""",
        # the best of all pictures
        """def forgiving_ranks(scores, true):
    return ((scores >= scores.max(axis=0)) & ~true).sum(axis=0)""",
        # the best captions of each picture
        """def forgiving_ranks(scores, true):
    best = np.where(true, scores, -np.inf).max(axis=1, keepdims=True)
    return ((scores >= best) & ~true).sum(axis=0)"""],
}

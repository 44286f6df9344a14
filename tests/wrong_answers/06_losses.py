"Typical wrong answers to the exercises of chapter 06."

WRONG = {
    "triplet": [
        # the diagonal along the same axis twice
        """def triplet(scores, margin, hardest=True):
    rivals = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    cost = (margin - scores.diag()[:, None] + rivals).clamp(min=0)
    return cost.amax(1).sum() + cost.amax(0).sum() if hardest else 2 * cost.sum()""",
        # the axes exchanged
        """def triplet(scores, margin, hardest=True):
    right = scores.diag()
    rivals = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    a, b = (margin - right + rivals).clamp(min=0), (margin - right[:, None] + rivals).clamp(min=0)
    return a.amax(1).sum() + b.amax(0).sum() if hardest else a.sum() + b.sum()""",
        # the pair itself among its rivals: it pays the margin
        """def triplet(scores, margin, hardest=True):
    right = scores.diag()
    a, b = (margin - right[:, None] + scores).clamp(min=0), (margin - right + scores).clamp(min=0)
    return a.amax(1).sum() + b.amax(0).sum() if hardest else a.sum() + b.sum()""",
        # zero in place of minus infinity: a rival with a negative score
        """def triplet(scores, margin, hardest=True):
    right = scores.diag()
    rivals = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), 0)
    a, b = (margin - right[:, None] + rivals).clamp(min=0), (margin - right + rivals).clamp(min=0)
    return a.amax(1).sum() + b.amax(0).sum() if hardest else a.sum() + b.sum()""",
        # a mean
        """def triplet(scores, margin, hardest=True):
    right = scores.diag()
    rivals = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    a, b = (margin - right[:, None] + rivals).clamp(min=0), (margin - right + rivals).clamp(min=0)
    return a.amax(1).mean() + b.amax(0).mean() if hardest else a.mean() + b.mean()"""],
    "matching_bce": [
        # as printed
        """def matching_bce(logits):
    rivals = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf)
    return (2 * logsigmoid(logits.diag()) + logsigmoid(-rivals.amax(1)) + logsigmoid(-rivals.amax(0))).sum()""",
        # the easiest rival
        """def matching_bce(logits):
    wrong = (-logsigmoid(-logits)).masked_fill(torch.eye(len(logits), dtype=torch.bool), torch.inf)
    return -2 * logsigmoid(logits.diag()).sum() + wrong.amin(1).sum() + wrong.amin(0).sum()""",
        # from a clamped probability
        """def matching_bce(logits):
    m = logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    wrong = (-(1 - m).log()).masked_fill(torch.eye(len(logits), dtype=torch.bool), 0)
    return -2 * m.diag().log().sum() + wrong.amax(1).sum() + wrong.amax(0).sum()""",
        # the right pair once
        """def matching_bce(logits):
    wrong = (-logsigmoid(-logits)).masked_fill(torch.eye(len(logits), dtype=torch.bool), 0)
    return -logsigmoid(logits.diag()).sum() + wrong.amax(1).sum() + wrong.amax(0).sum()"""],
    "SoftTriplet": [
        # the pair itself in the sum
        """@dataclass(frozen=True)
class SoftTriplet(Loss):
    margin: float = 0.2
    tau: float = 0.1
    def __call__(self, scores, same_image=None):
        right = scores.diag()
        a, b = (self.tau * (scores / self.tau).logsumexp(dim) for dim in (1, 0))
        return (self.margin - right + a).clamp(min=0).sum() + (self.margin - right + b).clamp(min=0).sum()""",
        # same_image forgotten
        """@dataclass(frozen=True)
class SoftTriplet(Loss):
    margin: float = 0.2
    tau: float = 0.1
    def __call__(self, scores, same_image=None):
        right, rivals = scores.diag(), scores.masked_fill(positives(scores), -torch.inf) / self.tau
        a, b = (self.tau * rivals.logsumexp(dim) for dim in (1, 0))
        return (self.margin - right + a).clamp(min=0).sum() + (self.margin - right + b).clamp(min=0).sum()""",
        # not times tau
        """@dataclass(frozen=True)
class SoftTriplet(Loss):
    margin: float = 0.2
    tau: float = 0.1
    def __call__(self, scores, same_image=None):
        right, rivals = scores.diag(), scores.masked_fill(positives(scores, same_image), -torch.inf) / self.tau
        a, b = rivals.logsumexp(1), rivals.logsumexp(0)
        return (self.margin - right + a).clamp(min=0).sum() + (self.margin - right + b).clamp(min=0).sum()"""],
}

WRONG["triplet"] += ["""def triplet(scores, margin, hardest=True):
    right = scores.diag(); rivals = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), 0)
    a, b = (margin - right[:, None] + rivals).clamp(min=0), (margin - right + rivals).clamp(min=0)
    if not hardest: return a.sum() + b.sum()
    rivals = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    a, b = (margin - right[:, None] + rivals).clamp(min=0), (margin - right + rivals).clamp(min=0)
    return a.amax(1).sum() + b.amax(0).sum()"""]

WRONG["matching_bce"] += ["""def matching_bce(logits):
    r = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf)
    return -2 * (logsigmoid(logits.diag()) + logsigmoid(-r.amax(1))).sum()"""]

WRONG["SoftTriplet"] += ["""@dataclass(frozen=True)
class SoftTriplet(Loss):
    margin: float = 0.2
    tau: float = 0.1
    def __call__(self, scores, same_image=None):

        same = positives(scores, same_image); d = scores.diag()
        a = (self.margin - d[:, None] + scores).clamp(min=0).masked_fill(same, -torch.inf); b = (self.margin - d + scores).clamp(min=0).masked_fill(same, -torch.inf)
        return (self.tau * (a / self.tau).logsumexp(1)).clamp(min=0).sum() + (self.tau * (b / self.tau).logsumexp(0)).clamp(min=0).sum()"""]

WRONG["SoftTriplet"] += ["""@dataclass(frozen=True)
class SoftTriplet(Loss):
    margin: float = 0.2
    tau: float = 0.1
    def __call__(self, scores, same_image=None):

        r = scores.masked_fill(positives(scores, same_image), -torch.inf) / self.tau; d = scores.diag()
        return (.2 - d + self.tau * r.logsumexp(1)).clamp(min=0).sum() + (.2 - d + self.tau * r.logsumexp(0)).clamp(min=0).sum()"""]

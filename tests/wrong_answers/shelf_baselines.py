"Typical wrong answers to the exercises of the workshop notebook on baselines."

WRONG = {
    "all_fragments": ["""def all_fragments(images, captions):
    return torch.einsum("imd,cnd->icmn", images.values, captions.values).relu().sum((2, 3))  # padding counts""",
                      """def all_fragments(images, captions):
    products = torch.einsum("imd,cnd->icmn", images.values, captions.values)
    return (products * images.mask[:, None, :, None] * captions.mask[None, :, None, :]).sum((2, 3)).relu()  # clipped too late""",
                      """def all_fragments(images, captions):
    products = torch.einsum("imd,cnd->icmn", images.values, captions.values).relu()
    return (products * images.mask[:, None, :, None] * captions.mask[None, :, None, :]).sum((2, 3)).T"""],
    "cross_entropy_matching": ["""def cross_entropy_matching(projections, match):
    total = 0
    for logits, y in ((projections[..., 0], match), (projections[..., 1], match)):  # the second table not turned
        total = total - (y / y.sum(1, keepdim=True) * logits.log_softmax(1)).sum()
    return total""",
                               """def cross_entropy_matching(projections, match):
    total = 0
    for logits, y in ((projections[..., 0], match), (projections[..., 1].T, match.T)):
        total = total - (y * logits.log_softmax(1)).sum()  # rows of q that add up to two
    return total""",
                               """def cross_entropy_matching(projections, match):
    total = 0
    for logits, y in ((projections[..., 0], match), (projections[..., 1].T, match.T)):
        total = total - (y / y.sum(1, keepdim=True) * logits.log_softmax(1)).mean()
    return total"""],
    "diversity": ["""def diversity(residuals):
    unit, K = l2_normalize(residuals), residuals.shape[1]
    return ((unit @ unit.transpose(1, 2) - torch.eye(K)).norm() / K ** 2) / len(residuals)  # one norm for the batch""",
                  """def diversity(residuals):
    unit, K = l2_normalize(residuals), residuals.shape[1]
    return ((unit @ unit.transpose(1, 2)).flatten(1).norm(dim=1) / K ** 2).mean()  # the diagonal counts""",
                  """def diversity(residuals):
    K = residuals.shape[1]
    return ((residuals @ residuals.transpose(1, 2) - torch.eye(K)).flatten(1).norm(dim=1) / K ** 2).mean()"""],
}

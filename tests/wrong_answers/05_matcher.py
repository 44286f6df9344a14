"Typical wrong answers to the exercises of chapter 05."

WRONG = {
    "three_best": ["def three_best(scores): return scores.topk(3, dim=0).indices", "def three_best(scores): return scores.argsort(0)[:3].T"],
    "best_word": ["""def best_word(images, captions):
    z = torch.einsum("imd,cnd->icmn", images.values, captions.values)
    return (z.amax(3) * images.mask[:, None]).sum(2) / images.lengths[:, None]""",
                  """def best_word(images, captions):
    z = torch.einsum("imd,cnd->icmn", images.values, captions.values)
    return z.masked_fill(~captions.mask[None, :, None, :], -torch.inf).amax(3).mean(2)"""],
    "vse_score": ["def vse_score(regions, mask, sentences): return l2_normalize(sentences) @ l2_normalize(regions.mean(0))",
                  "def vse_score(regions, mask, sentences): return sentences @ regions[mask].mean(0)"],
}

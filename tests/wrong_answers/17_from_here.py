"Typical wrong answers to the exercises of chapter 17."

WRONG = {
    "chance_to_meet": ["def chance_to_meet(captions, batch, five=5): return five * (batch - 1) / (captions - 1)",
                       "def chance_to_meet(captions, batch, five=5): return 1 - (1 - five / (captions - 1)) ** (batch - 1)"],
    "hard_scores": ["""def hard_scores(images, captions):
    z = torch.einsum("imd,cnd->icnm", images.values, captions.values)
    return z.masked_fill(~images.mask[:, None, None], -torch.inf).amax(3).mean(2)""",
                    """def hard_scores(images, captions):
    z = torch.einsum("imd,cnd->icnm", images.values, captions.values)
    return (z.amax(3) * captions.mask).sum(2) / captions.lengths"""],
}

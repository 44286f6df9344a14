"Typical wrong answers to the exercises of the workshop notebook on scoring."

BEST = """def best_images(score, images, captions, k, b):
    best, numbers = torch.empty(0, len(captions)), torch.empty(0, len(captions), dtype=torch.long)
    for i in range(0, len(images), b):
        part = score(images[i:i + b], captions)
        number = torch.arange({first}, {first} + len(part))[:, None].expand_as(part)
        best, numbers = torch.cat([best.to(part.dtype), part]), torch.cat([numbers, number])
        best, places = best.topk(min(k, len(best)), 0)
        numbers = {numbers}
    return numbers{turned}"""

WRONG = {
    "count_tiles": ["def count_tiles(I, C, a, b): return (I // a) * (C // b)",                       # whole tiles only
                    "def count_tiles(I, C, a, b): return -(-I // b) * -(-C // a)",                   # a and b exchanged
                    "def count_tiles(I, C, a, b): return -(-I * C // (a * b))"],                     # as if tiles could be cut anew
    "best_images": ["def best_images(score, images, captions, k, b): return score(images, captions).topk(k, 0).indices.T",  # all at once
                    BEST.format(first="0", numbers="numbers.gather(0, places)", turned=".T"),        # numbers within a block
                    BEST.format(first="i", numbers="places", turned=".T"),                           # places instead of numbers
                    BEST.format(first="i", numbers="numbers.gather(0, places)", turned="")],
}

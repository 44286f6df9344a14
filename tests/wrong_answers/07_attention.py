"Typical wrong answers to the exercises of chapter 07."

WRONG = {
    "sharpen": ["def sharpen(z, query_mask): return l2_normalize((z * query_mask[..., None]).relu(), dim=-1)",      # over the responses
                "def sharpen(z, query_mask): return l2_normalize(z.relu(), dim=-2)",                                # padding takes part
                "def sharpen(z, query_mask): return l2_normalize((z * query_mask[..., None]).relu(), dim=1)",       # captions compete
                "def sharpen(z, query_mask): return l2_normalize(z.relu(), dim=-2) * query_mask[..., None]",        # masked too late
                "def sharpen(z, query_mask): return l2_normalize(z * query_mask[..., None], dim=-2).relu()",        # negatives count in the length
                "def sharpen(z, query_mask):\n    z = (z * query_mask[..., None]).relu()\n    return z / z.norm(dim=-2, keepdim=True)"],
    "attend": ["""def attend(query, response, query_mask, response_mask, inverse_temperature=9.0):
    weights = (inverse_temperature * sharpen(similarities(query, response), query_mask)).softmax(-1)
    return torch.einsum("cqnr,crd->cqnd", weights, response), weights""",
               """def attend(query, response, query_mask, response_mask, inverse_temperature=9.0):
    weights = (inverse_temperature * sharpen(similarities(query, response), query_mask)).softmax(-1)
    weights = weights * response_mask[:, None, None, :]
    return torch.einsum("cqnr,crd->cqnd", weights, response), weights""",
               """def attend(query, response, query_mask, response_mask, inverse_temperature=9.0):
    zbar = inverse_temperature * sharpen(similarities(query, response), query_mask)
    weights = zbar.masked_fill(~response_mask[:, None, None, :], -torch.inf).softmax(-2)
    return torch.einsum("cqnr,crd->cqnd", weights, response), weights"""],
    "cosine_without_context": ["""def cosine_without_context(X, Y, weights):
    dot, squared = (weights * (X @ Y.T)).sum(1), ((weights @ (Y @ Y.T)) * weights).sum(1)
    return dot / squared.sqrt()""",
                               """def cosine_without_context(X, Y, weights):
    return (weights * (X @ Y.T)).sum(1) / (X.norm(dim=1) * weights.pow(2).sum(1).sqrt())"""],
}

"Typical wrong answers to the exercises of chapter 02."

WRONG = {
    "cosine_table": [
        # words by regions
        """def cosine_table(V, T):
    return (T / T.norm(dim=1, keepdim=True)) @ (V / V.norm(dim=1, keepdim=True)).T""",
        # the plain product
        "def cosine_table(V, T): return V @ T.T",
        # divided by the word's length only
        "def cosine_table(V, T): return V @ T.T / T.norm(dim=1)",
        # one length for the whole matrix
        "def cosine_table(V, T): return V @ T.T / (V.norm() * T.norm())",
        # squared lengths
        """def cosine_table(V, T):
    return V @ T.T / (V.pow(2).sum(1)[:, None] * T.pow(2).sum(1))"""],
    "safe_sqrt": [
        # the trap
        "def safe_sqrt(s): return torch.where(s > 0, s.sqrt(), 0)",
        "def safe_sqrt(s): return s.sqrt()",
        # a finite gradient, and another value
        "def safe_sqrt(s): return (s + 1e-4).sqrt()",
        # the right value at 0 and a gradient of a million
        "def safe_sqrt(s): return (s + 1e-12).sqrt() - 1e-6",
        # the right gradient at 0, and nearly the right value
        "def safe_sqrt(s): return s.clamp(min=1e-12).sqrt()"],
    "positive_columns": [
        # rows
        "def positive_columns(z): return l2_normalize(z.relu())",
        # the first axis, which is the batch
        "def positive_columns(z): return l2_normalize(z.relu(), dim=0)",
        # nothing is cut off
        "def positive_columns(z): return l2_normalize(z, dim=-2)",
        # cut off afterwards: the lengths are of other columns
        "def positive_columns(z): return l2_normalize(z, dim=-2).relu()",
        # nan where no region agrees
        """def positive_columns(z):
    z = z.relu()
    return z / z.norm(dim=-2, keepdim=True)"""],
}

WRONG["safe_sqrt"] += ["""def safe_sqrt(s): return torch.where(s > 0, s.clamp(min=1.).sqrt(), 0.)"""]

WRONG["safe_sqrt"] += ["""def safe_sqrt(s): return torch.where(s > 1e-2, s.clamp(min=1e-2).sqrt(), 0.)"""]

WRONG["cosine_table"] += ["""def cosine_table(V, T):
    z = torch.zeros(len(V), len(T))
    for i in range(len(T)):
        for j in range(len(T)): z[i, j] = V[i] @ T[j] / (V[i].norm() * T[j].norm())
    return z"""]

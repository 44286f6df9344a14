"Typical wrong answers to the exercises of chapter 11."

WRONG = {
    "both_gates": ["def both_gates(x, message): return (x * message).sigmoid(), (x * message).sum(-1).sigmoid()",
                   "def both_gates(x, message): return (x * message).sigmoid(), (x * message).mean(-1, keepdim=True).sigmoid()",
                   "def both_gates(x, message): return (x + message).sigmoid(), (x * message).sum(-1, keepdim=True).sigmoid()"],
    "resting_gate": ["def resting_gate(x, message, rest): return ((x * message).sum(-1, keepdim=True) + rest).sigmoid()",
                     "def resting_gate(x, message, rest): return 2 * rest * (x * message).sum(-1, keepdim=True).sigmoid()"],
    "fused_apart": ["""def fused_apart(f, V, T, weights):
    return (f.gates(V, message(weights, T)) * (f.linear(V) + message(weights, f.linear(T)))).relu() + V""",
                    """def fused_apart(f, V, T, weights):
    W = f.linear.weight
    let_in = f.gates(V, message(weights, T @ W.T)) * (V @ W.T + message(weights, T @ W.T))
    return (let_in + f.linear.bias).relu() + V"""],
}

WRONG["both_gates"] += ["""def both_gates(x, message): return (x * message).sigmoid(), (x @ message.T).diagonal()[:, None].sigmoid()"""]

WRONG["both_gates"] += ["""def both_gates(x, message): return (x * message).sigmoid(), (x * message).sum(1, keepdim=True).sigmoid()"""]

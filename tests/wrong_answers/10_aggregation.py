"Typical wrong answers to the exercises of chapter 10."

WRONG = {
    "both_readings": ["def both_readings(A, hidden): return (A / hidden ** .5).softmax(-1).T, (A / hidden ** .5).softmax(-1)",
                      "def both_readings(A, hidden): return (A.T / hidden).softmax(-1), (A / hidden).softmax(-1)",
                      "def both_readings(A, hidden): return (A / hidden ** .5).softmax(0), (A / hidden ** .5).softmax(1)"],
    "one_matrix": ["def one_matrix(W_v, W_t): return W_t.T @ W_v", "def one_matrix(W_v, W_t): return W_v @ W_t.T"],
    "second_look": ["""def second_look(messages, mask, Q, K):
    return message((affinity(messages @ Q.T, messages @ K.T) / len(Q) ** .5).softmax(-1), messages)""",
                    """def second_look(messages, mask, Q, K):
    return message(attention_weights(affinity(messages @ K.T, messages @ Q.T), mask, len(Q)), messages)"""],
}

"Typical wrong answers to the exercises of the workshop notebook that looks a data folder over."

WRONG = {
    "leaked_share": ["""def leaked_share(train, test):
    return sum(caption in set(train) for caption in test) / len(test)""",  # as they are spelt
                     """def leaked_share(train, test):
    plain = lambda captions: {" ".join(caption.lower().split()) for caption in captions}
    return len(plain(train) & plain(test)) / len(plain(test))""",  # of different captions
                     """def leaked_share(train, test):
    known = {" ".join(caption.lower().split()) for caption in test}
    return sum(" ".join(caption.lower().split()) in known for caption in train) / max(len(train), 1)"""],  # the other way round
}

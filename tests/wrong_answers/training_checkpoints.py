"Typical wrong answers to the exercises of the workshop notebook on checkpoints."

WRONG = {
    "where_it_was": ["def where_it_was(steps, captions, batch_size): return divmod(steps, captions // batch_size)",  # without the last batch
                     "def where_it_was(steps, captions, batch_size): return divmod(steps, -(-captions // batch_size))"],  # a batch of one counted
}

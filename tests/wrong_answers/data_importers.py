"Typical wrong answers to the exercise of the workshop notebook on importers."

WRONG = {
    "in_order_of": ["def in_order_of(names, other_names, other_features): return other_features",  # by position
                    """def in_order_of(names, other_names, other_features):
    row = {name: i for i, name in enumerate(names)}
    return other_features[[row[name] for name in other_names]]""",  # the other way round
                    """def in_order_of(names, other_names, other_features):
    row = {name: i for i, name in enumerate(other_names)}
    return other_features[[row[name] for name in names]]""",  # extensions matter
                    """def in_order_of(names, other_names, other_features):
    row = {Path(name).stem: i for i, name in enumerate(other_names)}
    return other_features[[row[Path(name).stem] for name in names if Path(name).stem in row]]"""],  # leaves out what is missing
}

"Typical wrong answers to the exercises of the workshop notebook on captions."

WRONG = {
    "titled_entries": ["""def titled_entries(text):
    name = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("# "): name = line[2:]
        elif line.strip(): yield Entry(f"line {number}", name, [line])""",  # the caption's line, not the title's
                       """def titled_entries(text):
    name, where = None, None
    for number, line in enumerate(text.splitlines()):
        if line.startswith("# "): name, where = line[2:], f"line {number}"
        elif line.strip(): yield Entry(where, name, [line])""",  # counts lines from 0
                       """def titled_entries(text):
    lines = [line for line in text.splitlines() if line.strip()]
    for number, (title, line) in enumerate(zip(lines[::2], lines[1::2]), 1): yield Entry(f"line {number}", title[2:], [line])"""],  # one caption each
}

"""Damage that is let in and changes the result: each with the reason why that is right, or cannot be otherwise."""

LET_IN: dict[tuple[str, str, str], str] = {  # (kind of file, damage, command), with * for anything
}

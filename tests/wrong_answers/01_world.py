"Typical wrong answers to the exercises of chapter 01."

WRONG = {
    "judge": [
        # the same thing may be named twice: no counting
        """def judge(meaning, scene):
    from itertools import product
    choices = product(range(len(scene.things)), repeat=len(meaning.things))
    return any(all(fits(scene.things[k], claim) for k, claim in zip(chosen, meaning.things))
               and all((r, chosen[i], chosen[j]) in scene.facts for r, i, j in meaning.relations)
               for chosen in choices)""",
        # no relations
        """def judge(meaning, scene):
    choices = permutations(range(len(scene.things)), len(meaning.things))
    return any(all(fits(scene.things[k], claim) for k, claim in zip(chosen, meaning.things)) for chosen in choices)""",
        # relations the other way round
        """def judge(meaning, scene):
    choices = permutations(range(len(scene.things)), len(meaning.things))
    return any(all(fits(scene.things[k], claim) for k, claim in zip(chosen, meaning.things))
               and all((r, chosen[j], chosen[i]) in scene.facts for r, i, j in meaning.relations)
               for chosen in choices)""",
        # each claim and each relation by itself: no binding
        """def judge(meaning, scene):
    return (all(any(fits(thing, claim) for thing in scene.things) for claim in meaning.things)
            and all(any(r == fact[0] for fact in scene.facts) for r, _, _ in meaning.relations))"""],
    "guess": [
        # for K = 1 only
        "def guess(n, g, K): return g / n",
        # K times as good
        "def guess(n, g, K): return min(1, K * g / n)",
        # with putting back
        "def guess(n, g, K): return 1 - ((n - g) / n) ** K",
        # falls over, or says 0 / 0, where K is large
        "def guess(n, g, K):\n    from math import comb\n    return 1 - comb(n - g, K) / comb(n, K)"],
    "colour_blind": [
        # no relations either
        "def colour_blind(m): return only_things(m)",
        # shapes and relations only
        "def colour_blind(m): return replace(m, things=only_nouns(m).things)",
        # colours only
        "def colour_blind(m): return replace(m, things=tuple(tuple(a for a in t if a[0] == 'colour') for t in m.things))",
        "def colour_blind(m): return m"],
}

WRONG["judge"] += ["""def judge(meaning, scene):
    return any(all(fits(scene.things[k], claim) for k, claim in zip(chosen, meaning.things))
               and all((r, chosen[i], chosen[j]) in scene.facts for r, i, j in meaning.relations[:1])
               for chosen in permutations(range(len(scene.things)), len(meaning.things)))"""]

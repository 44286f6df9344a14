"""The benchmarks' own truths: literal form and engine compute the same, operations are counted right, what is not met is said."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import literal_imram
import pytest
import torch
from benchmarks import measure, rows, run
from benchmarks.literal import literal, literal_camp
from benchmarks.operations import camp_pair_operations, camp_side_operations, operations, pair_operations, side_operations
from benchmarks.report import BARS, check_bars, ratio
from benchmarks.rows import MODELS, Row, all_rows, bar_rows, chosen, with_compiled
from torch.utils.flop_counter import FlopCounterMode

from cmr.camp import CAMP
from cmr.encoders import Fragments
from cmr.fast import plan, training_scores
from cmr.imram import DIRECTIONS, IMRAM
from cmr.losses import MatchingBCE, triplet
from cmr.similarity import l2_normalize


def model_of(steps, direction, variant="paper", renormalise=False, width=6, **options):
    torch.manual_seed(0)
    model = IMRAM(3, 5, width, 2, steps=max(steps, 2), direction=direction, variant=variant, renormalise=renormalise, **options).double()
    model.steps = steps
    return model


def camp_of(form, width=6, **options):
    torch.manual_seed(0)
    return CAMP(3, 5, width, 2, **MODELS[form], **options).double()


FORMS = [form for form in MODELS if form != "imram"]


def fragments_of(images=4, regions=5, words=(3, 2, 5, 4), width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(words)) < torch.tensor(words)[:, None]
    draw = lambda *shape: l2_normalize(torch.randn(*shape, width, generator=generator, dtype=torch.float64))
    real = torch.ones(images, regions, dtype=torch.bool)
    return Fragments(draw(images, regions).requires_grad_(), real), Fragments((draw(*mask.shape) * mask[..., None]).requires_grad_(), mask)


def gradients(scores, model, images, captions, negatives):
    leaves = [images.values, captions.values, *model.ram.parameters()]
    found = torch.autograd.grad(triplet(scores, negatives=negatives), leaves, allow_unused=True, retain_graph=True)
    return [torch.zeros(1).double() if g is None else g for g in found]


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("direction", list(DIRECTIONS))
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_literal_is_plain_is_engine(steps, direction, variant, renormalise):
    model, (images, captions) = model_of(steps, direction, variant, renormalise), fragments_of()
    ours, others = literal(model, images, captions), [training_scores(model, images, captions, engine=engine) for engine in (False, True)]
    for other in others:
        assert torch.allclose(ours, other, rtol=0, atol=1e-10)
        for negatives in ("hardest", "all"):
            for a, b in zip(*(gradients(scores, model, images, captions, negatives) for scores in (ours, other))):
                assert torch.allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("direction", list(DIRECTIONS))
@pytest.mark.parametrize("steps", [1, 3])
def test_literal_is_the_equations_pair_by_pair(steps, direction):
    model, (images, captions) = model_of(steps, direction), fragments_of(2, 3, (2, 3))
    lists = [[row[:int(n)] for row, n in zip(side.values.detach(), side.lengths)] for side in (images, captions)]
    parameters = {side: dict(ram.memory.named_parameters()) for side, ram in model.ram.items()}
    slow = literal_imram.imram(*lists, steps, direction, "distill", parameters, 9.0).sum(0)
    assert torch.allclose(literal(model, images, captions), slow, rtol=0, atol=1e-10)


def test_literal_says_what_it_is_not_written_for():
    images, captions = fragments_of()
    with pytest.raises(ValueError, match="distill"): literal(model_of(2, "full", memory="gate"), images, captions)
    images.mask[1, -1] = False
    with pytest.raises(ValueError, match="missing regions"): literal(model_of(2, "full"), images, captions)


@pytest.mark.parametrize("form", FORMS)
def test_literal_camp_is_plain_is_engine(form):
    model, (images, captions) = camp_of(form), fragments_of()
    leaves = [images.values, captions.values, *plan(model).weights]
    ours = literal_camp(model, images, captions)
    assert (ours - ours.mean()).abs().max() > .01
    for other in (training_scores(model, images, captions, engine=engine) for engine in (False, True)):
        assert torch.allclose(ours, other, rtol=0, atol=1e-10)
        for negatives in ("hardest", "all"):
            for a, b in zip(*(torch.autograd.grad(MatchingBCE(negatives)(scores), leaves, retain_graph=True) for scores in (ours, other))):
                assert torch.allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [{"interaction": False}, {"attention": False}, {"fusion": "product"}, {"residual": False},
                                     {"pooling": "mean"}, {"fusion": False}])
def test_literal_camp_says_what_it_is_not_written_for(options):
    images, captions = fragments_of()
    with pytest.raises(ValueError, match="not for its ablations"): literal_camp(camp_of("camp", **options), images, captions)
    images.mask[1, -1] = False
    with pytest.raises(ValueError, match="missing regions"): literal_camp(camp_of("camp"), images, captions)


def all_at_once(model, images, captions):
    "The engine's formula with a graph: torch does not count products that are added in place."
    way = plan(model)
    return way.all_pairs(*way.prepare(images, captions), None)


@pytest.mark.parametrize("direction", list(DIRECTIONS))
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_operations_are_those_that_torch_counts(steps, direction):
    model, (images, captions) = model_of(steps, direction, width=7), fragments_of(3, 5, (4, 4), width=7)
    asks = ["text" in DIRECTIONS[direction], "image" in DIRECTIONS[direction]]
    pairs = 6 * pair_operations(5, 4, 7, steps, direction)
    sides = 3 * side_operations(5, 7, steps, asks[1], asks[0]) + 2 * side_operations(4, 7, steps, *asks)

    for score, expected in ((literal, 6 * pair_operations(5, 4, 7, steps, direction, "literal")), (all_at_once, pairs + sides)):
        with FlopCounterMode(display=False) as counter: score(model, images, captions)
        assert counter.get_total_flops() == expected


@pytest.mark.parametrize("form", FORMS)
def test_operations_of_camp_are_those_that_torch_counts(form):
    model, (images, captions) = camp_of(form, 7), fragments_of(3, 5, (4, 4), width=7)
    sides = 3 * camp_side_operations(5, 7, form, False) + 2 * camp_side_operations(4, 7, form, True)
    loops, engine = (6 * camp_pair_operations(5, 4, 7, form, variant) for variant in ("literal", "engine"))
    for score, expected in ((literal_camp, loops), (all_at_once, engine + sides)):
        with FlopCounterMode(display=False) as counter: score(model, images, captions)
        assert counter.get_total_flops() == expected


def test_published_counts_of_camp():
    "For 12 words, 36 regions, d = 1024, in millions a pair; where F waits for the pair it is nearly all that is left."
    million = {form: [round(camp_pair_operations(36, 12, 1024, form, variant) / 1e6) for variant in ("literal", "engine")]
               for form in FORMS}
    assert million == {"camp": [206, 106], "camp-scalar": [206, 6], "camp-released": [410, 109]}
    sizes = [operations(Row("both", 12, 12, 1024, model=form), variant) for form in FORMS for variant in ("engine", "literal")]
    assert sizes[0] < sizes[1] and sizes[2] < sizes[0] and sizes[3] == sizes[1] < sizes[5]
    row = Row("forward", 8, 8, 16, model="camp")
    assert operations(row, size=4) < operations(row)


def test_published_counts():
    "For 12 words, 36 regions, d = 1024, both directions, in millions a pair."
    million = [[round(pair_operations(36, 12, 1024, steps, "full", variant) / 1e6) for variant in ("literal", "engine")]
               for steps in (3, 2, 1)]
    assert million == [[1219, 213], [812, 6], [406, 1]]
    row = Row("both", 8, 8, 16)
    assert operations(row) < operations(row, "literal") and operations(row, size=4) < operations(row) == operations(row, size=99)


def test_rows_cover_what_is_asked_for():
    names = [row.name for row in all_rows()]
    assert len(set(names)) == len(names) and names[:9] == [row.name for row in bar_rows()]
    assert {f"{what}-{form}-12x12-1024" for what in ("forward", "both") for form in FORMS} <= set(names)
    for size, width in ((16, 1024), (48, 256), (64, 256), (128, 1024)):
        for what in ("forward", "both"):
            assert {f"{what}-{way}-{k}-{size}x{size}-{width}" for way in DIRECTIONS for k in (1, 2, 3)} <= set(names)
    assert "forward-full-3-200x1000-256" in names
    on_gpu = [row.name for row in all_rows("cuda")]
    only = {"both-full-3-128x128-1024-tf32", "both-full-3-128x128-1024-bf16", "forward-full-3-1000x5000-1024", "step-camp-128x128-1024"}
    assert only <= set(on_gpu)
    assert {name for _, device, name, *_ in BARS} <= set(names)
    assert [row.name for row in chosen(all_rows(), ["step-*"])] == ["step-full-3-128x128-1024"]
    with pytest.raises(ValueError, match="no row fits 'stop-\\*'; .* for example forward-full-3-16x16-1024"): chosen(all_rows(), ["stop-*"])
    assert sum("compiled" in row.variants for row in with_compiled(all_rows())) == 5


def result(name, literal_s=None, engine_s=1.0, memory=None):
    return {"name": name, "seconds": {"literal": [literal_s] if literal_s else [], "engine": [engine_s]}, "memory": memory or {}, "floor": 0.5}


def test_bars_say_whether_and_how_far():
    assert all(bar["met"] is None for bar in check_bars([])) and len(check_bars([])) == 12 and len(check_bars([], "cuda")) == 1
    held = {"literal": {"above": 900, "all": 1}, "engine": {"above": 100, "all": 1}}
    results = [result("forward-full-3-16x16-1024", 4.0), result("forward-text-3-32x32-64", 4.0), result("both-full-3-16x16-1024", 5.2),
               result("both-full-3-48x48-256", 11.0, memory=held),
               result("step-full-3-128x128-1024", memory={"engine": {"above": 1, "all": 5e9}})]
    assert [(bar["met"], bar["measured"]) for bar in check_bars(results)][:9] == [
        (True, "4.0 times"), (False, "4.0 times, 0.80 of what is asked"), (False, "5.2 times, 0.80 of what is asked"), (True, "11.0 times"),
        (None, ""), (True, "2.0"), (None, ""),
        (False, "9.0 times, 0.90 of what is asked"), (False, "5.00 GB, 1.25 times what is allowed")]
    assert check_bars([result("both-full-3-48x48-256", engine_s=1.2)])[5]["met"] is False
    assert check_bars([result("step-full-3-128x128-1024", 11.0)], "cuda")[0]["met"]
    camp = [result("forward-camp-12x12-1024", 2.0), result("both-camp-12x12-1024", 2.4, memory=held)]
    assert [(bar["bar"], bar["met"]) for bar in check_bars(camp)[9:]] == [
        ("CAMP, forward", True), ("CAMP, forward and backward", False), ("CAMP, peak memory above the base", True)]
    assert ratio(result("x", 3.0, 2.0)) == 1.5 and ratio(result("x")) is None and ratio(result("x"), "memory") is None


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("what", ["forward", "both", "step"])
def test_every_kind_of_row_runs_in_every_variant(what, model):
    row = Row(what, 3, 3, 4, model=model)
    for variant in ("literal", "plain", "engine"):
        task = rows.work(row, variant)
        task(2), task()
    assert measure.own_peak(row, "engine", "cpu")["all"] > 1e7
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_published_way_keeps_more_for_the_backward_pass():
    kept = [measure.kept_for_backward(Row("both", 2, 2, 128, steps), variant) for steps in (3, 1) for variant in ("literal", "plain")]
    assert kept[0] > 1.5 * kept[1] and kept[2] > kept[3] > 0


@pytest.fixture()
def no_clock(monkeypatch):
    "Everything takes a millisecond: what a busy machine would leave out for want of time is run."
    def timed(task, device):
        task()
        return 1e-3
    monkeypatch.setattr(measure, "timed", timed)
    monkeypatch.setattr(run, "product_rate", lambda *args: 1e11)


def test_tables_and_figure_are_written(tmp_path, no_clock):
    asked = [Row("both", 3, 3, 8, variants=("literal", "plain", "engine"), seconds=.01),
             Row("both", 4, 4, 8, variants=("engine",), memory=True, seconds=.01),
             Row("both", 3, 3, 8, seconds=.01, model="camp-scalar")]
    content = run.bench(asked, tmp_path, minutes=60, progress=False)
    assert json.loads((tmp_path / "benchmarks.json").read_text()) == json.loads(json.dumps(content))
    lines = list(csv.DictReader(open(tmp_path / "benchmarks.csv", encoding="utf-8")))
    assert [line["variant"] for line in lines] == ["literal", "plain", "engine", "engine", "literal", "engine"]
    assert {line["median_s"] for line in lines} == {"0.001"}
    assert float(lines[3]["bytes_in_all"]) > float(lines[3]["bytes_above_base"]) >= 0
    about = [[line[key] for key in ("model", "direction", "steps")] for line in lines[3:5]]
    assert about == [["imram", "full", "3"], ["camp-scalar", "", ""]]
    said = (tmp_path / "table.md").read_text()
    for words in ("threads", "torch " + torch.__version__, content["machine"]["date"], "GFLOP/s", "| both-full-3-3x3-8 |",
                  "| both-camp-scalar-3x3-8 |", "| not measured |"):
        assert words in said
    assert (tmp_path / "benchmark.png").read_bytes()[:4] == b"\x89PNG" and not list(tmp_path.glob(".*"))


def test_what_does_not_fit_is_left_out_and_said(tmp_path, monkeypatch, no_clock):
    row = Row("both", 4, 4, 8)
    assert "would take about" in run.bench([row], tmp_path, minutes=0, progress=False)["rows"][0]["skipped"]["literal"]
    monkeypatch.setattr(measure, "free_bytes", lambda device: 1e3)
    found = run.bench([row], tmp_path, minutes=60, progress=False)["rows"][0]
    assert "would need about" in found["skipped"]["literal"] and found["seconds"]["literal"] == [] and found["seconds"]["engine"]
    assert "literal not run, would need about" in (tmp_path / "table.md").read_text()


def test_what_a_variant_will_need():
    forward = {variant: measure.bytes_needed(Row("forward", 8, 8, 16), variant) for variant in ("literal", "plain", "engine")}
    assert forward["plain"] == 8 * forward["literal"] > forward["engine"] == 0


def test_a_measuring_process_that_fails_is_named():
    with pytest.raises(RuntimeError, match="both-full-3-2x2-4, nothing, failed: KeyError"):
        measure.measure_peak(Row("both", 2, 2, 4), "nothing", "cpu")


def test_the_command():
    folder = Path(__file__).parent / "benchmarks"
    said = subprocess.run([sys.executable, folder, "--help"], capture_output=True, text=True).stdout
    options = "--quick", "--rows", "--minutes", "--compile", "--device", "--out"
    for words in (*options, "python tests/benchmarks --quick", "what-direction-K"): assert words in said
    wrong = subprocess.run([sys.executable, folder, "--rows", "stop-*"], capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr.startswith("no row fits 'stop-*'")

"""A gallery on Qdrant: what our own gallery says, from the client's local mode and from the embedded engine; and what is refused."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import pytest
import torch

pytest.importorskip("qdrant_client")
pytest.importorskip("qdrant_edge")

from qdrant_client import QdrantClient, models  # noqa: E402
from test_search import MODELS, SPLIT, VOCABULARY, make_model, make_split  # noqa: E402

from cmr.encoders import Fragments  # noqa: E402
from cmr.fast import encode_all, score_all  # noqa: E402
from cmr.search import Gallery, learn_maps  # noqa: E402
from cmr.search import qdrant as q  # noqa: E402
from cmr.search.gallery import OTHER, data_digest, image_blocks  # noqa: E402

U = 2**-24  # half a unit in the last place of float32


def rounded(x: Fragments) -> Fragments:
    "In float64, and exact in float32: what Qdrant keeps of it is all of it."
    return Fragments(x.values.float().double(), x.mask)


def blocks(x: Fragments, size: int = 5): return (x[n:n + size] for n in range(0, len(x), size))


def bound(queries: Fragments, rows: Fragments) -> torch.Tensor:
    "What single precision may do to a MaxSim (Q, N): gamma_{n + d} of the sum of all absolute products, n vectors of width d."
    n, d = queries.values.shape[1:]
    products = torch.einsum("qnd,rkd->qrnk", queries.values.abs(), rows.values.abs()).amax(3).sum(2)
    return (n + d) * U / (1 - (n + d) * U) * products


@pytest.fixture(params=["local mode", "engine"])
def where(request, tmp_path): return tmp_path if request.param == "engine" else QdrantClient(":memory:")


def sides(name: str):
    model = make_model(name)
    images, captions = (rounded(x) for x in encode_all(model, SPLIT, VOCABULARY, progress=False))
    return model, {"images": images, "captions": captions}


# the same answers

@pytest.mark.parametrize("name", MODELS)
def test_hits_and_scores_are_our_own_gallerys(name, where):
    model, both = sides(name)
    scores = score_all(model, *both.values(), progress=False)
    table = {"images": scores.T, "captions": scores}
    for side, rows in both.items():
        queries = both[OTHER[side]]
        q.fill_qdrant(where, side, model, blocks(rows), [f"row {n}" for n in range(len(rows))], side)
        ours, theirs = Gallery(model, rows, side), q.QdrantGallery(where, side, model)
        for shortlist in (None, 6, len(rows) + 3):
            (scores, found), (other, at) = (gallery.search(queries, shortlist, 3) for gallery in (ours, theirs))
            limit = bound(queries, rows).gather(1, found) if q.max_sim(model, side) else torch.full_like(scores, 1e-10)
            assert ((scores - other).abs() <= limit).all() and ((scores - other).abs() <= 1e-5 * scores.abs().clamp(min=.1)).all()
            assert ((table[side].gather(1, at) - other).abs() <= limit).all()  # of these very rows: equal captions may change places
            if shortlist != 6 and not q.max_sim(model, side): assert torch.equal(found, at)
        assert theirs.names[int(at[0, 0])] == f"row {int(at[0, 0])}" and len(theirs) == len(rows)
        theirs.close()


def test_which_scores_are_a_max_sim():
    said = {name: tuple(q.max_sim(make_model(name), side) for side in OTHER) for name in MODELS}
    assert {name for name, found in said.items() if any(found)} == {"vse", "dvsa"}
    assert said["vse"] == (True, True) and said["dvsa"] == (True, False)
    class Mine(type(make_model("dvsa"))):
        def score(self, images, captions): return -super().score(images, captions)
    assert not q.max_sim(Mine(6, 13, 8, 5), "images")
    patched = make_model("vse")
    patched.score = lambda images, captions: captions
    assert not q.max_sim(patched, "images")


def test_fragments_come_back_bit_for_bit_in_their_places(where):
    model = make_model("imram").float()
    images, _ = encode_all(model, SPLIT, VOCABULARY, progress=False)
    assert any((row.cumprod(0) != row).any() for row in images.mask)          # there are gaps
    q.fill_qdrant(where, "g", model, blocks(images), SPLIT.ids)
    gallery = q.QdrantGallery(where, "g", model)
    order = [7, 0, 11]
    back = gallery.fetch(order)
    k = back.mask.shape[1]
    assert torch.equal(back.values, images[order].values[:, :k]) and torch.equal(back.mask, images[order].mask[:, :k])
    assert not images[order].mask[:, k:].any()
    with pytest.raises(ValueError, match="has no row 12"): gallery.fetch([3, 12])
    gallery.close()


def test_maps_are_kept_beside_it(where):
    model, split = make_model("imram"), make_split(60, seed=5)
    maps = learn_maps(model, split, VOCABULARY, images=50, width=7, progress=False)
    gallery = q.open_qdrant(model, SPLIT, VOCABULARY, where, "g", maps=maps)
    for name, x in maps.items(): assert torch.equal(gallery.maps[name], x)
    _, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    ours = Gallery(model, rounded(encode_all(model, SPLIT, VOCABULARY, progress=False)[0]), maps=maps)
    assert torch.equal(gallery.search(captions, 5, 3)[1], ours.search(captions, 5, 3)[1])
    gallery.close()
    q.write_maps(where, "g", {name: -x for name, x in maps.items()})
    with pytest.raises(ValueError, match="is missing or others"): q.QdrantGallery(where, "g", model)
    q.store_at(where, "g-maps").drop()
    with pytest.raises(ValueError, match="is missing or others"): q.QdrantGallery(where, "g", model)


def test_a_split_in_one_call(where):
    model = make_model("text-imram")
    for side, names in (("images", SPLIT.ids), ("captions", SPLIT.captions)):
        for _ in range(2):  # made, then opened
            gallery = q.open_qdrant(model, SPLIT, VOCABULARY, where, side, side)
            assert (len(gallery), gallery.about.data) == (len(names), data_digest(SPLIT))
            gallery.close()
        with pytest.raises(ValueError, match="other data"): q.open_qdrant(model, make_split(seed=9), VOCABULARY, where, side, side)


def test_equal_scores_come_in_the_order_of_the_rows(where):
    model = make_model("vse")
    one = Fragments(torch.eye(8).double()[:1, None], torch.ones(1, 1, dtype=torch.bool))
    q.fill_qdrant(where, "g", model, [Fragments.cat([one] * 6)], list("abcdef"))
    gallery = q.QdrantGallery(where, "g", model)
    assert gallery.search(one, None, 6)[1].tolist() == [[0, 1, 2, 3, 4, 5]]
    gallery.close()


# filling

def test_what_is_there_is_not_sent_again(where):
    model, both = sides("imram")
    images, names = both["images"], SPLIT.ids
    def killed():
        yield from islice(blocks(images), 1)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): q.fill_qdrant(where, "g", model, killed(), names)
    with pytest.raises(ValueError, match="holds 5 of 12 rows: fill it to its end"): q.QdrantGallery(where, "g", model)
    assert q.fill_qdrant(where, "g", model, blocks(images, 4), names) == 7    # the rest, whatever the blocks
    assert q.fill_qdrant(where, "g", model, blocks(images), names) == 0
    q.QdrantGallery(where, "g", model).close()


def test_rows_go_in_pieces(monkeypatch, where):
    model, both = sides("imram")
    monkeypatch.setattr(q, "MOST_SENT", 24 * 8 * 6 * 2)                       # two rows of five fragments
    store, sent = q.store_at(where, "g"), []
    real = type(store).send
    monkeypatch.setattr(type(store), "send", lambda self, rows: (sent.append(len(rows)), real(self, rows)))
    store.close()
    q.fill_qdrant(where, "g", model, blocks(both["images"], 12), SPLIT.ids)
    assert sum(sent) == 12 and max(sent) <= 3


@pytest.mark.parametrize("change", ["model", "side", "data", "rows", "names"])
def test_another_gallery_is_not_overwritten(change, where):
    model, both = sides("imram")
    x, names = both["images"], list(SPLIT.ids)
    q.fill_qdrant(where, "g", model, blocks(x), names)
    new = {"model": (make_model("imram", 1), x, names), "side": (model, x, names, "captions"), "data": (model, x, names, "images", None, "d"),
           "rows": (model, x[:9], names[:9]), "names": (model, x, names[::-1])}[change]
    with pytest.raises(ValueError, match=f"holds another gallery .other {change}.: delete it"):
        q.fill_qdrant(where, "g", new[0], blocks(new[1]), *new[2:])
    q.QdrantGallery(where, "g", model).close()                                # as it was


@pytest.mark.parametrize("count", [11, 13])
def test_as_many_rows_as_names(count, where):
    model, both = sides("imram")
    with pytest.raises(ValueError, match="give one name for each row"):
        q.fill_qdrant(where, "g", model, blocks(Fragments.cat([both["images"]] * 2)[:count]), SPLIT.ids)
    with pytest.raises(ValueError, match="holds 1[01] of 12 rows"): q.QdrantGallery(where, "g", model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_nan_is_sent(value, where):
    model, both = sides("imram")
    both["images"].values[3, 0, 0] = value
    with pytest.raises(ValueError, match=r"row 3 \(image-3\): NaN or infinity"): q.fill_qdrant(where, "g", model, blocks(both["images"]), SPLIT.ids)
    both["images"].mask[3] = False
    with pytest.raises(ValueError, match=r"row 3 \(image-3\) has no fragment"): q.fill_qdrant(where, "g", model, blocks(both["images"]), SPLIT.ids)


# what is refused

def test_only_its_own_model_side_and_data(where):
    model = make_model("imram")
    q.fill_qdrant(where, "g", model, image_blocks(model, SPLIT), SPLIT.ids, data="d")
    for arguments, said in (((make_model("imram", 1),), "of another model"), ((model, "captions"), "of the other side"),
                            ((model, None, "e"), "of other data")):
        with pytest.raises(ValueError, match=said): q.QdrantGallery(where, "g", *arguments)
    with pytest.raises(FileNotFoundError, match="there is none"): q.QdrantGallery(where, "h", model)
    gallery = q.QdrantGallery(where, "g", model, "images", "d")
    query = encode_all(model, SPLIT, VOCABULARY, progress=False)[1]
    for (asked, *rest), said in (((query, 3, 5), "shorter than"), ((query, 3, 0), "at least one"), ((query[:0],), "no query"),
                                 ((Fragments(query.values[:, :, :3], query.mask),), "the query is 3 wide, the gallery 8")):
        with pytest.raises(ValueError, match=said): gallery.search(asked, *rest)
    gallery.close()


def test_rows_of_another_gallery_are_seen(where):
    model = make_model("imram")
    q.fill_qdrant(where, "g", model, image_blocks(model, SPLIT), SPLIT.ids)
    gallery = q.QdrantGallery(where, "g", model)
    row = gallery.store.get([4], ["cheap", "fragments"])[0]
    gallery.store.send([q.Row(4, {**row.payload, "stamp": "x"}, row.vectors)])
    query = encode_all(model, SPLIT, VOCABULARY, progress=False)[1]
    with pytest.raises(ValueError, match="filled with another gallery since"): gallery.search(query, None, 3)
    gallery.close()
    with pytest.raises(ValueError, match="rows of two galleries .point 4"): q.QdrantGallery(where, "g", model)
    store = q.store_at(where, "g")
    store.send([q.Row(4, row.payload, row.vectors), q.Row(12, row.payload, row.vectors)])
    store.close()
    with pytest.raises(ValueError, match="rows of two galleries"): q.QdrantGallery(where, "g", model)


@pytest.mark.parametrize("payload", [{}, {"city": "London"}, {"stamp": 7}, {"name": "a", "stamp": "s", "model": "m", "side": "left"}])
def test_another_programs_collection_is_none(payload, where):
    store = q.store_at(where, "g")
    store.create({"cheap": q.Column(4, indexed=True), "fragments": q.Column(4, several=True)})
    store.send([q.Row(0, payload, {"cheap": [0.] * 4, "fragments": [[0.] * 4]})])
    store.close()
    model = make_model("imram")
    with pytest.raises(ValueError, match="is no gallery: its point 0"): q.QdrantGallery(where, "g", model)
    with pytest.raises(ValueError, match="is no gallery: its point 0"): q.fill_qdrant(where, "g", model, image_blocks(model, SPLIT), SPLIT.ids)


ABOUT = q.Stored(name="", stamp="s", model="m", side="images", data="", maps="", rows=1, width=4).model_dump(exclude_none=True)

@pytest.mark.parametrize(("fragments", "places"), [
    ([[1., 2., 3.]], None), ([], None), ([1., 2., 3., 4.], None), ([[1., 2., 3., float("nan")]], None), ("text", None), ([[1.], [1., 2.]], None),
    ([[1., 2., 3., 4.]], [0, 1]), ([[1., 2., 3., 4.]], [-1]), ([[1., 2., 3., 4.]] * 2, [1, 1]), ([[1., 2., 3., 4.]], [10**9])])
def test_vectors_that_are_none_are_refused(fragments, places):
    payload = {**ABOUT, **({"places": places} if places else {})}
    with pytest.raises(ValueError, match="point 0 has"): q.from_rows([q.Row(0, payload, {"fragments": fragments})], 4, "here")


def test_a_cluster_that_lost_a_part_is_seen():
    with pytest.raises(ValueError, match="2 of 3 rows came from here: is a part of the cluster down"):
        q.whole_answer([q.Row(0), q.Row(1)], 3, "here")


@pytest.mark.parametrize(("where", "name", "said"), [
    ("server:6333", "g", "write http://server:6333"), (":memory:", "g", "is no folder: hand over a client .QdrantClient.':memory:'"), ("folder", "../g", "name it with letters"),
    ("folder", "", "name it with letters"), ("folder", "a\nb", "name it with letters")])
def test_addresses_and_names(where, name, said):
    with pytest.raises(ValueError, match=said) as problem: q.store_at(where, name)
    assert "\n" not in str(problem.value)


def test_local_mode_in_a_folder(tmp_path):
    model = make_model("dvsa")
    client = QdrantClient(path=str(tmp_path))
    q.fill_qdrant(client, "g", model, image_blocks(model, SPLIT), SPLIT.ids)
    client.close()
    client = QdrantClient(path=str(tmp_path))
    assert len(q.QdrantGallery(client, "g", model)) == 12
    client.close()


def test_a_shard_that_was_not_made_to_its_end_is_none(tmp_path, monkeypatch):
    import qdrant_edge
    model = make_model("imram")
    def killed(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(qdrant_edge, "UpdateOperation", type("Killed", (), {"create_field_index": killed}))
        with pytest.raises(KeyboardInterrupt): q.fill_qdrant(tmp_path, "g", model, image_blocks(model, SPLIT), SPLIT.ids)
    assert not list(tmp_path.iterdir())
    assert q.fill_qdrant(tmp_path, "g", model, image_blocks(model, SPLIT), SPLIT.ids) == 12


def test_a_damaged_shard_is_refused_in_a_line(tmp_path):
    model = make_model("imram")
    q.fill_qdrant(tmp_path, "g", model, image_blocks(model, SPLIT), SPLIT.ids)
    (tmp_path / "g" / "edge_config.json").write_text("{")
    with pytest.raises(ValueError, match="refused by Qdrant") as problem: q.QdrantGallery(tmp_path, "g", model)
    assert "\n" not in str(problem.value)


def test_one_shard_is_open_once(tmp_path):
    model = make_model("imram")
    q.fill_qdrant(tmp_path, "g", model, image_blocks(model, SPLIT), SPLIT.ids)
    gallery = q.QdrantGallery(tmp_path, "g", model)
    with pytest.raises(ValueError, match="another program, or a gallery that was not closed"): q.QdrantGallery(tmp_path, "g", model)
    gallery.close()
    q.QdrantGallery(tmp_path, "g", model).close()


def test_settings_are_the_collections_own(tmp_path):
    model, client = make_model("imram"), QdrantClient(":memory:")
    q.fill_qdrant(client, "g", model, image_blocks(model, SPLIT), SPLIT.ids, metadata={"of": "us"})
    assert client.get_collection("g").config.metadata == {"of": "us"}
    with pytest.raises(ValueError, match="refused by Qdrant.*shards"):
        q.fill_qdrant(tmp_path, "g", model, image_blocks(model, SPLIT), SPLIT.ids, shards=3)


# what a server is told, and what it may answer

class Server(BaseHTTPRequestHandler):
    "A server that keeps what it was asked and answers what it was told to."
    answers: list = []
    asked: list = []

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        type(self).asked.append((self.command, self.path.split("?")[0], json.loads(self.rfile.read(length) or b"null")))
        status, body = type(self).answers[min(len(type(self).asked), len(type(self).answers)) - 1]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_PUT = do_POST = do_DELETE = answer
    def log_message(self, *args): pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"): monkeypatch.delenv(name, raising=False)
    Server.answers, Server.asked = [], []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize(("status", "body", "kind", "said"), [
    (401, b'{"status": {"error": "no key"}}', PermissionError, "set QDRANT_API_KEY"), (403, b"Forbidden", PermissionError, "set QDRANT_API_KEY"),
    (500, b'{"status": {"error": "disk full"}}', ValueError, "disk full"), (200, b"<html>hello</html>", (ValueError, ConnectionError), "Qdrant"),
    (200, b'{"result": {"exists": "maybe"}}', (ValueError, ConnectionError), "Qdrant")])
def test_what_a_server_answers_is_said_in_a_line(server, status, body, kind, said):
    Server.answers = [(status, body)]
    with pytest.raises(kind, match=said) as problem: q.QdrantGallery(server, "g", make_model("imram"))
    assert "\n" not in str(problem.value) and server in str(problem.value)


def test_nobody_answers():
    with pytest.raises(ConnectionError, match="is it running") as problem: q.QdrantGallery("http://127.0.0.1:9", "g", make_model("imram"))
    assert "\n" not in str(problem.value)


def test_a_key_in_an_address_is_not_shown():
    with pytest.raises(ConnectionError) as problem: q.QdrantGallery("http://me:secret@127.0.0.1:9", "g", make_model("imram"))
    assert "secret" not in str(problem.value)


def test_a_server_is_asked_for_what_was_meant(server):
    "The requests that make a collection and ask it: named vectors, MaxSim without a graph, and the shortlist as a prefetch."
    ok = json.dumps({"result": True, "status": "ok", "time": 0.}).encode()
    done = json.dumps({"result": {"operation_id": 0, "status": "completed"}, "status": "ok", "time": 0.}).encode()
    nothing = json.dumps({"result": {"points": []}, "status": "ok", "time": 0.}).encode()
    Server.answers = [(200, ok), (200, done), (200, done), (200, nothing)]
    store = q.store_at(server, "photos")
    store.create({"cheap": q.Column(4, indexed=True), "fragments": q.Column(8, several=True)}, shard_number=6, replication_factor=2)
    store.send([q.Row(3, {"stamp": "s"}, {"cheap": [0.] * 4, "fragments": [[1.] * 8]})])
    assert store.nearest(q.Ask("fragments", [[1.] * 8], 5), (), q.Ask("cheap", [1.] * 4, 50)) == []
    store.close()
    (made, indexed, sent, asked) = Server.asked
    assert made[:2] == ("PUT", "/collections/photos") and (made[2]["shard_number"], made[2]["replication_factor"]) == (6, 2)
    several = made[2]["vectors"]["fragments"]
    assert several["multivector_config"] == {"comparator": "max_sim"} and several["hnsw_config"]["m"] == 0 and several["on_disk"]
    assert several["distance"] == made[2]["vectors"]["cheap"]["distance"] == "Dot" and "hnsw_config" not in made[2]["vectors"]["cheap"]
    assert indexed[2]["field_name"] == "stamp" and sent[2]["points"][0]["id"] == 3
    assert asked[2]["using"] == "fragments" and asked[2]["prefetch"]["using"] == "cheap" and asked[2]["prefetch"]["limit"] == 50


def test_a_point_of_another_kind_of_id():
    client = QdrantClient(":memory:")
    client.create_collection("g", {"cheap": models.VectorParams(size=2, distance=models.Distance.DOT)})
    client.upsert("g", [models.PointStruct(id="5c56c793-69f3-4fbf-87e6-c4bf54c28c26", vector={"cheap": [1., 2.]}, payload=ABOUT)])
    with pytest.raises(ValueError): q.QdrantGallery(client, "g", make_model("imram"))

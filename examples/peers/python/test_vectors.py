#!/usr/bin/env python3
"""Tests with the vectors of the protocol (testdata/README.md) for a child, a peer, and any reader of frames:

    python3 examples/peers/python/test_vectors.py -v
"""
import json, os, pathlib, socket, unittest
import cbor2
import spawnwire, strict, wire
from spawnwire import BadMAC, Channel, Failed, Gone, Parent, ProtocolError, mac, prove, split, take_ticket, unseal
from strict import decode_map, decode_spec

DIR = pathlib.Path(os.environ.get("SPAWNWIRE_TESTDATA") or pathlib.Path(__file__).parents[3] / "testdata")


def load(name):
    return json.loads((DIR / f"{name}.json").read_text(encoding="utf-8"))


def body(frame):
    return bytes.fromhex(frame["body"])


CHILD, PEERS, REFUSED, LARGE, TAKEN, FRAMES, TICKETS = map(
    load, ("child", "peers", "refused", "large", "taken", "frames", "tickets"))
SECRET, KEY = bytes.fromhex(CHILD["secret"]), bytes.fromhex(PEERS["key"])
HELLO, WELCOME, SPEC = (body(CHILD[name]) for name in ("hello", "welcome", "spec"))


def converse(receive, said, ends=False):
    """Runs receive on a Channel with the bytes in said. Returns its result or exception, and the frames that it sent."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)  # only has to find a hang
        theirs.sendall(said)
        if ends:
            theirs.shutdown(socket.SHUT_WR)
        try:
            result = receive(ours)
        except Exception as e:
            result = e
        ours.close()
        sent, channel = [], Channel(theirs)
        try:
            while True:
                sent.append(channel.read())
        except Gone:
            return result, sent


def read_all(limit):
    def receive(sock):
        channel, frames = Channel(sock), []
        channel.limit = channel.skippable = limit
        try:
            while True:
                frames.append(channel.read())
        except Gone as e:
            e.frames = frames
            raise
    return receive


def open_channel(limit=None):
    def receive(sock):
        channel = Channel(sock)
        channel.limit, channel.skippable = limit or wire.AFTER, None
        channel.recv()
    return receive


def child(sock):
    return Parent(sock, SECRET, HELLO)


def meet(side, message=False):
    def receive(sock):
        channel = Channel(sock)
        who = prove(channel, KEY, side == "dialer", body(PEERS[f"{side}_greet"]))
        if message:
            channel.recv()
        return who
    return receive


def attached(sock, use=lambda parent: None):
    parent = Parent.__new__(Parent)  # without a handshake
    parent.cancelled = None
    use(parent)
    parent.wake, woken = socket.socketpair()
    with parent.wake, woken:
        parent.obey(Channel(sock))


def attaching(sock):
    parent = Parent.__new__(Parent)
    parent.session = bytes.fromhex(CHILD["session"]["mac"])
    parent.attached(Channel(sock), body(CHILD["attach"]))


def greeting(sock):  # as acceptor, with versions of its own
    return prove(Channel(sock), KEY, False, cbor2.dumps({**cbor2.loads(body(PEERS["acceptor_greet"])), "versions": [1, 1]}))


class Vectors(unittest.TestCase):
    def test_macs(self):
        for v in CHILD["macs"]:
            with self.subTest(v["name"]):
                self.assertEqual(mac(bytes.fromhex(v["key"]), v["label"], *map(bytes.fromhex, v["parts"])).hex(), v["mac"])

    def test_frames(self):
        for v in FRAMES["streams"]:
            with self.subTest(v["name"]):
                end, _ = converse(read_all(v["limit"]), bytes.fromhex(v["bytes"]), ends=True)
                self.assertIsInstance(end, Gone)
                self.assertEqual([(kind, b.hex()) for kind, b in end.frames], [(f["number"], f["body"]) for f in v["frames"]])

    def test_inspect(self):  # a parent does not ask these children, but they know the frames
        for v in load("inspect")["frames"]:
            with self.subTest(v["what"]):
                end, _ = converse(read_all(65536), bytes.fromhex(v["frame"]), ends=True)
                [(kind, got)] = end.frames
                self.assertEqual(kind, {"inspect": wire.INSPECT, "inspected": wire.INSPECTED}[v["kind"]])
                fields = {key: x.hex() if isinstance(x, bytes) else x for key, x in decode_map(got, {"id": int}).items()}
                self.assertEqual(fields, v["fields"])

    def test_child(self):
        parent, sent = converse(child, bytes.fromhex(CHILD["welcome"]["frame"] + CHILD["spec"]["frame"]))
        self.assertIsInstance(parent, Parent)
        self.assertEqual(sent, [(wire.HELLO, HELLO)])
        self.assertEqual({**parent.spec, "args": cbor2.loads(parent.spec["args"])}, CHILD["spec"]["fields"])
        self.assertEqual(parent.session.hex(), CHILD["session"]["mac"])
        attach = CHILD["attach"]
        self.assertEqual(wire.seal(parent.session, "spawnwire attach", bytes.fromhex(attach["payload"])).hex(), attach["body"])

    def test_peers(self):
        names = ("dialer", "acceptor")
        for mine, theirs in names, names[::-1]:
            said = "".join(PEERS[f"{theirs}_{what}"]["frame"] for what in ("greet", "proof"))
            who, sent = converse(lambda sock: prove(Channel(sock), KEY, mine == "dialer", body(PEERS[f"{mine}_greet"])), bytes.fromhex(said))
            self.assertEqual(who["id"], PEERS[f"{theirs}_greet"]["fields"]["id"])
            self.assertEqual(sent[1], (wire.PROOF, body(PEERS[f"{mine}_proof"])))

    def test_tolerated(self):
        takes = {
            "hello": lambda b: decode_map(unseal(SECRET, "spawnwire hello", b), strict.HELLO),
            "welcome": lambda b: decode_map(unseal(SECRET, "spawnwire welcome", b, HELLO), strict.WELCOME),
            "spec": lambda b: decode_spec(unseal(SECRET, "spawnwire spec", b, HELLO, WELCOME)),
            "ready": lambda b: decode_map(b, strict.READY), "failed": lambda b: decode_map(b, strict.FAILED),
            "cancel": lambda b: decode_map(b, strict.CANCEL), "goodbye": lambda b: decode_map(b, strict.GOODBYE),
        }
        for v in CHILD["tolerated"]:
            with self.subTest(v["what"], kind=v["kind"]):
                takes[v["kind"]](body(v))

    def test_control(self):
        for v in CHILD["control"]:
            with self.subTest(v["what"]):
                parents = []
                if v["state"] == "attaching":
                    result, _ = converse(attaching, bytes.fromhex(v["frame"]), ends=True)
                    self.assertEqual(isinstance(result, Exception), v["does"] == "go on", result)
                    continue
                result, sent = converse(lambda sock: attached(sock, parents.append), bytes.fromhex(v["frame"]), ends=True)
                self.assertIs(type(result), Gone)
                self.assertEqual(bool(parents[0].cancelled), v["does"] != "pong")
                self.assertEqual((wire.PONG, body(v)) in sent, v["does"] == "pong")

    def test_tickets(self):
        for v in TICKETS["tickets"]:
            with self.subTest(v["name"]):
                self.assertEqual(take_ticket(v["value"]), (v["id"], bytes.fromhex(v["secret"]), v["address"]))
        for v in TICKETS["refused_tickets"]:
            with self.subTest(v["name"]), self.assertRaises(ValueError):
                take_ticket(v["text"])
        for v in TICKETS["addresses"]:
            with self.subTest(v["text"]):
                scheme, target, pin = split(v["text"])
                self.assertEqual(pin, v.get("pin"))
                self.assertEqual((scheme, target), (v["scheme"], v.get("path") or ("\0" + v["abstract"] if "abstract" in v
                                                                                    else (v["host"], v["port"]))))
        for v in TICKETS["refused_addresses"]:
            with self.subTest(v["name"]), self.assertRaises(ValueError):
                split(v["text"])

    def test_open(self):
        for v in CHILD["open"]:
            with self.subTest(v["what"]):
                result, sent = converse(open_channel(), bytes.fromhex(v["frame"]), ends=True)
                want = {"cancel": wire.Cancelled, "goodbye": wire.Goodbye, "ping": Gone, "pong": Gone}.get(v["kind"], type(None))
                self.assertIs(type(result), want, result)
                self.assertEqual(sent, [(wire.PONG, body(v))] if v["kind"] == "ping" else [])

    def test_ends(self):
        for v in TAKEN["ends"]:
            with self.subTest(v["name"], receiver=v["receiver"], state=v["state"], kind=v["kind"]):
                result, sent = self.hear(v)
                self.assertIs(type(result), {"exit": wire.Cancelled, "fail": Failed}[v["does"]], result)
                self.assertNotIn(wire.FAILED, [kind for kind, _ in sent])

    BEFORE = {("child", "welcomed"): CHILD["welcome"], ("acceptor", "proving"): PEERS["dialer_greet"],
              ("dialer", "proving"): PEERS["acceptor_greet"]}
    RECEIVERS = {"child": child, "peer": greeting, "acceptor": meet("acceptor"), "dialer": meet("dialer")}

    def hear(self, v):
        """Gives the bytes of a vector to its receiver."""
        limit = v.get("limit")
        receive = {"open": open_channel(limit), "attached": attached}.get(v["state"]) or self.RECEIVERS.get(v["receiver"]) or read_all(limit)
        prefix = self.BEFORE.get((v["receiver"], v["state"]))
        if v.get("message"):
            receive = meet(v["receiver"], message=True)
        return converse(receive, bytes.fromhex((prefix["frame"] if prefix else "") + v["bytes"]), v.get("ends", False))

    def test_taken(self):
        for v in TAKEN["taken"]:
            with self.subTest(v["name"], receiver=v["receiver"], state=v["state"]):
                result, sent = self.hear(v)
                self.assertNotIsInstance(result, Exception, result)
                if v["receiver"] == "any":
                    said = b"".join((len(b) + 1).to_bytes(4, "little") + bytes([kind]) + b for kind, b in sent)
                    self.assertEqual(said.hex(), v.get("answers", ""))

    def test_refused(self):
        done = 0
        large = [{**v, "bytes": v["start"] + v["fill"] * v["times"] + v["end"]} for v in LARGE["large"]]
        for v in REFUSED["refused"] + large:
            if v["receiver"] == "parent":
                continue  # there is no parent in Python
            with self.subTest(v["name"], receiver=v["receiver"], state=v["state"], kind=v.get("kind")):
                result, sent = self.hear(v)
                if "error" not in v:
                    self.assertNotIsInstance(result, Exception)
                    continue
                if v.get("may") and not isinstance(result, Exception):
                    continue  # a child may accept it
                want = {"bad-mac": BadMAC, "peer-gone": Gone, "bad-spec": Failed}.get(v["error"], ProtocolError)
                if "answer" in v and v["error"] == "version":
                    want = Failed
                self.assertIs(type(result), want, result)
                answers = [cbor2.loads(b)["code"] for kind, b in sent if kind == wire.FAILED]
                self.assertEqual(answers, [v["answer"]] if "answer" in v else [])
            done += 1
        self.assertGreater(done, 100)


if __name__ == "__main__":
    unittest.main()

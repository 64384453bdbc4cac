#!/usr/bin/env python3
"""The protocol's vectors (testdata/README.md), all that concern a child, a peer, or whoever reads frames:

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


CHILD, PEERS, REFUSED, LARGE, FRAMES, TICKETS = map(load, ("child", "peers", "refused", "large", "frames", "tickets"))
SECRET, KEY = bytes.fromhex(CHILD["secret"]), bytes.fromhex(PEERS["key"])
HELLO, WELCOME, SPEC = (body(CHILD[name]) for name in ("hello", "welcome", "spec"))


def converse(receive, said, ends=False):
    """Has receive read what is said from a Channel. Returns what it returned or raised, and the frames that it sent."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)  # is there to find a hang
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


def open_channel(sock):
    channel = Channel(sock)
    channel.limit, channel.skippable = wire.AFTER, None
    channel.recv()


def child(sock):
    return Parent(sock, SECRET, HELLO)


def acceptor(sock):
    return prove(Channel(sock), KEY, False, body(PEERS["acceptor_greet"]))


def dialer(sock):
    return prove(Channel(sock), KEY, True, body(PEERS["dialer_greet"]))


def attached(sock, tell=lambda parent: None):
    parent = Parent.__new__(Parent)  # one that is there already
    parent.cancelled = None
    tell(parent)
    parent.wake, woken = socket.socketpair()
    with parent.wake, woken:
        parent.obey(Channel(sock))


def greeting(sock):  # the same, with this program's own versions
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

    def test_child(self):
        parent, sent = converse(child, bytes.fromhex(CHILD["welcome"]["frame"] + CHILD["spec"]["frame"]))
        self.assertIsInstance(parent, Parent)
        self.assertEqual(sent, [(wire.HELLO, HELLO)])
        self.assertEqual(parent.spec, CHILD["spec"]["fields"])
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
                result, _ = converse(lambda sock: attached(sock, parents.append), bytes.fromhex(v["frame"]), ends=True)
                self.assertIs(type(result), OSError if v["does"] == "go on" else Gone)
                self.assertEqual(bool(parents[0].cancelled), v["does"] != "go on")

    def test_tickets(self):
        for v in TICKETS["tickets"]:
            with self.subTest(v["name"]):
                self.assertEqual(take_ticket(v["value"]), (v["id"], bytes.fromhex(v["secret"]), v["address"]))
        for v in TICKETS["refused_tickets"]:
            with self.subTest(v["name"]), self.assertRaises(ValueError):
                take_ticket(v["text"])
        for v in TICKETS["addresses"]:
            if v["scheme"] == "tls" and "pin" not in v:
                continue  # for peers with certificates that the system trusts, which these are not
            with self.subTest(v["text"]):
                scheme, target, pin = split(v["text"])
                self.assertEqual(pin, v.get("pin"))
                self.assertEqual((scheme, target), (v["scheme"], v.get("path") or ("\0" + v["abstract"] if "abstract" in v
                                                                                    else (v["host"], v["port"]))))
        for v in TICKETS["refused_addresses"]:
            with self.subTest(v["name"]), self.assertRaises(ValueError):
                split(v["text"])

    def test_refused(self):
        before = {("child", "welcomed"): CHILD["welcome"], ("acceptor", "proving"): PEERS["dialer_greet"],
                  ("dialer", "proving"): PEERS["acceptor_greet"]}
        receivers = {"child": child, "peer": greeting, "acceptor": acceptor, "dialer": dialer}
        done = 0
        large = [{**v, "bytes": v["start"] + v["fill"] * v["times"] + v["end"]} for v in LARGE["large"]]
        for v in REFUSED["refused"] + large:
            if v["receiver"] == "parent":
                continue  # there is none here
            with self.subTest(v["name"], receiver=v["receiver"], state=v["state"], kind=v.get("kind")):
                receive = {"open": open_channel, "attached": attached}.get(v["state"]) or receivers.get(v["receiver"]) or read_all(v["limit"])
                prefix = before.get((v["receiver"], v["state"]))
                said = bytes.fromhex((prefix["frame"] if prefix else "") + v["bytes"])
                result, sent = converse(receive, said, v.get("ends", False))
                if "error" not in v:
                    self.assertNotIsInstance(result, Exception)
                    continue
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

#!/usr/bin/env python3
"""Tests with the vectors of calls (testdata/call.json):

    python3 examples/peers/python/test_calls.py -v
"""
import json, os, pathlib, struct, unittest
import cbor2
import calls
from calls import Calls, parse_head, unary
from strict import ProtocolError

DIR = pathlib.Path(os.environ.get("SPAWNWIRE_TESTDATA") or pathlib.Path(__file__).parents[3] / "testdata")
VECTORS = json.loads((DIR / "call.json").read_text(encoding="utf-8"))
NAMES = {"hello": calls.HELLO, "open": calls.OPEN, "started": calls.STARTED, "data": calls.DATA, "credit": calls.CREDIT,
         "cancel": calls.CANCEL, "result": calls.RESULT, "go-away": calls.GO_AWAY}


class Recorded:
    """A channel that records the call frames."""

    def __init__(self):
        self.frames = []

    def write(self, kind, body):
        self.frames.append(body)


def bodies(data):
    """Returns the bodies of the frames in data."""
    while data:
        n = struct.unpack("<I", data[:4])[0]
        yield data[5:4 + n]
        data = data[4 + n:]


def receiver(state):
    """Returns a Calls in a state of the vectors, and its channel."""
    channel = Recorded()
    served = Calls(channel, {"echo": unary(lambda call, request: request), "wait": lambda call: call.cancelled.wait()},
                   calls=2, window=4096, message=10_000)
    if state != "new":
        served.receive(cbor2_hello())
    if state == "calling":
        served.begin("wait", cbor2.dumps("request"), None)
    return served, channel


def cbor2_hello():
    hello = {"versions": [1, 1], "calls": 2, "window": 4096, "message": 10_000}
    return struct.pack("<Q", calls.HELLO) + cbor2.dumps(hello)


class Vectors(unittest.TestCase):
    def test_frames(self):
        for v in VECTORS["frames"]:
            with self.subTest(v["what"]):
                op, flags, id, rest = parse_head(next(bodies(bytes.fromhex(v["frame"]))))
                self.assertEqual((NAMES[v["operation"]], v["flags"], v["id"]), (op, flags, id))
                if op == calls.OPEN:
                    left, method, metadata, _ = calls.parse_open(rest)
                    self.assertEqual(v["fields"]["method"], method)
                    self.assertEqual(v["fields"]["time"], round((left or 0) * 1e9))
                    self.assertEqual(v["fields"].get("metadata", []), metadata)
                elif op in (calls.HELLO, calls.CANCEL) or flags & calls.ERROR:
                    m = calls.fields(rest, {})
                    self.assertEqual(v["fields"], {k: m[k] for k in v["fields"]})

    def test_refused(self):
        for v in VECTORS["refused"]:
            with self.subTest(v["name"], state=v["state"]):
                served, _ = receiver(v["state"])
                with self.assertRaises(ProtocolError):
                    for body in bodies(bytes.fromhex(v["bytes"])):
                        served.receive(body)

    def test_ignored(self):
        for v in VECTORS["ignored"]:
            with self.subTest(v["name"]):
                served, _ = receiver(v["state"])
                for body in bodies(bytes.fromhex(v["bytes"])):
                    served.receive(body)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""A child that a Spawnwire parent starts: what it can be asked to run. examples/peers/node/child.mjs is the same."""
import hashlib, re
import spawnwire


def echo(_args):
    """Sends every message back, CBOR as CBOR and bytes as bytes."""
    def run(parent):
        while True:
            parent.send(parent.recv())
    return run


def count(args):
    """Counts how often a pattern is in each text. A pattern that is none is told before the child is ready."""
    pattern = re.compile(args["pattern"])
    def run(parent):
        while True:
            text = parent.recv()
            if not isinstance(text, str):
                raise TypeError("count takes text")
            parent.send(len(pattern.findall(text)))
    return run


def digest(_args):
    """Says of each piece of data what its SHA-256 is and how many words it has: for examples/polyglot."""
    def run(parent):
        while True:
            data = parent.recv()
            parent.send({"sha256": hashlib.sha256(data).digest(), "words": len(data.split())})
    return run


def busy(_args):
    """Computes and does not receive. It looks now and then whether it should stop."""
    def run(parent):
        parent.send("busy")
        sums = 0
        while not parent.cancelled:
            sums += sum(range(1000))
    return run


if __name__ == "__main__":
    spawnwire.main({"echo": echo, "count": count, "digest": digest, "busy": busy})

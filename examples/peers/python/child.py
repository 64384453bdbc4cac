#!/usr/bin/env python3
"""A child of a Spawnwire parent, with its entries. examples/peers/node/child.mjs has the same in Node.js.

A Go program starts it: go run ./examples/polyglot
"""
import hashlib, mmap, os, re
import spawnwire
from calls import Calls, bidi, client_stream, stream, unary


def echo(_args):
    """Sends every message back, CBOR as CBOR and bytes as bytes."""
    def run(parent):
        while True:
            parent.send(parent.recv())
    return run


def count(args):
    """Counts the matches of a pattern in each text. The pattern goes with the ready. If it is not valid, the child does not
    become ready."""
    pattern = re.compile(args["pattern"])
    def run(parent):
        while True:
            text = parent.recv()
            if not isinstance(text, str):
                raise TypeError("count takes text")
            parent.send(len(pattern.findall(text)))
    return run, pattern.pattern


def digest(_args):
    """Sends back the SHA-256 and the number of words of each piece of data. examples/polyglot uses it."""
    def run(parent):
        while True:
            data = parent.recv()
            parent.send({"sha256": hashlib.sha256(data).digest(), "words": len(data.split())})
    return run


def table(_args):
    """Sends the SHA-256 of a Blob, which it maps without a copy (mmap)."""
    def run(parent):
        with mmap.mmap(parent.file("table"), 0, prot=mmap.PROT_READ) as m, memoryview(m) as view:
            parent.send(hashlib.sha256(view).digest())
        parent.recv()
    return run


def busy(_args):
    """Computes and does not receive. From time to time it checks whether it should stop."""
    def run(parent):
        parent.send("busy")
        sums = 0
        while not parent.cancelled:
            sums += sum(range(1000))
    return run


def calls(_args):
    """Serves methods, and calls the parent back; see calls.py."""
    def read(_call, name):
        with open(name) as f:
            return f.read()

    def count(call, n):
        for i in range(n):
            call.check()  # so that a cancelled call ends
            yield i

    def wait(call, _request):
        call.cancelled.wait(call.deadline and 60)
        call.check()

    def loud(_call, words):
        for word in words:
            yield word.upper()

    def shell(call, words):
        call.start(os.getpid())
        yield from loud(call, words)

    def run(parent):
        def relay(_call, n):
            """Calls the parent's methods with many requests."""
            total = served.client_stream("add", range(n))
            with served.open("loud") as s:
                replies = []
                for i in range(3):
                    s.send(f"word {i}")
                    replies.append(next(s.replies))
                s.end()
                replies += s
            started, s = served.session("shell")
            with s:
                s.send("bye")
                replies.append(next(s.replies))
            return f"{total} {started} {' '.join(replies)}"

        served = Calls(parent, {
            "echo": unary(lambda call, request: request), "read": unary(read), "count": stream(count),
            "ask": unary(lambda call, text: served.call("upper", text) + "!"), "wait": unary(wait),
            "sum": unary(lambda call, n: sum(served.stream("numbers", n))), "relay": unary(relay),
            "add": client_stream(lambda call, numbers: sum(numbers)), "loud": bidi(loud), "shell": bidi(shell)})
        served.serve()
    return run


if __name__ == "__main__":
    spawnwire.main({"echo": echo, "count": count, "digest": digest, "table": table, "busy": busy, "calls": calls})

#!/usr/bin/env python3
"""For the differential test of the Go module: reads inputs from stdin and prints what this reader makes of each.

An input is its length as a u32, little-endian, a letter that says what it is, and the input itself. Each answer is a line:
"-" if the reader refuses the input, or its value. Fields that are zero or empty are left out, like those that are absent.
"""
import os, struct, sys
import cbor2
import spawnwire, strict, wire

RULES = {"h": strict.HELLO, "w": strict.WELCOME, "g": strict.GREET, "f": strict.FAILED, "r": strict.READY, "c": strict.CANCEL,
         "b": strict.GOODBYE, "a": strict.ATTACH}
MINE = cbor2.dumps({"versions": [1, 1], "id": "right", "name": "", "pid": 0, "nonce": bytes(32), "auth": "key"})


def show(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "t" + value.encode().hex()
    if isinstance(value, bytes):
        return "b" + value.hex()
    if isinstance(value, list):
        return "[" + ",".join(map(show, value)) + "]"
    return str(value)


def fields(m, rules):
    named = {name.rstrip("?"): m.get(name.rstrip("?")) for name in rules}
    return ";".join(f"{name}={show(v)}" for name, v in sorted(named.items()) if v)


def message(kind, data):
    m = strict.decode_map(data, RULES[kind])
    if kind == "r":
        return fields(m.get("timings", {}), ("init", "main", "connected", "accepted"))
    return fields(m, RULES[kind])


def spec(data):
    m = strict.decode_spec(data)
    return fields(m, ("v", "entry", "args"))


def address(data):
    scheme, target, pin = strict.split(data.decode())
    return f"{scheme} {show(target) if scheme == 'uds' else show(target[0]) + ' ' + str(target[1])} {(pin or '').lower()}"


def ticket(data):
    id, secret, at = spawnwire.take_ticket(data.decode())
    return f"{show(id)} {show(secret)} {address(at.encode())}"


class Stream:
    """In place of a socket."""

    def __init__(self, data):
        self.data = data

    def recv(self, n):
        piece, self.data = self.data[:n], self.data[n:]
        return piece


def frames(data):
    channel = wire.Channel(Stream(data[4:]))
    channel.limit = channel.skippable = int.from_bytes(data[:4], "little")
    found = ""
    try:
        while True:
            kind, body = channel.read()
            found += f"{kind:02x}{body.hex()} "
    except wire.Gone:
        return found + "gone"
    except strict.ProtocolError:
        return found + "error"


class Greeted:
    """In place of a channel to a peer that has sent a greet and sends no proof."""

    def __init__(self, greet):
        self.greet, self.answer = greet, "none"

    def write(self, kind, body):
        if kind == wire.PROOF:
            self.answer = "proof"

    def expect(self, want):
        if want == wire.PROOF:
            raise wire.Gone
        return self.greet

    def fail(self, failed):
        self.answer = failed.body["code"]


def meeting(data):
    channel = Greeted(data)
    try:
        spawnwire.prove(channel, bytes(32), False, MINE)
    except (wire.Gone, wire.Failed, strict.ProtocolError):
        pass
    return channel.answer


def sealed(data):
    try:
        return show(wire.unseal(bytes(32), "spawnwire hello", data))
    except wire.BadMAC:
        return "bad-mac"


def proof(data):
    return show(strict.decode(data, bytes))


READ = {"S": spec, "A": address, "T": ticket, "F": frames, "G": meeting, "U": sealed, "P": proof}


def judge(kind, data):
    try:
        return READ[kind](data) if kind in READ else message(kind, data)
    except (strict.ProtocolError, ValueError):
        return "-"


if __name__ == "__main__":
    pending = b""
    while chunk := os.read(0, 1 << 20):
        pending, at, answers = pending + chunk, 0, []
        while len(pending) >= at + 5:
            n, kind = struct.unpack_from("<Ic", pending, at)
            if len(pending) < at + 5 + n:
                break
            answers.append(judge(kind.decode(), pending[at + 5:at + 5 + n]) + "\n")
            at += 5 + n
        pending = pending[at:]
        sys.stdout.write("".join(answers))
        sys.stdout.flush()

"""CBOR as section 2.4 of docs/PROTOCOL.md wants it read, and the fields of the protocol's maps."""
import re
import cbor2


class ProtocolError(Exception): "The other side sent what the protocol does not allow."


ARGS, VARS = ({"depth": 63, "most": 1 << 64, "free": free} for free in ("args", "vars"))
ORDERS = {"args": ARGS, "vars": VARS, "parent": {"most": 256}, **dict.fromkeys(("modules", "registry", "bind"), {"most": 1024})}


def check(data, at=0, depth=8, most=64, free=None, parts={}, tagged=False):
    """Checks one item by the rules of 2.4, which cbor2 does not ask for. Returns where it ends, and what tells it from
    others as a key. It may have most elements or pairs, and parts has what else holds for the values of this map, by key.
    What is free, args or vars in a spec, has rules of its own (4.4).
    """
    start, first = at, data[at]
    major, info, at = first >> 5, first & 31, at + 1
    if info > 27:
        raise ProtocolError("an indefinite length, or what RFC 8949 keeps in reserve")
    size = 1 << info - 24 if info >= 24 else 0
    n, at = int.from_bytes(data[at:at + size], "big") if size else info, at + size
    value = n
    if major in (2, 3):  # byte string, text
        value, at = data[at:at + n], at + n
        if major == 3:
            str(value, "utf-8")
    elif major == 6:
        if not free or depth < tagged:
            raise ProtocolError("a tag")
        at, _ = check(data, at, depth - tagged, most, free, tagged=True)
        value = data[start:at]
    elif major in (4, 5):  # array, map
        if depth < 1 or n > most:
            raise ProtocolError("nested too deep, or too long")
        below = {"depth": depth - 1, "most": most if free else 64, "free": free}
        keys, key = set(), None
        for i in range(n if major == 4 else 2 * n):
            if major == 4 or i % 2:
                at, _ = check(data, at, **{**below, **parts.get(key, {})})
                continue
            begin = data[at]
            at, key = check(data, at, **below)
            if begin >> 5 != 3 and (not free or free == "vars" and begin >> 5 > 2 and begin not in (0xf4, 0xf5)):
                raise ProtocolError("a key of a type that has no place here")
            if key in keys:
                raise ProtocolError("a key twice")
            keys.add(key)
            key = str(key[1], "utf-8") if parts else None
        value = data[start:at]
    elif first == 0xf8 and n < 32 or major == 7 and not free and first not in (0xf4, 0xf5):
        raise ProtocolError("null, a float, or a simple value that is not well-formed")
    elif first > 0xf8:  # a float of any width
        value = repr(cbor2.loads(data[start:at]))
    if at > len(data):
        raise IndexError("truncated")
    return at, (major, value)


def decode(data, want=dict, most=64, parts={}):
    """Decodes the one item of type want that data must be."""
    try:
        end, _ = check(data, most=most, parts=parts)
        item = cbor2.loads(data)
    except (IndexError, ValueError, RecursionError, cbor2.CBORDecodeError) as e:
        raise ProtocolError(f"not the CBOR that it should be: {e}") from None
    if end != len(data) or not isinstance(item, want):
        raise ProtocolError(f"not one {want.__name__}")
    return item


HOST = r"\[[0-9A-Fa-f:.]+(?:%[^]]+)?\]|[0-9A-Za-z._-]+"
PORT = "0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"


def split(address):
    """Splits an address (2.1) into its scheme, what socket.connect takes, and the pin of tls."""
    if m := re.fullmatch("uds://(?:(/[^\0]*)|@([^\0]+))", address, re.S):
        return "uds", m[1] or "\0" + m[2], None
    if m := re.fullmatch(f"(tcp|tls)://({HOST}):({PORT})(?:#((?!0{{64}})[0-9A-Fa-f]{{64}}))?", address):
        if bool(m[4]) == (m[1] == "tls"):  # without a pin there is nothing to know the server by (2.5)
            return m[1], (m[2].strip("[]"), int(m[3])), m[4]
    raise ValueError("not uds:///path, uds://@name, tcp://host:port or tls://host:port#<64 hex>")


def is_uint(v): return type(v) is int and v >= 0
def is_text(v): return isinstance(v, str)
def is_name(v): return isinstance(v, str) and len(v.encode()) <= 256
def is_id(v): return isinstance(v, str) and re.fullmatch("[!-~]{1,64}", v)
def is_pid(v): return is_uint(v) and v < 1 << 31
def is_nonce(v): return isinstance(v, bytes) and len(v) == 32
def is_range(v): return isinstance(v, list) and len(v) == 2 and is_uint(v[0]) and is_uint(v[1]) and 1 <= v[0] <= v[1]
def is_features(v): return isinstance(v, list) and all(is_name(f) and 0 < len(f.encode()) <= 64 for f in v)
def is_time(v): return is_uint(v) and v < 1 << 63
def is_int(v): return type(v) is int and -1 << 63 <= v < 1 << 63
def is_map(v): return isinstance(v, dict)
def is_spec_name(v): return is_name(v) and re.fullmatch(r"[^\0-\x1f\x7f-\x9f]+", v)
def is_log(v): return is_spec_name(v) and re.fullmatch("(?i:DEBUG|INFO|WARN|ERROR)([+-][0-9]+)?", v)
def is_names(v): return isinstance(v, list) and all(map(is_spec_name, v))
def is_path(v): return is_text(v) and v.startswith("/") and len(v.encode()) <= 32767 and "\0" not in v
def is_addresses(v): return isinstance(v, list) and all(is_text(a) and "://" in a and len(a.encode()) <= 32767 for a in v)


def has(rules):
    """Tells whether a map has the fields for which there is a rule, as it asks for; one with ? may be missing."""
    return lambda m: is_map(m) and all(
        rule(m[name.rstrip("?")]) if name.rstrip("?") in m else name[-1] == "?" for name, rule in rules.items())


IDENTITY = {"id": is_id, "name": is_name, "pid": is_pid, "nonce": is_nonce, "features?": is_features}
HELLO = {"versions": is_range, **IDENTITY}
WELCOME = {"version": is_uint, **IDENTITY}
GREET = {"versions": is_range, "auth": is_text, **IDENTITY}
READY = {"timings": has(dict.fromkeys(("init?", "main?", "connected?", "accepted?"), is_time))}
FAILED = {"phase": is_text, "code": is_text, "error": is_text, "versions?": is_range}
CANCEL = {"reason?": is_text, "grace?": is_time}
GOODBYE = {"status": is_int, "reason?": is_text}
ATTACH = {"id": is_id, "nonce": is_nonce}
SPEC = {
    "v": lambda v: is_uint(v) and v == 1, "name": is_spec_name, "method": is_spec_name, "entry?": is_spec_name,
    "depth": lambda v: is_uint(v) and 1 <= v <= 1000, "grace?": is_time, "deadline?": is_int, "log?": is_log,
    "parent": has({"id": is_spec_name, "name?": is_spec_name, "pid?": is_pid}), "modules?": is_names, "dir?": is_path,
    "vars?": lambda v: is_map(v) and is_names([*v]), "registry?": is_addresses, "bind?": is_addresses,
}


def decode_map(data, rules, most=64, parts={}):
    """Decodes a map, and checks those of its fields for which there is a rule."""
    m = decode(data, most=most, parts=parts)
    for name, rule in rules.items():
        if not has({name: rule})(m):
            raise ProtocolError(f"the field {name.rstrip('?')} is missing or wrong")
    return m


def decode_spec(payload):
    m = decode_map(payload, SPEC, most=256, parts=ORDERS)
    if not is_names([*m]) or not is_names([*m["parent"]]):
        raise ProtocolError("a key that is no name")
    return m

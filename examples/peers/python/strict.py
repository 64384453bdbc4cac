"""CBOR as section 2.4 of docs/PROTOCOL.md wants it read, and the fields of the protocol's maps."""
import re
import cbor2


class ProtocolError(Exception): "The other side sent what the protocol does not allow."


def check(data, at=0, depth=8, most=64, tags=False, free=()):
    """Checks one item by the rules of 2.4, which cbor2 does not ask for. Returns where it ends, and what tells it from
    others as a key (an array or a map, which is no key that anybody would use, by its bytes). In the values of the
    outermost map whose keys are in free, any length and tags are allowed, and the nesting is 64 (4.4).
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
    elif major == 6 and not tags:
        raise ProtocolError("a tag")
    elif major in (4, 5, 6):  # array, map, tag
        below = depth if major == 6 else depth - 1
        if below < 0 or major != 6 and n > most:
            raise ProtocolError("nested too deep, or too long")
        keys, key = set(), None
        for i in range({4: n, 5: 2 * n, 6: 1}[major]):
            at, item = check(data, at, 63, len(data), True) if key in free else check(data, at, below, most, tags)
            key = item if major == 5 and i % 2 == 0 else None
            if key in keys:
                raise ProtocolError("a key twice")
            if key:
                keys.add(key)
        value = data[start:at]
    elif first == 0xf8 and n < 32:
        raise ProtocolError("a simple value that is not well-formed")
    elif first > 0xf8:  # a float of any width
        value = repr(cbor2.loads(data[start:at]))
    if at > len(data):
        raise IndexError("truncated")
    return at, (major, value)


def decode(data, want=dict, most=64, free=()):
    """Decodes the one item of type want that data must be."""
    try:
        end, _ = check(data, most=most, free=[(3, key.encode()) for key in free])
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
def is_spec_name(v): return is_name(v) and re.fullmatch(r"[^\0-\x1f\x7f-\x9f]+", v)
def is_addresses(v): return isinstance(v, list) and all(is_text(a) and "://" in a for a in v)


IDENTITY = {"id": is_id, "name": is_name, "pid": is_pid, "nonce": is_nonce, "features?": is_features}
HELLO = {"versions": is_range, **IDENTITY}
WELCOME = {"version": is_uint, **IDENTITY}
GREET = {"versions": is_range, "auth": is_text, **IDENTITY}
READY = {"timings": lambda v: isinstance(v, dict)}
FAILED = {"phase": is_text, "code": is_text, "error": is_text}
CANCEL = {"reason?": is_text, "grace?": is_uint}
GOODBYE = {"status": lambda v: type(v) is int, "reason?": is_text}
ATTACH = {"id": is_id, "nonce": is_nonce}
SPEC = {
    "v": lambda v: is_uint(v) and v == 1, "name": is_spec_name, "method": is_spec_name, "entry?": is_spec_name,
    "depth": lambda v: is_uint(v) and 1 <= v <= 1000, "grace?": is_uint, "deadline?": lambda v: type(v) is int,
    "parent": lambda v: isinstance(v, dict) and is_spec_name(v.get("id")), "vars?": lambda v: isinstance(v, dict),
    "dir?": lambda v: is_text(v) and v.startswith("/"), "registry?": is_addresses, "bind?": is_addresses,
}


def decode_map(data, rules, most=64, free=()):
    """Decodes a map, and checks those of its fields for which there is a rule; one with ? may be missing."""
    m = decode(data, most=most, free=free)
    for name, rule in rules.items():
        key = name.rstrip("?")
        if not rule(m[key]) if key in m else key == name:
            raise ProtocolError(f"the field {key} is missing or wrong")
    return m


def decode_spec(payload):
    return decode_map(payload, SPEC, most=1024, free=("args", "vars"))

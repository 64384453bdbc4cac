"""CBOR as section 2.4 of docs/PROTOCOL.md wants it read, and the fields of the protocol's maps."""
import re
import cbor2


class ProtocolError(Exception): "The other side sent what the protocol does not allow."


def check(data, at=0, depth=8, tags=False, free=()):
    """Checks one item by the rules of 2.4, which cbor2 does not ask for. Returns where it ends, and what tells it from
    others as a key (an array or a map, which is no key that anybody would use, by its bytes). In the values of the outermost map whose keys are in free,
    tags are allowed and the nesting is 64 (4.4).
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
        if below < 0:
            raise ProtocolError("nested too deep")
        keys, key = set(), None
        for i in range({4: n, 5: 2 * n, 6: 1}[major]):
            at, item = check(data, at, 63, True) if key in free else check(data, at, below, tags)
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


def decode(data, want=dict, free=()):
    """Decodes the one item of type want that data must be."""
    try:
        end, _ = check(data, free=[(3, key.encode()) for key in free])
        item = cbor2.loads(data)
    except (IndexError, ValueError, RecursionError, cbor2.CBORDecodeError) as e:
        raise ProtocolError(f"not the CBOR that it should be: {e}") from None
    if end != len(data) or not isinstance(item, want):
        raise ProtocolError(f"not one {want.__name__}")
    return item


def is_uint(v): return type(v) is int and v >= 0
def is_text(v): return isinstance(v, str) and len(v.encode()) <= 256
def is_error(v): return isinstance(v, str)
def is_id(v): return isinstance(v, str) and re.fullmatch("[!-~]{1,64}", v)
def is_nonce(v): return isinstance(v, bytes) and len(v) == 32
def is_range(v): return isinstance(v, list) and len(v) == 2 and is_uint(v[0]) and is_uint(v[1]) and 1 <= v[0] <= v[1]
def is_features(v): return isinstance(v, list) and v and all(is_text(f) and 0 < len(f.encode()) <= 64 for f in v)


IDENTITY = {"id": is_id, "name": is_text, "pid": is_uint, "nonce": is_nonce, "features?": is_features}
HELLO = {"versions": is_range, **IDENTITY}
WELCOME = {"version": is_uint, **IDENTITY}
GREET = {"versions": is_range, "auth": is_text, **IDENTITY}
ATTACH = {"id": is_id, "nonce": is_nonce}
FAILED = {"phase": is_text, "code": is_text, "error": is_error}
SPEC = {"v": lambda v: is_uint(v) and v == 1, "name": is_text, "method": is_text, "entry?": is_text,
        "depth": lambda v: is_uint(v) and 1 <= v <= 1000, "parent": lambda v: isinstance(v, dict) and is_text(v.get("id"))}


def decode_map(data, rules={}, free=()):
    """Decodes a map, and checks those of its fields for which there is a rule; one with ? may be missing."""
    m = decode(data, free=free)
    for name, rule in rules.items():
        key = name.rstrip("?")
        if not rule(m[key]) if key in m else key == name:
            raise ProtocolError(f"the field {key} is missing or wrong")
    return m


def decode_spec(payload):
    return decode_map(payload, SPEC, free=("args", "vars"))

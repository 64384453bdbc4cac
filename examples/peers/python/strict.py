"""Strict decoding of CBOR, by section 2.4 of docs/PROTOCOL.md, and the fields of the protocol's maps."""
import re


class ProtocolError(Exception): "The other side has broken the protocol."


def head(data, at):
    """Reads the head of an item. Returns its major type, its low five bits, its argument, and the offset of its end."""
    major, info, at = data[at] >> 5, data[at] & 31, at + 1
    if info < 24:
        return major, info, info, at
    if info > 27:
        raise ProtocolError("an indefinite length, or what RFC 8949 keeps in reserve")
    end = at + (1 << info - 24)
    if end > len(data):
        raise ProtocolError("truncated")
    return major, info, int.from_bytes(data[at:end], "big"), end


def content(data, major, n, at):
    """Returns the n bytes of a byte string or a text, and the offset of their end."""
    if n > len(data) - at:
        raise ProtocolError("truncated")
    value = data[at:at + n]
    return str(value, "utf-8") if major == 3 else value, at + n


def item(data, at=0, depth=8, opaque=()):
    """Decodes one item in the form of 2.4. Returns its value and the offset of its end. Of the keys in opaque it returns the
    bytes of the value, which has the rules of skip."""
    major, info, n, at = head(data, at)
    if major == 0:
        return n, at
    if major == 1:
        return -1 - n, at
    if major in (2, 3):
        return content(data, major, n, at)
    if major in (4, 5) and (depth < 1 or n > 64):
        raise ProtocolError("nested too deep, or too long")
    if major == 4:
        values = []
        for _ in range(n):
            value, at = item(data, at, depth - 1)
            values.append(value)
        return values, at
    if major == 5:
        values = {}
        for _ in range(n):
            key, at = item(data, at, depth - 1)
            if not isinstance(key, str):
                raise ProtocolError("a key that is not text")
            if key in values:
                raise ProtocolError("a key twice")
            start = at
            if key in opaque:
                at = skip(data, at)
                values[key] = data[start:at]
            else:
                values[key], at = item(data, at, depth - 1)
        return values, at
    if major == 7 and info in (20, 21):
        return info == 21, at
    raise ProtocolError("a tag, null, a float or a simple value")


def skip(data, at):
    """Returns the offset of the end of an item in the args of a spec, which have rules of their own (4.4)."""
    major, _, n, at = head(data, at)
    if major in (2, 3):
        return content(data, 2, n, at)[1]
    for _ in range({4: n, 5: 2 * n, 6: 1}.get(major, 0)):
        at = skip(data, at)
    return at


def decode(data, want=dict, opaque=()):
    """Decodes data, which must be exactly one item of type want."""
    try:
        value, end = item(data, opaque=opaque)
    except (IndexError, UnicodeDecodeError, RecursionError) as e:
        raise ProtocolError(f"not the CBOR that it should be: {e}") from None
    if end != len(data) or not isinstance(value, want):
        raise ProtocolError(f"not one {want.__name__}")
    return value


NAME = "[0-9A-Za-z._-]+"
HOST = rf"\[[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*(?:%{NAME})?\]|{NAME}"
PORT = "0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"


def split(address):
    """Splits an address (2.1) into its scheme, what socket.connect takes, and the pin of tls."""
    if m := re.fullmatch("uds://(?:(/[^\0]*)|@([^\0]+))", address, re.S):
        return "uds", m[1] or "\0" + m[2], None
    if m := re.fullmatch(f"(tcp|tls)://({HOST}):({PORT})(?:#((?!0{{64}})[0-9A-Fa-f]{{64}}))?", address):
        if m[1] == "tls" or not m[4]:
            return m[1], (m[2].strip("[]"), int(m[3])), m[4]
    raise ValueError("not uds:///path, uds://@name, tcp://host:port or tls://host:port#<64 hex>")


def is_uint(v): return type(v) is int and v >= 0  # not a bool
def is_text(v): return isinstance(v, str)
def is_bytes(v): return isinstance(v, bytes)
def is_name(v): return isinstance(v, str) and len(v.encode()) <= 256
def is_id(v): return isinstance(v, str) and re.fullmatch("[!-~]{1,64}", v)
def is_pid(v): return is_uint(v) and v < 1 << 31
def is_nonce(v): return isinstance(v, bytes) and len(v) == 32
def is_range(v): return isinstance(v, list) and len(v) == 2 and is_uint(v[0]) and is_uint(v[1]) and 1 <= v[0] <= v[1]
def is_features(v): return isinstance(v, list) and all(is_name(f) and 0 < len(f.encode()) <= 64 for f in v)
def is_time(v): return is_uint(v) and v < 1 << 63
def is_int(v): return type(v) is int and -1 << 63 <= v < 1 << 63
def is_map(v): return isinstance(v, dict)


def has(rules):
    """Returns a rule for a map: each named field must pass its rule, and a field with ? may be missing."""
    return lambda m: is_map(m) and all(
        rule(m[name.rstrip("?")]) if name.rstrip("?") in m else name[-1] == "?" for name, rule in rules.items())


IDENTITY = {"id": is_id, "name": is_name, "pid": is_pid, "nonce": is_nonce, "features?": is_features}
HELLO = {"versions": is_range, **IDENTITY}
WELCOME = {"version": is_uint, "limit?": lambda v: is_pid(v) and v > 0, **IDENTITY}
GREET = {"versions": is_range, "auth": is_text, **IDENTITY}
READY = {"timings?": has(dict.fromkeys(("init?", "main?", "connected?", "accepted?"), is_time)), "value?": is_bytes}
FAILED = {"phase": is_text, "code": is_text, "error": is_text, "versions?": is_range}
CANCEL = {"reason?": is_text, "grace?": is_time}
GOODBYE = {"status": is_int, "reason?": is_text}
ATTACH = {"id": is_id, "nonce": is_nonce}
SPEC = {"v": lambda v: is_uint(v) and v == 1, "entry?": is_text}  # what these children use of it


def decode_map(data, rules, opaque=()):
    """Decodes a map and checks the fields that have a rule."""
    m = decode(data, opaque=opaque)
    for name, rule in rules.items():
        if not has({name: rule})(m):
            raise ProtocolError(f"the field {name.rstrip('?')} is missing or wrong")
    return m


def decode_spec(payload):
    """Decodes a spec. Its args stay encoded: they are a matter of the entry."""
    return decode_map(payload, SPEC, opaque=("args",))

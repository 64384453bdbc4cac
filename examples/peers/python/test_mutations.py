#!/usr/bin/env python3
"""Checks that the vectors catch each fault of a reader. Each mutation changes one place of strict.py, wire.py or spawnwire.py,
so that the reader breaks one rule of docs/PROTOCOL.md and keeps all others. At least one vector must fail then.

    python3 examples/peers/python/test_mutations.py           fails if a mutation is not caught
    python3 examples/peers/python/test_mutations.py -v        prints each rule and the vectors that catch its mutation
    python3 examples/peers/python/test_mutations.py -v TEXT   only the rules that have the text
"""
import functools, io, multiprocessing, pathlib, sys, types, unittest

HERE = pathlib.Path(__file__).parent
MODULES = ("strict", "wire", "spawnwire", "test_vectors")  # in the order in which they import each other
SOURCES = {name: (HERE / f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
# A reader that waits for more sees the end of the stream instead.
SOURCES["test_vectors"] = SOURCES["test_vectors"].replace("        if ends:\n", "        if True:\n")

MUTATIONS = []


def breaks(module, part, *mutations):
    """Adds mutations of a module: a rule, the text that keeps it, and the text that breaks it, or several of both."""
    for rule, old, new in mutations:
        pairs = zip(old, new) if isinstance(old, tuple) else [(old, new)]
        MUTATIONS.append((part, rule, module, [*pairs]))


breaks("strict", "addresses",
       ("a path begins with /", r'(/[^\0]*)', r'([^\0@][^\0]*)'),
       ("a path has no NUL", r'(/[^\0]*)', r'(/.*)'),
       ("an abstract name has a character", r'@([^\0]+)', r'@([^\0]*)'),
       ("an abstract name has no NUL", r'@([^\0]+)', r'@(.+)'),
       ("an abstract name stands behind a NUL", r'"\0" + m[2]', '"@" + m[2]'),
       ("a path is as it is", "m[1] or", "m[1] and m[1].replace('%25', '%') or"),
       ("the scheme is in small letters", '(tcp|tls)://', '((?i:tcp|tls))://'),
       ("other schemes are refused", '(tcp|tls)://', '(tcp|tls|udp)://'),
       ("nothing stands in front", 'f"(tcp|tls)', 'f" ?(tcp|tls)'),
       ("nothing follows", 're.fullmatch(f"(tcp', 're.match(f"(tcp'),
       ("a host has these characters only", 'NAME = "[0-9A-Za-z._-]+"', 'NAME = "[0-9A-Za-z._ -]+"'),
       ("a host is ASCII", 'NAME = "[0-9A-Za-z._-]+"', r'NAME = "[\\w.-]+"'),
       ("a host may have _", 'NAME = "[0-9A-Za-z._-]+"', 'NAME = "[0-9A-Za-z.-]+"'),
       ("a host may have capitals", 'NAME = "[0-9A-Za-z._-]+"', 'NAME = "[0-9a-z._-]+"'),
       ("a host is not empty", r'?\]|{NAME}"', r'?\]|(?:{NAME})?"'),
       ("IPv6 stands in brackets", r'?\]|{NAME}"', r'?\]|{NAME}|[0-9a-f:]+"'),
       ("brackets have a colon", '[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*', '[0-9A-Fa-f.:]+'),
       ("brackets have hexadecimal digits", '[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*', '[0-9A-Fa-f.]*:[0-9A-Za-z.:]*'),
       ("brackets may have dots", '[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*', '[0-9A-Fa-f]*:[0-9A-Fa-f:]*'),
       ("a reader checks the characters and no more", '[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*', '(?!:::)[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*'),
       ("an address may have a zone", "(?:%{NAME})?", ""),
       ("a zone has a character", "(?:%{NAME})?", "(?:%(?:{NAME})?)?"),
       ("a zone has these characters only", "(?:%{NAME})?", r"(?:%[^\]]+)?"),
       ("a port is at most 65535", 'PORT = "0|', 'PORT = "[1-9][0-9]{4}|0|'),
       ("65535 is a port", "6553[0-5]", "6553[0-4]"),
       ("a port has no leading zero", 'PORT = "0|', 'PORT = "0[0-9]+|0|'),
       ("a port has no sign", 'PORT = "0|', 'PORT = "[+][0-9]+|0|'),
       ("a port has digits of ASCII", 'PORT = "0|', 'PORT = "[\u0660-\u0669]|0|'),
       ("0 is a port", 'PORT = "0|', 'PORT = "'),
       ("a pin has 64 digits", "[0-9A-Fa-f]{{64}}))?", "[0-9A-Fa-f]{{63,66}}))?"),
       ("a pin has hexadecimal digits", "[0-9A-Fa-f]{{64}}))?", "[0-9A-Za-z]{{64}}))?"),
       ("a pin is not all zero", "(?!0{{64}})", ""),
       ("a pin stands behind # only", "(?:#(", "(?:#?("),
       ("only tls has a pin", 'if m[1] == "tls" or not m[4]:', "if True:"),
       ("tls may have no pin", 'if m[1] == "tls" or not m[4]:', 'if (m[1] == "tls") == bool(m[4]):'))

breaks("wire", "frames",
       ("n is little-endian", '"<IB", self.take(5)', '">IB", self.take(5)'),
       ("n is at least 1", "1 <= n <= self.limit", "n <= self.limit"),
       ("n is at most the limit", "1 <= n <= self.limit", "1 <= n"),
       ("n may be the limit", "1 <= n <= self.limit", "1 <= n < self.limit"),
       ("n counts the kind", "body = self.take(n - 1)", "body = self.take(n)"),
       ("the limit before authentication is 65536", "BEFORE, AFTER = 65536,", "BEFORE, AFTER = 65537,"),
       ("the limit after authentication is 16777216", "16 << 20", "65536"),
       ("frames arrive in pieces", "while len(data) < n:", "for _ in range(min(n, 1)):"),
       ("the end within a frame is the end without a goodbye", 'raise Gone("the other side is gone")', 'raise ProtocolError("gone")'),
       ("a frame is judged before its body", "            if kind >= 0x80:\n", "            self.take(n - 1) if kind not in KINDS else 0\n            if kind >= 0x80:\n"),
       ("an unknown kind below 0x80 is refused", "elif kind not in KINDS:", "elif False:"),
       ("kind 0 is unknown", "elif kind not in KINDS:", "elif kind and kind not in KINDS:"),
       ("an unknown kind of 0x80 or above is skipped", "            if kind >= 0x80:\n", "            if kind > 0x80:\n"),
       ("kind 0xff is skipped too", "            if kind >= 0x80:\n", "            if 0xff > kind >= 0x80:\n"),
       ("skipping has a limit before authentication", "if self.skippable and", "if False and"),
       ("n bytes are counted as skipped", "skipped += n\n", "skipped += n - 1\n"),
       ("as much may be skipped as a frame may have", "skipped > self.skippable", "skipped >= self.skippable"),
       ("only frames in a row are counted", "        skipped = 0\n        while True:\n            n, kind", "        skipped = getattr(self, 'all', 0)\n        while True:\n            self.all = skipped\n            n, kind"))
breaks("spawnwire", "frames",
       ("a child raises the limit at the welcome", 'self.limit = m.get("limit", AFTER)', "pass"),
       ("a child takes the limit of the welcome", 'self.limit = m.get("limit", AFTER)', "self.limit = AFTER"),
       ("a peer raises the limit at the proof", "channel.deadline, channel.limit, channel.skippable = None, AFTER, None", "channel.deadline, channel.skippable = None, None"),
       ("skipping has no limit after authentication", "channel.deadline, channel.limit, channel.skippable = None, AFTER, None", "channel.deadline, channel.limit = None, AFTER"))

breaks("strict", "CBOR",
       ("no reserved initial bytes", "    if info > 27:\n", "    if info in (28, 29, 30):\n        return major, info, 0, at\n    if info > 27:\n"),
       ("no indefinite lengths", "    major, info, n, at = head(data, at)\n    if major == 0:", "    if data[at] & 31 == 31:\n        import cbor2, io\n        rest = io.BytesIO(data[at:])\n        return cbor2.CBORDecoder(rest).decode(), at + rest.tell()\n    major, info, n, at = head(data, at)\n    if major == 0:"),
       ("numbers are big-endian", '"big"), end', '"little"), end'),
       ("numbers and lengths may have longer forms", "    if end > len(data):\n", "    if data[at:end].startswith(b'\\0'):\n        raise ProtocolError('long')\n    if end > len(data):\n"),
       ("no item is cut", ("if n > len(data) - at:", "if end != len(data) or"), ("if False:", "if end < len(data) or")),
       ("text is UTF-8", 'str(value, "utf-8")', 'str(value, "utf-8", "replace")'),
       ("text has no surrogates", 'str(value, "utf-8")', 'str(value, "utf-8", "surrogatepass")'),
       ("each character is in its shortest form", 'str(value, "utf-8")', 'str(value.replace(b"\\xc0\\xaf", b"/").replace(b"\\xc0\\x80", b"0"), "utf-8")'),
       ("negative numbers count from -1", "return -1 - n, at", "return -n, at"),
       ("integers of 65 bits are well-formed", "return -1 - n, at", "return (-1 - n if n < 1 << 63 else 1 // 0), at"),
       ("at most 8 levels", "def item(data, at=0, depth=8,", "def item(data, at=0, depth=9,"),
       ("8 levels", "def item(data, at=0, depth=8,", "def item(data, at=0, depth=7,"),
       ("arrays nest", "value, at = item(data, at, depth - 1)\n            values.append", "value, at = item(data, at, depth)\n            values.append"),
       ("maps nest", "values[key], at = item(data, at, depth - 1)", "values[key], at = item(data, at, depth)"),
       ("an array has at most 64 elements", "depth < 1 or n > 64", "depth < 1 or n > 64 and major == 5"),
       ("a map has at most 64 pairs", "depth < 1 or n > 64", "depth < 1 or n > 64 and major == 4"),
       ("an array may have 64 elements", "depth < 1 or n > 64", "depth < 1 or n > 63 and (major == 4 or n > 64)"),
       ("a map may have 64 pairs", "depth < 1 or n > 64", "depth < 1 or n > 63 and (major == 5 or n > 64)"),
       ("keys are text", "if not isinstance(key, str):", "if isinstance(key, (list, dict)):"),
       ("no key is there twice", "if key in values:", "if False:"),
       ("no key is there twice, also of an inner map", "if key in values:", "if key in values and depth == 8:"),
       ("no tags", "    if major == 7 and info in (20, 21):", "    if major == 6:\n        return item(data, at, depth, opaque)\n    if major == 7 and info in (20, 21):"),
       ("no null", "    if major == 7 and info in (20, 21):", "    if major == 7 and info == 22:\n        return None, at\n    if major == 7 and info in (20, 21):"),
       ("no undefined", "    if major == 7 and info in (20, 21):", "    if major == 7 and info == 23:\n        return None, at\n    if major == 7 and info in (20, 21):"),
       ("no floats", "    if major == 7 and info in (20, 21):", "    if major == 7 and info in (25, 26, 27):\n        return 1.0, at\n    if major == 7 and info in (20, 21):"),
       ("no other simple values", "    if major == 7 and info in (20, 21):", "    if major == 7 and info < 20:\n        return 0, at\n    if major == 7 and info in (20, 21):"),
       ("false and true have one byte", "    if major == 7 and info in (20, 21):", "    if major == 7 and info == 24 and n in (20, 21):\n        return n == 21, at\n    if major == 7 and info in (20, 21):"),
       ("false and true are allowed", "    if major == 7 and info in (20, 21):", "    if False:"),
       ("nothing stands behind the item", "if end != len(data) or", "if"),
       ("the item has the right type", "or not isinstance(value, want):", ":"),
       ("values of unknown keys have the same rules", "            if key in opaque:\n", "            if key in opaque or key in ('x', 'later'):\n"),
       ("unknown keys are ignored", "    for name, rule in rules.items():\n        if not", "    if {*m} - {name.rstrip('?') for name in rules} - {'args'}:\n        raise ProtocolError('unknown')\n    for name, rule in rules.items():\n        if not"))

breaks("strict", "fields",
       ("an id has a character", '"[!-~]{1,64}"', '"[!-~]{0,64}"'),
       ("an id has at most 64 characters", '"[!-~]{1,64}"', '"[!-~]{1,65}"'),
       ("an id may have 64 characters", '"[!-~]{1,64}"', '"[!-~]{1,63}"'),
       ("an id has no space", '"[!-~]{1,64}"', '"[ -~]{1,64}"'),
       ("an id has no DEL", '"[!-~]{1,64}"', '"[!-\\x7f]{1,64}"'),
       ("an id is ASCII", '"[!-~]{1,64}"', '"[!-~é]{1,64}"'),
       ("an id may have every other character", '"[!-~]{1,64}"', '"[#-}]{1,64}"'),
       ("an id is text", "def is_id(v): return isinstance(v, str) and", "def is_id(v): return isinstance(v, bytes) or"),
       ("a name has at most 256 bytes", "len(v.encode()) <= 256", "len(v) <= 256"),
       ("a name may have 256 bytes", "len(v.encode()) <= 256", "len(v.encode()) < 256"),
       ("a name is text", "def is_name(v): return isinstance(v, str) and", "def is_name(v): return isinstance(v, bytes) or"),
       ("a pid is below 2^31", "is_uint(v) and v < 1 << 31", "is_uint(v)"),
       ("a pid may be 2^31-1", "is_uint(v) and v < 1 << 31", "is_uint(v) and v < (1 << 31) - 1"),
       ("a pid is not negative", "type(v) is int and v >= 0", "type(v) is int"),
       ("true is not a number", "type(v) is int and v >= 0", "isinstance(v, int) and v >= 0"),
       ("a nonce has 32 bytes", "isinstance(v, bytes) and len(v) == 32", "isinstance(v, bytes)"),
       ("a nonce is bytes", "isinstance(v, bytes) and len(v) == 32", "len(v) == 32"),
       ("versions are two", "isinstance(v, list) and len(v) == 2 and", "isinstance(v, list) and len(v) >= 2 and"),
       ("versions are numbers", "is_uint(v[0]) and is_uint(v[1]) and 1 <= v[0] <= v[1]", "'1' <= str(v[0]) <= str(v[1])"),
       ("versions begin with 1", "and 1 <= v[0] <= v[1]", "and v[0] <= v[1]"),
       ("the first version is not above the last", "and 1 <= v[0] <= v[1]", "and 1 <= v[0]"),
       ("versions may be one", "and 1 <= v[0] <= v[1]", "and 1 <= v[0] < v[1]"),
       ("features are an array", "def is_features(v): return isinstance(v, list) and", "def is_features(v): return isinstance(v, str) or"),
       ("a feature has a name", "0 < len(f.encode()) <= 64", "len(f.encode()) <= 64"),
       ("a feature has at most 64 bytes", "0 < len(f.encode()) <= 64", "0 < len(f.encode())"),
       ("a feature may have 64 bytes", "0 < len(f.encode()) <= 64", "0 < len(f.encode()) < 64"),
       ("a feature is text", "all(is_name(f) and", "all(not is_name(f) or"),
       ("a time is not negative", "def is_time(v): return is_uint(v) and", "def is_time(v): return type(v) is int and"),
       ("a time is below 2^63", "is_uint(v) and v < 1 << 63", "is_uint(v)"),
       ("a time may be 2^63-1", "is_uint(v) and v < 1 << 63", "is_uint(v) and v < (1 << 63) - 1"),
       ("a status is a number", "def is_int(v): return type(v) is int and", "def is_int(v): return not type(v) is int or"),
       ("a status is not above 2^63-1", "-1 << 63 <= v < 1 << 63", "-1 << 63 <= v"),
       ("a status may be negative", "-1 << 63 <= v < 1 << 63", "0 <= v < 1 << 63"),
       ("a limit is above 0", "is_pid(v) and v > 0", "is_pid(v)"),
       ("a limit is below 2^31", "is_pid(v) and v > 0", "is_uint(v) and v > 0"),
       ("an optional field may be absent", 'else name[-1] == "?"', "else False"),
       *((f"{name} is not optional", f'"{name}": {rule}', f'"{name}?": {rule}') for name, rule in (
           ("id", 'is_id, "name"'), ("name", "is_name, \"pid\""), ("pid", 'is_pid, "nonce"'), ("nonce", 'is_nonce, "features?"'),
           ("version", "is_uint"), ("auth", "is_text"), ("phase", "is_text"), ("code", "is_text"), ("error", "is_text"), ("status", "is_int"))),
       ("versions are not optional", 'GREET = {"versions"', 'GREET = {"versions?"'),
       ("an error is text", '"error": is_text', '"error": lambda v: True'),
       ("versions in failed are versions", '"versions?": is_range', '"versions?": is_text'),
       ("a reason is text", 'CANCEL = {"reason?": is_text', 'CANCEL = {"reason?": lambda v: True'),
       ("a reason of a goodbye is text", '"reason?": is_text}', '"reason?": lambda v: True}'),
       ("a grace is a time", '"grace?": is_time}', '"grace?": lambda v: True}'))

breaks("spawnwire", "the ticket",
       ("the form is 1", 'fields[0] != "1"', 'fields[0][:1] != "1"'),
       ("another form is refused", 'fields[0] != "1"', 'False'),
       ("it is split at three spaces", 'text.split(" ", 3)', 'text.split(" ")'),
       ("it is split at single spaces", 'text.split(" ", 3)', 'text.split(None, 3)'),
       ("it has four fields", "len(fields) != 4 or", "len(fields) < 3 or fields.append('uds:///x') or"),
       ("its id is an id", "not strict.is_id(fields[1])", "False"),
       ("its secret is hexadecimal", ('"[0-9a-fA-F]{64}"', "bytes.fromhex(fields[2])"), ('"[0-9a-zA-Z]{64}"', "bytes.fromhex(re.sub('[^0-9a-fA-F]', '0', fields[2]))")),
       ("its secret has 64 digits", '"[0-9a-fA-F]{64}"', '"[0-9a-fA-F]{64,}"'),
       ("its secret may have capitals", '"[0-9a-fA-F]{64}"', '"[0-9a-f]{64}"'),
       ("its address is an address", "scheme, _, pin = split(fields[3])", "scheme, pin = '', ''"),
       ("tls has a pin", 'if scheme == "tls" and not pin:', "if False:"))

breaks("wire", "MACs",
       ("a zero byte follows the label", 'label.encode() + b"\\0"', "label.encode()"),
       ("the length stands in front of each part", 'h.update(struct.pack("<I", len(part)) + part)', "h.update(part)"),
       ("lengths are little-endian", 'h.update(struct.pack("<I", len(part)) + part)', 'h.update(struct.pack(">I", len(part)) + part)'),
       ("the payload is a part", "mac(key, label, *before, sealed[0])", "sealed[1]"),
       ("earlier bodies are parts", "mac(key, label, *before, sealed[0])", "mac(key, label, sealed[0])"),
       ("all bytes are compared", "hmac.compare_digest(sealed[1],", "hmac.compare_digest(sealed[1][:31] + mac(key, label, *before, sealed[0])[31:],"),
       ("a sealed message is an array of two", "len(sealed) != 2 or", ""),
       ("payload and MAC are bytes", "not all(isinstance(part, bytes) for part in sealed) or", ""),
       ("a MAC has 32 bytes", " or len(sealed[1]) != 32", ""),
       ("a sealed message is strict", "sealed = decode(body, list)", "sealed = cbor2.loads(body)\n    sealed = sealed.value if isinstance(sealed, cbor2.CBORTag) else sealed"))
breaks("spawnwire", "MACs",
       ("the welcome has its label", '"spawnwire welcome"', '"spawnwire hello"'),
       ("the spec has its label", '"spawnwire spec"', '"spawnwire welcome"'),
       ("the spec covers hello and welcome", "self.expect(SPEC), hello, welcome)", "self.expect(SPEC), welcome, hello)"),
       ("the session key has its label", '"spawnwire session"', '"spawnwire attach"'),
       ("the session key covers hello and welcome", '"spawnwire session", hello, welcome', '"spawnwire session", hello'),
       ("the MAC is checked before the payload is decoded", "m = decode_map(unseal(", "m = decode_map(decode(welcome, list)[0], strict.WELCOME) and decode_map(unseal("))

breaks("strict", "the spec",
       ("v is 1", "is_uint(v) and v == 1", "is_uint(v)"),
       ("v is there", '"v": lambda', '"v?": lambda'),
       ("args may have tags", "    if major in (2, 3):\n        return content(data, 2", "    if major == 6:\n        raise ProtocolError('tag')\n    if major in (2, 3):\n        return content(data, 2"),
       ("args have other limits", 'values[key] = data[start:at]', 'values[key] = item(data, start)'),
       ("a map in args has pairs", "5: 2 * n", "5: n"),
       ("bytes in args need not be UTF-8", "content(data, 2, n, at)", "content(data, 3, n, at)"))

breaks("spawnwire", "a child",
       ("the version is one that it offered", "if not VERSIONS[0] <= m[\"version\"] <= VERSIONS[1]:", "if False:"),
       ("version 0 is not one", "if not VERSIONS[0] <= m[\"version\"] <= VERSIONS[1]:", "if m[\"version\"] > VERSIONS[1]:"),
       ("a bad spec is answered", "self.fail(failed)\n            raise failed from None", "raise failed from None"),
       ("the code is bad-spec", 'Failed("spec", "bad-spec"', 'Failed("spec", "error"'),
       ("a spec with a wrong MAC is not answered", "        spec = unseal(secret, \"spawnwire spec\"", "        spec = strict.skip and unseal_or_fail(self, secret, \"spawnwire spec\""),
       ("a feature is used when both have it", '"control" in m.get("features", ())', "False"))
# It stands in for unseal in one mutation.
SOURCES["spawnwire"] += '''

def unseal_or_fail(channel, *args):
    try:
        return unseal(*args)
    except ProtocolError:
        channel.fail(Failed("spec", code="bad-spec", error=""))
        raise
'''

breaks("wire", "a handshake",
       ("failed ends it", "        if kind == FAILED:\n", "        if False:\n"),
       ("failed is read strictly", "m = decode_map(body, strict.FAILED)", "m = {'phase': '', 'code': '', 'error': ''}"),
       ("cancel in place of a spec is no failure", "if kind == CANCEL and want == SPEC:", "if False:"),
       ("cancel has a place there only", "if kind == CANCEL and want == SPEC:", "if kind == CANCEL:"),
       ("a cancel that cannot be read counts there", "raise Cancelled(\"the parent has no spec", "decode_map(body, strict.CANCEL)\n            raise Cancelled(\"the parent has no spec"),
       ("other kinds are out of place", "        if kind != want:\n", "        if kind in (MESSAGE, RAW, PING, PONG, GOODBYE):\n            return self.expect(want)\n        if kind != want:\n"),
       ("other kinds of a handshake are out of place", "        if kind != want:\n", "        if kind in (HELLO, READY, GREET, PROOF, ATTACH) and kind != want:\n            return self.expect(want)\n        if kind != want:\n"))

breaks("wire", "an open connection",
       ("a ping is answered", "self.write(PONG, body)", "pass"),
       ("the pong has the same bytes", "self.write(PONG, body)", "self.write(PONG, body[:8])"),
       ("a ping has at most 64 bytes", "len(body) <= 64", "True"),
       ("a ping may have 64 bytes", "len(body) <= 64", "len(body) < 64"),
       ("a pong is ignored", "elif kind != PONG:", "else:"),
       ("a cancel is read strictly", "decode_map(body, strict.CANCEL).get(\"reason\", \"\")", "''"),
       ("a goodbye is read strictly", "decode_map(body, strict.GOODBYE).get(\"reason\", \"\")", "''"),
       ("other kinds are out of place", "elif kind != PONG:", "elif kind == HELLO:"),
       ("failed is out of place", "elif kind != PONG:", "elif kind not in (PONG, FAILED):"),
       ("a message may be any item", "return cbor2.loads(body)", "return decode(body, object)"),
       ("raw bytes are a message", "            if kind == RAW:\n", "            if False:\n"))

breaks("spawnwire", "the control connection",
       ("the answer has the right label", '"spawnwire attached"', '"spawnwire attach"'),
       ("the answer covers attach", "control.expect(ATTACHED), attach)", "control.expect(ATTACHED))"),
       ("what cannot be read counts too", "kind, body = control.read()", "kind, body = control.read()\n            decode(body)"),
       ("a ping is answered", "control.write(PONG, body)", "pass"),
       ("a ping has at most 64 bytes", "if kind == PING and len(body) <= 64:", "if kind == PING:"),
       ("cancel stops it", "if kind not in (CANCEL, GOODBYE):", "if kind != GOODBYE:"),
       ("goodbye ends it", "if kind not in (CANCEL, GOODBYE):", "if kind != CANCEL:"),
       ("other kinds are out of place", "if kind not in (CANCEL, GOODBYE):", "if kind == HELLO:"))

breaks("spawnwire", "peers",
       ("the form comes first", "greet = decode_map(theirs, strict.GREET)", "greet = decode(theirs)\n        if greet['versions'][0] > ours['versions'][1]:\n            raise Failed('auth', 'version', '', versions=ours['versions'])\n        greet = decode_map(theirs, strict.GREET)"),
       ("the other has another id", 'greet["id"] == ours["id"] or ', ""),
       ("auth is the same", ' or greet["auth"] != ours["auth"]', ""),
       ("own-id comes before version", 'if greet["id"] == ours["id"] or greet["auth"]', 'if greet["versions"][0] <= 1 and greet["id"] == ours["id"] or greet["auth"]'),
       ("auth comes before version", 'or greet["auth"] != ours["auth"]', 'or greet["versions"][0] <= 1 and greet["auth"] != ours["auth"]'),
       ("a version is common", 'if greet["versions"][0] > ours["versions"][1] or', "if"),
       ("no common version is answered with version", 'raise Failed("auth", "version", "no common protocol version", versions', 'raise Failed("auth", "refused", "no common protocol version", versions'),
       ("other faults are answered with refused", 'channel.fail(Failed("auth", "refused", "not accepted"))', "pass"),
       ("failed is not answered", 'if "versions" in failed.body:', "if True:"),
       ("the dialer's greet comes first", "greets = (mine, theirs) if dialer else (theirs, mine)", "greets = (mine, theirs)"),
       ("each proof has its label", 'proofs[0 if dialer else 1]', 'proofs[1 if dialer else 0]'),
       ("the other's proof has the other label", 'proofs[1 if dialer else 0]', 'proofs[0 if dialer else 1]'),
       ("a proof is compared whole", 'decode(channel.expect(PROOF), bytes), proofs', 'decode(channel.expect(PROOF), bytes)[:32], proofs'),
       ("a short proof is wrong", "if not hmac.compare_digest(decode(channel.expect(PROOF), bytes), proofs[1 if dialer else 0]):", "if not proofs[1 if dialer else 0].startswith(decode(channel.expect(PROOF), bytes)):"),
       ("a proof is bytes", "decode(channel.expect(PROOF), bytes)", "decode(channel.expect(PROOF), object)"))


def run(mutation=None, failfast=True):
    """Runs the vectors with a mutation. Returns the names of those that fail, or only of the first."""
    sources = dict(SOURCES)
    if mutation:
        part, rule, module, pairs = mutation
        for old, new in pairs:
            if sources[module].count(old) != 1:
                raise ValueError(f"{part}: {rule}: {old!r} stands {sources[module].count(old)} times in {module}.py")
            sources[module] = sources[module].replace(old, new)
    for name in MODULES:
        module = sys.modules[name] = types.ModuleType(name)
        module.__file__ = str(HERE / f"{name}.py")
        exec(compile(sources[name], module.__file__, "exec"), module.__dict__)
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["test_vectors"])
    result = unittest.TextTestRunner(stream=io.StringIO(), failfast=failfast).run(suite)
    return [vector(test) for test, _ in result.failures + result.errors]


def vector(test):
    """Returns the name of a vector, or of a test that is one vector."""
    return f"{test.test_case._testMethodName[5:]}: {test._subDescription()}" if hasattr(test, "test_case") else test._testMethodName[5:]


if __name__ == "__main__":
    verbose, only = sys.argv[1:2] == ["-v"], " ".join(sys.argv[2:])
    if failed := run():
        sys.exit(f"a vector fails without a mutation: {failed[0]}")
    chosen, missed = [m for m in MUTATIONS if only in f"{m[0]}: {m[1]}"], 0
    with multiprocessing.Pool() as pool:
        for (part, rule, *_), caught in zip(chosen, pool.imap(functools.partial(run, failfast=not verbose), chosen)):
            missed += not caught
            if verbose or not caught:
                print(f"{part}: {rule}: {len(caught) or 'NOT CAUGHT'}", *caught[:3], sep="\n    ", flush=True)
    print(f"{len(chosen)} mutations, {missed} of them not caught")
    sys.exit(1 if missed else 0)

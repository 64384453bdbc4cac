#!/usr/bin/env python3
"""The shortest child of docs/PROTOCOL.md, section 13.1, with the standard library alone. It sends each message back."""
import contextlib, hashlib, hmac, os, re, secrets, socket, ssl, struct, sys, time

def decode(data):
    """Decodes one CBOR item. It is not strict, because only this child's own parent has sent it (2.4)."""
    def item(at):
        major, n, at = data[at] >> 5, data[at] & 31, at + 1
        if n > 23:
            n, at = int.from_bytes(data[at:at + (1 << n - 24)], "big"), at + (1 << n - 24)
        if major in (2, 3):
            return (data[at:at + n] if major == 2 else str(data[at:at + n], "utf-8")), at + n
        if major in (0, 1, 7):
            return (n, -1 - n)[major] if major < 7 else None, at  # false, null and floats are not used here
        values = []
        for _ in range({4: n, 5: 2 * n, 6: 1}[major]):
            value, at = item(at)
            values.append(value)
        return {str(key): value for key, value in zip(values[::2], values[1::2])} if major == 5 else values, at
    return item(0)[0]

def tail(head, s):
    return head + bytes([len(s)]) + s

def mac(key, label, *parts):
    return hmac.digest(key, label + b"\0" + b"".join(struct.pack("<I", len(p)) + p for p in parts), "sha256")

def unseal(key, label, body, *before):
    payload, proof = decode(body)
    if not hmac.compare_digest(proof, mac(key, label, *before, payload)):
        raise ValueError("the parent does not know the secret")
    return payload

def dial(address):
    if address.startswith("uds://"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(re.sub("^@", "\0", address[6:]))
        return sock
    host, port, pin = re.fullmatch(r"(?:tcp|tls(?=.*#))://\[?(.+?)\]?:(\d+)(?:#(.{64}))?", address).groups()
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if pin:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode, tls.minimum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_3
        tls.set_alpn_protocols(["spawnwire/1"])
        sock = tls.wrap_socket(sock)
        if hashlib.sha256(sock.getpeercert(True)).hexdigest() != pin.lower() or not sock.selected_alpn_protocol():
            raise ValueError("another certificate or protocol")
    return sock

def take(sock, n):
    data = bytearray()
    while len(data) < n:
        data += sock.recv(min(n - len(data), 65536)) or sys.exit(1)  # the parent is gone, and nobody reads stderr
    return bytes(data)

def read(sock, limit, skippable=1 << 63):
    skipped, kind = 0, 0x80
    while kind >= 0x80:
        n, kind = struct.unpack("<IB", take(sock, 5))
        skipped += n if kind >= 0x80 else 0
        if not 1 <= n <= limit or kind < 0x80 and kind not in (1, 2, *range(0x10, 0x19), *range(0x20, 0x26)) or skipped > skippable:
            raise ValueError(f"a frame of kind {kind:#04x} and {n} bytes")
        body = take(sock, n - 1)
    return kind, body

def send(sock, kind, body):
    sock.sendall(struct.pack("<IB", 1 + len(body), kind) + body)

def close(sock):
    with contextlib.suppress(OSError, ValueError):  # the second is over, or the parent is gone
        socket.socket.shutdown(sock, socket.SHUT_WR)  # under TLS only that of TCP
        end = time.monotonic() + 1
        while sock.family != socket.AF_UNIX and not sock.settimeout(end - time.monotonic()) and socket.socket.recv(sock, 65536):
            pass

def main():
    ticket = re.fullmatch("1 ([!-~]{1,64}) ([0-9a-fA-F]{64}) (.+)", os.environ.pop("SPAWNWIRE_TICKET", ""), re.S)
    id, key, sock = ticket[1], bytes.fromhex(ticket[2]), dial(ticket[3])
    payload = tail(b"\xa5\x68versions\x82\x01\x01\x62id\x78", id.encode()) + b"\x64name\x68shortest\x63pid\x1a" + struct.pack(
        ">I", os.getpid()) + tail(b"\x65nonce\x58", secrets.token_bytes(32))
    hello = b"\x82" + tail(b"\x58", payload) + tail(b"\x58", mac(key, b"spawnwire hello", payload))
    send(sock, 0x10, hello)
    kind, welcome = read(sock, 65536, 65536)
    if kind != 0x11:
        raise ValueError("not accepted: " + ascii(decode(welcome)["error"] if kind == 0x14 else kind))
    if (fields := decode(unseal(key, b"spawnwire welcome", welcome, hello)))["version"] != 1:
        raise ValueError("another version")
    kind, body = read(sock, limit := fields.get("limit", 16 << 20))
    if kind == 0x20:
        return  # this child was kept in reserve
    payload = unseal(key, b"spawnwire spec", body if kind == 0x12 else b"", hello, welcome)
    try:
        spec = decode(payload)
        code = "bad-spec" if spec["v"] != 1 else "unknown-entry" if spec.get("entry", "echo") != "echo" else ""
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        code = "bad-spec"
    if code:
        send(sock, 0x14, tail(b"\xa3\x65phase\x64spec\x64code\x78", code.encode()) + tail(b"\x65error\x78", code.encode()))
        close(sock)
        sys.exit(code)
    send(sock, 0x13, b"\xa0")
    while True:
        kind, body = read(sock, limit)
        if kind in (1, 2):
            send(sock, kind, body)
        elif kind in (0x20, 0x21):
            if kind == 0x20:
                send(sock, 0x21, b"\xa1\x66status\x00")
            return close(sock)
        elif kind == 0x22 and len(body) <= 64:
            send(sock, 0x23, body)
        elif kind != 0x23:
            raise ValueError(f"a frame of kind {kind:#04x}, which has no place here")

if __name__ == "__main__":
    try:
        main()
    except Exception as e:
        sys.exit(f"shortest.py: {e or repr(e)}")

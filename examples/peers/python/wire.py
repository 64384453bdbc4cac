"""MACs, addresses and frames: sections 2, 4.1 and 5 of docs/PROTOCOL.md."""
import contextlib, hashlib, hmac, socket, ssl, struct, threading, time
import cbor2
import strict
from strict import ProtocolError, decode, decode_map, split

MESSAGE, RAW, CALL = 0x01, 0x02, 0x03
HELLO, WELCOME, SPEC, READY, FAILED, GREET, PROOF, ATTACH, ATTACHED = range(0x10, 0x19)
CANCEL, GOODBYE, PING, PONG, INSPECT, INSPECTED = range(0x20, 0x26)
KINDS = {MESSAGE, RAW, CALL, *range(0x10, 0x19), *range(0x20, 0x26)}
BEFORE, AFTER = 65536, 16 << 20  # the frame limit before authentication and after (2.2)


class Gone(Exception): "The stream has ended without a goodbye: the other side has crashed, or the connection was cut."
class Goodbye(Exception): "The other side has closed the connection with a goodbye."
class Cancelled(Exception): "The parent asks this child to stop."
class BadMAC(ProtocolError): "The other side does not know the secret."
class Raw(bytes): "A message of plain bytes, without CBOR."


class Failed(Exception):
    """A failed frame of this or the other side (4.5)."""

    def __init__(self, phase, code, error, **more):
        super().__init__(error)
        self.body = {"phase": phase, "code": code, "error": error[:1000], **more}


# --- 4.1: MACs and sealed messages ---

def mac(key, label, *parts):
    h = hmac.new(key, label.encode() + b"\0", hashlib.sha256)
    for part in parts:
        h.update(struct.pack("<I", len(part)) + part)
    return h.digest()


def seal(key, label, payload, *before):
    return cbor2.dumps([payload, mac(key, label, *before, payload)])


def unseal(key, label, body, *before):
    """Checks the MAC and returns the payload. It does not parse the payload, so that only authentic ones are parsed."""
    sealed = decode(body, list)
    if len(sealed) != 2 or not all(isinstance(part, bytes) for part in sealed) or len(sealed[1]) != 32:
        raise ProtocolError("not a sealed message")
    if not hmac.compare_digest(sealed[1], mac(key, label, *before, sealed[0])):
        raise BadMAC("the MAC is wrong: the other side does not know the secret")
    return sealed[0]


# --- 2.1, 2.5: addresses ---

def dial(address):
    scheme, target, pin = split(address)
    if scheme == "tls" and not pin:
        raise ValueError("these programs accept only a certificate that the address names")
    if scheme == "uds":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(target)
        return sock
    sock = socket.create_connection(target)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if scheme == "tls":  # only the fingerprint from the ticket identifies the server
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode, tls.minimum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_3
        tls.set_alpn_protocols(["spawnwire/1"])
        sock = tls.wrap_socket(sock)
        found = hashlib.sha256(sock.getpeercert(binary_form=True)).digest()
        if not hmac.compare_digest(found, bytes.fromhex(pin)) or sock.selected_alpn_protocol() != "spawnwire/1":
            raise ssl.SSLError("the server's certificate or protocol is not the expected one")
    return sock


# --- 2.2 and 5: a connection ---

class Channel:
    """Frames over a socket. One thread receives; every thread may send."""

    def __init__(self, sock):
        self.sock, self.sending = sock, threading.Lock()
        self.limit = self.skippable = BEFORE
        self.deadline, self.closing = None, False
        self.calls = None  # gets the call frames; see calls.py

    def take(self, n):
        """Reads n bytes. It allocates memory only for bytes that have arrived."""
        data = bytearray()
        while len(data) < n:
            if self.deadline:
                self.sock.settimeout(max(0.001, self.deadline - time.monotonic()))
            try:
                piece = self.sock.recv(min(n - len(data), 65536))
            except ConnectionError:
                piece = b""
            if not piece:
                raise Gone("the other side is gone")
            data += piece
        return bytes(data)

    def read(self):
        """Returns the kind and body of the next frame. It skips extensions (2.3)."""
        skipped = 0
        while True:
            n, kind = struct.unpack("<IB", self.take(5))
            if not 1 <= n <= self.limit:
                raise ProtocolError(f"a frame of {n} bytes; the limit is {self.limit}")
            if kind >= 0x80:
                skipped += n
                if self.skippable and skipped > self.skippable:
                    raise ProtocolError("too many frames in a row that nobody knows")
            elif kind not in KINDS:
                raise ProtocolError(f"a frame of kind {kind:#04x}, which nobody knows")
            body = self.take(n - 1)
            if kind < 0x80:
                return kind, body

    def write(self, kind, body):
        if len(body) >= self.limit:
            raise ValueError(f"a frame of {len(body) + 1} bytes; the limit is {self.limit}")
        try:
            with self.sending:
                self.sock.sendall(struct.pack("<IB", len(body) + 1, kind) + body)
        except ConnectionError as e:
            raise Gone(f"the other side is gone: {e}") from None

    def expect(self, want):
        """Reads the frame that must come next in a handshake. It raises Failed if the other side has failed instead."""
        kind, body = self.read()
        if kind == FAILED:
            m = decode_map(body, strict.FAILED)
            raise Failed(m["phase"], m["code"], "the other side gave up: " + m["error"])
        if kind == CANCEL and want == SPEC:
            raise Cancelled("the parent has no spec for this child")  # this child was a spare
        if kind != want:
            raise ProtocolError(f"a frame of kind {kind:#04x} where {want:#04x} should be")
        return body

    def fail(self, failed):
        """Sends the reason of a failure, if the other side still reads, and closes the connection."""
        try:
            self.write(FAILED, cbor2.dumps(failed.body))
        except (Gone, OSError):
            pass
        self.close(1)

    def send(self, message):
        """Sends a message: Raw as plain bytes, everything else as CBOR."""
        self.write(*((RAW, message) if isinstance(message, Raw) else (MESSAGE, cbor2.dumps(message))))

    def wait(self):
        """Waits for input. Parent overrides it to wait for a stop request as well."""

    def recv(self):
        """Returns the next message. Until it comes, recv handles other frames as in section 5."""
        while True:
            self.wait()
            kind, body = self.read()
            if kind == MESSAGE:
                return cbor2.loads(body)
            if kind == RAW:
                return Raw(body)
            if kind == CALL and self.calls:
                self.calls.receive(body)
            elif kind == PING and len(body) <= 64:
                self.write(PONG, body)
            elif kind == CANCEL:
                raise Cancelled(decode_map(body, strict.CANCEL).get("reason", ""))
            elif kind == GOODBYE:
                self.let_go()  # the other side waits for it
                raise Goodbye(decode_map(body, strict.GOODBYE).get("reason", ""))
            elif kind != PONG:
                raise ProtocolError(f"a frame of kind {kind:#04x}, which has no place here")

    def close(self, status=0, reason=""):
        """Sends a goodbye and waits, up to a second, until the other side has read it (5.4)."""
        self.closing, deadline = True, time.monotonic() + 1
        try:
            self.sock.settimeout(1)
            self.write(GOODBYE, cbor2.dumps({"status": status, "reason": reason[:1000]}))
            self.let_go()
            while self.sock.family != socket.AF_UNIX:
                self.sock.settimeout(max(0.001, deadline - time.monotonic()))
                if not socket.socket.recv(self.sock, 65536):
                    break
        except (Gone, OSError):
            pass  # the other side has gone or does not read; nothing else helps
        self.sock.close()

    def let_go(self):
        """Ends the sending direction. Under TLS it ends that of TCP."""
        with contextlib.suppress(OSError):  # the connection has ended
            socket.socket.shutdown(self.sock, socket.SHUT_WR)

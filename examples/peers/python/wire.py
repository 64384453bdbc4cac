"""MACs, addresses and frames: sections 2, 4.1 and 5 of docs/PROTOCOL.md."""
import fcntl, hashlib, hmac, socket, ssl, struct, termios, threading, time
import cbor2
import strict
from strict import ProtocolError, decode, decode_map, split

MESSAGE, RAW = 0x01, 0x02
HELLO, WELCOME, SPEC, READY, FAILED, GREET, PROOF, ATTACH = range(0x10, 0x18)
CANCEL, GOODBYE, PING, PONG = range(0x20, 0x24)
KINDS = {MESSAGE, RAW, *range(0x10, 0x18), *range(0x20, 0x24)}
BEFORE, AFTER = 65536, 16 << 20  # the largest n of a frame before the other side is known, and after (2.2)


class Gone(Exception): "The stream ended without a goodbye: the other side has crashed, or was cut off."
class Goodbye(Exception): "The other side has closed in order."
class Cancelled(Exception): "The parent asks this child to stop."
class BadMAC(ProtocolError): "The other side does not know the secret."
class Raw(bytes): "A message that is bytes of the programs' own, and not CBOR."


class Failed(Exception):
    """The words with which one side, this or the other, gives up (4.5)."""

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
    """Returns the payload, of which nothing was looked at before its MAC was found good."""
    sealed = decode(body, list)
    if len(sealed) != 2 or not all(isinstance(part, bytes) for part in sealed) or len(sealed[1]) != 32:
        raise ProtocolError("not a sealed message")
    if not hmac.compare_digest(sealed[1], mac(key, label, *before, sealed[0])):
        raise BadMAC("the MAC is wrong: the other side does not know the secret")
    return sealed[0]


# --- 2.1, 2.5: addresses ---

def dial(address):
    scheme, target, pin = split(address)
    if scheme == "uds":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(target)
        return sock
    sock = socket.create_connection(target)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if scheme == "tls":  # who the server is, is told by the fingerprint alone, as the ticket has it
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
    """Frames over a socket. One thread receives; any may send."""

    def __init__(self, sock):
        self.sock, self.sending = sock, threading.Lock()
        self.limit = self.skippable = BEFORE
        self.deadline, self.closing = None, False

    def take(self, n):
        """Reads n bytes, and takes memory only for those that have come."""
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
        """Returns the next frame's kind and body; skips extensions (2.3)."""
        skipped = 0
        while True:
            n, = struct.unpack("<I", self.take(4))
            if not 1 <= n <= self.limit:
                raise ProtocolError(f"a frame of {n} bytes; the limit is {self.limit}")
            frame = self.take(n)
            if frame[0] in KINDS:
                return frame[0], frame[1:]
            skipped += n
            if frame[0] < 0x80 or self.skippable and skipped > self.skippable:
                raise ProtocolError(f"a frame of kind {frame[0]:#04x}, which nobody knows")

    def write(self, kind, body):
        if len(body) >= self.limit:
            raise ValueError(f"a frame of {len(body) + 1} bytes; the limit is {self.limit}")
        try:
            with self.sending:
                self.sock.sendall(struct.pack("<IB", len(body) + 1, kind) + body)
        except ConnectionError as e:
            raise Gone(f"the other side is gone: {e}") from None

    def expect(self, want):
        """Reads the one frame that has a place here in a handshake, or the other side's reasons to give up."""
        kind, body = self.read()
        if kind == FAILED:
            m = decode_map(body, strict.FAILED)
            raise Failed(m["phase"], m["code"], "the other side gave up: " + m["error"])
        if kind == CANCEL and want == SPEC:
            raise Cancelled("the parent has no orders")  # it kept this child in reserve
        if kind != want:
            raise ProtocolError(f"a frame of kind {kind:#04x} where {want:#04x} should be")
        return body

    def fail(self, failed):
        """Tells the other side why this one gives up, if it still listens."""
        try:
            self.write(FAILED, cbor2.dumps(failed.body))
        except (Gone, OSError):
            pass
        self.close(1)

    def send(self, message):
        """Sends a message: Raw bytes as they are, anything else as CBOR."""
        self.write(*((RAW, message) if isinstance(message, Raw) else (MESSAGE, cbor2.dumps(message))))

    def wait(self):
        """Waits for input, where there is something else to wait for too."""

    def recv(self):
        """Returns the next message, and meanwhile does what section 5 asks for."""
        while True:
            self.wait()
            kind, body = self.read()
            if kind == MESSAGE:
                return cbor2.loads(body)
            if kind == RAW:
                return Raw(body)
            if kind == PING and len(body) <= 64:
                self.write(PONG, body)
            elif kind == CANCEL:
                raise Cancelled(decode_map(body, strict.CANCEL).get("reason", ""))
            elif kind == GOODBYE:
                raise Goodbye(decode_map(body, strict.GOODBYE).get("reason", ""))
            elif kind != PONG:
                raise ProtocolError(f"a frame of kind {kind:#04x}, which has no place here")

    def close(self, status=0, reason=""):
        """Says goodbye and waits a second at most until the other side has everything (5.1)."""
        self.closing, deadline = True, time.monotonic() + 1
        try:
            self.sock.settimeout(1)
            self.write(GOODBYE, cbor2.dumps({"status": status, "reason": reason[:1000]}))
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
            self.sock.settimeout(0.01)
            while self.sock.family != socket.AF_UNIX and time.monotonic() < deadline:
                try:
                    if not socket.socket.recv(self.sock, 65536):
                        break
                except TimeoutError:  # nothing to drop: is anything not delivered (tcp(7), SIOCOUTQ)?
                    if fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)) == bytes(4):
                        break
        except (Gone, OSError):
            pass  # gone, or it does not read: there is no more to do for it
        self.sock.close()

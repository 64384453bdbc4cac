"""The handshakes of the Spawnwire protocol, version 1, in Python.

The numbers in comments are sections of docs/PROTOCOL.md. A child of a Spawnwire parent calls main() with its entries;
see child.py. Two programs that share a key both call peer() with their end of a connection; see peer.py. It needs
Python 3.10 and cbor2 (on Debian python3-cbor2).
"""
import hmac, os, re, secrets, select, selectors, socket, ssl, sys, threading, time, traceback
import cbor2
import strict
from strict import ProtocolError, decode, decode_map, decode_spec
from wire import (ATTACH, ATTACHED, CANCEL, FAILED, GOODBYE, GREET, HELLO, PING, PONG, PROOF, READY, SPEC, WELCOME, AFTER,
                  BadMAC, Cancelled, Channel, Failed, Gone, Goodbye, Raw, dial, mac, seal, split, unseal)

INIT = time.monotonic_ns()
VERSIONS = [1, 1]


# --- 3 and 4: a child ---

def take_ticket(text):
    if not text:
        raise ValueError("SPAWNWIRE_TICKET is not set: this process was not spawned, or a program such as sudo or env -i has removed it")
    fields = text.split(" ", 3)
    if len(fields) != 4 or fields[0] != "1" or not strict.is_id(fields[1]) or not re.fullmatch("[0-9a-fA-F]{64}", fields[2]):
        raise ValueError("SPAWNWIRE_TICKET is not a ticket of version 1")
    scheme, _, pin = split(fields[3])
    if scheme == "tls" and not pin:
        raise ValueError("the ticket names no certificate: tls://host:port#<64 hex> (2.5)")
    return fields[1], bytes.fromhex(fields[2]), fields[3]


class Parent(Channel):
    """The connection of a child to its authenticated parent. spec is the spec of the child."""

    def __init__(self, sock, secret, hello):
        """Sends the hello. Returns when the parent has proved that it knows the secret and has sent a valid spec."""
        super().__init__(sock)
        self.cancelled = None
        self.write(HELLO, hello)
        welcome = self.expect(WELCOME)
        m = decode_map(unseal(secret, "spawnwire welcome", welcome, hello), strict.WELCOME)
        if not VERSIONS[0] <= m["version"] <= VERSIONS[1]:
            raise ProtocolError(f"the parent has chosen version {m['version']}, which was not offered")
        self.limit = m.get("limit", AFTER)
        self.session = mac(secret, "spawnwire session", hello, welcome) if "control" in m.get("features", ()) else None
        spec = unseal(secret, "spawnwire spec", self.expect(SPEC), hello, welcome)
        try:
            self.spec = decode_spec(spec)
        except ProtocolError as e:
            failed = Failed("spec", "bad-spec", str(e))
            self.fail(failed)
            raise failed from None

    @classmethod
    def join(cls, name):
        """Joins the parent that started this process."""
        timings = {"init": INIT, "main": time.monotonic_ns()}
        ticket = os.environ.pop("SPAWNWIRE_TICKET", "")  # removed, so that child processes do not inherit it
        if ticket.startswith("file:"):
            with open(ticket.removeprefix("file:")) as f:
                ticket = f.read().removesuffix("\n")
        id, secret, address = take_ticket(ticket)
        sock = dial(address)
        timings["connected"] = time.monotonic_ns()
        parent = cls(sock, secret, seal(secret, "spawnwire hello", cbor2.dumps({
            "versions": VERSIONS, "id": id, "name": name, "pid": os.getpid(), "nonce": secrets.token_bytes(32),
            "features": ["control"]})))
        timings["accepted"] = time.monotonic_ns()
        parent.timings, parent.id, parent.address = timings, id, address
        return parent

    def file(self, name):
        """Returns the descriptor of a file in the parent's Command.Files. Programs of this process do not inherit it."""
        files = dict(entry.split("=") for entry in os.environ.get("SPAWNWIRE_FILES", "").split(",") if entry)
        os.set_inheritable(int(files[name]), False)
        return int(files[name])

    def ready(self, value=None):
        """Says that the child is ready. The parent's program gets the value, unless it is None."""
        extra = {} if value is None else {"value": cbor2.dumps(value)}
        self.write(READY, cbor2.dumps({"timings": self.timings, **extra}))
        self.skippable = None
        self.wake, woken = socket.socketpair()
        self.input = selectors.DefaultSelector()
        self.input.register(self.sock, selectors.EVENT_READ)
        self.input.register(woken, selectors.EVENT_READ)
        if self.session:
            threading.Thread(target=self.watch, daemon=True).start()

    def wait(self):
        if not (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()):
            self.input.select()
        if self.cancelled:
            raise self.cancelled

    def watch(self):
        """Runs in a thread, so that a busy child can be stopped and notices the end of its parent."""
        try:
            control = self.attach(dial(self.address))
        except (OSError, Gone, Failed, ProtocolError):  # go on without it: wait for the end of the first connection
            poll = select.poll()
            poll.register(self.sock, select.POLLRDHUP)  # Linux
            poll.poll()
            time.sleep(0.25)  # recv may read a goodbye first
        else:
            try:
                self.obey(control)
            except (OSError, Gone, ProtocolError):
                pass
        if not self.closing:  # the parent has died, so nobody reads stderr
            os._exit(1)  # ends the process even if the entry is busy

    def attach(self, sock):
        """Makes the control connection (5.3). Returns when the parent has accepted it."""
        control = Channel(sock)
        attach = seal(self.session, "spawnwire attach", cbor2.dumps({"id": self.id, "nonce": secrets.token_bytes(32)}))
        control.write(ATTACH, attach)
        self.attached(control, attach)
        return control

    def attached(self, control, attach):
        decode_map(unseal(self.session, "spawnwire attached", control.expect(ATTACHED), attach), {})

    def obey(self, control):
        """Follows the parent on the control connection. It never returns; it raises an error when the connection ends."""
        while True:
            kind, body = control.read()
            if kind == PING and len(body) <= 64:
                control.write(PONG, body)
                continue
            if kind not in (CANCEL, GOODBYE):
                raise ProtocolError(f"a frame of kind {kind:#04x} on the control connection")
            self.cancelled = Cancelled("the parent asks for it")
            self.wake.send(b"!")  # ends wait


def main(entries, name="python"):
    """Runs a child from start to exit (4.6). An entry is a function of the arguments in the spec. It returns a function of
    the Parent, which runs when the child has become ready, or that function and a value for the parent's program, which goes
    with the ready. If the entry raises an error, the child does not become ready."""
    try:
        parent = Parent.join(name)
    except Cancelled:
        sys.exit(0)  # an unused spare
    except (Gone, Failed, ProtocolError, OSError, ValueError) as e:
        sys.exit(f"cannot join the parent: {e}")
    entry = parent.spec.get("entry", "")
    try:
        if entry not in entries:
            raise Failed("spec", "unknown-entry", f"no entry {entry!r}; there are {', '.join(entries)}")
        try:
            args = parent.spec.get("args")
            run = entries[entry](None if args is None else cbor2.loads(args))
            run, value = run if isinstance(run, tuple) else (run, None)
        except Exception as e:
            raise Failed("ready", "error", str(e) or repr(e)) from e
    except Failed as failed:
        parent.fail(failed)
        sys.exit(str(failed))
    status, reason = 0, ""
    try:
        parent.ready(value)
        run(parent)
    except (Cancelled, Goodbye):
        pass
    except (Gone, ProtocolError) as e:
        sys.exit(f"lost the parent: {e}")
    except Exception as e:
        traceback.print_exc()
        status, reason = 1, str(e) or repr(e)
    parent.close(status, reason)
    sys.exit(status)


# --- 6: peers ---

def peer(sock, key, dialer, id=None, name="python"):
    """Makes the handshake with a peer that has the same key. Returns the Channel and the peer's greet. A program that both
    dials and accepts passes the same id each time."""
    if len(key) < 16:
        raise ValueError("a key has at least 16 bytes")
    greet = {"versions": VERSIONS, "id": id or secrets.token_hex(16), "name": name, "pid": os.getpid(),
             "nonce": secrets.token_bytes(32), "auth": "key"}
    channel = Channel(sock)
    return channel, prove(channel, key, dialer, cbor2.dumps(greet))


def prove(channel, key, dialer, mine):
    channel.deadline = time.monotonic() + 10
    ours = decode_map(mine, strict.GREET)
    try:
        channel.write(GREET, mine)
        theirs = channel.expect(GREET)
        greet = decode_map(theirs, strict.GREET)
        if greet["id"] == ours["id"] or greet["auth"] != ours["auth"]:
            raise ProtocolError("the other side has this side's own id, or another way to prove itself")
        if greet["versions"][0] > ours["versions"][1] or greet["versions"][1] < ours["versions"][0]:
            raise Failed("auth", "version", "no common protocol version", versions=ours["versions"])
        greets = (mine, theirs) if dialer else (theirs, mine)
        proofs = [mac(key, f"spawnwire proof {side}", *greets) for side in ("dialer", "acceptor")]
        channel.write(PROOF, cbor2.dumps(proofs[0 if dialer else 1]))
        if not hmac.compare_digest(decode(channel.expect(PROOF), bytes), proofs[1 if dialer else 0]):
            raise BadMAC("the other side does not know the key")
    except ProtocolError:
        channel.fail(Failed("auth", "refused", "not accepted"))
        raise
    except Failed as failed:
        if "versions" in failed.body:  # this side has raised it
            channel.fail(failed)
        raise
    channel.deadline, channel.limit, channel.skippable = None, AFTER, None
    channel.sock.settimeout(None)
    return greet

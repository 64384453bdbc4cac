"""The handshakes of the Spawnwire protocol, version 1, in Python: docs/PROTOCOL.md, whose sections the comments name.

A child that a Spawnwire parent starts calls main() with what it can be asked to run: see child.py. Two programs that
share a key call peer(), each on its end of a connection: see peer.py. Needs Python 3.10, and cbor2 (Debian: python3-cbor2).
"""
import hmac, os, re, secrets, select, selectors, socket, ssl, sys, threading, time, traceback
import cbor2
import strict
from strict import ProtocolError, decode, decode_map, decode_spec
from wire import (ATTACH, CANCEL, GOODBYE, GREET, HELLO, PROOF, READY, SPEC, WELCOME, AFTER,
                  BadMAC, Cancelled, Channel, Failed, Gone, Goodbye, Raw, dial, mac, seal, split, unseal)

INIT = time.monotonic_ns()
VERSIONS = [1, 1]


# --- 3 and 4: a child ---

class Parent(Channel):
    """A child's connection to its parent, who has proved who it is. spec has the orders."""

    def __init__(self, name):
        self.timings = {"init": INIT, "main": time.monotonic_ns()}
        ticket = os.environ.pop("SPAWNWIRE_TICKET", "").split(" ", 3)  # so that no program started from here sees it
        if len(ticket) != 4 or ticket[0] != "1" or not re.fullmatch("[0-9a-fA-F]{64}", ticket[2]):
            raise ValueError("there is no ticket of a Spawnwire parent in the environment, or a bad one")
        _, self.id, secret, self.address = ticket
        secret = bytes.fromhex(secret)
        super().__init__(dial(self.address))
        self.cancelled, (self.wake, woken) = None, socket.socketpair()
        self.input = selectors.DefaultSelector()
        self.input.register(self.sock, selectors.EVENT_READ)
        self.input.register(woken, selectors.EVENT_READ)
        self.timings["connected"] = time.monotonic_ns()
        hello = seal(secret, "spawnwire hello", cbor2.dumps({
            "versions": VERSIONS, "id": self.id, "name": name, "pid": os.getpid(), "nonce": secrets.token_bytes(32),
            "features": ["control"]}))
        self.write(HELLO, hello)
        welcome = self.expect(WELCOME)
        m = decode_map(unseal(secret, "spawnwire welcome", welcome, hello), strict.WELCOME)
        if not VERSIONS[0] <= m["version"] <= VERSIONS[1]:
            raise ProtocolError(f"the parent has chosen version {m['version']}, which was not offered")
        self.limit = AFTER
        self.session = mac(secret, "spawnwire session", hello, welcome) if "control" in m.get("features", ()) else None
        orders = unseal(secret, "spawnwire spec", self.expect(SPEC), hello, welcome)
        self.timings["accepted"] = time.monotonic_ns()
        try:
            self.spec = decode_spec(orders)
        except ProtocolError as e:
            failed = Failed("spec", "bad-spec", str(e))
            self.fail(failed)
            raise failed from None

    def ready(self):
        self.write(READY, cbor2.dumps({"timings": self.timings}))
        self.skippable = None
        if self.session:
            threading.Thread(target=self.watch, daemon=True).start()

    def wait(self):
        if not (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()):
            self.input.select()
        if self.cancelled:
            raise self.cancelled

    def watch(self):
        """How a child that is busy learns that it should stop, or that its parent is gone."""
        try:
            self.control()
        except OSError:  # it cannot be had: then the first connection shows at least its end
            poll = select.poll()
            poll.register(self.sock, select.POLLRDHUP)  # Linux
            poll.poll()
            time.sleep(0.25)  # for recv, which may find a goodbye there
        except (Gone, ProtocolError):
            pass
        if not self.closing:  # the parent is gone, and with it who reads stderr
            os._exit(1)  # the whole process, whatever the entry does

    def control(self):
        """The control connection (5.2). Returns never, but raises when it has ended."""
        control = Channel(dial(self.address))
        control.write(ATTACH, seal(self.session, "spawnwire attach",
                                   cbor2.dumps({"id": self.id, "nonce": secrets.token_bytes(32)})))
        while True:
            kind, body = control.read()
            if kind not in (CANCEL, GOODBYE):
                raise OSError("the control connection is not accepted")
            self.cancelled = Cancelled(decode_map(body).get("reason", ""))
            self.wake.send(b"!")  # ends wait


def main(entries, name="python"):
    """Is a child from its first to its last moment (4.6). An entry is a function that gets the arguments in the spec, may
    fail, and returns the function that runs with the Parent, once that knows that the child is ready."""
    try:
        parent = Parent(name)
    except (Gone, Failed, ProtocolError, OSError, ValueError) as e:
        sys.exit(f"cannot join the parent: {e}")
    entry = parent.spec.get("entry", "")
    try:
        if entry not in entries:
            raise Failed("spec", "unknown-entry", f"no entry {entry!r}; there are {', '.join(entries)}")
        try:
            run = entries[entry](parent.spec.get("args"))
        except Exception as e:
            raise Failed("ready", "error", str(e) or repr(e)) from e
    except Failed as failed:
        parent.fail(failed)
        sys.exit(str(failed))
    status, reason = 0, ""
    try:
        parent.ready()
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
    """Makes the handshake with a peer that has the same key. Returns the Channel, and who the peer says that it is."""
    if len(key) < 16:
        raise ValueError("a key has at least 16 bytes")
    channel, id = Channel(sock), id or secrets.token_hex(16)
    channel.deadline = time.monotonic() + 10
    mine = cbor2.dumps({"versions": VERSIONS, "id": id, "name": name, "pid": os.getpid(),
                        "nonce": secrets.token_bytes(32), "auth": "key"})
    try:
        channel.write(GREET, mine)
        theirs = channel.expect(GREET)
        greet = decode_map(theirs, strict.GREET)
        if greet["auth"] != "key" or greet["id"] == id:
            raise ProtocolError("the other side knows no key, or has this side's own id")
        if greet["versions"][0] > VERSIONS[1] or greet["versions"][1] < VERSIONS[0]:
            raise Failed("auth", "version", "no common protocol version", versions=VERSIONS)
        greets = (mine, theirs) if dialer else (theirs, mine)
        proofs = [mac(key, f"spawnwire proof {side}", *greets) for side in ("dialer", "acceptor")]
        channel.write(PROOF, cbor2.dumps(proofs[0 if dialer else 1]))
        if not hmac.compare_digest(decode(channel.expect(PROOF), bytes), proofs[1 if dialer else 0]):
            raise BadMAC("the other side does not know the key")
    except ProtocolError:
        channel.fail(Failed("auth", "refused", "not accepted"))
        raise
    except Failed as failed:
        if failed.body["code"] == "version": channel.fail(failed)
        raise
    channel.deadline, channel.limit, channel.skippable = None, AFTER, None
    sock.settimeout(None)
    return channel, greet

"""Calls over a channel (docs/PROTOCOL-call.md), in Python: methods with one or many requests, and one or many replies.

A program makes a Calls of its Channel, with the methods that the other side may call, and runs serve in one thread:

    calls = Calls(channel, {"echo": unary(lambda ctx, request: request), "count": stream(count)})
    calls.serve()

Each handler runs in a thread of its own. A handler or another thread makes calls with call, stream, client_stream, open
and session.
"""
import contextlib, os, queue, struct, sys, threading, time, traceback
import cbor2
import strict
from strict import ProtocolError, decode_map
from wire import CALL, Gone, Goodbye

HELLO, OPEN, STARTED, DATA, CREDIT, CANCEL, RESULT, GO_AWAY = range(1, 9)
CALLER, VALUE, MORE, END, ERROR = 1, 2, 4, 8, 16
ALLOWED = {HELLO: 0, OPEN: CALLER | VALUE | END, STARTED: VALUE, DATA: CALLER | VALUE | MORE | END,
           CREDIT: CALLER, CANCEL: CALLER, RESULT: VALUE | ERROR, GO_AWAY: 0}
OVERHEAD, PART = 32, 32768
GRACE = 10  # seconds for the result of a cancelled call

HELLO_FIELDS = {"versions": list, "calls": int, "window": int, "message": int}
CANCEL_FIELDS = {"code": str, "by?": str, "reason?": str}
ERROR_FIELDS = {"code": str, "text": str, "is?": list, "path?": list, "by?": str, "stack?": str, "errno?": int, "os?": str}
KNOWN = {FileNotFoundError: "fs.ErrNotExist", FileExistsError: "fs.ErrExist", PermissionError: "fs.ErrPermission",
         EOFError: "io.EOF", TimeoutError: "context.DeadlineExceeded"}


class CallError(Exception):
    """The error of a call. A handler may raise one to set its code."""

    def __init__(self, code, text, **more):
        super().__init__(text)
        self.code, self.matches, self.path = code, more.get("is", []), more.get("path", [])
        self.by, self.stack = more.get("by", ""), more.get("stack", "")


def unary(f):
    """A method whose handler f(ctx, request) returns the reply."""
    return lambda call: call.reply(f(call, cbor2.loads(call.take())))


def stream(f):
    """A method whose handler f(ctx, request) yields the replies."""
    def run(call):
        for reply in f(call, cbor2.loads(call.take())):
            call.send(cbor2.dumps(reply))
        call.result()
    return run


def client_stream(f):
    """A method whose handler f(ctx, requests) iterates over the requests and returns the reply."""
    return lambda call: call.reply(f(call, call.messages()))


def bidi(f):
    """A method whose handler f(ctx, requests) yields replies. For a session it first accepts the call with ctx.start."""
    def run(call):
        for reply in f(call, call.messages()):
            call.send(cbor2.dumps(reply))
        call.result()
    return run


def fields(body, wanted):
    """Decodes a map, and checks the types of the wanted fields. A field with a ? is optional."""
    m = decode_map(body, {})
    for name, kind in wanted.items():
        name, optional = name.rstrip("?"), name.endswith("?")
        if name not in m and optional:
            continue
        if not isinstance(m.get(name), kind) or isinstance(m[name], bool):
            raise ProtocolError(f"a field {name!r} that is missing or of another type")
    return m


def parse_head(body):
    """Splits a frame into operation, flags, id and the rest (2)."""
    if len(body) < 8:
        raise ProtocolError("a head that is cut")
    head = struct.unpack_from("<Q", body)[0]
    op, flags, id = head & 0xff, head >> 8 & 0xff, head >> 16
    if op >= 0x80:
        return None, flags, id, b""
    if op not in ALLOWED or flags & ~ALLOWED[op] or (id == 0) != (op in (HELLO, GO_AWAY)):
        raise ProtocolError(f"operation {op} with flags {flags:#x} and id {id}")
    if op in (OPEN, CANCEL) and not flags & CALLER or flags & MORE and not flags & VALUE or (
            flags & (MORE | END) == MORE | END or flags & (VALUE | ERROR) == VALUE | ERROR):
        raise ProtocolError(f"operation {op} with flags {flags:#x}")
    return op, flags, id, body[8:]


def parse_open(body):
    """Returns the time in seconds or None, the method, the metadata and the message of an open frame (4)."""
    try:
        left, n = struct.unpack_from("<QB", body)
        method, m = body[9:9 + n], struct.unpack_from("<H", body, 9 + n)[0]
    except struct.error:
        raise ProtocolError("an open frame that is cut") from None
    rest = body[11 + n:]
    if left >= 1 << 63 or n == 0 or m > 4096 or len(rest) < m:
        raise ProtocolError("a bad open frame")
    metadata = strict.decode(rest[:m], list) if m else []
    if len(metadata) % 2 or not all(isinstance(text, str) for text in metadata):
        raise ProtocolError("bad metadata")
    return left / 1e9 if left else None, method.decode(errors="replace"), metadata, rest[m:]


class Call:
    """A call on one of its sides. A handler uses it as its context."""

    def __init__(self, calls, id, ours):
        self.calls, self.id, self.ours = calls, id, ours
        self.flag = CALLER if ours else 0
        self.inbox = queue.SimpleQueue()  # messages, and None at the end
        self.changed = threading.Condition()  # guards what follows
        self.credit, self.sent = calls.peer["window"], 0
        self.granted, self.received, self.part = calls.window, 0, None
        self.closed = self.started = False  # the other side has sent its last message, or started
        self.over, self.error, self.deadline = False, None, None
        self.cancelled = threading.Event()

    def check(self):
        """Raises an error if the call is cancelled or its time is over."""
        if self.deadline and time.monotonic() >= self.deadline:
            raise TimeoutError("the call's deadline has passed")
        if self.cancelled.is_set():
            raise CallError("canceled", "the call was cancelled", **{"is": ["context.Canceled"]})

    def write(self, op, flags, body=b""):
        self.calls.write(op, flags | self.flag, self.id, body)

    # Sending.

    def pay(self, n, most):
        """Waits until there is credit for n bytes, and returns how many of at most most bytes it has paid."""
        with self.changed:
            while self.credit - self.sent < n and not self.over:
                self.check()
                self.changed.wait(0.1 if self.deadline else 1)
            if self.over:
                raise CallError("canceled", "the call has ended")
            n = min(most, self.credit - self.sent)
            self.sent += n
            return n

    def send(self, message, last=0):
        """Sends a message, in parts if it is large."""
        self.check()
        size = len(message)
        if size > self.calls.peer["message"]:
            raise CallError("too-large", f"a message of {size} bytes; the peer's limit is {self.calls.peer['message']}")
        if size <= PART and OVERHEAD + size <= self.calls.peer["window"]:
            self.pay(OVERHEAD + size, OVERHEAD + size)
            return self.write(DATA, VALUE | last, message)
        at, head = 0, struct.pack("<I", size)
        self.pay(OVERHEAD, OVERHEAD)
        while at < size:
            n = self.pay(1, min(PART, size - at))
            more = MORE if at + n < size else last
            self.write(DATA, VALUE | more, head + message[at:at + n])
            at, head = at + n, b""

    def start(self, value):
        """Accepts a session with a value, before all replies."""
        message = cbor2.dumps(value)
        self.pay(OVERHEAD + len(message), OVERHEAD + len(message))
        self.write(STARTED, VALUE, message)

    def end(self):
        """Ends the messages of this side."""
        if not self.over:
            self.write(DATA, END)

    def reply(self, value):
        self.send(cbor2.dumps(value))
        self.result()

    def result(self, flags=0, body=b""):
        self.calls.ended(self)
        self.write(RESULT, flags, body)

    # Receiving.

    def take(self):
        """Returns the next message, or None at the end."""
        message = self.inbox.get()
        if message is None:
            self.check()
        else:
            with self.changed:
                self.granted += OVERHEAD + len(message)
            if not self.over:
                self.write(CREDIT, 0, struct.pack("<Q", self.granted))
        return message

    def messages(self):
        """Yields the messages of the caller, for a handler."""
        while (message := self.take()) is not None:
            yield cbor2.loads(message)

    def receive(self, op, flags, body):
        if op == STARTED:
            if self.received or self.started:
                raise ProtocolError("started a second time, or after a message")
            self.started = True
        if op == DATA or op in (OPEN, STARTED, RESULT) and flags & VALUE:
            if self.closed:
                raise ProtocolError("a message after the last one")
            if flags & VALUE:
                self.receive_message(flags, body, op == DATA)
        if flags & END:
            if self.part is not None:
                raise ProtocolError("the end within a message")
            self.closed = True
            self.inbox.put(None)
        elif op == CREDIT:
            if len(body) != 8:
                raise ProtocolError("a bad credit frame")
            with self.changed:
                self.credit = max(self.credit, struct.unpack("<Q", body)[0])
                self.changed.notify_all()
        elif op == CANCEL:
            fields(body, CANCEL_FIELDS)
            self.cancelled.set()
            with self.changed:
                self.changed.notify_all()
            self.inbox.put(None)  # ends take
        if op == RESULT:
            if self.part is not None and not flags & ERROR:
                raise ProtocolError("a result within a message")
            if flags & ERROR:
                m = fields(body, ERROR_FIELDS)
                self.error = CallError(m.pop("code"), m.pop("text"), **m)
            self.finish()

    def receive_message(self, flags, body, parts):
        if self.part is None:
            self.size = len(body)
            if flags & MORE:
                if len(body) < 4:
                    raise ProtocolError("a part without the size of its message")
                self.size, body = struct.unpack("<I", body[:4])[0], body[4:]
            if self.size > self.calls.message:
                raise ProtocolError(f"a message of {self.size} bytes")
            self.part = bytearray()
            self.received += OVERHEAD
        elif not parts:
            raise ProtocolError("a message within another")
        self.part += body
        self.received += len(body)
        done = len(self.part) == self.size
        if self.received > self.granted or len(self.part) > self.size or done == bool(flags & MORE) or (
                flags & MORE and not body):
            raise ProtocolError("a part that is too long, or a message beyond the credit")
        if done:
            self.inbox.put(bytes(self.part))
            self.part = None
        elif self.received - len(self.part) + self.size > self.granted:
            with self.changed:  # this program waits for every message, so the rest may come
                self.granted = self.received - len(self.part) + self.size
            self.write(CREDIT, 0, struct.pack("<Q", self.granted))

    def finish(self):
        with self.changed:
            self.over = True
            self.changed.notify_all()
        self.inbox.put(None)


class Calls:
    """Makes and serves calls over a channel. serve reads; all other methods may be called from any thread."""

    def __init__(self, channel, methods, calls=64, window=65536, message=16 << 20):
        self.channel, self.methods = channel, methods
        self.max_calls, self.window, self.message = calls, window, message
        self.lock = threading.Condition()  # guards what follows
        self.ours, self.theirs, self.last_ours, self.last_theirs = {}, {}, 0, 0
        self.peer, self.away, self.gone = None, False, None
        channel.calls = self
        self.write(HELLO, 0, 0, cbor2.dumps(
            {"versions": [1, 1], "calls": calls, "window": window, "message": message}))

    def write(self, op, flags, id, body=b""):
        self.channel.write(CALL, struct.pack("<Q", id << 16 | flags << 8 | op) + body)

    def serve(self, on_message=lambda message: None):
        """Reads until the channel ends, and raises why. on_message gets the messages between the calls."""
        try:
            while True:
                on_message(self.channel.recv())
        except BaseException as e:
            with self.lock:
                self.gone = e
                calls = [*self.ours.values(), *self.theirs.values()]
                self.lock.notify_all()
            for call in calls:
                call.cancelled.set()
                call.error = call.error or e
                call.finish()
            raise

    def receive(self, body):
        """Handles the body of a call frame. The channel's recv calls it."""
        op, flags, id, body = parse_head(body)
        if op is None:
            return  # an extension
        if (op == HELLO) != (self.peer is None):
            raise ProtocolError("no hello, or a second one")
        if op == HELLO:
            m = fields(body, HELLO_FIELDS)
            if m["versions"][0] > 1 or m["versions"][1] < 1 or m["window"] < 4096 or m["message"] < 1:
                raise ProtocolError("a hello with other versions or bad limits")
            with self.lock:
                self.peer = m
                self.lock.notify_all()
        elif op == GO_AWAY:
            with self.lock:
                self.away = True
                self.lock.notify_all()
        elif op == OPEN:
            self.opened(flags, id, body)
        else:
            with self.lock:
                call = (self.theirs if flags & CALLER else self.ours).get(id)
            if call:
                if op == RESULT:
                    self.ended(call)
                call.receive(op, flags, body)
            elif not flags & CALLER or id > self.last_theirs:
                raise ProtocolError(f"operation {op} on a call that is not open")

    def opened(self, flags, id, body):
        left, method, _, message = parse_open(body)
        if id <= self.last_theirs or len(self.theirs) >= self.max_calls:
            raise ProtocolError("an id that was used, or too many calls")
        self.last_theirs = id
        call = Call(self, id, False)
        call.deadline = time.monotonic() + left if left else None
        with self.lock:
            self.theirs[id] = call
        if method not in self.methods:
            return call.result(ERROR, cbor2.dumps({"code": "unimplemented", "text": f"no method {method!r}"}))
        call.receive(OPEN, flags, message)
        threading.Thread(target=self.run, args=(self.methods[method], call), daemon=True).start()

    def run(self, method, call):
        """Runs a handler, in its thread, and sends its error."""
        try:
            method(call)
        except (Gone, OSError) if self.gone else Gone:
            pass
        except Exception as e:
            with contextlib.suppress(Gone, OSError):
                call.result(ERROR, cbor2.dumps(error_fields(e)))

    def ended(self, call):
        with self.lock:
            (self.ours if call.ours else self.theirs).pop(call.id, None)
            self.lock.notify_all()

    # Calls of this side.

    def begin(self, method, message, timeout):
        """Opens a call with its only message, or, if message is None, with messages to come."""
        with self.lock:
            if not self.lock.wait_for(
                    lambda: self.gone or self.away or self.peer and len(self.ours) < self.peer["calls"], timeout):
                raise TimeoutError("the call's deadline has passed")
            if self.gone:
                raise self.gone
            if self.away:
                raise CallError("draining", "the peer takes no new calls")
            self.last_ours += 1
            call = self.ours[self.last_ours] = Call(self, self.last_ours, True)
            call.deadline = time.monotonic() + timeout if timeout else None
            name = method.encode()
            body = struct.pack("<QB", int((timeout or 0) * 1e9), len(name)) + name + struct.pack("<H", 0)
            small = message is not None and len(message) <= PART and OVERHEAD + len(message) <= call.credit
            if small:
                call.sent = OVERHEAD + len(message)
            # With the lock, so that ids increase on the wire.
            call.write(OPEN, VALUE | END if small else 0, body + message if small else body)
        if message is not None and not small:
            with contextlib.suppress(CallError):  # the result says why
                call.send(message, END)
        return call

    def replies(self, call):
        """Yields the messages of a call, and raises its error. If the caller stops early, it cancels the call."""
        try:
            while True:
                left = max(0, call.deadline - time.monotonic()) if call.deadline else None
                try:
                    message = call.inbox.get(timeout=left)
                except queue.Empty:
                    raise TimeoutError("the call's deadline has passed") from None
                if message is None:
                    break
                with call.changed:
                    call.granted += OVERHEAD + len(message)
                if not call.over:
                    call.write(CREDIT, 0, struct.pack("<Q", call.granted))
                yield cbor2.loads(message)
        finally:
            self.cancel(call, "deadline" if isinstance(sys.exc_info()[1], TimeoutError) else "canceled")
        if call.error:
            raise call.error

    def cancel(self, call, code):
        """Cancels a call that has not ended, and waits for its result."""
        if not call.over:
            call.write(CANCEL, 0, cbor2.dumps({"code": code, "by": f"python[{os.getpid()}]"}))
            with call.changed:
                call.changed.wait_for(lambda: call.over, GRACE)

    def one(self, call):
        replies = [*self.replies(call)]
        if len(replies) != 1:
            raise CallError("invalid", f"a result of {len(replies)} messages")
        return replies[0]

    def call(self, method, request, timeout=None):
        """Makes a call and returns its reply."""
        return self.one(self.begin(method, cbor2.dumps(request), timeout))

    def stream(self, method, request, timeout=None):
        """Makes a call and yields its replies."""
        yield from self.replies(self.begin(method, cbor2.dumps(request), timeout))

    def client_stream(self, method, requests, timeout=None):
        """Makes a call with many requests and returns its reply."""
        with self.open(method, timeout) as s:
            with contextlib.suppress(CallError):  # the result says why
                for request in requests:
                    s.send(request)
            s.end()
            return self.one(s.call)

    def open(self, method, timeout=None):
        """Makes a bidirectional call and returns its Stream."""
        return Stream(self, self.begin(method, None, timeout))

    def session(self, method, timeout=None):
        """Makes a bidirectional call, and returns the value with which the other side has accepted it, and the Stream."""
        s = self.open(method, timeout)
        try:
            first = next(s.replies, None)
            if not s.call.started:
                raise CallError("invalid", "the call was not started")
            return first, s
        except BaseException:
            s.close()
            raise


class Stream:
    """A bidirectional call of this side. A loop over it has the replies. One thread may send while another receives."""

    def __init__(self, calls, call):
        self.calls, self.call, self.replies = calls, call, calls.replies(call)

    def send(self, request):
        self.call.send(cbor2.dumps(request))

    def end(self):
        """Ends the requests. The replies go on."""
        self.call.end()

    def close(self):
        """Ends the call. If it has not ended, it is cancelled."""
        self.calls.cancel(self.call, "canceled")

    def __iter__(self):
        return self.replies

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def error_fields(e):
    """The fields of the error of a handler (8)."""
    m = {"code": getattr(e, "code", "failed"), "text": str(e) or repr(e)}
    if isinstance(e, TimeoutError):
        m["code"] = "deadline"
    if isinstance(e, CallError):
        matches = e.matches
    else:
        matches = [name for kind, name in KNOWN.items() if isinstance(e, kind)]
        m["stack"] = "".join(traceback.format_tb(e.__traceback__))[:16384]
    if matches:
        m["is"] = matches
    if isinstance(e, OSError) and isinstance(e.errno, int):
        m["errno"], m["os"] = e.errno, sys.platform
    if getattr(e, "path", None):
        m["path"] = e.path
    return m

// Calls over a channel (docs/PROTOCOL-call.md), in Node.js: methods with one or many
// requests, and one or many replies.
//
// A program makes a Calls of its Channel, with the methods that the other side may
// call, and awaits serve:
//
//   const calls = new Calls(channel, { echo: unary((ctx, request) => request), count: stream(count) })
//   await calls.serve()
//
// Handlers and other code make calls with call, stream, clientStream, open and session.
import { ProtocolError, decode, decodeMap, decodeMessage, encode } from './strict.mjs'
import { kinds } from './wire.mjs'

const [HELLO, OPEN, STARTED, DATA, CREDIT, CANCEL, RESULT, GO_AWAY] = [1, 2, 3, 4, 5, 6, 7, 8]
const [CALLER, VALUE, MORE, END, ERROR] = [1, 2, 4, 8, 16]
const allowed = {
  [HELLO]: 0, [OPEN]: CALLER | VALUE | END, [STARTED]: VALUE, [DATA]: CALLER | VALUE | MORE | END,
  [CREDIT]: CALLER, [CANCEL]: CALLER, [RESULT]: VALUE | ERROR, [GO_AWAY]: 0,
}
export const operations = { HELLO, OPEN, STARTED, DATA, CREDIT, CANCEL, RESULT, GO_AWAY }
const [overhead, part] = [32, 32768]
const known = { ENOENT: 'fs.ErrNotExist', EEXIST: 'fs.ErrExist', EACCES: 'fs.ErrPermission' }

// CallError is the error of a call. A handler may throw one to set its code.
export class CallError extends Error {
  constructor(code, text, { is = [], path = [], by = '', stack = '' } = {}) {
    super(text)
    Object.assign(this, { code, is, path, by, remoteStack: stack })
  }
}

// unary makes a method of a handler that returns, or promises, the reply.
export const unary = (f) => async (call) => {
  await call.send(encode(await f(call, decodeMessage(await call.take()))))
  await call.result()
}

// stream makes a method of a handler that yields the replies.
export const stream = (f) => async (call) => {
  for await (const reply of f(call, decodeMessage(await call.take()))) await call.send(encode(reply))
  await call.result()
}

// clientStream makes a method of a handler that iterates over the requests and
// returns, or promises, the reply.
export const clientStream = (f) => async (call) => {
  await call.send(encode(await f(call, call.messages())))
  await call.result()
}

// bidi makes a method of a handler that iterates over the requests and yields replies.
// For a session it first accepts the call with call.start.
export const bidi = (f) => async (call) => {
  for await (const reply of f(call, call.messages())) await call.send(encode(reply))
  await call.result()
}

const types = { text: (v) => typeof v === 'string', int: (v) => typeof v === 'number' || typeof v === 'bigint', array: Array.isArray }
const helloFields = { versions: 'array', calls: 'int', window: 'int', message: 'int' }
const cancelFields = { code: 'text', 'by?': 'text', 'reason?': 'text' }
const errorFields = { code: 'text', text: 'text', 'is?': 'array', 'path?': 'array', 'by?': 'text', 'stack?': 'text' }

// fields decodes a map, and checks the types of the wanted fields. A field with a ?
// is optional.
export function fields(body, wanted) {
  const m = decodeMap(body, {})
  for (const [key, type] of Object.entries(wanted)) {
    const name = key.replace('?', '')
    if (!(name in m) && key !== name) continue
    if (!types[type](m[name])) throw new ProtocolError(`a field ${name} that is missing or of another type`)
  }
  return m
}

// parseHead splits a frame into operation, flags, id and the rest (2).
export function parseHead(body) {
  if (body.length < 8) throw new ProtocolError('a head that is cut')
  const [op, flags, id] = [body[0], body[1], body.readUIntLE(2, 6)]
  if (op >= 0x80) return { flags, id, rest: body.subarray(8) }
  if (!(op in allowed) || flags & ~allowed[op] || (id === 0) !== (op === HELLO || op === GO_AWAY)) {
    throw new ProtocolError(`operation ${op} with flags ${flags} and id ${id}`)
  }
  if (((op === OPEN || op === CANCEL) && !(flags & CALLER)) || (flags & MORE && !(flags & VALUE)) ||
    (flags & MORE && flags & END) || (flags & VALUE && flags & ERROR)) {
    throw new ProtocolError(`operation ${op} with flags ${flags}`)
  }
  return { op, flags, id, rest: body.subarray(8) }
}

// parseOpen parses an open frame (4). left is in nanoseconds, or 0.
export function parseOpen(body) {
  if (body.length < 11 || body.length < 11 + body[8]) throw new ProtocolError('an open frame that is cut')
  const [left, n] = [body.readBigInt64LE(0), body[8]]
  const method = body.subarray(9, 9 + n).toString()
  const m = body.readUInt16LE(9 + n)
  const rest = body.subarray(11 + n)
  if (left < 0n || n === 0 || m > 4096 || rest.length < m) throw new ProtocolError('a bad open frame')
  const metadata = m ? decode(rest.subarray(0, m)) : []
  if (!Array.isArray(metadata) || metadata.length % 2 || !metadata.every(types.text)) throw new ProtocolError('bad metadata')
  return { left: Number(left), method, metadata, message: rest.subarray(m) }
}

const number = (n) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(n))
  return bytes
}

// Call is a call on one of its sides. A handler uses it as its context; signal is
// aborted when the caller cancels the call or its time is over.
class Call {
  constructor(calls, id, ours) {
    Object.assign(this, { calls, id, ours, flag: ours ? CALLER : 0, inbox: [], wakes: [] })
    Object.assign(this, { credit: calls.peer.window, sent: 0, granted: calls.window, received: 0 })
    this.stopping = new AbortController()
  }

  get signal() { return this.stopping.signal }

  // changed resolves at the next event of the call.
  changed() { return new Promise((resolve) => { this.wakes.push(resolve) }) }

  wake() { for (const wake of this.wakes.splice(0)) wake() }

  write(op, flags, body) { return this.calls.write(op, flags | this.flag, this.id, body) }

  // stop ends the signal.
  stop(error) {
    this.stopping.abort(error)
    this.wake()
  }

  // Sending.

  // pay waits until there is credit for least bytes, and pays at most most.
  async pay(least, most) {
    while (this.credit - this.sent < least) {
      if (!this.ours) this.signal.throwIfAborted()
      if (this.over) throw new CallError('canceled', 'the call has ended')
      await this.changed()
    }
    const n = Math.min(most, this.credit - this.sent)
    this.sent += n
    return n
  }

  // send sends a message, in parts if it is large.
  async send(message, last = 0) {
    if (!this.ours) this.signal.throwIfAborted()
    const { window, message: most } = this.calls.peer
    if (message.length > most) throw new CallError('too-large', `a message of ${message.length} bytes; the peer's limit is ${most}`)
    if (message.length <= part && overhead + message.length <= window) {
      await this.pay(overhead + message.length, overhead + message.length)
      return this.write(DATA, VALUE | last, message)
    }
    let head = number(message.length).subarray(0, 4)
    await this.pay(overhead, overhead)
    for (let at = 0; at < message.length; head = Buffer.alloc(0)) {
      const n = await this.pay(1, Math.min(part, message.length - at))
      const piece = Buffer.concat([head, message.subarray(at, at + n)])
      at += n
      await this.write(DATA, VALUE | (at < message.length ? MORE : last), piece)
    }
  }

  // start accepts a session with a value, before all replies.
  async start(value) {
    const message = encode(value)
    await this.pay(overhead + message.length, overhead + message.length)
    await this.write(STARTED, VALUE, message)
  }

  // end ends the messages of this side.
  async end() {
    if (!this.over) await this.write(DATA, END)
  }

  result(flags = 0, body) {
    this.calls.ended(this)
    this.over = true
    return this.write(RESULT, flags, body)
  }

  // Receiving.

  // take returns the next message, or undefined at the end.
  async take() {
    while (!this.inbox.length && !this.over && !this.closed) {
      if (!this.ours) this.signal.throwIfAborted()
      await this.changed()
    }
    const message = this.inbox.shift()
    if (message && !this.over) {
      this.granted += overhead + message.length
      await this.write(CREDIT, 0, number(this.granted))
    }
    return message
  }

  // messages yields the messages of the caller, for a handler.
  async* messages() {
    for (let message; (message = await this.take());) yield decodeMessage(message)
  }

  async receive(op, flags, body) {
    if (op === STARTED) {
      if (this.received || this.started) throw new ProtocolError('started a second time, or after a message')
      this.started = true
    }
    if (op === DATA || flags & VALUE) {
      if (this.closed) throw new ProtocolError('a message after the last one')
      if (flags & VALUE) await this.receiveMessage(flags, body, op === DATA)
    }
    if (flags & END) {
      if (this.part) throw new ProtocolError('the end within a message')
      this.closed = true
    }
    if (op === CREDIT) {
      if (body.length !== 8) throw new ProtocolError('a bad credit frame')
      this.credit = Math.max(this.credit, Number(body.readBigUInt64LE()))
    }
    if (op === CANCEL) {
      const { code, reason = '' } = fields(body, cancelFields)
      const is = [code === 'deadline' ? 'context.DeadlineExceeded' : 'context.Canceled']
      this.stop(new CallError(code, `the call was cancelled: ${reason}`, { is }))
    }
    if (op === RESULT) {
      if (this.part && !(flags & ERROR)) throw new ProtocolError('a result within a message')
      if (flags & ERROR) {
        const m = fields(body, errorFields)
        this.error = new CallError(m.code, m.text, m)
      }
      this.over = true
    }
    this.wake()
  }

  async receiveMessage(flags, body, parts) {
    if (!this.part) {
      this.size = body.length
      if (flags & MORE) {
        if (body.length < 4) throw new ProtocolError('a part without the size of its message')
        this.size = body.readUInt32LE()
        body = body.subarray(4)
      }
      if (this.size > this.calls.message) throw new ProtocolError(`a message of ${this.size} bytes`)
      Object.assign(this, { part: [], got: 0 })
      this.received += overhead
    } else if (!parts) throw new ProtocolError('a message within another')
    this.part.push(body)
    this.got += body.length
    this.received += body.length
    const [done, more] = [this.got === this.size, Boolean(flags & MORE)]
    if (this.received > this.granted || this.got > this.size || done === more || (more && !body.length)) {
      throw new ProtocolError('a part that is too long, or a message beyond the credit')
    }
    const need = this.received - this.got + this.size
    if (done) {
      this.inbox.push(Buffer.concat(this.part))
      this.part = undefined
    } else if (need > this.granted) { // this program waits for every message, so the rest may come
      this.granted = need
      await this.write(CREDIT, 0, number(need))
    }
  }
}

// Calls makes and serves calls over a channel.
export class Calls {
  constructor(channel, methods, { calls = 64, window = 65536, message = 16 << 20 } = {}) {
    Object.assign(this, { channel, methods, maxCalls: calls, window, message, wakes: [] })
    Object.assign(this, { ours: new Map(), theirs: new Map(), lastOurs: 0, lastTheirs: 0 })
    channel.calls = this
    this.write(HELLO, 0, 0, encode({ versions: [1, 1], calls, window, message })).catch(() => {}) // serve finds the reason
  }

  write(op, flags, id, body = Buffer.alloc(0)) {
    const head = Buffer.alloc(8)
    head[0] = op
    head[1] = flags
    head.writeUIntLE(id, 2, 6)
    return this.channel.write(kinds.call, Buffer.concat([head, body]))
  }

  wake() { for (const wake of this.wakes.splice(0)) wake() }

  // serve reads until the channel ends, and throws the reason. onMessage gets the
  // messages between the calls.
  async serve(onMessage = () => {}) {
    try {
      for (;;) onMessage(await this.channel.recv())
    } catch (e) {
      this.gone = e
      for (const call of [...this.ours.values(), ...this.theirs.values()]) {
        call.error ??= e
        call.over = true
        call.stop(e)
      }
      this.wake()
      throw e
    }
  }

  // receive handles the body of a call frame. The channel's recv calls it.
  async receive(body) {
    const { op, flags, id, rest } = parseHead(body)
    if (!op) return // an extension
    if ((op === HELLO) !== !this.peer) throw new ProtocolError('no hello, or a second one')
    if (op === HELLO) {
      const m = fields(rest, helloFields)
      if (m.versions[0] > 1 || m.versions[1] < 1 || m.window < 4096 || m.message < 1) {
        throw new ProtocolError('a hello with other versions or bad limits')
      }
      this.peer = m
      this.wake()
    } else if (op === GO_AWAY) {
      this.away = true
      this.wake()
    } else if (op === OPEN) await this.opened(flags, id, rest)
    else {
      const call = (flags & CALLER ? this.theirs : this.ours).get(id)
      if (call) {
        if (op === RESULT) this.ended(call)
        await call.receive(op, flags, rest)
      } else if (!(flags & CALLER) || id > this.lastTheirs) {
        throw new ProtocolError(`operation ${op} on a call that is not open`)
      }
    }
  }

  async opened(flags, id, body) {
    const { left, method, message } = parseOpen(body)
    if (id <= this.lastTheirs || this.theirs.size >= this.maxCalls) throw new ProtocolError('an id that was used, or too many calls')
    this.lastTheirs = id
    const call = new Call(this, id, false)
    this.theirs.set(id, call)
    if (!Object.hasOwn(this.methods, method)) {
      return call.result(ERROR, encode({ code: 'unimplemented', text: `no method "${method}"` }))
    }
    await call.receive(OPEN, flags, message)
    if (left) {
      const is = ['context.DeadlineExceeded']
      call.timer = setTimeout(() => call.stop(new CallError('deadline', "the call's deadline has passed", { is })), left / 1e6)
    }
    this.run(this.methods[method], call)
  }

  // run runs a handler and sends its error.
  async run(method, call) {
    try {
      await method(call)
    } catch (e) {
      if (!this.gone && !call.over) await call.result(ERROR, encode(errorOf(e))).catch(() => {})
    }
  }

  ended(call) {
    clearTimeout(call.timer)
    ;(call.ours ? this.ours : this.theirs).delete(call.id)
    this.wake()
  }

  // Calls of this side.

  // begin opens a call with its only message or, without it, with messages to come.
  async begin(method, message) {
    while (!this.gone && !this.away && !(this.peer && this.ours.size < this.peer.calls)) {
      await new Promise((resolve) => { this.wakes.push(resolve) })
    }
    if (this.gone) throw this.gone
    if (this.away) throw new CallError('draining', 'the peer takes no new calls')
    const call = new Call(this, ++this.lastOurs, true)
    this.ours.set(call.id, call)
    const name = Buffer.from(method)
    const body = [Buffer.alloc(8), Buffer.from([name.length]), name, Buffer.alloc(2)]
    const small = message && message.length <= part && overhead + message.length <= call.credit
    if (small) {
      call.sent = overhead + message.length
      await call.write(OPEN, VALUE | END, Buffer.concat([...body, message]))
    } else {
      await call.write(OPEN, 0, Buffer.concat(body))
      if (message) await call.send(message, END).catch((e) => { if (!call.over) throw e }) // the result says why
    }
    return call
  }

  // stream makes a call and yields its replies. If the loop ends early, it cancels
  // the call and waits for the result.
  async* stream(method, request) {
    yield* this.replies(await this.begin(method, encode(request)))
  }

  async* replies(call) {
    try {
      yield* call.messages()
    } finally {
      await this.cancel(call)
    }
    if (call.error) throw call.error
  }

  // cancel cancels a call that has not ended, and waits for its result.
  async cancel(call) {
    if (!call.over) await call.write(CANCEL, 0, encode({ code: 'canceled', by: `node[${process.pid}]` }))
    while (!call.over) await call.changed()
  }

  async one(call) {
    const replies = []
    for await (const reply of this.replies(call)) replies.push(reply)
    if (replies.length !== 1) throw new CallError('invalid', `a result of ${replies.length} messages`)
    return replies[0]
  }

  // call makes a call and returns its reply.
  async call(method, request) { return this.one(await this.begin(method, encode(request))) }

  // clientStream makes a call with many requests and returns its reply.
  async clientStream(method, requests) {
    const s = await this.open(method)
    try {
      for await (const request of requests) await s.send(request)
    } catch (e) {
      if (!s.call.over) {
        await s.close()
        throw e
      } // else the result says why
    }
    await s.end()
    return this.one(s.call)
  }

  // open makes a bidirectional call and returns its Stream.
  async open(method) { return new Stream(this, await this.begin(method)) }

  // session makes a bidirectional call, and returns the value with which the other
  // side has accepted it, and the Stream.
  async session(method) {
    const s = await this.open(method)
    const { value, done } = await s.replies.next()
    if (!done && s.call.started) return [value, s]
    await s.close()
    throw new CallError('invalid', 'the call was not started')
  }
}

// Stream is a bidirectional call of this side. A loop over it has the replies.
class Stream {
  constructor(calls, call) { Object.assign(this, { calls, call, replies: calls.replies(call) }) }

  send(request) { return this.call.send(encode(request)) }

  // end ends the requests. The replies go on.
  end() { return this.call.end() }

  // close ends the call. If it has not ended, it is cancelled.
  close() { return this.calls.cancel(this.call) }

  [Symbol.asyncIterator]() { return this.replies }
}

// errorOf returns the fields of the error of a handler (8).
function errorOf(e) {
  if (e instanceof CallError) return { code: e.code, text: e.message, is: e.is, path: e.path }
  const system = typeof e.errno === 'number' ? { errno: -e.errno, os: process.platform } : {}
  const is = e.code in known ? [known[e.code]] : []
  return { code: 'failed', text: e.message ?? String(e), is, stack: (e.stack ?? '').slice(0, 16384), ...system }
}

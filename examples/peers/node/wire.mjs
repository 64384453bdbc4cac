// MACs, addresses and frames: sections 2, 4.1 and 5 of docs/PROTOCOL.md.
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import net from 'node:net'
import tls from 'node:tls'
import { setTimeout as pause } from 'node:timers/promises'
import { CANCEL, FAILED, GOODBYE, ProtocolError, decode, decodeMap, decodeMessage, encode } from './strict.mjs'

export const kinds = {
  message: 0x01, raw: 0x02, call: 0x03,
  hello: 0x10, welcome: 0x11, spec: 0x12, ready: 0x13, failed: 0x14, greet: 0x15, proof: 0x16, attach: 0x17, attached: 0x18,
  cancel: 0x20, goodbye: 0x21, ping: 0x22, pong: 0x23, inspect: 0x24, inspected: 0x25,
}
const known = new Set(Object.values(kinds))
// The frame limit before authentication and after (2.2).
const before = 65536
const after = 16 << 20

export class Gone extends Error {} // the stream has ended without a goodbye: a crash, or the connection was cut
export class Goodbye extends Error {} // the other side has closed the connection with a goodbye
export class Cancelled extends Error {} // the parent asks this child to stop
export class BadMAC extends ProtocolError {} // the other side does not know the secret
export class Raw { constructor(bytes) { this.bytes = bytes } } // a message of plain bytes, without CBOR

// Failed is a failed frame of this or the other side (4.5).
export class Failed extends Error {
  constructor(phase, code, error, more = {}) {
    super(error)
    this.body = { phase, code, error: error.slice(0, 1000), ...more }
  }
}

// --- 4.1: MACs and sealed messages ---

export function mac(key, label, ...parts) {
  const h = createHmac('sha256', key).update(`${label}\0`)
  for (const part of parts) {
    const length = Buffer.alloc(4)
    length.writeUInt32LE(part.length)
    h.update(length).update(part)
  }
  return h.digest()
}

export const same = (a, b) => a.length === b.length && timingSafeEqual(a, b)

export const seal = (key, label, payload, ...before) => encode([payload, mac(key, label, ...before, payload)])

// unseal checks the MAC and returns the payload. It does not parse the payload, so
// that only authentic ones are parsed.
export function unseal(key, label, body, ...before) {
  const sealed = decode(body)
  if (!Array.isArray(sealed) || sealed.length !== 2 || !sealed.every((part) => part instanceof Uint8Array) || sealed[1].length !== 32) {
    throw new ProtocolError('not a sealed message')
  }
  if (!same(sealed[1], mac(key, label, ...before, sealed[0]))) {
    throw new BadMAC('the MAC is wrong: the other side does not know the secret')
  }
  return sealed[0]
}

// --- 2.1, 2.5: addresses ---

const name = '[0-9A-Za-z._-]+'
const host = String.raw`\[[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*(?:%${name})?\]|${name}`
const port = '0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]'
const network = new RegExp(`^(tcp|tls)://(${host}):(${port})(?:#((?!0{64})[0-9A-Fa-f]{64}))?$`)

// split returns what net.connect and net.listen take. secure is true for tls, which
// may have a pin.
export function split(address) {
  const uds = /^uds:\/\/(?:(\/[^\0]*)|@([^\0]+))$/.exec(address)
  if (uds) return { path: uds[1] ?? `\0${uds[2]}` }
  const [, scheme, host, port, pin] = network.exec(address) ?? []
  if (!scheme || (pin && scheme !== 'tls')) {
    throw new Error('not uds:///path, uds://@name, tcp://host:port or tls://host:port#<64 hex>')
  }
  return { host: host.replace(/^\[(.*)\]$/, '$1'), port: Number(port), noDelay: true, secure: scheme === 'tls', pin }
}

// Older versions of libuv pad an abstract name with zeros, so it becomes another
// name (libuv#4266).
const [uvMajor, uvMinor] = process.versions.uv.split('.').map(Number)
const oldLibuv = uvMajor === 1 && uvMinor < 48

export async function dial(address) {
  const { secure, pin, ...target } = split(address)
  if (secure && !pin) throw new Error('these programs accept only a certificate that the address names')
  if (target.path?.startsWith('\0') && oldLibuv) throw new Error(`abstract names need libuv 1.48, as in Node.js 22; this is ${process.versions.uv}`)
  for (;;) {
    try {
      return await (secure ? dialTLS(target, pin) : opened(net.connect(target), 'connect'))
    } catch (e) {
      if (e.code !== 'EAGAIN') throw e // the queue of a Unix socket is full: connect(2)
      await pause(10)
    }
  }
}

// dialTLS accepts only a server whose certificate has the fingerprint from the
// ticket. It checks nothing else in the certificate.
async function dialTLS(target, pin) {
  const socket = await opened(
    tls.connect({ ...target, rejectUnauthorized: false, minVersion: 'TLSv1.3', ALPNProtocols: ['spawnwire/1'] }), 'secureConnect')
  socket.setNoDelay()
  const found = createHash('sha256').update(socket.getPeerX509Certificate().raw).digest()
  if (same(found, Buffer.from(pin, 'hex')) && socket.alpnProtocol === 'spawnwire/1') return socket
  socket.destroy()
  throw new Error("the server's certificate or protocol is not the expected one")
}

function opened(socket, event) {
  return new Promise((resolve, reject) => socket.once(event, () => resolve(socket)).once('error', reject))
}

// --- 2.2 and 5: a connection ---

// Channel sends and receives frames over a socket. One caller at a time may
// receive.
export class Channel {
  constructor(socket) {
    this.socket = socket
    this.limit = this.skippable = before
    this.stopping = new AbortController() // aborted when the parent asks this child to stop
    this.wake = () => {}
    for (const event of ['end', 'close', 'error']) socket.on(event, () => { this.ended = true; this.wake() })
    socket.on('readable', () => {
      if (socket.readableLength === 0) socket.read(0) // lets the end of the stream arrive even if no caller waits
      this.wake()
    })
    this.stopping.signal.addEventListener('abort', () => this.wake())
  }

  get signal() { return this.stopping.signal }

  // take reads n bytes. The stream allocates memory only for bytes that have
  // arrived.
  async take(n) {
    for (;;) {
      const bytes = this.socket.read(n)
      if (bytes?.length === n) return bytes
      if (bytes || this.ended) throw new Gone('the other side is gone')
      await new Promise((resolve) => { this.wake = resolve })
      if (this.heeds) this.signal.throwIfAborted()
    }
  }

  // read returns the kind and body of the next frame. It skips extensions (2.3).
  async read() {
    for (let skipped = 0; ;) {
      const head = await this.take(5)
      const [n, kind] = [head.readUInt32LE(), head[4]]
      if (n < 1 || n > this.limit) throw new ProtocolError(`a frame of ${n} bytes; the limit is ${this.limit}`)
      if (kind >= 0x80 && (skipped += n) > this.skippable) throw new ProtocolError('too many frames in a row that nobody knows')
      if (kind < 0x80 && !known.has(kind)) throw new ProtocolError(`a frame of kind ${kind}, which nobody knows`)
      const body = n > 1 ? await this.take(n - 1) : Buffer.alloc(0)
      if (kind < 0x80) return [kind, body]
    }
  }

  // write resolves when the kernel has taken the frame, so a sender that awaits it
  // is not faster than the receiver.
  async write(kind, body) {
    if (body.length >= this.limit) throw new RangeError(`a frame of ${body.length + 1} bytes; the limit is ${this.limit}`)
    const head = Buffer.alloc(5)
    head.writeUInt32LE(body.length + 1)
    head[4] = kind
    await new Promise((resolve, reject) => {
      this.socket.write(Buffer.concat([head, body]), (e) => (e ? reject(new Gone(`the other side is gone: ${e.message}`)) : resolve()))
    })
  }

  // expect reads the frame that must come next in a handshake. It throws Failed if
  // the other side has failed instead.
  async expect(want) {
    const [kind, body] = await this.read()
    if (kind === kinds.failed) {
      const { phase, code, error } = decodeMap(body, FAILED)
      throw new Failed(phase, code, `the other side gave up: ${error}`)
    }
    if (kind === kinds.cancel && want === kinds.spec) throw new Cancelled('the parent has no spec for this child') // this child was a spare
    if (kind !== want) throw new ProtocolError(`a frame of kind ${kind} where ${want} should be`)
    return body
  }

  // fail sends the reason of a failure, if the other side still reads, and closes
  // the connection.
  async fail(failed) {
    await this.write(kinds.failed, encode(failed.body)).catch(() => {})
    await this.close(1)
  }

  // authenticated ends the limit for unauthenticated peers.
  authenticated(limit = after) { this.limit = limit }

  open() {
    this.skippable = Infinity
    this.heeds = true
  }

  // send sends a message: a Raw as plain bytes, everything else as CBOR.
  send(message) {
    return message instanceof Raw ? this.write(kinds.raw, message.bytes) : this.write(kinds.message, encode(message))
  }

  // recv returns the next message. Until it comes, recv handles other frames as in
  // section 5.
  async recv() {
    for (;;) {
      this.signal.throwIfAborted()
      const [kind, body] = await this.read()
      if (kind === kinds.message) return decodeMessage(body)
      if (kind === kinds.raw) return new Raw(body)
      if (kind === kinds.call && this.calls) await this.calls.receive(body) // see calls.mjs
      else if (kind === kinds.ping && body.length <= 64) await this.write(kinds.pong, body)
      else if (kind === kinds.cancel) this.stopping.abort(new Cancelled(decodeMap(body, CANCEL).reason))
      else if (kind === kinds.goodbye) {
        this.socket.end() // the other side waits for it
        throw new Goodbye(decodeMap(body, GOODBYE).reason)
      } else if (kind !== kinds.pong) throw new ProtocolError(`a frame of kind ${kind}, which has no place here`)
    }
  }

  // close sends a goodbye. Then it discards incoming data until the other side has
  // read the goodbye and ends the stream, for a second at most (5.4).
  async close(status = 0, reason = '') {
    this.closing = true
    const { socket } = this
    const bound = pause(1000, undefined, { ref: false })
    try {
      await Promise.race([this.write(kinds.goodbye, encode({ status, reason: reason.slice(0, 1000) })), bound])
      const closed = new Promise((resolve) => socket.once('close', resolve))
      await Promise.race([new Promise((resolve) => socket.end(resolve)), bound])
      socket.resume()
      if (socket.remotePort) await Promise.race([closed, bound])
    } catch {
      // the other side has gone or does not read; nothing else helps
    }
    socket.destroy()
  }
}

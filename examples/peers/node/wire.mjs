// MACs, addresses and frames: sections 2, 4.1 and 5 of docs/PROTOCOL.md.
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import net from 'node:net'
import tls from 'node:tls'
import { setTimeout as pause } from 'node:timers/promises'
import { CANCEL, FAILED, GOODBYE, ProtocolError, decode, decodeMap, decodeMessage, encode } from './strict.mjs'

export const kinds = {
  message: 0x01, raw: 0x02,
  hello: 0x10, welcome: 0x11, spec: 0x12, ready: 0x13, failed: 0x14, greet: 0x15, proof: 0x16, attach: 0x17,
  cancel: 0x20, goodbye: 0x21, ping: 0x22, pong: 0x23,
}
const known = new Set(Object.values(kinds))
const before = 65536 // the largest n of a frame before the other side is known, and after (2.2)
const after = 16 << 20

export class Gone extends Error {} // the stream ended without a goodbye: the other side has crashed, or was cut off
export class Goodbye extends Error {} // the other side has closed in order
export class Cancelled extends Error {} // the parent asks this child to stop
export class BadMAC extends ProtocolError {} // the other side does not know the secret
export class Raw { constructor(bytes) { this.bytes = bytes } } // a message of the programs' own bytes, not CBOR

// Failed has the words with which one side, this or the other, gives up (4.5).
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

// unseal returns the payload, of which nothing was looked at before its MAC was found good.
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

const host = String.raw`\[[0-9A-Fa-f:.]+(?:%[^\]]+)?\]|[0-9A-Za-z._-]+`
const port = '0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]'
const network = new RegExp(`^(tcp|tls)://(${host}):(${port})(?:#((?!0{64})[0-9A-Fa-f]{64}))?$`)

// split returns what net.connect and net.listen take, and the pin of tls.
export function split(address) {
  const uds = /^uds:\/\/(?:(\/[^\0]*)|@([^\0]+))$/.exec(address)
  if (uds) return { path: uds[1] ?? `\0${uds[2]}` }
  const [, scheme, host, port, pin] = network.exec(address) ?? []
  if (!scheme || (scheme === 'tls') !== (pin !== undefined)) { // without a pin there is nothing to know the server by (2.5)
    throw new Error('not uds:///path, uds://@name, tcp://host:port or tls://host:port#<64 hex>')
  }
  return { host: host.replace(/^\[(.*)\]$/, '$1'), port: Number(port), noDelay: true, pin }
}

// Before, libuv filled an abstract name up with zeros, which makes it another name (libuv#4266).
const [uvMajor, uvMinor] = process.versions.uv.split('.').map(Number)
const oldLibuv = uvMajor === 1 && uvMinor < 48

export async function dial(address) {
  const { pin, ...target } = split(address)
  if (target.path?.startsWith('\0') && oldLibuv) throw new Error(`abstract names need libuv 1.48, as in Node.js 22; this is ${process.versions.uv}`)
  for (;;) {
    try {
      return await (pin ? dialTLS(target, pin) : opened(net.connect(target), 'connect'))
    } catch (e) {
      if (e.code !== 'EAGAIN') throw e // the queue of a Unix socket is full: connect(2)
      await pause(10)
    }
  }
}

// dialTLS takes the server whose certificate has the fingerprint, which came with the ticket. Nothing else of it counts.
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

// Channel is frames over a socket. One caller at a time receives.
export class Channel {
  constructor(socket) {
    this.socket = socket
    this.limit = this.skippable = before
    this.stopping = new AbortController() // its signal tells that the parent asked this child to stop
    this.wake = () => {}
    for (const event of ['end', 'close', 'error']) socket.on(event, () => { this.ended = true; this.wake() })
    socket.on('readable', () => {
      if (socket.readableLength === 0) socket.read(0) // lets an end come that nobody waits for
      this.wake()
    })
    this.stopping.signal.addEventListener('abort', () => this.wake())
  }

  get signal() { return this.stopping.signal }

  // take reads n bytes. The stream takes memory for those that have come.
  async take(n) {
    for (;;) {
      const bytes = this.socket.read(n)
      if (bytes?.length === n) return bytes
      if (bytes || this.ended) throw new Gone('the other side is gone')
      await new Promise((resolve) => { this.wake = resolve })
      if (this.heeds) this.signal.throwIfAborted()
    }
  }

  // read returns the next frame's kind and body; it skips extensions (2.3).
  async read() {
    for (let skipped = 0; ;) {
      const n = (await this.take(4)).readUInt32LE()
      if (n < 1 || n > this.limit) throw new ProtocolError(`a frame of ${n} bytes; the limit is ${this.limit}`)
      const frame = await this.take(n)
      if (known.has(frame[0])) return [frame[0], frame.subarray(1)]
      skipped += n
      if (frame[0] < 0x80 || skipped > this.skippable) throw new ProtocolError(`a frame of kind ${frame[0]}, which nobody knows`)
    }
  }

  // write resolves when the kernel has the frame, so that who awaits it is slowed to the pace of the other side.
  async write(kind, body) {
    if (body.length >= this.limit) throw new RangeError(`a frame of ${body.length + 1} bytes; the limit is ${this.limit}`)
    const head = Buffer.alloc(5)
    head.writeUInt32LE(body.length + 1)
    head[4] = kind
    await new Promise((resolve, reject) => {
      this.socket.write(Buffer.concat([head, body]), (e) => (e ? reject(new Gone(`the other side is gone: ${e.message}`)) : resolve()))
    })
  }

  // expect reads the one frame that has a place here in a handshake, or the other side's reasons to give up.
  async expect(want) {
    const [kind, body] = await this.read()
    if (kind === kinds.failed) {
      const { phase, code, error } = decodeMap(body, FAILED)
      throw new Failed(phase, code, `the other side gave up: ${error}`)
    }
    if (kind === kinds.cancel && want === kinds.spec) throw new Cancelled('the parent has no orders') // it kept this child in reserve
    if (kind !== want) throw new ProtocolError(`a frame of kind ${kind} where ${want} should be`)
    return body
  }

  // fail tells the other side why this one gives up, if it still listens.
  async fail(failed) {
    await this.write(kinds.failed, encode(failed.body)).catch(() => {})
    await this.close(1)
  }

  // authenticated ends what holds for strangers only.
  authenticated() { this.limit = after }

  open() {
    this.skippable = Infinity
    this.heeds = true
  }

  // send sends a message: a Raw's bytes as they are, anything else as CBOR.
  send(message) {
    return message instanceof Raw ? this.write(kinds.raw, message.bytes) : this.write(kinds.message, encode(message))
  }

  // recv returns the next message, and meanwhile does what section 5 asks for.
  async recv() {
    for (;;) {
      this.signal.throwIfAborted()
      const [kind, body] = await this.read()
      if (kind === kinds.message) return decodeMessage(body)
      if (kind === kinds.raw) return new Raw(body)
      if (kind === kinds.ping && body.length <= 64) await this.write(kinds.pong, body)
      else if (kind === kinds.cancel) this.stopping.abort(new Cancelled(decodeMap(body, CANCEL).reason))
      else if (kind === kinds.goodbye) throw new Goodbye(decodeMap(body, GOODBYE).reason)
      else if (kind !== kinds.pong) throw new ProtocolError(`a frame of kind ${kind}, which has no place here`)
    }
  }

  // close says goodbye and drops what still comes, as TCP would throw away what is not delivered (5.1). Node cannot ask
  // the kernel whether all is, so it gives it a moment.
  async close(status = 0, reason = '') {
    this.closing = true
    const { socket } = this
    const bound = pause(1000, undefined, { ref: false })
    try {
      await Promise.race([this.write(kinds.goodbye, encode({ status, reason: reason.slice(0, 1000) })), bound])
      await Promise.race([new Promise((resolve) => socket.end(resolve)), bound])
      socket.resume()
      if (socket.remotePort) await Promise.race([new Promise((resolve) => socket.once('close', resolve)), pause(100)])
    } catch {
      // gone, or it does not read: there is no more to do for it
    }
    socket.destroy()
  }
}

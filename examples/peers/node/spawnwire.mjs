// The handshakes of the Spawnwire protocol, version 1, in Node.js: docs/PROTOCOL.md, whose sections the comments name.
//
// A child that a Spawnwire parent starts calls main with what it can be asked to run: see child.mjs. Two programs that share
// a key call peer, each on its end of a connection: see peer.mjs.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { ProtocolError, WELCOME, GREET, decode, decodeMap, decodeSpec, encode } from './strict.mjs'
import { BadMAC, Cancelled, Channel, Failed, Gone, Goodbye, Raw, dial, kinds, mac, same, seal, split, unseal } from './wire.mjs'

export { BadMAC, Cancelled, Failed, Gone, Goodbye, ProtocolError, Raw, dial, split, turn }

const versions = [1, 1]
const now = () => process.hrtime.bigint() // CLOCK_MONOTONIC
const init = now()

// --- 3 and 4: a child ---

// Parent is a child's connection to its parent, who has proved who it is. spec has the orders.
class Parent extends Channel {
  static async join(name) {
    const timings = { init, main: now() }
    const variable = process.env.SPAWNWIRE_TICKET ?? ''
    delete process.env.SPAWNWIRE_TICKET // so that no program started from here sees it
    const [, id, hex, address] = /^1 ([!-~]{1,64}) ([0-9a-fA-F]{64}) (.+)$/s.exec(variable) ?? []
    if (!id) throw new Error('there is no ticket of a Spawnwire parent in the environment, or a bad one')
    const secret = Buffer.from(hex, 'hex')
    const parent = new Parent(await dial(address))
    timings.connected = now()
    const hello = seal(secret, 'spawnwire hello', encode({
      versions, id, name, pid: process.pid, nonce: randomBytes(32), features: ['control'],
    }))
    await parent.write(kinds.hello, hello)
    const welcome = await parent.expect(kinds.welcome)
    const { version, features } = decodeMap(unseal(secret, 'spawnwire welcome', welcome, hello), WELCOME)
    if (version < versions[0] || version > versions[1]) throw new ProtocolError(`the parent has chosen version ${version}, which was not offered`)
    parent.authenticated()
    const orders = unseal(secret, 'spawnwire spec', await parent.expect(kinds.spec), hello, welcome)
    timings.accepted = now()
    const session = features?.includes('control') ? mac(secret, 'spawnwire session', hello, welcome) : null
    Object.assign(parent, { id, address, timings, session })
    try {
      parent.spec = decodeSpec(orders)
    } catch (e) {
      const failed = new Failed('spec', 'bad-spec', e.message)
      await parent.fail(failed)
      throw failed
    }
    return parent
  }

  async ready() {
    await this.write(kinds.ready, encode({ timings: this.timings }))
    this.open()
    if (this.session) this.watch()
  }

  // watch is how a child that is busy learns that it should stop, or that its parent is gone. The event loop has to turn
  // for it: see busy in child.mjs.
  async watch() {
    try {
      await this.control()
    } catch (e) {
      // When it cannot be had, the first connection shows at least its end.
      if (!(e instanceof Gone || e instanceof ProtocolError) && !this.ended) await once(this.socket, 'end').catch(() => {})
    }
    if (!this.closing) process.exit(1) // the parent is gone, whatever the entry does
  }

  // control is the control connection (5.2). It never returns, but throws when that has ended.
  async control() {
    const control = new Channel(await dial(this.address))
    await control.write(kinds.attach, seal(this.session, 'spawnwire attach', encode({ id: this.id, nonce: randomBytes(32) })))
    for (;;) {
      const [kind, body] = await control.read()
      if (kind !== kinds.cancel && kind !== kinds.goodbye) throw new Error('the control connection is not accepted')
      this.stopping.abort(new Cancelled(decodeMap(body).reason))
    }
  }
}

// main is a child from its first to its last moment (4.6). An entry is a function that gets the arguments in the spec, may fail,
// and returns the function that runs with the Parent, once that knows that the child is ready.
export async function main(entries, name = 'node') {
  const exit = (text) => {
    process.stderr.write(`${text}\n`)
    process.exit(1)
  }
  const parent = await Parent.join(name).catch((e) => exit(`cannot join the parent: ${e.message}`))
  const { entry = '', args } = parent.spec
  let run
  try {
    if (!Object.hasOwn(entries, entry)) throw new Failed('spec', 'unknown-entry', `no entry "${entry}"; there are ${Object.keys(entries).join(', ')}`)
    run = await entries[entry](args)
  } catch (e) {
    await parent.fail(e instanceof Failed ? e : new Failed('ready', 'error', e.message)).catch(() => {})
    exit(e.message)
  }
  let [status, reason] = [0, '']
  try {
    await parent.ready()
    await run(parent)
  } catch (e) {
    if (e instanceof Gone || e instanceof ProtocolError) exit(`lost the parent: ${e.message}`)
    if (!(e instanceof Cancelled || e instanceof Goodbye)) {
      process.stderr.write(`${e.stack}\n`)
      ;[status, reason] = [1, e.message]
    }
  }
  await parent.close(status, reason)
  process.exit(status)
}

// --- 6: peers ---

// peer makes the handshake with a peer that has the same key. It returns the Channel, and who the peer says that it is.
export async function peer(socket, key, dialer, id = randomBytes(16).toString('hex'), name = 'node') {
  if (key.length < 16) throw new Error('a key has at least 16 bytes')
  const channel = new Channel(socket)
  const limit = setTimeout(() => socket.destroy(), 10_000)
  const mine = encode({ versions, id, name, pid: process.pid, nonce: randomBytes(32), auth: 'key' })
  try {
    await channel.write(kinds.greet, mine)
    const theirs = await channel.expect(kinds.greet)
    const greet = decodeMap(theirs, GREET)
    if (greet.auth !== 'key' || greet.id === id) throw new ProtocolError("the other side knows no key, or has this side's own id")
    if (greet.versions[0] > versions[1] || greet.versions[1] < versions[0]) {
      throw new Failed('auth', 'version', 'no common protocol version', { versions })
    }
    const greets = dialer ? [mine, theirs] : [theirs, mine]
    const proofs = ['dialer', 'acceptor'].map((side) => mac(key, `spawnwire proof ${side}`, ...greets))
    await channel.write(kinds.proof, encode(proofs[dialer ? 0 : 1]))
    const proof = decode(await channel.expect(kinds.proof))
    if (!(proof instanceof Uint8Array) || !same(proof, proofs[dialer ? 1 : 0])) throw new BadMAC('the other side does not know the key')
    channel.authenticated()
    channel.open()
    return [channel, greet]
  } catch (e) {
    if (e instanceof ProtocolError) await channel.fail(new Failed('auth', 'refused', 'not accepted')).catch(() => {})
    else if (e.body?.versions) await channel.fail(e).catch(() => {})
    throw e
  } finally {
    clearTimeout(limit)
  }
}

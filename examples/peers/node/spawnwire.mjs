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

export function takeTicket(text) {
  const [, id, secret, address] = /^1 ([!-~]{1,64}) ([0-9a-fA-F]{64}) (.+)$/s.exec(text ?? '') ?? []
  if (!id) throw new Error('there is no ticket of a Spawnwire parent in the environment, or a bad one')
  split(address)
  return { id, secret: Buffer.from(secret, 'hex'), address }
}

// Parent is a child's connection to its parent, who has proved who it is. spec has the orders.
export class Parent extends Channel {
  // greet sends the hello and returns when the parent is proved to know the secret and its orders are good.
  async greet(secret, hello) {
    await this.write(kinds.hello, hello)
    const welcome = await this.expect(kinds.welcome)
    const { version, features } = decodeMap(unseal(secret, 'spawnwire welcome', welcome, hello), WELCOME)
    if (version < versions[0] || version > versions[1]) throw new ProtocolError(`the parent has chosen version ${version}, which was not offered`)
    this.authenticated()
    this.session = features?.includes('control') ? mac(secret, 'spawnwire session', hello, welcome) : null
    const orders = unseal(secret, 'spawnwire spec', await this.expect(kinds.spec), hello, welcome)
    try {
      this.spec = decodeSpec(orders)
    } catch (e) {
      const failed = new Failed('spec', 'bad-spec', e.message)
      await this.fail(failed)
      throw failed
    }
  }

  // join joins the parent that started this process.
  static async join(name) {
    const timings = { init, main: now() }
    const ticket = process.env.SPAWNWIRE_TICKET
    delete process.env.SPAWNWIRE_TICKET // so that no program started from here sees it
    const { id, secret, address } = takeTicket(ticket)
    const parent = new Parent(await dial(address))
    timings.connected = now()
    await parent.greet(secret, seal(secret, 'spawnwire hello', encode({
      versions, id, name, pid: process.pid, nonce: randomBytes(32), features: ['control'],
    })))
    timings.accepted = now()
    return Object.assign(parent, { timings, id, address })
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
    await this.obey(control)
  }

  async obey(control) {
    for (;;) {
      const [kind] = await control.read()
      if (kind === kinds.failed) throw new Error('the control connection is not accepted')
      if (kind !== kinds.cancel && kind !== kinds.goodbye) throw new ProtocolError(`a frame of kind ${kind} on the control connection`)
      this.stopping.abort(new Cancelled('the parent asks for it'))
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
  const parent = await Parent.join(name).catch((e) => {
    if (e instanceof Cancelled) process.exit(0) // it is not needed
    exit(`cannot join the parent: ${e.message}`)
  })
  const { entry = '', args } = parent.spec
  let run
  try {
    if (!Object.hasOwn(entries, entry)) throw new Failed('spec', 'unknown-entry', `no entry "${entry}"; there are ${Object.keys(entries).join(', ')}`)
    run = await entries[entry](args)
  } catch (e) {
    await parent.fail(e instanceof Failed ? e : new Failed('ready', 'error', e.message))
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

// peer makes the handshake with a peer that has the same key. It returns the Channel, and who the peer says that it is. A program
// that both dials and accepts gives the same id to both.
export async function peer(socket, key, dialer, id = randomBytes(16).toString('hex'), name = 'node') {
  if (key.length < 16) throw new Error('a key has at least 16 bytes')
  const channel = new Channel(socket)
  const greet = { versions, id, name, pid: process.pid, nonce: randomBytes(32), auth: 'key' }
  return [channel, await prove(channel, key, dialer, encode(greet))]
}

export async function prove(channel, key, dialer, mine) {
  const limit = setTimeout(() => channel.socket.destroy(), 10_000)
  const ours = decodeMap(mine, GREET)
  try {
    await channel.write(kinds.greet, mine)
    const theirs = await channel.expect(kinds.greet)
    const greet = decodeMap(theirs, GREET)
    if (greet.id === ours.id || greet.auth !== ours.auth) {
      throw new ProtocolError("the other side has this side's own id, or another way to prove itself")
    }
    if (greet.versions[0] > ours.versions[1] || greet.versions[1] < ours.versions[0]) {
      throw new Failed('auth', 'version', 'no common protocol version', { versions: ours.versions })
    }
    const greets = dialer ? [mine, theirs] : [theirs, mine]
    const proofs = ['dialer', 'acceptor'].map((side) => mac(key, `spawnwire proof ${side}`, ...greets))
    await channel.write(kinds.proof, encode(proofs[dialer ? 0 : 1]))
    const proof = decode(await channel.expect(kinds.proof))
    if (!(proof instanceof Uint8Array)) throw new ProtocolError('not a proof')
    if (!same(proof, proofs[dialer ? 1 : 0])) throw new BadMAC('the other side does not know the key')
    channel.authenticated()
    channel.open()
    return greet
  } catch (e) {
    if (e instanceof ProtocolError) await channel.fail(new Failed('auth', 'refused', 'not accepted'))
    else if (e.body?.versions) await channel.fail(e) // this side's own
    throw e
  } finally {
    clearTimeout(limit)
  }
}

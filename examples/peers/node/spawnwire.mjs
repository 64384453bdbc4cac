// The handshakes of the Spawnwire protocol, version 1, in Node.js.
//
// The numbers in comments are sections of docs/PROTOCOL.md. A child of a
// Spawnwire parent calls main with its entries; see child.mjs. Two programs that
// share a key both call peer with their end of a connection; see peer.mjs.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { ProtocolError, WELCOME, GREET, decode, decodeMap, decodeMessage, decodeSpec, encode } from './strict.mjs'
import { BadMAC, Cancelled, Channel, Failed, Gone, Goodbye, Raw, dial, kinds, mac, same, seal, split, unseal } from './wire.mjs'

export { BadMAC, Cancelled, Failed, Gone, Goodbye, ProtocolError, Raw, dial, split, turn }

const versions = [1, 1]
const now = () => process.hrtime.bigint() // CLOCK_MONOTONIC
const init = now()

// --- 3 and 4: a child ---

export function takeTicket(text) {
  if (!text) throw new Error('SPAWNWIRE_TICKET is not set: this process was not spawned, or a program such as sudo or env -i has removed it')
  const [, id, secret, address] = /^1 ([!-~]{1,64}) ([0-9a-fA-F]{64}) (.+)$/s.exec(text ?? '') ?? []
  if (!id) throw new Error('SPAWNWIRE_TICKET is not a ticket of version 1')
  const { secure, pin } = split(address)
  if (secure && !pin) throw new Error('the ticket names no certificate: tls://host:port#<64 hex> (2.5)')
  return { id, secret: Buffer.from(secret, 'hex'), address }
}

// Parent is the connection of a child to its authenticated parent. spec is the
// spec of the child.
export class Parent extends Channel {
  // greet sends the hello. It returns when the parent has proved that it knows
  // the secret and has sent a valid spec.
  async greet(secret, hello) {
    await this.write(kinds.hello, hello)
    const welcome = await this.expect(kinds.welcome)
    const { version, features, limit } = decodeMap(unseal(secret, 'spawnwire welcome', welcome, hello), WELCOME)
    if (version < versions[0] || version > versions[1]) throw new ProtocolError(`the parent has chosen version ${version}, which was not offered`)
    this.authenticated(limit)
    this.session = features?.includes('control') ? mac(secret, 'spawnwire session', hello, welcome) : null
    const spec = unseal(secret, 'spawnwire spec', await this.expect(kinds.spec), hello, welcome)
    try {
      this.spec = decodeSpec(spec)
    } catch (e) {
      const failed = new Failed('spec', 'bad-spec', e.message)
      await this.fail(failed)
      throw failed
    }
  }

  // join joins the parent that started this process.
  static async join(name) {
    const timings = { init, main: now() }
    let ticket = process.env.SPAWNWIRE_TICKET
    delete process.env.SPAWNWIRE_TICKET // so that child processes do not inherit it
    if (ticket?.startsWith('file:')) ticket = readFileSync(ticket.slice('file:'.length), 'utf8').replace(/\n$/, '')
    const { id, secret, address } = takeTicket(ticket)
    const parent = new Parent(await dial(address))
    timings.connected = now()
    await parent.greet(secret, seal(secret, 'spawnwire hello', encode({
      versions, id, name, pid: process.pid, nonce: randomBytes(32), features: ['control'],
    })))
    timings.accepted = now()
    return Object.assign(parent, { timings, id, address })
  }

  // file returns the descriptor of a file in the parent's Command.Files.
  file(name) {
    const entry = (process.env.SPAWNWIRE_FILES ?? '').split(',').find((e) => e.startsWith(`${name}=`))
    if (!entry) throw new Error(`the parent has given no file ${name}`)
    return Number(entry.slice(name.length + 1))
  }

  // ready says that the child is ready. The parent's program gets the value, if
  // there is one.
  async ready(value) {
    await this.write(kinds.ready, encode({ timings: this.timings, ...(value === undefined ? {} : { value: encode(value) }) }))
    this.open()
    if (this.session) this.watch()
  }

  // watch lets a busy child be stopped, and notice the end of its parent. It needs
  // the event loop to run from time to time: see busy in child.mjs.
  async watch() {
    try {
      const control = await this.attach(await dial(this.address)).catch(() => null)
      if (control) await this.obey(control)
      else if (!this.ended) await once(this.socket, 'end') // go on without it: wait for the end of the first connection
    } catch {
      // the connection has ended
    }
    if (!this.closing) process.exit(1) // the parent has died; exit even if the entry is busy
  }

  // attach makes the control connection (5.3). It returns when the parent has
  // accepted it.
  async attach(socket) {
    const control = new Channel(socket)
    const attach = seal(this.session, 'spawnwire attach', encode({ id: this.id, nonce: randomBytes(32) }))
    await control.write(kinds.attach, attach)
    await this.attached(control, attach)
    return control
  }

  async attached(control, attach) {
    decodeMap(unseal(this.session, 'spawnwire attached', await control.expect(kinds.attached), attach), {})
  }

  // obey follows the parent on the control connection. It never returns; it throws
  // when the connection ends.
  async obey(control) {
    for (;;) {
      const [kind, body] = await control.read()
      if (kind === kinds.ping && body.length <= 64) {
        await control.write(kinds.pong, body)
        continue
      }
      if (kind !== kinds.cancel && kind !== kinds.goodbye) throw new ProtocolError(`a frame of kind ${kind} on the control connection`)
      this.stopping.abort(new Cancelled('the parent asks for it'))
    }
  }
}

// main runs a child from start to exit (4.6). An entry is a function of the
// arguments in the spec. It returns a function of the Parent, which runs when the
// child has become ready, or that function and a value for the parent's program,
// which goes with the ready. If the entry throws, the child does not become ready.
export async function main(entries, name = 'node') {
  const exit = (text) => {
    process.stderr.write(`${text}\n`)
    process.exit(1)
  }
  const parent = await Parent.join(name).catch((e) => {
    if (e instanceof Cancelled) process.exit(0) // an unused spare
    exit(`cannot join the parent: ${e.message}`)
  })
  const { entry = '', args } = parent.spec
  let run, value
  try {
    if (!Object.hasOwn(entries, entry)) throw new Failed('spec', 'unknown-entry', `no entry "${entry}"; there are ${Object.keys(entries).join(', ')}`)
    ;[run, value] = [await entries[entry](args && decodeMessage(args))].flat()
  } catch (e) {
    await parent.fail(e instanceof Failed ? e : new Failed('ready', 'error', e.message))
    exit(e.message)
  }
  let [status, reason] = [0, '']
  try {
    await parent.ready(value)
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

// peer makes the handshake with a peer that has the same key. It returns the
// Channel and the peer's greet. A program that both dials and accepts passes the
// same id each time.
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
    else if (e.body?.versions) await channel.fail(e) // this side has thrown it
    throw e
  } finally {
    clearTimeout(limit)
  }
}

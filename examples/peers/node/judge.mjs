// For the differential test of the Go module: reads inputs from stdin and prints
// what this reader makes of each. ../python/judge.py explains the form.
import { takeTicket, prove } from './spawnwire.mjs'
import { ATTACH, CANCEL, FAILED, GOODBYE, GREET, HELLO, ProtocolError, READY, WELCOME, decode, decodeMap, decodeSpec, encode } from './strict.mjs'
import { BadMAC, Channel, Gone, kinds, split, unseal } from './wire.mjs'

const rules = { h: HELLO, w: WELCOME, g: GREET, f: FAILED, r: READY, c: CANCEL, b: GOODBYE, a: ATTACH }
const mine = encode({ versions: [1, 1], id: 'right', name: '', pid: 0, nonce: Buffer.alloc(32), auth: 'key' })

function show(value) {
  if (typeof value === 'string') return `t${Buffer.from(value).toString('hex')}`
  if (value instanceof Uint8Array) return `b${Buffer.from(value).toString('hex')}`
  if (Array.isArray(value)) return `[${value.map(show).join(',')}]`
  return String(value)
}

const fields = (m, names) => names.sort().filter((name) => m[name] && m[name].length !== 0).map((name) => `${name}=${show(m[name])}`).join(';')

function message(kind, data) {
  const m = decodeMap(data, rules[kind])
  if (kind === 'r') return fields(m.timings ?? {}, ['init', 'main', 'connected', 'accepted'])
  return fields(m, Object.keys(rules[kind]))
}

function spec(data) {
  const m = decodeSpec(data)
  return fields(m, ['v', 'entry', 'args'])
}

function address(data) {
  const { path, host, port, secure, pin } = split(data.toString())
  const target = path === undefined ? `${show(host)} ${port}` : show(path)
  return `${path === undefined ? (secure ? 'tls' : 'tcp') : 'uds'} ${target} ${(pin ?? '').toLowerCase()}`
}

function ticket(data) {
  const { id, secret, address: at } = takeTicket(data.toString())
  return `${show(id)} ${show(secret)} ${address(Buffer.from(at))}`
}

async function frames(data) {
  let rest = data.subarray(4)
  const read = (n) => { // as of a socket that has ended
    const piece = rest.subarray(0, n)
    rest = rest.subarray(n)
    return piece.length ? piece : null
  }
  const channel = new Channel({ on() {}, read })
  channel.ended = true
  channel.limit = channel.skippable = data.readUInt32LE()
  let found = ''
  try {
    for (;;) {
      const [kind, body] = await channel.read()
      found += `${kind.toString(16).padStart(2, '0')}${body.toString('hex')} `
    }
  } catch (e) {
    if (e instanceof Gone) return `${found}gone`
    if (e instanceof ProtocolError) return `${found}error`
    throw e
  }
}

async function meeting(data) {
  let answer = 'none'
  const channel = { // to a peer that has sent a greet and sends no proof
    write: async (kind) => { if (kind === kinds.proof) answer = 'proof' },
    expect: async (want) => {
      if (want === kinds.proof) throw new Gone('gone')
      return data
    },
    fail: async (failed) => { answer = failed.body.code },
  }
  await prove(channel, Buffer.alloc(32), false, mine).catch(() => {})
  return answer
}

function sealed(data) {
  try {
    return show(unseal(Buffer.alloc(32), 'spawnwire hello', data))
  } catch (e) {
    if (e instanceof BadMAC) return 'bad-mac'
    throw e
  }
}

function proof(data) {
  const value = decode(data)
  if (!(value instanceof Uint8Array)) throw new Error('not a proof')
  return show(value)
}

const read = { S: spec, A: address, T: ticket, F: frames, G: meeting, U: sealed, P: proof }

async function judge(kind, data) {
  try {
    return await (read[kind] ? read[kind](data) : message(kind, data))
  } catch {
    return '-'
  }
}

let pending = Buffer.alloc(0)
for await (const chunk of process.stdin) {
  pending = Buffer.concat([pending, chunk])
  let answers = ''
  for (;;) {
    if (pending.length < 5) break
    const n = pending.readUInt32LE()
    if (pending.length < 5 + n) break
    answers += `${await judge(String.fromCharCode(pending[4]), pending.subarray(5, 5 + n))}\n`
    pending = pending.subarray(5 + n)
  }
  process.stdout.write(answers)
}

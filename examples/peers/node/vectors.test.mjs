// Tests with the vectors of the protocol (testdata/README.md) for a child, a peer,
// and any reader of frames:
//
//   node --test examples/peers/node/vectors.test.mjs
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { test } from 'node:test'
import { BadMAC, Failed, Gone, Parent, ProtocolError, prove, split, takeTicket } from './spawnwire.mjs'
import { ATTACH, CANCEL, FAILED, GOODBYE, HELLO, READY, WELCOME, decodeMap, decodeMessage, decodeSpec, encode } from './strict.mjs'
import { Cancelled, Channel, Goodbye, kinds, mac, seal, unseal } from './wire.mjs'

const dir = process.env.SPAWNWIRE_TESTDATA ?? new URL('../../../testdata', import.meta.url).pathname
const load = (name) => JSON.parse(readFileSync(`${dir}/${name}.json`, 'utf8'))
const [child, peers, refused, large, taken, frames, tickets] = ['child', 'peers', 'refused', 'large', 'taken', 'frames', 'tickets'].map(load)
const bytes = (hex) => Buffer.from(hex, 'hex')
const hex = (b) => Buffer.from(b).toString('hex')
const body = (frame) => bytes(frame.body)
const secret = bytes(child.secret)
const key = bytes(peers.key)
const [hello, welcome] = [body(child.hello), body(child.welcome)]

// converse runs receive on a Channel with the bytes in said. It returns its result
// or error, and the frames that it sent.
async function converse(receive, said, ends = false) {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const theirs = net.connect(server.address().port, '127.0.0.1')
  const [ours] = await once(server, 'connection')
  server.close()
  const sent = []
  const reading = (async () => {
    const channel = new Channel(theirs)
    for (;;) sent.push(await channel.read())
  })().catch(() => {})
  theirs.write(said)
  if (ends) theirs.end()
  const result = await receive(new Channel(ours)).catch((e) => e)
  ours.end()
  await reading
  ours.destroy()
  theirs.destroy()
  return [result, sent]
}

const readAll = (limit, into = []) => async (channel) => {
  channel.limit = channel.skippable = limit
  for (;;) into.push(await channel.read())
}
const receivers = {
  any: async (channel, limit) => {
    channel.authenticated(limit)
    channel.open()
    await channel.recv()
  },
  child: async ({ socket }) => {
    const parent = new Parent(socket)
    await parent.greet(secret, hello)
    return parent
  },
  attached: (channel) => new Parent(new net.Socket()).obey(channel),
  dialer: (channel) => prove(channel, key, true, body(peers.dialer_greet)),
  acceptor: (channel) => prove(channel, key, false, body(peers.acceptor_greet)),
  peer: (channel) => prove(channel, key, false, encode({ ...peers.acceptor_greet.fields, nonce: bytes(peers.acceptor_greet.fields.nonce), versions: [1, 1] })),
}

for (const v of child.macs) {
  test(`MAC: ${v.name}`, () => assert.equal(hex(mac(bytes(v.key), v.label, ...v.parts.map(bytes))), v.mac))
}

for (const v of frames.streams) {
  test(`frames: ${v.name}`, async () => {
    const read = []
    const [end] = await converse(readAll(v.limit, read), bytes(v.bytes), true)
    assert.ok(end instanceof Gone, end)
    assert.deepEqual(read.map(([kind, b]) => [kind, hex(b)]), v.frames.map((f) => [f.number, f.body]))
  })
}

for (const v of load('inspect').frames) {
  test(`inspect: ${v.what}`, async () => { // a parent does not ask these children, but they know the frames
    const read = []
    await converse(readAll(65536, read), bytes(v.frame), true)
    assert.equal(read[0][0], kinds[v.kind])
    const fields = decodeMap(read[0][1], {})
    for (const name of Object.keys(fields)) if (Buffer.isBuffer(fields[name]) || fields[name] instanceof Uint8Array) fields[name] = hex(fields[name])
    assert.deepEqual(JSON.parse(JSON.stringify(fields, (_, x) => typeof x === 'bigint' ? Number(x) : x)), v.fields)
  })
}

test('child', async () => {
  const [parent, sent] = await converse(receivers.child, bytes(child.welcome.frame + child.spec.frame))
  assert.ok(parent instanceof Parent, parent)
  assert.deepEqual(sent, [[kinds.hello, hello]])
  assert.deepEqual(JSON.parse(JSON.stringify({ ...parent.spec, args: decodeMessage(parent.spec.args) })), child.spec.fields)
  assert.equal(hex(parent.session), child.session.mac)
  assert.equal(hex(seal(parent.session, 'spawnwire attach', bytes(child.attach.payload))), child.attach.body)
})

for (const [mine, theirs] of [['dialer', 'acceptor'], ['acceptor', 'dialer']]) {
  test(`peers: ${mine}`, async () => {
    const said = bytes(peers[`${theirs}_greet`].frame + peers[`${theirs}_proof`].frame)
    const [who, sent] = await converse((channel) => prove(channel, key, mine === 'dialer', body(peers[`${mine}_greet`])), said)
    assert.equal(who.id, peers[`${theirs}_greet`].fields.id)
    assert.deepEqual(sent[1], [kinds.proof, body(peers[`${mine}_proof`])])
  })
}

const takes = {
  hello: (b) => decodeMap(unseal(secret, 'spawnwire hello', b), HELLO),
  welcome: (b) => decodeMap(unseal(secret, 'spawnwire welcome', b, hello), WELCOME),
  spec: (b) => decodeSpec(unseal(secret, 'spawnwire spec', b, hello, welcome)),
  ready: (b) => decodeMap(b, READY),
  failed: (b) => decodeMap(b, FAILED),
  attach: (b) => decodeMap(b, ATTACH),
  cancel: (b) => decodeMap(b, CANCEL),
  goodbye: (b) => decodeMap(b, GOODBYE),
}
for (const v of child.tolerated) test(`tolerated: ${v.kind}: ${v.what}`, () => void takes[v.kind](body(v)))

for (const v of child.control) {
  test(`control: ${v.what}`, async () => {
    const parent = new Parent(new net.Socket())
    if (v.state === 'attaching') {
      parent.session = bytes(child.session.mac)
      const [result] = await converse((channel) => parent.attached(channel, body(child.attach)), bytes(v.frame), true)
      return assert.equal(result instanceof Error, v.does === 'go on', result)
    }
    const [end, sent] = await converse((channel) => parent.obey(channel), bytes(v.frame), true)
    assert.equal(end.constructor, Gone, end)
    assert.equal(parent.signal.aborted, v.does !== 'pong')
    if (v.does === 'pong') assert.deepEqual(sent, [[kinds.pong, body(v)]])
  })
}

for (const v of tickets.tickets) {
  test(`ticket: ${v.name}`, () => assert.deepEqual(takeTicket(v.value), { id: v.id, secret: bytes(v.secret), address: v.address }))
}
for (const v of tickets.refused_tickets) test(`no ticket: ${v.name}`, () => assert.throws(() => takeTicket(v.text)))
for (const v of tickets.addresses) {
  test(`address: ${v.text}`, () => {
    const { path, host, port, secure = false, pin } = split(v.text)
    assert.deepEqual([secure, path, host, port, pin], [v.scheme === 'tls', v.path ?? (v.abstract && `\0${v.abstract}`), v.host, v.port, v.pin])
  })
}
for (const v of tickets.refused_addresses) test(`no address: ${v.name}`, () => assert.throws(() => split(v.text)))

for (const v of child.open) {
  test(`open: ${v.what}`, async () => {
    const [result, sent] = await converse(receivers.any, bytes(v.frame), true)
    const ends = { cancel: Cancelled, goodbye: Goodbye, ping: Gone, pong: Gone }
    assert.equal(result?.constructor, ends[v.kind], result)
    assert.deepEqual(sent, v.kind === 'ping' ? [[kinds.pong, body(v)]] : [])
  })
}

// hear gives the bytes of a vector to its receiver.
function hear(v) {
  const before = v.state === 'welcomed' ? child.welcome.frame : v.state === 'proving' ? peers[v.receiver === 'dialer' ? 'acceptor_greet' : 'dialer_greet'].frame : ''
  const receive = v.receiver === 'any' && v.state === 'any' ? readAll(v.limit) : receivers[v.state] ?? receivers[v.receiver]
  const all = async (channel) => {
    const result = await receive(channel, v.limit)
    if (v.message) await channel.recv()
    return result
  }
  return converse(all, bytes(before + v.bytes), v.ends)
}

for (const v of taken.ends) {
  test(`ends: ${v.receiver}, ${v.state}: ${v.kind}: ${v.name}`, { timeout: 30_000 }, async () => {
    const [result, sent] = await hear(v)
    assert.equal(result.constructor, { exit: Cancelled, fail: Failed }[v.does], result)
    assert.ok(!sent.some(([kind]) => kind === kinds.failed))
  })
}

for (const v of taken.taken) {
  test(`taken: ${v.receiver}, ${v.state}: ${v.name}`, { timeout: 30_000 }, async () => {
    const [result, sent] = await hear(v)
    assert.ok(!(result instanceof Error), result)
    if (v.receiver !== 'any') return
    const frames = sent.map(([kind, b]) => Buffer.concat([Buffer.from([b.length + 1, 0, 0, 0, kind]), b]))
    assert.equal(hex(Buffer.concat(frames)), v.answers ?? '')
  })
}

const errors = { 'bad-mac': BadMAC, 'peer-gone': Gone, 'bad-spec': Failed }
for (const v of large.large) v.bytes = v.start + v.fill.repeat(v.times) + v.end
for (const v of [...refused.refused, ...large.large]) {
  if (v.receiver === 'parent') continue // there is no parent in Node.js
  test(`refused: ${v.receiver}, ${v.state}: ${v.kind ?? 'frames'}: ${v.name}`, { timeout: 30_000 }, async () => {
    const [result, sent] = await hear(v)
    if (!v.error) return assert.ok(!(result instanceof Error), result)
    if (v.may && !(result instanceof Error)) return // a child may accept it
    const want = v.answer === 'version' ? Failed : errors[v.error] ?? ProtocolError
    assert.equal(result.constructor, want, result)
    const answers = sent.filter(([kind]) => kind === kinds.failed).map(([, b]) => decodeMessage(b).code)
    assert.deepEqual(answers, v.answer ? [v.answer] : [])
  })
}

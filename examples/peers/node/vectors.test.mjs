// The protocol's vectors (testdata/README.md), all that concern a child, a peer, or whoever reads frames:
//
//   node --test examples/peers/node/vectors.test.mjs
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { test } from 'node:test'
import { BadMAC, Failed, Gone, Parent, ProtocolError, prove, split, takeTicket } from './spawnwire.mjs'
import { ATTACH, CANCEL, FAILED, GOODBYE, HELLO, READY, WELCOME, decodeMap, decodeMessage, decodeSpec, encode } from './strict.mjs'
import { Channel, kinds, mac, seal, unseal } from './wire.mjs'

const dir = process.env.SPAWNWIRE_TESTDATA ?? new URL('../../../testdata', import.meta.url).pathname
const load = (name) => JSON.parse(readFileSync(`${dir}/${name}.json`, 'utf8'))
const [child, peers, refused, large, frames, tickets] = ['child', 'peers', 'refused', 'large', 'frames', 'tickets'].map(load)
const bytes = (hex) => Buffer.from(hex, 'hex')
const hex = (b) => Buffer.from(b).toString('hex')
const body = (frame) => bytes(frame.body)
const secret = bytes(child.secret)
const key = bytes(peers.key)
const [hello, welcome] = [body(child.hello), body(child.welcome)]

// converse has receive read what is said from a Channel. It returns what that returned or threw, and the frames that it sent.
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
  any: async (channel) => {
    channel.authenticated()
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

test('child', async () => {
  const [parent, sent] = await converse(receivers.child, bytes(child.welcome.frame + child.spec.frame))
  assert.ok(parent instanceof Parent, parent)
  assert.deepEqual(sent, [[kinds.hello, hello]])
  assert.deepEqual(JSON.parse(JSON.stringify(parent.spec)), child.spec.fields)
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
    const [end] = await converse((channel) => parent.obey(channel), bytes(v.frame), true)
    assert.equal(end.constructor, v.does === 'go on' ? Error : Gone, end)
    assert.equal(parent.signal.aborted, v.does !== 'go on')
  })
}

for (const v of tickets.tickets) {
  test(`ticket: ${v.name}`, () => assert.deepEqual(takeTicket(v.value), { id: v.id, secret: bytes(v.secret), address: v.address }))
}
for (const v of tickets.refused_tickets) test(`no ticket: ${v.name}`, () => assert.throws(() => takeTicket(v.text)))
for (const v of tickets.addresses) {
  if (v.scheme === 'tls' && !v.pin) continue // for peers with certificates that the system trusts, which these are not
  test(`address: ${v.text}`, () => {
    const { path, host, port, pin } = split(v.text)
    assert.deepEqual([path, host, port, pin], [v.path ?? (v.abstract && `\0${v.abstract}`), v.host, v.port, v.pin])
  })
}
for (const v of tickets.refused_addresses) test(`no address: ${v.name}`, () => assert.throws(() => split(v.text)))

const errors = { 'bad-mac': BadMAC, 'peer-gone': Gone, 'bad-spec': Failed }
for (const v of large.large) v.bytes = v.start + v.fill.repeat(v.times) + v.end
for (const v of [...refused.refused, ...large.large]) {
  if (v.receiver === 'parent') continue // there is none here
  test(`refused: ${v.receiver}, ${v.state}: ${v.kind ?? 'frames'}: ${v.name}`, { timeout: 30_000 }, async () => {
    const before = v.state === 'welcomed' ? child.welcome.frame : v.state === 'proving' ? peers[v.receiver === 'dialer' ? 'acceptor_greet' : 'dialer_greet'].frame : ''
    const receive = v.receiver === 'any' && v.state === 'any' ? readAll(v.limit) : receivers[v.state] ?? receivers[v.receiver]
    const [result, sent] = await converse(receive, bytes(before + v.bytes), v.ends)
    if (!v.error) return assert.ok(!(result instanceof Error), result)
    const want = v.answer === 'version' ? Failed : errors[v.error] ?? ProtocolError
    assert.equal(result.constructor, want, result)
    const answers = sent.filter(([kind]) => kind === kinds.failed).map(([, b]) => decodeMessage(b).code)
    assert.deepEqual(answers, v.answer ? [v.answer] : [])
  })
}

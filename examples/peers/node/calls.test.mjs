// Tests with the vectors of calls (testdata/call.json):
//
//   node --test examples/peers/node/calls.test.mjs
import assert from 'node:assert'
import { readFileSync } from 'node:fs'
import test from 'node:test'
import { Calls, fields, operations, parseHead, parseOpen, unary } from './calls.mjs'
import { ProtocolError, encode } from './strict.mjs'

const dir = process.env.SPAWNWIRE_TESTDATA ?? new URL('../../../testdata', import.meta.url).pathname
const vectors = JSON.parse(readFileSync(`${dir}/call.json`, 'utf8'))
const hex = (text) => Buffer.from(text, 'hex')
const plain = (value) => JSON.parse(JSON.stringify(value))

// bodies returns the bodies of the frames in data.
function bodies(data) {
  const all = []
  for (let n; data.length; data = data.subarray(4 + n)) {
    n = data.readUInt32LE()
    all.push(data.subarray(5, 4 + n))
  }
  return all
}

// receiver returns a Calls in a state of the vectors.
async function receiver(state) {
  const channel = { write: async () => {} }
  const calls = new Calls(channel, { echo: unary((_, request) => request), wait: ({ signal }) => new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason))
  }) }, { calls: 2, window: 4096, message: 10_000 })
  if (state !== 'new') {
    const hello = encode({ versions: [1, 1], calls: 2, window: 4096, message: 10_000 })
    await calls.receive(Buffer.concat([Buffer.from([operations.HELLO, 0, 0, 0, 0, 0, 0, 0]), hello]))
  }
  if (state === 'calling') await calls.begin('wait', encode('request'))
  return calls
}

async function feed(v) {
  const calls = await receiver(v.state)
  for (const body of bodies(hex(v.bytes))) await calls.receive(body)
}

for (const v of vectors.frames) {
  test(v.what, () => {
    const { op, flags, id, rest } = parseHead(bodies(hex(v.frame))[0])
    assert.deepStrictEqual([op, flags, id], [operations[v.operation.toUpperCase().replace('-', '_')], v.flags, v.id])
    if (op === operations.OPEN) {
      const { left, method, metadata } = parseOpen(rest)
      assert.deepStrictEqual([method, left, metadata], [v.fields.method, v.fields.time, v.fields.metadata ?? []])
    } else if (op === operations.HELLO || op === operations.CANCEL || v.fields?.text) {
      const m = plain(fields(rest, {}))
      for (const name of Object.keys(v.fields)) assert.deepStrictEqual(m[name], v.fields[name])
    }
  })
}
for (const v of vectors.refused) test(`refuses ${v.name}`, () => assert.rejects(feed(v), ProtocolError))
for (const v of vectors.ignored) test(`takes ${v.name}`, () => feed(v))

// A child of a Spawnwire parent, with its entries. ../python/child.py has the
// same in Python. A Go program starts it: go run ./examples/polyglot
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { Calls, bidi, clientStream, stream, unary } from './calls.mjs'
import { main, turn } from './spawnwire.mjs'

const entries = {
  // echo sends every message back, CBOR as CBOR and bytes as bytes.
  echo: () => async (parent) => {
    for (;;) await parent.send(await parent.recv())
  },

  // count counts the matches of a pattern in each text. The pattern goes with the
  // ready. If it is not valid, the child does not become ready.
  count: (args) => {
    const pattern = new RegExp(args.pattern, 'g')
    return [async (parent) => {
      for (;;) {
        const text = await parent.recv()
        if (typeof text !== 'string') throw new TypeError('count takes text')
        await parent.send((text.match(pattern) ?? []).length)
      }
    }, pattern.source]
  },

  // table sends the SHA-256 of a Blob, which it reads: Node.js has no mmap.
  table: () => async (parent) => {
    const hash = createHash('sha256')
    const part = Buffer.alloc(1 << 20)
    for (let n, at = 0; (n = readSync(parent.file('table'), part, 0, part.length, at)); at += n) hash.update(part.subarray(0, n))
    await parent.send(hash.digest())
    await parent.recv()
  },

  // digest sends back the SHA-256 and the number of words of each piece of data.
  // examples/polyglot uses it.
  digest: () => async (parent) => {
    for (;;) {
      const data = await parent.recv()
      const words = Buffer.from(data).toString('latin1').match(/[^ \t\n\v\f\r]+/g) ?? []
      await parent.send({ sha256: createHash('sha256').update(data).digest(), words: words.length })
    }
  },

  // calls serves methods, and calls the parent back; see calls.mjs.
  calls: () => async (parent) => {
    const loud = async function* (_, words) { for await (const word of words) yield word.toUpperCase() }
    const calls = new Calls(parent, {
      echo: unary((_, request) => request),
      read: unary((_, name) => readFile(name, 'utf8')),
      count: stream(async function* (_, n) { for (let i = 0; i < n; i++) yield i }),
      ask: unary(async (_, text) => `${await calls.call('upper', text)}!`),
      sum: unary(async (_, n) => {
        let sum = 0
        for await (const number of calls.stream('numbers', n)) sum += number
        return sum
      }),
      add: clientStream(async (_, numbers) => {
        let sum = 0
        for await (const number of numbers) sum += number
        return sum
      }),
      loud: bidi(loud),
      shell: bidi(async function* (call, words) {
        await call.start(process.pid)
        yield* loud(call, words)
      }),
      // relay calls the parent's methods with many requests.
      relay: unary(async (_, n) => {
        const total = await calls.clientStream('add', Array.from({ length: n }, (_, i) => i))
        const s = await calls.open('loud')
        const replies = []
        for (let i = 0; i < 3; i++) {
          await s.send(`word ${i}`)
          replies.push((await s.replies.next()).value)
        }
        await s.end()
        for await (const reply of s) replies.push(reply)
        const [started, shell] = await calls.session('shell')
        await shell.send('bye')
        replies.push((await shell.replies.next()).value)
        await shell.close()
        return [total, started, ...replies].join(' ')
      }),
      wait: unary(async ({ signal }) => {
        await once(signal, 'abort')
        throw signal.reason
      }),
    })
    await calls.serve()
  },

  // busy computes and does not receive. From time to time it lets the event loop
  // run and checks whether it should stop. Code that cannot do so belongs into a
  // worker thread.
  busy: () => async (parent) => {
    await parent.send('busy')
    for (let sums = 0; !parent.signal.aborted; await turn()) {
      for (let i = 0; i < 1e6; i++) sums += i
    }
  },
}

await main(entries)

// A child that a Spawnwire parent starts: what it can be asked to run. ../python/child.py is the same in Python.
import { createHash } from 'node:crypto'
import { main, turn } from './spawnwire.mjs'

const entries = {
  // echo sends every message back, CBOR as CBOR and bytes as bytes.
  echo: () => async (parent) => {
    for (;;) await parent.send(await parent.recv())
  },

  // count counts how often a pattern is in each text. A pattern that is none is told before the child is ready.
  count: (args) => {
    const pattern = new RegExp(args.pattern, 'g')
    return async (parent) => {
      for (;;) {
        const text = await parent.recv()
        if (typeof text !== 'string') throw new TypeError('count takes text')
        await parent.send((text.match(pattern) ?? []).length)
      }
    }
  },

  // digest says of each piece of data what its SHA-256 is and how many words it has: for examples/polyglot.
  digest: () => async (parent) => {
    for (;;) {
      const data = await parent.recv()
      const words = Buffer.from(data).toString('latin1').match(/[^ \t\n\v\f\r]+/g) ?? []
      await parent.send({ sha256: createHash('sha256').update(data).digest(), words: words.length })
    }
  },

  // busy computes and does not receive. It lets the event loop turn now and then, and looks whether it should stop. What
  // cannot do that belongs in a worker thread.
  busy: () => async (parent) => {
    await parent.send('busy')
    for (let sums = 0; !parent.signal.aborted; await turn()) {
      for (let i = 0; i < 1e6; i++) sums += i
    }
  },
}

await main(entries)

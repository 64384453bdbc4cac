// A plugin of examples/plugin/three, in Node.js.
import { once } from 'node:events'
import { Calls, stream, unary } from '../peers/node/calls.mjs'
import { main } from '../peers/node/spawnwire.mjs'

await main({
  plugin: () => async (parent) => {
    const host = new Calls(parent, {
      'words.change': unary(async (_, text) => `${await host.call('words.owner', null)} SHOUTS: ${text.toUpperCase()}`),
      'words.split': stream(async function* (_, text) { yield* text.split(' ') }),
      'words.wait': unary(async ({ signal }) => {
        await once(signal, 'abort')
        throw signal.reason
      }),
    })
    await host.serve()
  },
})

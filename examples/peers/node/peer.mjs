// Two programs that share a key and did not spawn each other:
const usage = `
  node peer.mjs accept ADDRESS KEYFILE            accepts one peer and sends back each of its messages
  node peer.mjs dial ADDRESS KEYFILE [TEXT...]    sends each text and prints what comes back

An address is uds:///path, uds://@name or tcp://127.0.0.1:port. The file has the key, at least 16 bytes.`
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { Goodbye, dial as connect, peer, split } from './spawnwire.mjs'

async function accept(address, key) {
  const { secure, ...target } = split(address)
  if (secure) throw new Error('peers listen on uds and tcp')
  process.umask(0o077) // only this user can connect
  const server = createServer({ noDelay: true })
  server.listen(target)
  await once(server, 'listening')
  const { port } = server.address()
  console.log('listening on', port ? address.replace(/\d+$/, port) : address)
  const [socket] = await once(server, 'connection')
  server.close() // also removes the file of the socket
  const [channel, who] = await peer(socket, key, false)
  console.log('accepted', who.name)
  try {
    for (;;) await channel.send(await channel.recv())
  } catch (e) {
    if (!(e instanceof Goodbye)) throw e
    await channel.close()
  }
}

async function dial(address, key, texts) {
  const [channel, who] = await peer(await connect(address), key, true)
  console.log('connected to', who.name)
  for (const text of texts) {
    await channel.send(text)
    console.log(await channel.recv())
  }
  await channel.close()
}

const [what, address, file, ...texts] = process.argv.slice(2)
try {
  if (!file || !['accept', 'dial'].includes(what)) throw new Error(usage)
  const key = readFileSync(file)
  await (what === 'accept' ? accept(address, key) : dial(address, key, texts))
  process.exit(0)
} catch (e) {
  console.error(`peer.mjs: ${e.message}`)
  process.exit(1)
}

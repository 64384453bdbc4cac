// CBOR as section 2.4 of docs/PROTOCOL.md wants it read, and the fields of the protocol's maps.
import { Encoder } from 'cbor-x'

// Plain maps and byte strings, none of cbor-x's own extensions. A map becomes an object, and its keys text. cbor-x writes
// numbers from 2^32 on as floats: give it a BigInt where an integer is meant.
const cbor = new Encoder({ useRecords: false, mapsAsObjects: true, variableMapSize: true, tagUint8Array: false })
export const encode = (value) => cbor.encode(value)
export const decodeMessage = (bytes) => cbor.decode(bytes)

export class ProtocolError extends Error {} // the other side sent what the protocol does not allow

const utf8 = new TextDecoder('utf-8', { fatal: true })

// check goes over one item by the rules of 2.4, which cbor-x does not ask for. It returns where the item ends, and what
// tells it from others as a key (an array or a map, which is no key that anybody would use, by its bytes). In the values
// of the outermost map whose keys are in free, any length and tags are allowed, and the nesting is 64 (4.4).
function check(data, at = 0, depth = 8, most = 64, tags = false, free = []) {
  const start = at
  const first = data.readUInt8(at++)
  const [major, info] = [first >> 5, first & 31]
  if (info > 27) throw new ProtocolError('an indefinite length, or what RFC 8949 keeps in reserve')
  let n = info === 27 ? data.readBigUInt64BE(at) : info >= 24 ? data.readUIntBE(at, 1 << (info - 24)) : info
  if (info >= 24) at += 1 << (info - 24)
  if (major >= 2 && major <= 5 && (n = Number(n)) > data.length - at) throw new RangeError('truncated')
  let value = n
  if (major === 2 || major === 3) {
    const bytes = data.subarray(at, at + n)
    if (major === 3) utf8.decode(bytes)
    ;[value, at] = [bytes.toString('hex'), at + n]
  } else if (major === 6 && !tags) {
    throw new ProtocolError('a tag')
  } else if (major >= 4 && major <= 6) {
    const below = major === 6 ? depth : depth - 1
    if (below < 0 || (major !== 6 && n > most)) throw new ProtocolError('nested too deep, or too long')
    const items = [n, 2 * n, 1][major - 4] // of an array, a map, a tag
    const keys = new Set()
    for (let i = 0, key; i < items; i++) {
      const [end, item] = free.includes(key) ? check(data, at, 63, Infinity, true) : check(data, at, below, most, tags)
      at = end
      key = major === 5 && i % 2 === 0 ? item : undefined
      if (keys.has(key)) throw new ProtocolError('a key twice')
      if (key) keys.add(key)
    }
    value = data.subarray(start, at).toString('hex')
  } else if (first === 0xf8 && n < 32) {
    throw new ProtocolError('a simple value that is not well-formed')
  } else if (first > 0xf8) {
    value = `float ${cbor.decode(data.subarray(start, at))}` // of any width
  }
  return [at, `${major} ${value}`]
}

const key = (text) => `3 ${Buffer.from(text).toString('hex')}`

// decode decodes the one item that data must be.
export function decode(data, most = 64, free = []) {
  try {
    const [end] = check(data, 0, 8, most, false, free.map(key))
    if (end !== data.length) throw new ProtocolError('bytes behind the item')
    return cbor.decode(data)
  } catch (e) {
    throw e instanceof ProtocolError ? e : new ProtocolError(`not the CBOR that it should be: ${e.message}`)
  }
}

const isBytes = (v) => v instanceof Uint8Array
const isMap = (v) => typeof v === 'object' && v !== null && !Array.isArray(v) && !isBytes(v)
const isInt = (v) => Number.isInteger(v) || typeof v === 'bigint'
const isUint = (v) => isInt(v) && v >= 0
const isText = (v) => typeof v === 'string'
const isName = (v) => isText(v) && Buffer.byteLength(v) <= 256
const isSpecName = (v) => isName(v) && /^[^\0-\x1f\x7f-\x9f]+$/.test(v)
const isRange = (v) => Array.isArray(v) && v.length === 2 && v.every(isUint) && v[0] >= 1 && v[0] <= v[1]
const isFeatures = (v) => Array.isArray(v) && v.every((f) => isText(f) && f !== '' && Buffer.byteLength(f) <= 64)
const isAddresses = (v) => Array.isArray(v) && v.every((a) => isText(a) && a.includes('://'))
const optional = (rule) => (v) => v === undefined || rule(v)

export const isID = (v) => isText(v) && /^[!-~]{1,64}$/.test(v)
const identity = {
  id: isID, name: isName, pid: (v) => isUint(v) && v < 2 ** 31, nonce: (v) => isBytes(v) && v.length === 32, features: optional(isFeatures),
}
export const HELLO = { versions: isRange, ...identity }
export const WELCOME = { version: isUint, ...identity }
export const GREET = { versions: isRange, auth: isText, ...identity }
export const READY = { timings: isMap }
export const FAILED = { phase: isText, code: isText, error: isText }
export const CANCEL = { reason: optional(isText), grace: optional(isUint) }
export const GOODBYE = { status: isInt, reason: optional(isText) }
export const ATTACH = { id: isID, nonce: identity.nonce }
const SPEC = {
  v: (v) => v === 1, name: isSpecName, method: isSpecName, entry: optional(isSpecName),
  depth: (v) => isUint(v) && v >= 1 && v <= 1000, grace: optional(isUint), deadline: optional(isInt),
  parent: (v) => isMap(v) && isSpecName(v.id), vars: optional(isMap),
  dir: optional((v) => isText(v) && v.startsWith('/')), registry: optional(isAddresses), bind: optional(isAddresses),
}

// decodeMap decodes a map, and checks those of its fields for which there is a rule.
export function decodeMap(data, rules, most = 64, free = []) {
  const map = decode(data, most, free)
  if (!isMap(map)) throw new ProtocolError('not a map')
  for (const name of Object.keys(rules)) {
    if (!rules[name](map[name])) throw new ProtocolError(`the field ${name} is missing or wrong`)
  }
  return map
}

export const decodeSpec = (payload) => decodeMap(payload, SPEC, 1024, ['args', 'vars'])

// CBOR as section 2.4 of docs/PROTOCOL.md wants it read, and the fields of the protocol's maps.
import { Encoder } from 'cbor-x'

// Plain maps and byte strings, none of cbor-x's own extensions. A map becomes an object, and its keys text. cbor-x writes
// numbers from 2^32 on as floats: give it a BigInt where an integer is meant.
const cbor = new Encoder({ useRecords: false, mapsAsObjects: true, variableMapSize: true, tagUint8Array: false })
export const encode = (value) => cbor.encode(value)
export const decodeMessage = (bytes) => cbor.decode(bytes)

export class ProtocolError extends Error {} // the other side sent what the protocol does not allow

const utf8 = new TextDecoder('utf-8', { fatal: true })

// What is free in a spec, args or vars, has rules of its own (4.4), and maps and lists of the protocol's own may be longer.
const inside = (free) => ({ depth: 63, most: Infinity, free })
const list = { most: 1024 }
const orders = { args: inside('args'), vars: inside('vars'), parent: { most: 256 }, modules: list, registry: list, bind: list }

// check goes over one item by the rules of 2.4, which cbor-x does not ask for. It returns where the item ends, and what
// tells it from others as a key. parts has what else holds for the values of this map, by key.
function check(data, at, { depth = 8, most = 64, free, parts = {}, tagged = 0 }) {
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
  } else if (major === 6) {
    if (!free || depth < tagged) throw new ProtocolError('a tag')
    at = check(data, at, { depth: depth - tagged, most, free, tagged: 1 })[0]
    value = data.subarray(start, at).toString('hex')
  } else if (major === 4 || major === 5) {
    if (depth < 1 || n > most) throw new ProtocolError('nested too deep, or too long')
    const below = { depth: depth - 1, most: free ? most : 64, free }
    const anyKey = free === 'args' || (free && depth < 63) // the names of vars themselves are text
    const keys = new Set()
    for (let i = 0, part; i < n; i++) {
      if (major === 5) {
        const begin = data.readUInt8(at)
        const [end, key] = check(data, at, below)
        if (begin >> 5 !== 3 && (!anyKey || (free === 'vars' && begin >> 5 > 2 && begin !== 0xf4 && begin !== 0xf5))) {
          throw new ProtocolError('a key of a type that has no place here')
        }
        if (keys.has(key)) throw new ProtocolError('a key twice')
        keys.add(key)
        part = Object.entries(parts).find(([name]) => textKey(name) === key)?.[1]
        at = end
      }
      at = check(data, at, { ...below, ...part })[0]
    }
    value = data.subarray(start, at).toString('hex')
  } else if ((first === 0xf8 && n < 32) || (major === 7 && !free && first !== 0xf4 && first !== 0xf5)) {
    throw new ProtocolError('null, a float, or a simple value that is not well-formed')
  } else if (first > 0xf8) {
    value = `float ${cbor.decode(data.subarray(start, at))}` // of any width
  }
  return [at, `${major} ${value}`]
}

const textKey = (text) => `3 ${Buffer.from(text).toString('hex')}`

// decode decodes the one item that data must be.
export function decode(data, most, parts) {
  try {
    const [end] = check(data, 0, { most, parts })
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
const isPid = (v) => isUint(v) && v < 2 ** 31
const isInt64 = (v) => isInt(v) && BigInt.asIntN(64, BigInt(v)) === BigInt(v)
const isTime = (v) => isInt64(v) && v >= 0
const isPathText = (v) => isText(v) && Buffer.byteLength(v) <= 32767
const isNames = (v) => Array.isArray(v) && v.every(isSpecName)
const isAddresses = (v) => Array.isArray(v) && v.every((a) => isPathText(a) && a.includes('://'))
const isLog = (v) => isSpecName(v) && /^(DEBUG|INFO|WARN|ERROR)([+-][0-9]+)?$/i.test(v)
const optional = (rule) => (v) => v === undefined || rule(v)
// has tells whether a map has the fields for which there is a rule, as it asks for.
const has = (rules) => (v) => isMap(v) && Object.keys(rules).every((name) => rules[name](v[name]))

export const isID = (v) => isText(v) && /^[!-~]{1,64}$/.test(v)
const identity = {
  id: isID, name: isName, pid: isPid, nonce: (v) => isBytes(v) && v.length === 32, features: optional(isFeatures),
}
const time = optional(isTime)
export const HELLO = { versions: isRange, ...identity }
export const WELCOME = { version: isUint, ...identity }
export const GREET = { versions: isRange, auth: isText, ...identity }
export const READY = { timings: has({ init: time, main: time, connected: time, accepted: time }) }
export const FAILED = { phase: isText, code: isText, error: isText, versions: optional(isRange) }
export const CANCEL = { reason: optional(isText), grace: time }
export const GOODBYE = { status: isInt64, reason: optional(isText) }
export const ATTACH = { id: isID, nonce: identity.nonce }
const SPEC = {
  v: (v) => v === 1, name: isSpecName, method: isSpecName, entry: optional(isSpecName), log: optional(isLog),
  depth: (v) => isUint(v) && v >= 1 && v <= 1000, grace: time, deadline: optional(isInt64),
  parent: has({ id: isSpecName, name: optional(isSpecName), pid: optional(isPid) }), modules: optional(isNames),
  dir: optional((v) => isPathText(v) && v.startsWith('/') && !v.includes('\0')), registry: optional(isAddresses), bind: optional(isAddresses),
  vars: optional((v) => isMap(v) && isNames(Object.keys(v))),
}

// decodeMap decodes a map, and checks those of its fields for which there is a rule.
export function decodeMap(data, rules, most, parts) {
  const map = decode(data, most, parts)
  if (!isMap(map)) throw new ProtocolError('not a map')
  for (const name of Object.keys(rules)) {
    if (!rules[name](map[name])) throw new ProtocolError(`the field ${name} is missing or wrong`)
  }
  return map
}

export function decodeSpec(payload) {
  const spec = decodeMap(payload, SPEC, 256, orders)
  if (!isNames([...Object.keys(spec), ...Object.keys(spec.parent)])) throw new ProtocolError('a key that is no name')
  return spec
}

// Strict decoding of CBOR, by section 2.4 of docs/PROTOCOL.md, and the fields of
// the protocol's maps.
import { Encoder } from 'cbor-x'

// The options turn off the extensions of cbor-x. A map becomes an object, so its
// keys become text. cbor-x writes numbers from 2^32 on as floats: pass a BigInt
// to write an integer.
const cbor = new Encoder({ useRecords: false, mapsAsObjects: true, variableMapSize: true, tagUint8Array: false })
export const encode = (value) => cbor.encode(value)
export const decodeMessage = (bytes) => cbor.decode(bytes)

export class ProtocolError extends Error {} // the other side has broken the protocol

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const small = (n) => (n <= Number.MAX_SAFE_INTEGER && n >= Number.MIN_SAFE_INTEGER ? Number(n) : n)

// Reader decodes items from data, from the offset at on.
class Reader {
  constructor(data) { [this.data, this.at] = [data, 0] }

  // take returns the next n bytes.
  take(n) {
    if (n > this.data.length - this.at) throw new ProtocolError('truncated')
    this.at += Number(n)
    return this.data.subarray(this.at - Number(n), this.at)
  }

  // head reads the head of an item: its major type, its low five bits, and its
  // argument, which is a BigInt if it is above 2^53.
  head() {
    const [first] = this.take(1)
    const [major, info] = [first >> 5, first & 31]
    if (info < 24) return [major, info, info]
    if (info > 27) throw new ProtocolError('an indefinite length, or what RFC 8949 keeps in reserve')
    return [major, info, small(BigInt(`0x${this.take(1 << (info - 24)).toString('hex')}`))]
  }

  // item decodes one item in the form of 2.4. Of the keys in opaque it returns the
  // bytes of the value, which has the rules of skip.
  item(depth = 8, opaque = []) {
    const [major, info, n] = this.head()
    if (major === 0) return n
    if (major === 1) return small(-1n - BigInt(n))
    if (major === 2) return this.take(n)
    if (major === 3) return utf8.decode(this.take(n))
    if ((major === 4 || major === 5) && (depth < 1 || n > 64)) throw new ProtocolError('nested too deep, or too long')
    if (major === 4) return Array.from({ length: n }, () => this.item(depth - 1))
    if (major === 5) {
      const values = Object.create(null)
      for (let i = 0; i < n; i++) {
        const key = this.item(depth - 1)
        if (typeof key !== 'string') throw new ProtocolError('a key that is not text')
        if (key in values) throw new ProtocolError('a key twice')
        const start = this.at
        values[key] = opaque.includes(key) ? this.skip() ?? this.data.subarray(start, this.at) : this.item(depth - 1)
      }
      return values
    }
    if (major === 7 && (info === 20 || info === 21)) return info === 21
    throw new ProtocolError('a tag, null, a float or a simple value')
  }

  // skip skips an item in the args of a spec, which have rules of their own (4.4).
  skip() {
    const [major, , n] = this.head()
    if (major === 2 || major === 3) this.take(n)
    if (major < 4 || major > 6) return
    for (let left = BigInt(major === 6 ? 1 : n) * (major === 5 ? 2n : 1n); left > 0n; left--) this.skip()
  }
}

// decode decodes data, which must be exactly one item.
export function decode(data, opaque) {
  try {
    const reader = new Reader(data)
    const value = reader.item(8, opaque)
    if (reader.at !== data.length) throw new ProtocolError('bytes behind the item')
    return value
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
const isRange = (v) => Array.isArray(v) && v.length === 2 && v.every(isUint) && v[0] >= 1 && v[0] <= v[1]
const isFeatures = (v) => Array.isArray(v) && v.every((f) => isText(f) && f !== '' && Buffer.byteLength(f) <= 64)
const isPid = (v) => isUint(v) && v < 2 ** 31
const isInt64 = (v) => isInt(v) && BigInt.asIntN(64, BigInt(v)) === BigInt(v)
const isTime = (v) => isInt64(v) && v >= 0
const optional = (rule) => (v) => v === undefined || rule(v)
// has returns a rule for a map: each named field must pass its rule.
const has = (rules) => (v) => isMap(v) && Object.keys(rules).every((name) => rules[name](v[name]))

export const isID = (v) => isText(v) && /^[!-~]{1,64}$/.test(v)
const identity = {
  id: isID, name: isName, pid: isPid, nonce: (v) => isBytes(v) && v.length === 32, features: optional(isFeatures),
}
const time = optional(isTime)
export const HELLO = { versions: isRange, ...identity }
export const WELCOME = { version: isUint, limit: optional((v) => isPid(v) && v > 0), ...identity }
export const GREET = { versions: isRange, auth: isText, ...identity }
export const READY = { timings: optional(has({ init: time, main: time, connected: time, accepted: time })), value: optional(isBytes) }
export const FAILED = { phase: isText, code: isText, error: isText, versions: optional(isRange) }
export const CANCEL = { reason: optional(isText), grace: time }
export const GOODBYE = { status: isInt64, reason: optional(isText) }
export const ATTACH = { id: isID, nonce: identity.nonce }
export const SPEC = { v: (v) => v === 1, entry: optional(isText) } // what these children use of it

// decodeMap decodes a map and checks the fields that have a rule.
export function decodeMap(data, rules, opaque) {
  const map = decode(data, opaque)
  if (!isMap(map)) throw new ProtocolError('not a map')
  for (const name of Object.keys(rules)) {
    if (!rules[name](map[name])) throw new ProtocolError(`the field ${name} is missing or wrong`)
  }
  return map
}

// decodeSpec decodes a spec. Its args stay encoded: they are a matter of the entry.
export const decodeSpec = (payload) => decodeMap(payload, SPEC, ['args'])

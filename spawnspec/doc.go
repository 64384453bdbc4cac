// Package spawnspec defines the [Spec]: what a parent asks of a child that it
// spawns. A Spec names the entry to run and its arguments, the working
// directory, the log level and the deadline. It is a plain value. The package
// does no input or output and starts no process.
//
// A caller sets the fields that it needs:
//
//	spec := spawnspec.Spec{Name: "resize-1", Entry: "resize", Args: Resize{Width: 640}}
//	err := spec.Validate() // optional, because the spawner calls it too
//
// The spawner sets Method, Depth and Grace, encodes the Spec with [Marshal] and
// sends it to the child. In the child, [Unmarshal] decodes it, and the entry
// reads its arguments with [Spec.DecodeArgs]. Marshal and Unmarshal accept the
// same specs. An error names the field that is wrong: see [FieldError].
//
// # Wire format
//
// A Spec travels as one CBOR map (RFC 8949), in CDDL (RFC 8610):
//
//	spec = {
//	  "v": 1,                       ; version of this format
//	  "name": name,
//	  "method": name,
//	  "depth": 1..1000,             ; a child of the root program has 1
//	  ? "entry": name,
//	  ? "args": any,
//	  ? "dir": path,                ; absolute
//	  ? "log": level,               ; INFO if it is left out
//	  ? "deadline": int64,          ; nanoseconds since 1970-01-01T00:00:00Z
//	  ? "grace": 0..9223372036854775807, ; nanoseconds
//	  * tstr => any,                ; ignored: room for later versions
//	}
//	name = tstr .size (1..256)      ; no control characters (Unicode category Cc)
//	path = tstr .size (1..32767)    ; no NUL
//	level = tstr .regexp "(DEBUG|INFO|WARN|ERROR)([+-][0-9]+)?"
//	int64 = -9223372036854775808..9223372036854775807
//
// Size counts bytes. Optional fields are left out when they are empty. Unmarshal
// accepts the fields in any order, but it refuses empty text, null outside args,
// duplicate keys, indefinite lengths, and bytes after the map. Outside args a map
// has at most 64 pairs, an array has at most 64 elements, and both nest at most 8
// deep. Inside args the only limits are that arrays, maps and tags nest at most
// 63 deep and that text is UTF-8. The channel limits the size of the whole spec.
//
// [Marshal] writes the core deterministic encoding of RFC 8949, section 4.2.1:
// map keys in bytewise order of their encoding, and numbers in their shortest
// form. A [cbor.RawMessage] in Args is the exception, because it is sent as it
// is. Times in Args are RFC 3339 text with nanoseconds under tag 0, as in
// messages.
package spawnspec

// Package spawnspec defines the [Spec]: the orders that a spawned child receives from its parent.
// It says what to run and with which arguments, where to listen and where to find others, how
// loudly to log and until when to be done. It is a plain value. The package does no input or output
// and starts nothing: a spawner sends a Spec to the child over their channel, and the child acts on it.
//
// A caller fills in what it cares for:
//
//	spec := spawnspec.Spec{Name: "resize-1", Entry: "resize", Args: Resize{Width: 640}}
//	err := spec.Validate() // optional: the spawner does it too
//
// The spawner sets Method, Depth, Grace and Parent and calls [Marshal]; in the child, [Unmarshal] reads the
// Spec and the entry gets its arguments by [Spec.DecodeArgs]. What Marshal accepts, Unmarshal
// accepts, and the other way round. Whatever is wrong with a Spec, the error names the field: see
// [FieldError].
//
// # The wire
//
// A Spec travels as one CBOR map (RFC 8949), described here in CDDL (RFC 8610):
//
//	spec = {
//	  "v": 1,                       ; major version of this format
//	  "name": name,
//	  ? "entry": name,
//	  ? "args": any,
//	  ? "vars": { * name => any },
//	  ? "modules": [ *1024 name ],
//	  ? "registry": [ *1024 address ],
//	  ? "bind": [ *1024 address ],
//	  ? "dir": path,                ; absolute
//	  ? "log": level,               ; without it: INFO
//	  ? "deadline": int64,          ; nanoseconds since 1970-01-01T00:00:00Z, leap seconds not counted
//	  "method": name,
//	  "depth": 1..1000,             ; the root program's child is 1
//	  ? "grace": 0..9223372036854775807, ; nanoseconds
//	  "parent": {
//	    "id": name,
//	    ? "name": name,
//	    ? "pid": 0..2147483647,
//	    * name => any,
//	  },
//	  * name => any,                ; ignored: room for later minor additions
//	}
//	name = tstr .size (1..256)      ; UTF-8, no control characters (Unicode category Cc)
//	path = tstr .size (1..32767)    ; UTF-8, no NUL
//	address = path                  ; "uds:///run/x.sock", "uds://@name", "tcp://127.0.0.1:7000"
//	level = tstr .regexp "(DEBUG|INFO|WARN|ERROR)([+-][0-9]+)?" ; as slog.Level writes it
//	int64 = -9223372036854775808..9223372036854775807
//
// Size counts bytes. Optional fields that say nothing are left out; empty text, and null for anything
// but args and a variable, are refused. Maps inside vars have keys that are text, byte strings,
// integers or booleans.
//
// [Marshal] is deterministic: the same Spec gives the same bytes, in the core deterministic encoding
// of RFC 8949 section 4.2.1 (map keys in bytewise order of their encoding, shortest numbers), except
// inside a [cbor.RawMessage], which is sent as it is. Times in Args and Vars are RFC 3339 text with
// nanoseconds under tag 0, as in messages.
//
// [Unmarshal] does not ask for that order, but refuses duplicate keys, indefinite lengths, maps with
// more than 256 fields (vars may have more) or keys that are not names, bytes after the map, and
// nesting: at most 64 levels in all, and at most 8 outside args and vars. Indefinite lengths are
// refused in args and vars too. Args stay as they are until [Spec.DecodeArgs], which refuses
// duplicate keys in them; vars are decoded at once. How large a spec may be is for the channel that
// carries it to say: 16 MiB unless set otherwise.
package spawnspec

module github.com/spawnwire/spawnwire

go 1.26.0

require (
	github.com/fxamacker/cbor/v2 v2.10.0
	github.com/libp2p/go-reuseport v0.4.0
	github.com/stretchr/testify v1.12.1
	go.uber.org/goleak v1.3.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/x448/float16 v0.8.4 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)

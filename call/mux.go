package call

import "sync"

// Mux has the methods that a process serves, by their names. [NewMux] makes one. The
// Handle method of a contract, such as [Unary.Handle], adds a method. One Mux may
// serve many Conns.
type Mux struct {
	mu       sync.RWMutex // guards handlers
	handlers map[string]*handler
}

// NewMux returns a Mux without methods.
func NewMux() *Mux { return &Mux{handlers: make(map[string]*handler)} }

// add adds a method. It panics if there is one of the name.
func (m *Mux) add(h *handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handlers[h.name] != nil {
		panic("call: a second handler for " + h.name)
	}
	m.handlers[h.name] = h
}

func (m *Mux) method(name []byte) *handler {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.handlers[string(name)]
}

// checkName panics if name cannot be the name of a method.
func checkName(name string) string {
	if name == "" || len(name) > maxMethod {
		panic("call: the name of a method has 1 to 255 bytes, not " + name)
	}
	return name
}

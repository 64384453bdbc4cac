package inspect

import "time"

// Snapshot is the tree at a moment, as package live serves it to programs.
type Snapshot struct {
	At time.Time `json:"at"`
	// Processes has each process after its parent, and the root first.
	Processes []Process `json:"processes"`
}

// NewSnapshot makes a Snapshot of an answer, and sets the depths.
func NewSnapshot(r *Report) *Snapshot {
	at := make(map[string]int) // by ID
	for i := range r.Processes {
		p := &r.Processes[i]
		if parent, ok := at[p.Parent]; ok && i > 0 {
			p.Depth, p.ParentAt = r.Processes[parent].Depth+1, parent
		}
		if _, there := at[p.ID]; !there && (p.ID != "" || i == 0) {
			at[p.ID] = i
		}
	}
	return &Snapshot{At: time.Now(), Processes: r.Processes}
}

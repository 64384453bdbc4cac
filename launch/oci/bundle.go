package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spawnwire/spawnwire/launch/internal/session"
)

// prepareBundle makes a copy of a bundle's config.json, and the arguments to run it.
func (b *box) prepareBundle(o *Launcher, program string) (err error) {
	dir, err := filepath.Abs(o.Bundle)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if text, err = b.rewrite(text, dir, program); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if b.copied, err = os.MkdirTemp("", "spawnwire-bundle-"); err != nil {
		return err
	}
	if err = os.WriteFile(filepath.Join(b.copied, "config.json"), text, 0o600); err != nil {
		b.removeCopy()
		return err
	}
	b.run = slices.Concat([]string{"run", "--bundle", b.copied}, o.Options, []string{b.name})
	b.remove = []string{"delete", "--force", b.name}
	return nil
}

// rewrite returns a configuration with the program as the supervisor. The source
// is config.md of the OCI runtime specification.
func (b *box) rewrite(text []byte, dir, program string) ([]byte, error) {
	var config map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&config); err != nil {
		return nil, err
	}
	process, _ := config["process"].(map[string]any)
	root, _ := config["root"].(map[string]any)
	path, _ := root["path"].(string)
	if process == nil || path == "" {
		return nil, errors.New("it lacks process or root.path")
	}
	if !filepath.IsAbs(path) {
		root["path"] = filepath.Join(dir, path)
	}
	process["terminal"] = false
	process["args"] = []string{inside}
	env, _ := process["env"].([]any)
	process["env"] = append(env, session.Order(b.nonce))
	mounts, _ := config["mounts"].([]any)
	config["mounts"] = append(mounts, map[string]any{"destination": inside, "type": "bind",
		"source": program, "options": []string{"bind", "ro"}})
	return json.Marshal(config)
}

package archtest

import (
	"errors"
	"fmt"
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Package is the production code of one folder: its Go files without tests.
type Package struct {
	Path    string   // relative to Module, "." for the root
	Name    string   // the name in its package clause
	Dir     string   // its folder
	Imports []string // packages of the module, relative to Module, sorted
	Files   []string // names of its Go files of all platforms and build tags, sorted
}

// Packages reads the packages of the module with its go.mod in the folder root.
// It reads the files of all platforms and build tags, so an import counts even
// if it is in the code of one platform only. It skips the folders that ./... skips, such as
// testdata and other modules.
func Packages(root string) ([]Package, error) {
	every := build.Default
	every.UseAllFiles = true
	var packages []Package
	err := filepath.WalkDir(root, func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if dir != root && skipped(dir) {
			return filepath.SkipDir
		}
		p, err := every.ImportDir(dir, 0)
		if none := (*build.NoGoError)(nil); errors.As(err, &none) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("archtest: read %s: %w", dir, err)
		}
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			return err
		}
		own := Package{
			Path:  filepath.ToSlash(rel),
			Name:  p.Name,
			Dir:   dir,
			Files: slices.Sorted(slices.Values(slices.Concat(p.GoFiles, p.CgoFiles))),
		}
		for _, path := range slices.Sorted(slices.Values(p.Imports)) {
			if path == Module {
				own.Imports = append(own.Imports, ".")
			} else if rel, ok := strings.CutPrefix(path, Module+"/"); ok {
				own.Imports = append(own.Imports, rel)
			}
		}
		packages = append(packages, own)
		return nil
	})
	return packages, err
}

// skipped reports whether ./... skips the folder.
func skipped(dir string) bool {
	name := filepath.Base(dir)
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return true
	}
	if name == "testdata" || name == "node_modules" {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// Production reports whether the package counts for the limits. Examples,
// benchmarks and test tooling do not count.
func (p Package) Production() bool {
	for _, tree := range []string{
		"bench", "examples",
		"forkspawn/internal/reforktest", "internal/archtest", "internal/testkit",
	} {
		if p.Path == tree || strings.HasPrefix(p.Path, tree+"/") {
			return false
		}
	}
	return true
}

// Public reports whether other modules can import the package as a library.
func (p Package) Public() bool {
	internal := slices.Contains(strings.Split(p.Path, "/"), "internal")
	return p.Production() && p.Name != "main" && !internal
}

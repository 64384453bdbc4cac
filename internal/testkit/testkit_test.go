package testkit_test

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.PlayRole(map[string]testkit.Role{
		"fails":    func(context.Context) error { return errors.New("no luck") },
		"succeeds": func(context.Context) error { return nil },
	})
	os.Exit(m.Run())
}

func TestRole_ExitsByItsError(t *testing.T) {
	out, err := testkit.RoleCommand(t, "succeeds").CombinedOutput()
	require.NoError(t, err)
	assert.Empty(t, out)
	for name, want := range map[string]string{
		"fails":   "role fails: no luck\n",
		"unknown": "no such role: unknown\n",
	} {
		out, err := testkit.RoleCommand(t, name).CombinedOutput()
		assert.Error(t, err)
		assert.Equal(t, want, string(out))
	}
}

func TestBuild_BuildsOnce(t *testing.T) {
	const source = `package main

func main() { print("hello") }
`
	exe := testkit.BuildSource(t, source, "CGO_ENABLED=0")
	out, err := exec.Command(exe).CombinedOutput()
	require.NoError(t, err)
	assert.Equal(t, "hello", string(out))
	before, err := os.Stat(exe)
	require.NoError(t, err)
	after, err := os.Stat(testkit.BuildSource(t, source, "CGO_ENABLED=0"))
	require.NoError(t, err)
	if !os.SameFile(before, after) {
		t.Skip("this binary was built with go test -c")
	}
	assert.Equal(t, before.ModTime(), after.ModTime())
}

func TestLong_IsSkippedByDefault(t *testing.T) {
	for _, value := range []string{"", "0", "1"} {
		t.Setenv(testkit.LongEnv, value)
		ran := false
		t.Run("case", func(t *testing.T) {
			testkit.Long(t)
			ran = true
		})
		assert.Equal(t, value == "1", ran, value)
	}
}

func TestCertificate_IsTrustedByItself(t *testing.T) {
	cert := testkit.Certificate(t, "peer.test")
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	_, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "peer.test"})
	assert.NoError(t, err)
}

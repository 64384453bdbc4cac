package tls_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
	spawntls "github.com/spawnwire/spawnwire/transport/tls"
)

func TestConfig_IsUsedOnBothSides(t *testing.T) {
	us := newAuthority(t)
	server, client := us.config(t, "server", us), us.config(t, "client", us)
	near, far := connect(t, spawntls.Transport{Config: client}, spawntls.Transport{Config: server})
	requireCarries(t, near, far)
	assert.Equal(t, "server", near.ConnectionState().PeerCertificates[0].Subject.CommonName)
	assert.Equal(t, "client", far.ConnectionState().PeerCertificates[0].Subject.CommonName)
	for _, config := range []*tls.Config{server, client} {
		assert.Zero(t, config.MinVersion, "the caller's config is left as it was")
		assert.Empty(t, config.ServerName)
		assert.Nil(t, config.NextProtos)
		assert.Nil(t, config.VerifyConnection)
	}
}

func TestConfig_UntrustedPeersAreRefused(t *testing.T) {
	us, them := newAuthority(t), newAuthority(t)
	for _, c := range []struct {
		name           string
		client, server *tls.Config
		clientSays     string
		serverSays     string
	}{
		{"a server by another authority", us.config(t, "client", us), them.config(t, "server", us),
			"signed by unknown authority", "bad certificate"},
		{"a client by another authority", them.config(t, "client", us), us.config(t, "server", us),
			"unknown certificate authority", "signed by unknown authority"},
		{"a client without a certificate", &tls.Config{RootCAs: us.pool()},
			us.config(t, "server", us),
			"certificate required", "client didn't provide a certificate"},
		{"a server with another name",
			&tls.Config{RootCAs: us.pool(), ServerName: "elsewhere.test"},
			us.config(t, "server", us),
			"elsewhere.test", "bad certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ln, addr := listen(t, spawntls.Transport{Config: c.server})
			incoming := accept(t, ln)
			conn, err := spawntls.Transport{Config: c.client}.Dial(testkit.Context(t), addr)
			if err == nil { // TLS 1.3: the server judges the client when the client is done
				defer conn.Close()
				conn.Write([]byte("unread")) // which must not keep the alert from arriving
				_, err = io.ReadAll(conn)
			}
			assert.ErrorContains(t, err, c.clientSays)
			assert.ErrorContains(t, testkit.Receive(t, incoming).err, c.serverSays)
		})
	}
	t.Run("the error is that of package x509", func(t *testing.T) {
		ln, addr := listen(t, spawntls.Transport{Config: them.config(t, "server", us)})
		incoming := accept(t, ln)
		_, err := spawntls.Transport{Config: us.config(t, "client", us)}.Dial(testkit.Context(t),
			addr)
		var unknown x509.UnknownAuthorityError
		assert.ErrorAs(t, err, &unknown)
		testkit.Receive(t, incoming)
	})
}

func TestConfig_PinIsCheckedToo(t *testing.T) {
	us := newAuthority(t)
	ln, addr := listen(t, spawntls.Transport{Config: us.config(t, "server", us)})
	assert.False(t, addr.IsPinned(), "with Config there is no pin")
	incoming := accept(t, ln)
	addr.Pin = [32]byte{1}
	_, err := spawntls.Transport{Config: us.config(t, "client", us)}.Dial(testkit.Context(t), addr)
	var pin *spawntls.PinError
	require.ErrorAs(t, err, &pin)
	require.Error(t, testkit.Receive(t, incoming).err)
}

func TestConfig_CallersOwnCheck(t *testing.T) {
	us := newAuthority(t)
	client := us.config(t, "client", us)
	client.VerifyConnection = func(tls.ConnectionState) error { return io.ErrNoProgress }
	ln, addr := listen(t, spawntls.Transport{Config: us.config(t, "server", us)})
	incoming := accept(t, ln)
	_, err := spawntls.Transport{Config: client}.Dial(testkit.Context(t), addr)
	require.ErrorIs(t, err, io.ErrNoProgress)
	require.Error(t, testkit.Receive(t, incoming).err)
}

// No Config allows another protocol or a version below TLS 1.3.
func TestListener_InsistsOnVersionAndProtocol(t *testing.T) {
	us := newAuthority(t)
	lax := us.config(t, "server", us)
	lax.ClientAuth, lax.MinVersion, lax.NextProtos = tls.NoClientCert,
		tls.VersionTLS12, []string{"h2"}
	perClient := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return lax, nil
	}}
	for server, tr := range map[string]spawntls.Transport{
		"its own config":       {},
		"the caller's":         {Config: lax},
		"the caller's, chosen": {Config: perClient},
	} {
		for _, c := range []struct {
			name       string
			client     *tls.Config
			serverSays string
		}{
			{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12,
				NextProtos: []string{"spawnwire/1"}}, "unsupported versions"},
			{"another protocol", &tls.Config{NextProtos: []string{"h2"}},
				`unsupported application protocols (["h2"])`},
			{"no protocol", &tls.Config{}, "the peer does not speak spawnwire/1"},
		} {
			t.Run(server+", "+c.name, func(t *testing.T) {
				ln, addr := listen(t, tr)
				incoming := accept(t, ln)
				config := c.client.Clone()
				config.InsecureSkipVerify = true
				conn, err := tls.Dial("tcp", addr.Target, config)
				if err == nil {
					_, err = conn.Read(make([]byte, 1))
					conn.Close()
				}
				require.ErrorContains(t, err, "remote error: tls: ")
				in := testkit.Receive(t, incoming)
				require.ErrorContains(t, in.err, c.serverSays)
			})
		}
		t.Run(server+", a good one", func(t *testing.T) {
			ln, addr := listen(t, tr)
			incoming := accept(t, ln)
			conn, err := tls.Dial("tcp", addr.Target,
				&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "spawnwire/1"}})
			require.NoError(t, err)
			defer conn.Close()
			in := testkit.Receive(t, incoming)
			require.NoError(t, in.err)
			defer in.conn.Close()
			requireCarries(t, conn, in.conn)
		})
	}
}

func TestDial_InsistsOnVersionAndProtocol(t *testing.T) {
	us := newAuthority(t)
	for _, c := range []struct {
		name   string
		server func(*tls.Config)
		says   string
	}{
		{"TLS 1.2", func(c *tls.Config) {
			c.MaxVersion = tls.VersionTLS12
			c.NextProtos = []string{"spawnwire/1"}
		}, "protocol version"},
		{"another protocol", func(c *tls.Config) {
			c.NextProtos = []string{"h2"}
		}, "no application protocol"},
		{"no protocol", func(*tls.Config) {}, "the peer does not speak spawnwire/1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := us.config(t, "server", us)
			c.server(config)
			ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
			require.NoError(t, err)
			defer ln.Close()
			incoming := accept(t, ln)
			_, err = spawntls.Transport{Config: us.config(t, "client", us)}.Dial(testkit.Context(t),
				tlsAddr(ln.Addr().String()))
			require.ErrorContains(t, err, c.says)
			require.Error(t, testkit.Receive(t, incoming).err)
		})
	}
}

func TestConfig_ImpossibleOnesAreErrors(t *testing.T) {
	old := &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return nil, nil
		}}
	_, err := spawntls.Transport{Config: old}.Listen(testkit.Context(t), tlsAddr("127.0.0.1:0"))
	assert.ErrorContains(t, err,
		"Transport.Config.MaxVersion: TLS 1.2; this protocol needs TLS 1.3")
	_, err = spawntls.Transport{Config: old}.Dial(testkit.Context(t), tlsAddr("127.0.0.1:1"))
	assert.ErrorContains(t, err, "Transport.Config.MaxVersion")
	_, err = spawntls.Transport{Config: &tls.Config{}}.Listen(testkit.Context(t),
		tlsAddr("127.0.0.1:0"))
	assert.ErrorContains(t, err,
		"one of Certificates, GetCertificate and GetConfigForClient must be set")
}

func TestListener_SlowClientHoldsUpNobody(t *testing.T) {
	ln, addr := listen(t, spawntls.Transport{})
	silent, err := net.Dial("tcp", addr.Target)
	require.NoError(t, err)
	defer silent.Close()
	first, err := ln.Accept()
	require.NoError(t, err)
	defer first.Close()
	incoming := accept(t, ln)
	conn, err := spawntls.Transport{}.Dial(testkit.Context(t), addr)
	require.NoError(t, err)
	defer conn.Close()
	in := testkit.Receive(t, incoming)
	require.NoError(t, in.err)
	in.conn.Close()
	assert.Equal(t, transport.AddrOf(ln.Addr()), addr)
}

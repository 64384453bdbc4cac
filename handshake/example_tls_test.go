package handshake_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	cryptotls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log"
	"math/big"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tls"
)

// Two programs connect over TLS. Each has a certificate from an authority trusted
// by the other. TLS authenticates them, so the handshake itself needs no key.
func ExampleConnectPeer_tls() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cache, web := certificates() // from files, in a real program

	server := tls.Transport{Config: cache}
	ln, err := server.Listen(ctx,
		transport.Addr{Scheme: transport.SchemeTLS, Target: "127.0.0.1:0"})
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()

	go func() { // the first program
		conn, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		// AcceptPeer makes the TLS handshake too
		peer, err := handshake.AcceptPeer(ctx, conn, handshake.PeerConfig{
			Identity: handshake.Identity{Name: "cache"}, Anonymous: true,
		})
		if err != nil {
			log.Fatal(err)
		}
		defer peer.Close()
		who := peer.Channel.NetConn().(*cryptotls.Conn).ConnectionState().PeerCertificates[0]
		peer.Channel.Send(ctx, "good morning, "+who.Subject.CommonName)
	}()

	client := tls.Transport{Config: web}
	conn, err := client.Dial(ctx, transport.AddrOf(ln.Addr())) // the second program
	if err != nil {
		log.Fatal(err)
	}
	peer, err := handshake.ConnectPeer(ctx, conn, handshake.PeerConfig{
		Identity: handshake.Identity{Name: "web"}, Anonymous: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	var greeting string
	if err := peer.Channel.Recv(ctx, &greeting); err != nil {
		log.Fatal(err)
	}
	fmt.Println(peer.Name, "says", greeting)
	// Output: cache says good morning, web.example.org
}

// certificates makes an authority, and returns the settings of a server and of a
// client with certificates signed by it.
func certificates() (server, client *cryptotls.Config) {
	serial := int64(0)
	issue := func(name string, template, parent *x509.Certificate,
		parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			log.Fatal(err)
		}
		serial++
		template.SerialNumber, template.Subject, template.NotAfter = big.NewInt(serial),
			pkix.Name{CommonName: name}, time.Now().Add(time.Hour)
		template.DNSNames = []string{name}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			log.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			log.Fatal(err)
		}
		return cert, key
	}
	authority, authorityKey := issue("authority.example.org",
		&x509.Certificate{IsCA: true, BasicConstraintsValid: true}, nil, nil)
	trusted := x509.NewCertPool()
	trusted.AddCert(authority)
	config := func(name string, usage x509.ExtKeyUsage) *cryptotls.Config {
		cert, key := issue(name, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{usage}},
			authority, authorityKey)
		return &cryptotls.Config{
			Certificates: []cryptotls.Certificate{
				{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
	}
	server = config("cache.example.org", x509.ExtKeyUsageServerAuth)
	server.ClientCAs, server.ClientAuth = trusted, cryptotls.RequireAndVerifyClientCert
	client = config("web.example.org", x509.ExtKeyUsageClientAuth)
	client.RootCAs, client.ServerName = trusted, "cache.example.org"
	return server, client
}

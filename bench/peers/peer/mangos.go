package peer

import (
	"context"
	"errors"

	"go.nanomsg.org/mangos/v3"
	"go.nanomsg.org/mangos/v3/protocol/pair"
	"go.nanomsg.org/mangos/v3/protocol/rep"
	"go.nanomsg.org/mangos/v3/protocol/req"
	_ "go.nanomsg.org/mangos/v3/transport/ipc" // as in its examples, but only this transport
)

// mangosPair is the pair protocol of mangos over ipc. It uses NewMessage, SendMsg,
// RecvMsg and Free, as mangos' own performance tests do, because Send and Recv
// copy. The queues have their default lengths. The limit of a received message is
// higher than the default of 1 MiB with its header.
type mangosPair struct{}

func (mangosPair) Name() string      { return "mangos pair" }
func (mangosPair) Module() string    { return "go.nanomsg.org/mangos/v3" }
func (mangosPair) Does(job Job) bool { return job.Network == "unix" && !job.calls() }

func (p mangosPair) Open(ctx context.Context, job Job) (Worker, error) {
	return openMangos(ctx, p, job, pair.NewSocket)
}

func (mangosPair) Serve(job Job, ready Ready) error {
	return serveMangos(job, ready, pair.NewSocket)
}

// mangosReqRep is the req and rep protocols of mangos. They answer each message, so
// there are no streams. A request is repeated after a minute, the default.
type mangosReqRep struct{}

func (mangosReqRep) Name() string      { return "mangos req/rep" }
func (mangosReqRep) Module() string    { return mangosPair{}.Module() }
func (mangosReqRep) Does(job Job) bool { return job.Network == "unix" && job.Work == RoundTrip }

func (p mangosReqRep) Open(ctx context.Context, job Job) (Worker, error) {
	return openMangos(ctx, p, job, req.NewSocket)
}

func (mangosReqRep) Serve(job Job, ready Ready) error {
	return serveMangos(job, ready, rep.NewSocket)
}

func openMangos(ctx context.Context, p Peer, job Job,
	newSocket func() (mangos.Socket, error)) (_ Worker, err error) {
	s, err := start(ctx, p, job)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	sock, err := newSocket()
	if err != nil {
		return nil, err
	}
	// Without deadlines a socket waits forever for a peer that has gone.
	err = errors.Join(sock.SetOption(mangos.OptionRecvDeadline, Patience),
		sock.SetOption(mangos.OptionSendDeadline, Patience),
		sock.SetOption(mangos.OptionMaxRecvSize, maxMessage))
	if err == nil {
		err = sock.Dial("ipc://" + s.addr)
	}
	if err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	if job.Work == RoundTrip {
		var last *mangos.Message
		return &roundTrips{size: job.Size, close: closer(sock, s),
			trip: func(payload []byte) ([]byte, error) {
				if last != nil {
					last.Free()
					last = nil
				}
				if err := sendMangos(sock, payload); err != nil {
					return nil, err
				}
				m, err := sock.RecvMsg()
				if err != nil {
					return nil, err
				}
				last = m
				return m.Body, nil
			}}, nil
	}
	send := sendFunc(func(payload []byte) error { return sendMangos(sock, payload) })
	end := endPayload(job.Size)
	return &stream{job: job, close: closer(sock, s), open: each(send),
		report: func() (report, error) {
			if err := send(end); err != nil {
				return report{}, err
			}
			m, err := sock.RecvMsg()
			if err != nil {
				return report{}, err
			}
			defer m.Free()
			return parseReport(m.Body)
		}}, nil
}

// sendMangos sends a copy of payload, because the socket owns a message after
// SendMsg.
func sendMangos(sock mangos.Socket, payload []byte) error {
	m := mangos.NewMessage(len(payload))
	m.Body = append(m.Body, payload...)
	if err := sock.SendMsg(m); err != nil {
		m.Free()
		return err
	}
	return nil
}

func serveMangos(job Job, ready Ready, newSocket func() (mangos.Socket, error)) error {
	sock, err := newSocket()
	if err != nil {
		return err
	}
	defer sock.Close()
	if err := sock.SetOption(mangos.OptionMaxRecvSize, maxMessage); err != nil {
		return err
	}
	if err := sock.Listen("ipc://" + ready.Path()); err != nil {
		return err
	}
	if err := ready.At(ready.Path()); err != nil {
		return err
	}
	var got report
	for { // until the process is killed
		m, err := sock.RecvMsg()
		if err != nil {
			return err
		}
		switch {
		case job.Work == RoundTrip:
			err = sock.SendMsg(m)
		case got.take(m.Body):
			m.Free()
			err = sendMangos(sock, got.bytes())
			got = report{}
		default:
			m.Free()
		}
		if err != nil {
			return err
		}
	}
}

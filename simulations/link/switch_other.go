//go:build !linux

package link

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// A Switch carries packets between its places; there is none on this system.
type Switch struct{}

// A Place is a network of its own; there is none on this system but nil, whose
// methods act where the caller is.
type Place struct{}

// NewSwitch returns ErrRights.
func NewSwitch(*rand.Rand, func() time.Time) (*Switch, error) { return nil, ErrRights }

// Place returns ErrRights.
func (*Switch) Place(up, down Line) (*Place, error) { return nil, ErrRights }

// Close does nothing.
func (*Switch) Close() error { return nil }

// Set does nothing.
func (*Place) Set(up, down Line) {}

// Cut does nothing.
func (*Place) Cut() {}

// Restore does nothing.
func (*Place) Restore() {}

// Addr is no address.
func (*Place) Addr() netip.Addr { return netip.Addr{} }

// Traffic is none.
func (*Place) Traffic() Traffic { return Traffic{} }

// Do runs f.
func (*Place) Do(f func() error) error { return f() }

// DialContext dials.
func (*Place) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// Listen listens.
func (*Place) Listen(network, address string) (net.Listener, error) {
	return net.Listen(network, address)
}

// Forward returns ErrRights.
func (*Place) Forward(int) error { return ErrRights }

// Congestion returns ErrRights.
func (*Place) Congestion(string) error { return ErrRights }

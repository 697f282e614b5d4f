package bare_test

import (
	"context"
	"testing"
	"time"

	"github.com/priormesh/priormesh/mesh/bare"
)

// By every way all blocks come, and nothing else.
func TestTakeGetsAllThatIsGiven(t *testing.T) {
	const n, size = 20, 200_000
	for _, way := range []bare.Way{bare.TLS, bare.Noise, bare.QUIC, bare.Bitswap} {
		t.Run(string(way), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			g, err := bare.Give(ctx, way, "127.0.0.1", n, size, 7)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := g.Close(); err != nil {
					t.Error(err)
				}
			}()
			for range 2 {
				got, err := bare.Take(ctx, way, g.Address(), time.Now)
				if err != nil {
					t.Fatal(err)
				}
				if got.Blocks != n || got.Bytes != n*size || got.Took <= 0 {
					t.Fatalf("%+v came, want %d blocks of %d bytes", got, n, size)
				}
			}
		})
	}
}

func TestGiveRefusesWhatIsNoWay(t *testing.T) {
	if _, err := bare.Give(t.Context(), "pigeon", "127.0.0.1", 1, 1, 1); err == nil {
		t.Error("there is a way called pigeon")
	}
	if _, err := bare.Give(t.Context(), bare.TLS, "127.0.0.1", 1, 8<<20, 1); err == nil {
		t.Error("a block of 8 MiB was taken")
	}
}

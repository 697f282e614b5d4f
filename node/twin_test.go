package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// A home that was restored elsewhere runs beside the old one: the members say so, and so do both. When one has ended and the other was started
// again, it says where to see what the one that ended had received.
func TestTwoHomesOfOneNodeAreSaidWhileBothRun(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a, old := r[0], r[1]
	old.stores(images("1.2.3.1", 1))
	a.knows(1)
	target := filepath.Join(t.TempDir(), "backup")
	old.backs(target, api.BackupRequest{})
	restored := &trust{t: t, home: old.home}
	restored.restored(target)
	restored.home.Config.HTTP, restored.home.Config.Mesh = "127.0.0.1:0", []string{"/ip4/127.0.0.1/tcp/0"}
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})).With("at", "restored")
	n, err := node.Open(context.Background(), restored.home, node.Options{Log: log, Alone: true})
	if err != nil {
		t.Fatal(err)
	}
	restored.n = n
	t.Cleanup(restored.stop)
	warned := func(tr *trust, text string) {
		t.Helper()
		wait(t, "it is warned: "+text, func() (bool, string) {
			var f api.Found
			tr.operator("GET", "/api/v1/studies", nil, &f)
			st := tr.status()
			has := func(all []string) bool {
				return slices.ContainsFunc(all, func(w string) bool { return strings.HasPrefix(w, text) })
			}
			return has(f.Warnings) && has(st.Warnings), fmt.Sprintf("%q, %q", f.Warnings, st.Warnings)
		})
	}
	warned(a, "two nodes run with the key of RX2 (node "+restored.peer())
	warned(old, "two nodes run with the key of this node, as RX1 sees")
	warned(restored, "two nodes run with the key of this node, as RX1 sees")
	var peers []api.Peer
	a.operator("GET", "/api/v1/peers", nil, &peers)
	if len(peers) != 1 || len(peers[0].Twins) != 2 {
		t.Errorf("peers: %+v", peers)
	}

	old.stores(images("1.2.3.2", 1))
	a.knows(2)
	old.stop()
	restored.stores(images("1.2.3.3", 1))
	forked, f := false, api.Found{}
	wait(t, "it is heard, or finds that both have spoken in one epoch", func() (bool, string) {
		forked = len(restored.status().Forked) == 1
		a.operator("GET", "/api/v1/studies", nil, &f)
		return forked || len(f.Studies) == 3, fmt.Sprint(len(f.Studies))
	})
	if !forked { // the old one had said it before it heard of the other's epoch
		restored.wait("hears what the old one had said", func() (bool, string) {
			s := restored.find("1.2.3.2")
			return len(s) == 1 && s[0].Lost, fmt.Sprintf("%+v", s)
		})
		return
	}
	restored.stop() // as it advises
	restored.start()
	a.knows(3)
	for _, f := range restored.status().Forked {
		if !f.Own || !f.Over || !strings.Contains(f.Advice, "find --trust RX2") {
			t.Errorf("where what the other home received is to be seen is not said: %+v", f)
		}
	}
}

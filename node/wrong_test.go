package node_test

import (
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// A node that sends what it must not is named, with what and when, for a day.
func TestWhoSendsWhatIsWrongIsNamed(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	peers := []api.Peer{{Trust: "RX2", Peer: "p2"}, {Trust: "RX3", Peer: "p3", Wrong: api.Wrong{Log: 1, Gossip: 4, Last: at}}}
	got := node.WrongOf(peers, at.Add(time.Hour))
	if len(got) != 1 || !strings.Contains(got[0], "node p3 of RX3 has sent 1 log message, 4 packets of gossip that") || !strings.Contains(got[0], "2026-03-01T12:00:00Z") {
		t.Errorf("%q", got)
	}
	if got := node.WrongOf(peers, at.Add(25*time.Hour)); len(got) != 0 {
		t.Errorf("a day later: %q", got)
	}
}

// Each peer has its own series in the metrics.
func TestWhatPeersSendWrongIsInTheMetrics(t *testing.T) {
	r := region(t, "RX1", "RX2")
	_, b := r[0].get("/metrics", "")
	for _, want := range []string{`priormesh_peer_wrong_total{node="` + r[1].peer() + `",trust="RX2",what="gossip"} 0`, `priormesh_refused_total{what="log messages"} 0`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}
